//! What can go wrong with a change log.

use std::io;
use std::path::{Path, PathBuf};

use afterimage_block::{DiskId, Extent, Length};

use crate::{KeyId, StateDigest};

/// The result of an operation on a change log.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, with which log, and where in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused or failed something.
    #[error("cannot {operation} change log{} at byte {at}: {source}", named(path))]
    Io {
        /// The verb: create, write, read, sync.
        operation: &'static str,
        /// The log; empty where it is no file.
        path: PathBuf,
        /// Where in the log.
        at: u64,
        /// What the operating system said.
        source: io::Error,
    },
    /// The bytes are not those of a change log of this version, or were changed since.
    #[error("change log is damaged at byte {at}{}: {reason}", which(*record))]
    Damaged {
        /// Where in the file.
        at: u64,
        /// Which record it is in, counted from 0, where that is known.
        record: Option<u64>,
        /// What is wrong there.
        reason: &'static str,
    },
    /// The log was written by a newer release.
    #[error(
        "change log has format version {found}, and this release reads version 1: use a newer one"
    )]
    NewerVersion {
        /// Its version.
        found: u16,
    },
    /// The log is encrypted, and its key is not among those given.
    #[error("change log is encrypted with key {key}, which was not given")]
    NoKey {
        /// The key's name.
        key: KeyId,
    },
    /// The log is encrypted, and this program was built without the feature `aead`.
    #[error(
        "change log is encrypted with key {key}, and this program was built without encryption"
    )]
    NoCipher {
        /// The key's name.
        key: KeyId,
    },
    /// The log is compressed, and this program was built without the feature `lz4`.
    #[error("change log is compressed, and this program was built without compression")]
    NoCompression,
    /// The records of the log are compressed or encrypted, where only plain ones are taken.
    #[error("the records of the change log are compressed or encrypted: convert it first")]
    NotPlain,
    /// What is encrypted would be written as plain text.
    #[error(
        "what is encrypted would be written as plain text: encrypt it as well, or allow plain text"
    )]
    WouldExpose,
    /// The system has no random bytes to give, so that no encrypted log can be begun.
    #[error("the system gives no random bytes, without which nothing can be encrypted: {reason}")]
    NoRandomness {
        /// What it said.
        reason: String,
    },
    /// The log has no footer: its writer never sealed it.
    #[error("change log is not sealed: recover or salvage it")]
    NotSealed,
    /// The log would outgrow its quota. Nothing of the change was written.
    #[error("change log has reached its quota of {quota}: rotate it")]
    OverQuota {
        /// The quota.
        quota: Length,
    },
    /// The log has as many pieces as its index may hold in memory. Nothing of the change was written.
    #[error("change log holds {limit} separate pieces, the most that its index may: rotate it")]
    IndexFull {
        /// The limit.
        limit: usize,
    },
    /// An earlier write or force of this log failed, so that nothing more can be proved of it.
    #[error("change log failed earlier and takes no more: begin a new one")]
    Poisoned,
    /// The disk got another size, behind which the log takes no more changes.
    #[error("the disk was resized to {size}: rotate the log")]
    Resized {
        /// The disk's new size.
        size: Length,
    },
    /// No disk can be of this size.
    #[error("{} bytes are not a whole number of sectors of 512", size.get())]
    NotASize {
        /// The size.
        size: Length,
    },
    /// The change lies outside the disk.
    #[error("extent {extent} ends past the disk's {} bytes", size.get())]
    OutOfRange {
        /// The change.
        extent: Extent,
        /// The disk's size.
        size: Length,
    },
    /// The log is another disk's, or the disk's size is another.
    #[error("change log is of disk {found} with {} bytes, not of one with {} bytes", found_size.get(), size.get())]
    WrongDisk {
        /// The log's disk.
        found: DiskId,
        /// The size of the log's disk.
        found_size: Length,
        /// The size of the disk at hand.
        size: Length,
    },
    /// The disk is not in the state that the log applies to.
    #[error("change log applies to a disk in state {expected}, and the disk is in state {present}")]
    WrongState {
        /// What the log applies to.
        expected: StateDigest,
        /// What the disk is in.
        present: StateDigest,
    },
    /// What went wrong with a log, and which log it is.
    #[error("`{}`: {source}", path.display())]
    InFile {
        /// The log.
        path: PathBuf,
        /// What went wrong with it.
        source: Box<Error>,
    },
    /// The file begins as no format of change log does.
    #[error("the file begins neither as a native change log nor as an HRL does")]
    UnknownFormat,
    /// The HRL is of a version that is not known.
    #[error(
        "HRL has format version {found:#010x}, and this release reads 0x00010000 and 0x00020000"
    )]
    UnknownHrlVersion {
        /// Its version.
        found: u32,
    },
    /// The HRL has no end: its writer never closed it.
    #[error("HRL was not closed: salvage it")]
    NotClosed,
    /// The log does not follow the one that it was to follow.
    #[error("`{}` does not follow `{}`: {reason}", later.display(), earlier.display())]
    NotConsecutive {
        /// The log that was to come first.
        earlier: PathBuf,
        /// The log that was to follow it.
        later: PathBuf,
        /// Why it does not.
        reason: &'static str,
    },
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] afterimage_block::Error),
}

impl Error {
    /// Whether trying again, a rotation or more space can help. Damage stays damage.
    pub fn is_recoverable(&self) -> bool {
        match self {
            Self::Io { .. }
            | Self::OverQuota { .. }
            | Self::IndexFull { .. }
            | Self::Resized { .. }
            | Self::Poisoned => true,
            Self::InFile { source, .. } => source.is_recoverable(),
            Self::Disk(error) => error.is_recoverable(),
            _ => false,
        }
    }

    /// What went wrong, without the name of the file.
    pub fn cause(&self) -> &Self {
        match self {
            Self::InFile { source, .. } => source.cause(),
            error => error,
        }
    }

    /// With the name of the log, unless it says one.
    pub(crate) fn in_file(self, path: &Path) -> Self {
        match self.named(path) {
            error @ (Self::Io { .. }
            | Self::InFile { .. }
            | Self::NotConsecutive { .. }
            | Self::Disk(_)) => error,
            error => Self::InFile {
                path: path.into(),
                source: Box::new(error),
            },
        }
    }

    /// With the name of the log, if the operating system refused something of one without a name.
    pub(crate) fn named(mut self, log: &Path) -> Self {
        if let Self::Io { path, .. } = &mut self
            && path.as_os_str().is_empty()
        {
            *path = log.into();
        }
        self
    }

    pub(crate) const fn damaged(at: u64, reason: &'static str) -> Self {
        let record = None;
        Self::Damaged { at, record, reason }
    }

    /// What is wrong with a record.
    pub(crate) const fn damaged_record(number: u64, at: u64, reason: &'static str) -> Self {
        let record = Some(number);
        Self::Damaged { at, record, reason }
    }
}

/// The name of a log, if it has one, as it stands in a message.
fn named(path: &Path) -> String {
    if path.as_os_str().is_empty() {
        return String::new();
    }
    format!(" `{}`", path.display())
}

/// The number of a record, if it is known, as it stands in a message.
fn which(record: Option<u64>) -> String {
    record.map_or_else(String::new, |number| format!(", in record {number}"))
}
