//! What can go wrong with a block device.

use std::io;
use std::path::{Path, PathBuf};

use crate::{Extent, Length, Offset};

/// The result of an operation on a block device.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, doing what, to what, and where.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused or failed an operation on a disk's bytes.
    #[error("cannot {operation} {length} bytes at {offset} of `{device}`: {source}")]
    Io {
        /// The verb: read, write, zero, discard, flush.
        operation: &'static str,
        /// The device's path or name.
        device: String,
        /// Where on the device.
        offset: Offset,
        /// How many bytes.
        length: Length,
        /// What the operating system said.
        source: io::Error,
    },
    /// The operating system refused or failed an operation on a file as a whole.
    #[error("cannot {operation} `{}`: {source}", path.display())]
    File {
        /// The verb: open, create, lock, remove, sync.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The extent ends behind the end of the device.
    #[error("{} bytes at {offset} end past the {} bytes of the device", length.get(), size.get())]
    OutOfRange {
        /// Where the operation was to start.
        offset: Offset,
        /// How many bytes it was for.
        length: Length,
        /// The device's size.
        size: Length,
    },
    /// The size is not a whole number of 512-byte sectors.
    #[error("`{}` has {} bytes, which is not a whole number of 512-byte sectors: grow it to a multiple of 512", path.display(), size.get())]
    NotWholeSectors {
        /// The disk.
        path: PathBuf,
        /// Its size.
        size: Length,
    },
    /// The path names neither a regular file nor a block device.
    #[error("`{}` is neither a regular file nor a block device", path.display())]
    NotADisk {
        /// The path.
        path: PathBuf,
    },
    /// Another process has the disk open for writing.
    #[error("`{}` is in use by another process: stop it first", path.display())]
    InUse {
        /// The disk.
        path: PathBuf,
    },
    /// The device takes no writes.
    #[error("`{device}` is read-only")]
    ReadOnly {
        /// The device's path or name.
        device: String,
    },
    /// A file that is kept beside a disk does not verify.
    #[error("`{}` is damaged at {at}: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in it, bytes.
        at: u64,
        /// What is wrong there.
        reason: &'static str,
    },
    /// A disk that is being hydrated has another source than the one that is given.
    #[error("`{}` says that the disk is hydrated from another source: choose another folder, or remove the disk that is there", path.display())]
    OtherSource {
        /// The file that says so.
        path: PathBuf,
    },
    /// A snapshot could not keep what was overwritten, so that it no longer shows its instant.
    #[error("the snapshot is lost since the old contents of {extent} could not be kept: {reason}")]
    SnapshotLost {
        /// The write before which the old contents were to be copied.
        extent: Extent,
        /// Why they could not be.
        reason: String,
    },
}

/// An operation on a file as a whole that failed.
pub(crate) fn failed(operation: &'static str, path: &Path, source: io::Error) -> Error {
    Error::File {
        operation,
        path: path.into(),
        source,
    }
}

impl Error {
    /// Whether trying again, or waiting for the operating system's resources, can help: interrupted
    /// or timed-out calls, no space, no memory, no file handles, a disk in use. Damage and wrong
    /// arguments stay wrong.
    pub fn is_recoverable(&self) -> bool {
        match self {
            Self::Io { source, .. } | Self::File { source, .. } => is_recoverable_io(source),
            Self::InUse { .. } | Self::SnapshotLost { .. } => true,
            _ => false,
        }
    }
}

/// Whether an operating-system error can pass by itself or by freeing resources.
fn is_recoverable_io(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::Interrupted
            | Kind::TimedOut
            | Kind::WouldBlock
            | Kind::OutOfMemory
            | Kind::StorageFull
            | Kind::QuotaExceeded
            | Kind::ResourceBusy
    )
}
