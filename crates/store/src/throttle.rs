//! The pause that a store asks for.

use std::time::Duration;

/// A store that is overloaded asked to be left alone for a while. [`Error::retry_after`] finds it
/// anywhere among the sources of an `object_store` error, so that stores given to
/// [`Store::with_objects`] can tell it too.
///
/// [`Error::retry_after`]: crate::Error::retry_after
/// [`Store::with_objects`]: crate::Store::with_objects
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the store is overloaded and asks for a pause of {} ms", after.as_millis())]
pub struct Throttled {
    /// The pause, counted from the answer.
    pub after: Duration,
}
