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

impl<E: Classify + ?Sized> Classify for &E {
    fn class(&self) -> Class {
        (**self).class()
    }

    fn retry_after(&self) -> Option<Duration> {
        (**self).retry_after()
    }
}

impl<E: Classify + ?Sized> Classify for Box<E> {
    fn class(&self) -> Class {
        (**self).class()
    }

    fn retry_after(&self) -> Option<Duration> {
        (**self).retry_after()
    }
}

/// Any error, with what its owner knows of it: for errors of other crates, which do not classify
/// themselves.
///
/// ```
/// use afterimage_retry::{Class, Classified, Classify};
///
/// let text = "twelve".parse::<u32>().map_err(Classified::non_recoverable);
/// assert_eq!(text.unwrap_err().class(), Class::NonRecoverable);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct Classified<E> {
    /// The error.
    pub error: E,
    /// Whether another attempt can help.
    pub class: Class,
    /// The pause that the other side asked for.
    pub retry_after: Option<Duration>,
}

impl<E> Classified<E> {
    /// An error that may pass by itself.
    pub const fn recoverable(error: E) -> Self {
        Self {
            error,
            class: Class::Recoverable,
            retry_after: None,
        }
    }

    /// An error that will not pass by itself.
    pub const fn non_recoverable(error: E) -> Self {
        Self {
            error,
            class: Class::NonRecoverable,
            retry_after: None,
        }
    }

    /// The same, where the other side asked for a pause.
    pub const fn after(mut self, pause: Duration) -> Self {
        self.retry_after = Some(pause);
        self
    }
}

impl<E> Classify for Classified<E> {
    fn class(&self) -> Class {
        self.class
    }

    fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

impl Classify for io::Error {
    /// Permission, existence, and data or argument errors are non-recoverable; everything else the
    /// operating system reports about networks and resources may pass, a connection that the other
    /// side closed in order above all: it was shut down, and will be started again.
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
