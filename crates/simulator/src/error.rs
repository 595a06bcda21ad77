//! What can go wrong with what a driver carries out.

use afterimage_replication::{Failure, NotAllowed};
use afterimage_retry::Class;

/// Why a task failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failed {
    #[error(transparent)]
    Store(#[from] afterimage_store::Error),
    #[error(transparent)]
    Log(#[from] afterimage_changelog::Error),
    #[error(transparent)]
    Disk(#[from] afterimage_block::Error),
    #[error(transparent)]
    Resync(#[from] afterimage_resync::Error),
    #[error(transparent)]
    NotAllowed(#[from] NotAllowed),
    #[error(transparent)]
    Engine(#[from] afterimage::Error),
    #[error("{0}, simulated")]
    Simulated(&'static str),
    #[error("the replica is not claimed")]
    NotClaimed,
}

impl Failed {
    pub(crate) fn is_recoverable(&self) -> bool {
        match self {
            Self::Store(error) => error.is_recoverable(),
            Self::Log(error) => error.is_recoverable(),
            Self::Disk(error) => error.is_recoverable(),
            Self::Resync(error) => error.is_recoverable(),
            Self::Engine(error) => error.is_recoverable(),
            Self::Simulated(_) => true,
            Self::NotAllowed(_) | Self::NotClaimed => false,
        }
    }

    /// For the state machine.
    pub(crate) fn failure(&self) -> Failure {
        let class = if self.is_recoverable() {
            Class::Recoverable
        } else {
            Class::NonRecoverable
        };
        let retry_after = match self {
            Self::Store(error) => error.retry_after(),
            _ => None,
        };
        Failure {
            class,
            retry_after,
            message: self.to_string(),
        }
    }
}
