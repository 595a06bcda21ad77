//! What a server serves.

use std::collections::HashSet;
use std::sync::Arc;

use afterimage_block::{BlockRead, BlockWrite};

use crate::protocol::{NAME_MAX, transmission_flag as flag};
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
    /// The name, at most 4096 bytes; compared byte by byte.
    pub name: String,
    /// Shown in listings; at most 4096 bytes.
    pub description: String,
    /// The device.
    pub device: Device,
}

impl Export {
    fn check_texts(&self) -> Result<()> {
        for (field, text) in [("name", &self.name), ("description", &self.description)] {
            if text.len() > NAME_MAX || text.contains('\0') {
                return Err(Error::ExportText {
                    name: self.name.clone(),
                    field,
                    length: text.len(),
                });
            }
        }
        Ok(())
    }
}

/// The exports of one server. The first also answers to the empty name.
#[derive(Clone)]
pub struct Exports(Vec<Export>);

impl Exports {
    /// These exports, in the order in which they are listed.
    ///
    /// # Errors
    /// [`Error::NoExports`] if there is none, [`Error::DuplicateExport`] if two have one name,
    /// [`Error::ExportText`] if a name or a description is too long or holds a NUL.
    pub fn new(exports: Vec<Export>) -> Result<Self> {
        if exports.is_empty() {
            return Err(Error::NoExports);
        }
        let mut names = HashSet::new();
        for export in &exports {
            export.check_texts()?;
            if !names.insert(&export.name) {
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

#[cfg(test)]
mod tests {
    use afterimage_block::{Length, MemoryDisk};

    use super::*;

    fn export(name: &str) -> Export {
        Export {
            name: name.into(),
            description: String::new(),
            device: Device::ReadWrite(Arc::new(MemoryDisk::new(Length::kib(1)))),
        }
    }

    #[test]
    fn the_first_answers_to_the_empty_name_unless_another_has_it() {
        let exports = Exports::new(vec![export("a"), export("b")]).unwrap();
        assert_eq!(exports.find("").unwrap().name, "a");
        assert_eq!(exports.find("b").unwrap().name, "b");
        assert!(exports.find("c").is_none());
        let exports = Exports::new(vec![export("a"), export("")]).unwrap();
        assert_eq!(exports.find("").unwrap().name, "");
    }

    #[test]
    fn useless_sets_are_refused() {
        let of = |names: &[&str]| Exports::new(names.iter().map(|n| export(n)).collect()).err();
        assert!(matches!(of(&[]), Some(Error::NoExports)));
        assert!(matches!(of(&["a", "b", "a"]), Some(Error::DuplicateExport(name)) if name == "a"));
        let long = "x".repeat(NAME_MAX + 1);
        for text in [long.as_str(), "a\0b"] {
            assert!(matches!(of(&[text]), Some(Error::ExportText { .. })));
        }
    }
}
