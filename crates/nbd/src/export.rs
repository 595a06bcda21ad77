//! What a server serves.

use std::sync::Arc;

use afterimage_block::{BlockRead, BlockWrite};

use crate::protocol::transmission_flag as flag;
use crate::{Error, Result};

/// A device as an export shows it.
#[derive(Clone)]
pub enum Device {
    /// Takes writes.
    ReadWrite(Arc<dyn BlockWrite>),
    /// Refuses writes with EPERM.
    ReadOnly(Arc<dyn BlockRead>),
}

impl Device {
    pub(crate) fn reader(&self) -> &dyn BlockRead {
        match self {
            Self::ReadWrite(device) => device.as_ref(),
            Self::ReadOnly(device) => device.as_ref(),
        }
    }

    pub(crate) fn writer(&self) -> Option<&dyn BlockWrite> {
        match self {
            Self::ReadWrite(device) => Some(device.as_ref()),
            Self::ReadOnly(_) => None,
        }
    }

    /// The transmission flags. Any connection's flush covers all: they share one device.
    pub(crate) fn flags(&self, structured: bool) -> u16 {
        let writes = match self {
            Self::ReadWrite(_) => {
                flag::SEND_FLUSH | flag::SEND_FUA | flag::SEND_TRIM | flag::SEND_WRITE_ZEROES
            }
            Self::ReadOnly(_) => flag::READ_ONLY,
        };
        let df = if structured { flag::SEND_DF } else { 0 };
        flag::HAS_FLAGS | flag::CAN_MULTI_CONN | writes | df
    }
}

/// A device under the name by which clients ask for it.
#[derive(Clone)]
pub struct Export {
    /// The name; compared byte by byte.
    pub name: String,
    /// Shown in listings.
    pub description: String,
    /// The device.
    pub device: Device,
}

/// The exports of one server. The first also answers to the empty name.
#[derive(Clone)]
pub struct Exports(Vec<Export>);

impl Exports {
    /// These exports, in the order in which they are listed.
    ///
    /// # Errors
    /// [`Error::NoExports`] if there is none, [`Error::DuplicateExport`] if two have one name.
    pub fn new(exports: Vec<Export>) -> Result<Self> {
        if exports.is_empty() {
            return Err(Error::NoExports);
        }
        for (at, export) in exports.iter().enumerate() {
            if exports
                .iter()
                .take(at)
                .any(|other| other.name == export.name)
            {
                return Err(Error::DuplicateExport(export.name.clone()));
            }
        }
        Ok(Self(exports))
    }

    /// The export called `name`; the first one for the empty name.
    pub fn find(&self, name: &str) -> Option<&Export> {
        let by_name = self.0.iter().find(|export| export.name == name);
        by_name.or_else(|| self.0.first().filter(|_| name.is_empty()))
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Export> {
        self.0.iter()
    }
}
