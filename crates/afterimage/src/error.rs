//! What can go wrong with a protected machine as a whole.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use afterimage_block::Length;
use afterimage_replication::{ErrorCode, Failure, InvalidPolicy, JobError, NotAllowed, Refused};
use afterimage_retry::{Class, Classify};

use crate::Divergence;

/// The result of an operation on a protected machine.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A disk, a snapshot or a write-intent file failed.
    #[error(transparent)]
    Disk(#[from] afterimage_block::Error),
    /// A change log failed.
    #[error(transparent)]
    Log(#[from] afterimage_changelog::Error),
    /// The comparison of disk and replica failed.
    #[error(transparent)]
    Resync(#[from] afterimage_resync::Error),
    /// The replica's store failed or refused.
    #[error(transparent)]
    Store(#[from] afterimage_store::Error),
    /// The exports could not be served.
    #[error(transparent)]
    Nbd(#[from] afterimage_nbd::Error),
    /// A policy value is out of range.
    #[error(transparent)]
    Policy(#[from] InvalidPolicy),
    /// The machine's state does not admit the request.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The replica's role does not admit the request.
    #[error(transparent)]
    NotAllowed(#[from] NotAllowed),
    /// The machine was stopped and its replica prepared for a planned failover, and it cannot be taken back.
    /// What was written from now on would be lost by that failover, so that the disks are not served.
    #[error(
        "the replica is prepared for a planned failover, which cannot be taken back: {cause}; start the \
         machine when the replica can be reached, or fail over to the replica"
    )]
    StillPrepared {
        /// Why the replica was not claimed.
        cause: String,
    },
    /// Disks that are to follow the replica hold what it may not have.
    #[error("{0}; to destroy that and follow the replica give the token `{token}`", token = .0.token())]
    Diverges(Box<Divergence>),
    /// A file of the state folder failed.
    #[error("cannot {operation} `{}`: {source}", path.display())]
    File {
        /// The verb.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Another process protects this machine.
    #[error("state folder `{}` is in use by another process: stop it first", .0.display())]
    StateInUse(PathBuf),
    /// The state folder is another machine's, or was written by a newer release, or is damaged.
    #[error("state file `{}` cannot be used: {reason}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// There is no disk to protect, or the same one twice.
    #[error("{0}")]
    Disks(String),
    /// A disk is to have, or has, fewer bytes than it is protected with.
    #[error("`{}` is protected with {} bytes and cannot shrink to {}: bring back its size, or protect it anew with an empty state folder and another name", path.display(), was.get(), is.get())]
    Shrunk {
        /// The disk.
        path: PathBuf,
        /// The size that it is protected with.
        was: Length,
        /// The smaller one.
        is: Length,
    },
    /// The replica has too little room for a first copy.
    #[error("the replica has {available} free and the disks hold {needed}: free some space")]
    NoRoom {
        /// What the disks hold.
        needed: Length,
        /// What the replica has.
        available: Length,
    },
    /// A file to be written is there already.
    #[error("`{}` exists already: choose another folder or remove it", .0.display())]
    Exists(PathBuf),
    /// The machine has ended while something was asked of it.
    #[error("the machine is no longer running")]
    NotRunning,
    /// A thread or task ended by a fault of the program.
    #[error("work was abandoned: {0}")]
    Abandoned(String),
}

impl Error {
    /// Whether another attempt can help.
    pub fn is_recoverable(&self) -> bool {
        match self {
            Self::Disk(error) => error.is_recoverable(),
            Self::Log(error) => error.is_recoverable(),
            Self::Resync(error) => error.is_recoverable(),
            Self::Store(error) => error.is_recoverable(),
            Self::Nbd(error) => error.is_recoverable(),
            Self::NoRoom { .. } => true,
            Self::File { source, .. } => source.kind() != io::ErrorKind::PermissionDenied,
            _ => false,
        }
    }

    /// Whether the replica may no longer admit this side as its primary.
    pub(crate) fn shuts_out(&self) -> bool {
        use afterimage_store::Error as Store;
        matches!(self, Self::Store(Store::Fenced { .. } | Store::Refused(_)))
    }

    /// Why a job failed, for people.
    pub(crate) fn job_error(&self) -> JobError {
        use afterimage_store::Error as Store;
        let code = match self {
            Self::NoRoom { .. } => ErrorCode::NoRoom,
            Self::Store(Store::Fenced { .. }) => ErrorCode::Fenced,
            Self::Store(Store::Refused(_))
            | Self::Refused(_)
            | Self::NotAllowed(_)
            | Self::Diverges(_) => ErrorCode::Refused,
            Self::Store(Store::Damaged { .. }) => ErrorCode::Damaged,
            Self::Store(error) if error.is_recoverable() => ErrorCode::Unreachable,
            _ => ErrorCode::Other,
        };
        JobError {
            code,
            message: self.to_string(),
        }
    }

    /// The failure of a task, for the state machine.
    pub(crate) fn failure(&self) -> Failure {
        Failure {
            class: self.class(),
            retry_after: self.retry_after(),
            message: self.to_string(),
        }
    }
}

impl Classify for Error {
    fn class(&self) -> Class {
        if self.is_recoverable() {
            Class::Recoverable
        } else {
            Class::NonRecoverable
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Store(error) => error.retry_after(),
            _ => None,
        }
    }
}

/// Runs `work` where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::Abandoned(error.to_string())),
    }
}
