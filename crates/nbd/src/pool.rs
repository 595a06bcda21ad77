//! The memory for the data of requests in flight.

use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Larger buffers are given back to the allocator at once.
const KEPT_MAX: usize = 1 << 20;

/// A bounded number of bytes that all requests of a server share. Whoever asks for more than is left
/// waits. Some buffers are kept for the next request; they count as well, and go when room is short.
#[derive(Debug)]
pub(crate) struct Pool {
    state: Mutex<State>,
    returned: Condvar,
    /// The most bytes that idle buffers may hold on to.
    idle_max: usize,
}

#[derive(Debug)]
struct State {
    /// Bytes that neither buffers in use nor idle ones hold.
    left: usize,
    idle: Vec<Vec<u8>>,
    idle_bytes: usize,
}

/// A buffer of the length that was asked for, given back when it is dropped. Holds anything.
#[derive(Debug)]
pub(crate) struct Buffer<'a> {
    pool: &'a Pool,
    bytes: Vec<u8>,
    /// What it counts for in the pool.
    charge: usize,
}

impl Pool {
    /// A pool of `bytes`, of which a quarter may lie idle.
    pub(crate) fn new(bytes: usize) -> Self {
        Self {
            state: Mutex::new(State {
                left: bytes,
                idle: Vec::new(),
                idle_bytes: 0,
            }),
            returned: Condvar::new(),
            idle_max: bytes / 4,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `length` bytes, which must not exceed the whole pool, are there. None of those
    /// who hold a buffer may wait for another.
    pub(crate) fn take(&self, length: usize) -> Buffer<'_> {
        let mut state = self.state();
        if let Some(mut bytes) = state.reuse(length) {
            drop(state);
            bytes.resize(length, 0);
            return Buffer {
                charge: bytes.capacity(),
                pool: self,
                bytes,
            };
        }
        let enough = self.returned.wait_while(state, |state| {
            state.make_room(length);
            state.left < length
        });
        let mut state = enough.unwrap_or_else(PoisonError::into_inner);
        state.left -= length;
        drop(state);
        Buffer {
            charge: length,
            pool: self,
            bytes: vec![0; length],
        }
    }
}

impl State {
    /// The latest idle buffer that is long enough: the warmest.
    fn reuse(&mut self, length: usize) -> Option<Vec<u8>> {
        let at = self.idle.iter().rposition(|b| b.capacity() >= length)?;
        let bytes = self.idle.remove(at);
        self.idle_bytes -= bytes.capacity();
        Some(bytes)
    }

    /// Lets idle buffers go as far as `length` bytes need it.
    fn make_room(&mut self, length: usize) {
        while self.left < length
            && let Some(bytes) = self.idle.pop()
        {
            self.idle_bytes -= bytes.capacity();
            self.left += bytes.capacity();
        }
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let capacity = bytes.capacity();
        let mut state = self.pool.state();
        state.left += self.charge;
        let fits = state.idle_bytes + capacity <= self.pool.idle_max && capacity <= state.left;
        let spare = if fits && (1..=KEPT_MAX).contains(&capacity) {
            state.left -= capacity;
            state.idle_bytes += capacity;
            state.idle.push(bytes);
            None
        } else {
            Some(bytes)
        };
        drop(state);
        self.pool.returned.notify_all();
        drop(spare);
    }
}

impl Deref for Buffer<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Buffer<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn never_more_than_the_pool_is_out_and_all_of_it_comes_back() {
        let pool = Pool::new(100);
        let out = AtomicUsize::new(0);
        thread::scope(|scope| {
            for seed in 1..=8_usize {
                let (pool, out) = (&pool, &out);
                scope.spawn(move || {
                    for turn in 0..200 {
                        let length = (seed * 31 + turn * 17) % 101;
                        let buffer = pool.take(length);
                        assert_eq!(buffer.len(), length);
                        let now = out.fetch_add(length, Ordering::SeqCst) + length;
                        assert!(now <= 100, "{now} bytes are out");
                        out.fetch_sub(length, Ordering::SeqCst);
                    }
                });
            }
        });
        let state = pool.state();
        assert_eq!(state.left + state.idle_bytes, 100);
    }

    #[test]
    fn idle_buffers_are_few_reused_and_go_when_room_is_short() {
        let pool = Pool::new(16 << 20);
        let buffers: Vec<_> = (0..16).map(|_| pool.take(1 << 20)).collect();
        drop(buffers);
        assert_eq!(pool.state().idle_bytes, 4 << 20);
        assert_eq!(pool.state().left, 12 << 20);
        let small = pool.take(1);
        assert_eq!(pool.state().idle_bytes, 3 << 20);
        drop(small);
        let all = pool.take(16 << 20);
        assert_eq!(pool.state().idle_bytes, 0);
        assert_eq!(pool.state().left, 0);
        drop(all);
        assert_eq!(pool.state().left, 16 << 20);
    }
}
