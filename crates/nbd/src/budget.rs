//! The memory that all requests in flight may take.

use std::sync::{Condvar, Mutex, PoisonError};

/// A number of bytes that requests share.
#[derive(Debug)]
pub(crate) struct Budget {
    left: Mutex<usize>,
    returned: Condvar,
}

/// A part of the budget, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Share<'a> {
    budget: &'a Budget,
    bytes: usize,
}

impl Budget {
    pub(crate) fn new(bytes: usize) -> Self {
        Self {
            left: Mutex::new(bytes),
            returned: Condvar::new(),
        }
    }

    /// Waits until `bytes`, which must not exceed the whole budget, are there.
    pub(crate) fn take(&self, bytes: usize) -> Share<'_> {
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let enough = self.returned.wait_while(left, |left| *left < bytes);
        *enough.unwrap_or_else(PoisonError::into_inner) -= bytes;
        Share {
            budget: self,
            bytes,
        }
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        let left = self.budget.left.lock();
        *left.unwrap_or_else(PoisonError::into_inner) += self.bytes;
        self.budget.returned.notify_all();
    }
}
