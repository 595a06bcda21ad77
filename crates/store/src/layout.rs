//! The names of objects. Specified in `LAYOUT.md`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use afterimage_block::{ContentDigest, DiskId, Epoch, Length, Sequence};
use object_store::path::Path;
use serde::{Deserialize, Serialize};

use crate::cipher::Cipher;
use crate::pack::{Pack, Packed, Place};
use crate::{Error, LogObject};

/// The unit of digests.
pub(crate) const BLOCK: Length = Length::kib(64);
/// The unit of storage.
pub(crate) const CHUNK: Length = Length::mib(1);
/// The unit of the index.
pub(crate) const PAGE: Length = Length::mib(64);

/// The name of a machine in a store: 1 to 128 of `A-Z a-z 0-9 . _ -`, but not `.` or `..`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MachineName(String);

impl MachineName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for MachineName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let fits = (1..=128).contains(&name.len()) && name.bytes().all(allowed);
        if !fits || name == "." || name == ".." {
            return Err(Error::Name { name: name.into() });
        }
        Ok(Self(name.into()))
    }
}

impl TryFrom<String> for MachineName {
    type Error = Error;

    fn try_from(name: String) -> Result<Self, Error> {
        name.parse()
    }
}

impl From<MachineName> for String {
    fn from(name: MachineName) -> Self {
        name.0
    }
}

impl fmt::Display for MachineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The store's marker.
pub(crate) fn marker() -> Path {
    Path::from("afterimage.json")
}

/// The folder of all machines.
pub(crate) fn machines() -> Path {
    Path::from("machines")
}

/// The manifest of a machine.
pub(crate) fn manifest(name: &MachineName) -> Path {
    Path::from(format!("machines/{name}/manifest.json"))
}

/// Whether what is called that is ever replaced by other content.
pub(crate) fn is_mutable(path: &Path) -> bool {
    let mut parts = path.as_ref().split('/');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(name), None, ..) => name == "afterimage.json" || name.starts_with("probe-"),
        (Some("machines"), Some(_), Some("manifest.json"), None) => true,
        _ => false,
    }
}

/// When an object of the index was written: by the fold up to a barrier, in the epoch of a writer.
///
/// It is a part of the object's name, so that no name is ever written anew after it was deleted: a
/// deletion that arrives late, or is made by a writer that was fenced off meanwhile, meets nothing
/// that anybody needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Birth {
    pub(crate) sequence: Sequence,
    pub(crate) epoch: Epoch,
}

impl Birth {
    /// Of the first copy, of which there is but one.
    pub(crate) const BASE: Self = Self {
        sequence: Sequence::ZERO,
        epoch: Epoch::ZERO,
    };
}

/// An object of the index: when it was written, and the digest of what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) birth: Birth,
    pub(crate) digest: ContentDigest,
}

impl Node {
    /// All zeros, for which there is no object.
    pub(crate) const ZERO: Self = Self {
        birth: Birth::BASE,
        digest: ContentDigest::NONE,
    };

    /// What was written in `birth`, unless it is all zeros.
    pub(crate) fn new(birth: Birth, digest: ContentDigest) -> Self {
        if digest == ContentDigest::NONE {
            return Self::ZERO;
        }
        Self { birth, digest }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.birth, self.digest)
    }
}

impl fmt::Display for Birth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sequence, epoch) = (self.sequence.get(), self.epoch.get());
        write!(f, "{sequence:020}.{epoch:020}")
    }
}

/// The objects of one disk. Where the machine is encrypted, what stands for their names tells nothing.
#[derive(Clone, Debug)]
pub(crate) struct DiskLayout {
    machine: String,
    folder: String,
    pub(crate) cipher: Option<Arc<Cipher>>,
}

impl DiskLayout {
    pub(crate) fn new(name: &MachineName, disk: DiskId, cipher: Option<Arc<Cipher>>) -> Self {
        let machine = format!("machines/{name}");
        Self {
            folder: format!("{machine}/disks/{disk}"),
            machine,
            cipher,
        }
    }

    fn path(&self, kind: &str, name: &str) -> Path {
        self.path_in(&self.folder, kind, name)
    }

    fn path_in(&self, folder: &str, kind: &str, name: &str) -> Path {
        let plain = format!("{folder}/{kind}/{name}");
        let Some(cipher) = &self.cipher else {
            return Path::from(plain);
        };
        Path::from(format!("{folder}/{kind}/{}", cipher.name(&plain)))
    }

    /// What the log of generation `sequence` is called, and its object, if it has one of its own.
    pub(crate) fn log(&self, sequence: Sequence, log: &LogObject) -> Path {
        let epoch = log.epoch;
        let shipped = Birth { sequence, epoch };
        let name = match log.place {
            Place::Shipment => format!("{shipped}.ailog"),
            Place::Content | Place::Inlined(_) | Place::Packed(_) => {
                format!("{shipped}.{}.ailog", log.content)
            }
        };
        self.path("logs", &name)
    }

    /// The object that the log of generation `sequence` is in; `None` where that is the manifest.
    pub(crate) fn object_of(&self, sequence: Sequence, log: &LogObject) -> Option<Path> {
        match &log.place {
            Place::Shipment | Place::Content => Some(self.log(sequence, log)),
            Place::Inlined(_) => None,
            Place::Packed(Packed { pack, .. }) => Some(self.pack(pack)),
        }
    }

    /// Logs of any disks of the machine.
    pub(crate) fn pack(&self, pack: &Pack) -> Path {
        let (sequence, epoch) = (pack.sequence, pack.epoch);
        let name = format!("{}.{}", Birth { sequence, epoch }, pack.content);
        self.path_in(&self.machine, "packs", &name)
    }

    /// `position` is the number of the chunk.
    pub(crate) fn chunk(&self, position: u64, node: &Node) -> Path {
        self.path("chunks", &format!("{position:012x}.{node}"))
    }

    /// `position` is the number of the page.
    pub(crate) fn page(&self, position: u64, node: &Node) -> Path {
        self.path("pages", &format!("{position:012x}.{node}"))
    }

    pub(crate) fn root(&self, node: &Node) -> Path {
        self.path("roots", &node.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_lead_elsewhere_are_refused() {
        let long = "a".repeat(129);
        for name in ["", ".", "..", "a/b", "a\\b", "a b", "ä", "a\0", &long] {
            assert!(name.parse::<MachineName>().is_err(), "{name:?}");
        }
        for name in ["a", "web-01.example_x", "...", "-"] {
            assert_eq!(name.parse::<MachineName>().unwrap().as_str(), name);
        }
    }
}
