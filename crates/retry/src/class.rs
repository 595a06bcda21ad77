//! Which errors are worth another attempt.

use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Whether an error may pass by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Class {
    /// It may: the network, low disk space, low memory, a throttled or restarting service, a clean
    /// shutdown of the other side. Try again by the schedule.
    Recoverable,
    /// It will not: damaged data, an invalid state, refused credentials, something that does not
    /// exist. A person must act.
    NonRecoverable,
}

/// An error that knows its [`Class`].
pub trait Classify {
    /// Whether another attempt can help.
    fn class(&self) -> Class;

    /// The pause that the other side asked for (HTTP's `Retry-After`), if it did.
    fn retry_after(&self) -> Option<Duration> {
        None
    }
}

impl Classify for io::Error {
    /// Permission, existence, and data or argument errors are non-recoverable; everything else the
    /// operating system reports about networks and resources may pass.
    fn class(&self) -> Class {
        use io::ErrorKind as Kind;
        match self.kind() {
            Kind::NotFound
            | Kind::PermissionDenied
            | Kind::AlreadyExists
            | Kind::InvalidInput
            | Kind::InvalidData
            | Kind::NotADirectory
            | Kind::IsADirectory
            | Kind::ReadOnlyFilesystem
            | Kind::Unsupported => Class::NonRecoverable,
            _ => Class::Recoverable,
        }
    }
}
