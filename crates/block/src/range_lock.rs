//! Locks on ranges of a disk.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::Extent;

/// The extents of the writes in flight. There are as many as clients keep requests in flight: few.
#[derive(Debug, Default)]
pub(crate) struct RangeLocks {
    held: Mutex<Held>,
    released: Condvar,
}

#[derive(Debug, Default)]
struct Held {
    extents: Vec<Extent>,
    waiters: usize,
}

/// An extent that nobody else holds any part of, until it is dropped.
pub(crate) struct RangeLock<'a> {
    locks: &'a RangeLocks,
    extent: Extent,
}

impl RangeLocks {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no write that overlaps `extent` is in flight.
    pub(crate) fn lock(&self, extent: Extent) -> RangeLock<'_> {
        let mut held = self.held();
        while held.extents.iter().any(|other| other.overlaps(extent)) {
            held.waiters += 1;
            held = self
                .released
                .wait(held)
                .unwrap_or_else(PoisonError::into_inner);
            held.waiters -= 1;
        }
        held.extents.push(extent);
        RangeLock {
            locks: self,
            extent,
        }
    }
}

impl Drop for RangeLock<'_> {
    fn drop(&mut self) {
        let mut held = self.locks.held();
        if let Some(at) = held
            .extents
            .iter()
            .position(|extent| *extent == self.extent)
        {
            held.extents.swap_remove(at);
        }
        if held.waiters > 0 {
            self.locks.released.notify_all();
        }
    }
}
