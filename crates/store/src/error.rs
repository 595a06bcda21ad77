//! What can go wrong with a replica store.

use std::fmt::Display;
use std::time::Duration;

use afterimage_block::{Epoch, Length, MachineId, Sequence};

use crate::manifest::{FORMAT_MIN, FORMAT_SEALED};
use crate::{Newness, Throttled};

/// The result of an operation on a store.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, and with what.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A URL names no kind of store that this release knows.
    #[error(
        "`{url}` is not a store: write a path, file:///PATH, az://CONTAINER/FOLDER, \
         abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/FOLDER, s3://BUCKET/FOLDER, \
         gs://BUCKET/FOLDER, afterimage://HOST:PORT/ or memory://NAME"
    )]
    Url {
        /// The URL.
        url: String,
    },
    /// A URL has a query or a password, which would be seen wherever the URL is.
    #[error("`{url}` goes on with a secret: give credentials in the environment, never in a URL")]
    SecretInUrl {
        /// The URL up to there.
        url: String,
    },
    /// A URL's kind of store is not built in.
    #[error("`{url}` needs a build with the feature `{feature}`")]
    NotBuiltIn {
        /// The URL.
        url: String,
        /// The feature of this crate.
        feature: &'static str,
    },
    /// The settings of a cloud or a replica server are incomplete or contradict each other.
    #[error("`{url}` cannot be opened with the settings {prefix}* of the environment: {reason}")]
    Settings {
        /// The URL.
        url: String,
        /// What the names of its settings begin with.
        prefix: &'static str,
        /// What is wrong, without secrets.
        reason: String,
    },
    /// A name that could lead outside its folder, or could not be stored everywhere.
    #[error("`{name}` is no machine name: use 1 to 128 of A-Z a-z 0-9 . _ - (but not . or ..)")]
    Name {
        /// The name.
        name: String,
    },
    /// The store was written by a release that is newer, or from before the first.
    #[error(
        "the store has format {found}, and this release knows formats {FORMAT_MIN} to \
         {FORMAT_SEALED}: use a release that knows it, or begin a new store"
    )]
    OtherFormat {
        /// The store's format.
        found: u64,
    },
    /// The store does not honour conditional requests, so it cannot keep two writers apart.
    #[error("the store ignores conditional requests ({0}): two writers could not be kept apart")]
    NoConditions(&'static str),
    /// The name is another machine's.
    #[error(
        "replica `{name}` belongs to machine {owner}: use another name, or the state folder that belongs to it"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// Whose it is.
        owner: MachineId,
    },
    /// The replica's disks are not those of the machine.
    #[error(
        "replica `{name}` holds other disks: {difference}; name its disks, in its order, or protect these \
         under another name with another state folder"
    )]
    OtherDisks {
        /// The replica.
        name: String,
        /// What differs.
        difference: String,
    },
    /// A disk is smaller than the replica has it.
    #[error(
        "`{disk}` had {} bytes and has {} now, and a disk under replication cannot shrink: give it its \
         former size again, or protect it anew as another machine", was.get(), is.get()
    )]
    Shrunk {
        /// The disk.
        disk: String,
        /// Its size at the replica.
        was: Length,
        /// Its size now.
        is: Length,
    },
    /// Another writer owns the replica now.
    #[error("fenced: the replica is in epoch {current} now, and this writer is of epoch {own}")]
    Fenced {
        /// The writer's epoch.
        own: Epoch,
        /// The replica's.
        current: Epoch,
    },
    /// The machine is encrypted.
    #[error("replica `{0}` is encrypted: give its key file or passphrase")]
    KeyMissing(String),
    /// The machine is not encrypted.
    #[error(
        "replica `{0}` is not encrypted, but a key was given: either it was begun without one, or \
         somebody has put another in its place"
    )]
    KeyUnused(String),
    /// The machine's key is wrapped by another key or passphrase.
    #[error("the key that was given does not open replica `{name}`, which needs its {needs}")]
    KeyWrong {
        /// The replica.
        name: String,
        /// What its key is wrapped by: `key file` or `passphrase`.
        needs: &'static str,
    },
    /// A file is not that of a key or passphrase.
    #[error("no key can be read from `{path}`: {reason}")]
    KeyFile {
        /// The file.
        path: String,
        /// Why, without any of its content.
        reason: String,
    },
    /// The operating system gave no random numbers, without which nothing can be encrypted.
    #[error("the operating system gives no random numbers: {0}")]
    NoRandom(String),
    /// The manifest is older than one that was seen before.
    #[error("replica `{name}` was rolled back: it is at {found}, and was at {seen} before")]
    RolledBack {
        /// The replica.
        name: String,
        /// What is there.
        found: Newness,
        /// What was seen before.
        seen: Newness,
    },
    /// The caller's condition for a change was not met.
    #[error("{0}")]
    Refused(String),
    /// The store is not where it was: an unmounted folder, most likely.
    #[error("there is no store at `{0}` any more: mount or bring back what is missing")]
    Unreachable(String),
    /// There is no such machine.
    #[error("there is no replica `{0}` in this store")]
    NoReplica(String),
    /// There is no such recovery point.
    #[error("replica `{name}` has no recovery point {wanted}; it has {available}")]
    NoPoint {
        /// The replica.
        name: String,
        /// What was asked for.
        wanted: String,
        /// What there is.
        available: String,
    },
    /// A log is out of sequence.
    #[error("log {found} does not follow {last}: logs are published in sequence")]
    OutOfSequence {
        /// The newest published.
        last: Sequence,
        /// What was to be published.
        found: Sequence,
    },
    /// A log does not continue the one before it.
    #[error(
        "log {sequence} does not continue the chain of its disk: its predecessor's digest differs"
    )]
    BrokenChain {
        /// The log.
        sequence: Sequence,
    },
    /// A log at the primary is no longer what it was when it was proved. It can be proved anew.
    #[error("log `{path}` is not what it was when it was proved: none of it counts")]
    LogChanged {
        /// The file.
        path: String,
    },
    /// An object is missing, or is not what its name or the manifest says.
    #[error("object `{object}` is damaged: {reason}")]
    Damaged {
        /// The object.
        object: String,
        /// What is wrong.
        reason: String,
    },
    /// The store failed or refused a request.
    #[error("the store failed to {operation} `{object}`: {source}")]
    Store {
        /// The verb: read, write, delete.
        operation: &'static str,
        /// The object.
        object: String,
        /// What the store said.
        source: object_store::Error,
    },
    /// The local folder failed.
    #[error("cannot {operation} `{path}`: {source}")]
    Folder {
        /// The verb.
        operation: &'static str,
        /// The path.
        path: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Many writers changed the manifest at the same time, again and again.
    #[error("the manifest of `{0}` is changed by others all the time")]
    Contended(String),
    /// The source disk failed.
    #[error(transparent)]
    Disk(#[from] afterimage_block::Error),
    /// A change log failed or is damaged.
    #[error(transparent)]
    Log(#[from] afterimage_changelog::Error),
}

impl Error {
    /// Whether another attempt can help: the store's failures may pass, refusals and damage do not.
    pub fn is_recoverable(&self) -> bool {
        use object_store::Error as Store;
        match self {
            Self::Store { source, .. } => !matches!(
                source,
                Store::PermissionDenied { .. }
                    | Store::Unauthenticated { .. }
                    | Store::NotSupported { .. }
                    | Store::NotImplemented { .. }
                    | Store::InvalidPath { .. }
                    | Store::UnknownConfigurationKey { .. }
            ),
            Self::Folder { source, .. } => source.kind() != std::io::ErrorKind::PermissionDenied,
            Self::Contended(_) | Self::Unreachable(_) | Self::LogChanged { .. } => true,
            Self::Disk(error) => error.is_recoverable(),
            Self::Log(error) => error.is_recoverable(),
            _ => false,
        }
    }

    /// The pause that the store asked for, if it was so long that it was not waited out already.
    pub fn retry_after(&self) -> Option<Duration> {
        let Self::Store { source, .. } = self else {
            return None;
        };
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(source);
        while let Some(error) = cause {
            if let Some(throttled) = error.downcast_ref::<Throttled>() {
                return Some(throttled.after);
            }
            cause = error.source();
        }
        None
    }

    /// An answer was shorter than it said itself: the connection broke, not the object.
    pub(crate) fn cut(object: &object_store::path::Path, expected: u64, found: usize) -> Self {
        let reason = format!("the answer was cut after {found} of {expected} bytes");
        Self::Store {
            operation: "read",
            object: object.to_string(),
            source: object_store::Error::Generic {
                store: "object store",
                source: reason.into(),
            },
        }
    }

    pub(crate) fn damaged(object: impl Display, reason: impl Display) -> Self {
        Self::Damaged {
            object: object.to_string(),
            reason: reason.to_string(),
        }
    }

    /// Why `operation` on `object` failed; an immutable object that is not there is damage.
    pub(crate) fn store(
        operation: &'static str,
        object: &object_store::path::Path,
        source: object_store::Error,
    ) -> Self {
        if operation == "read" && matches!(source, object_store::Error::NotFound { .. }) {
            return Self::damaged(object, "it is missing");
        }
        Self::Store {
            operation,
            object: object.to_string(),
            source,
        }
    }
}
