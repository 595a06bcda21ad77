//! A limit on bytes a second that can change while it is kept to.

mod disk;

use std::io::{self, Write};
use std::num::NonZeroU64;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use disk::{LimitedDisk, LimitedSource};

/// Bytes a second that all who hold a clone keep to together, evenly rather than in bursts. It can be
/// [set](Self::set) at any time, and those who wait then wait for the new one. The default has no limit.
///
/// ```
/// use std::io::Write;
/// use std::num::NonZeroU64;
/// use afterimage_resync::{Limit, LimitedStream};
///
/// let limit = Limit::of(NonZeroU64::new(1 << 20));
/// let mut stream = LimitedStream::new(Vec::new(), limit.clone());
/// stream.write_all(&[7; 1024])?;
/// limit.set(None); // at six o'clock, by whoever has a clock
/// stream.write_all(&[7; 64 << 20])?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Limit(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes a second.
    speed: Option<NonZeroU64>,
    /// When the next may begin.
    next: Option<Instant>,
}

impl Limit {
    /// A limit of so many bytes a second from now on; `None` is as fast as it goes.
    pub fn of(speed: Option<NonZeroU64>) -> Self {
        let limit = Self::default();
        limit.set(speed);
        limit
    }

    /// Bytes a second; `None` is as fast as it goes.
    pub fn get(&self) -> Option<NonZeroU64> {
        self.state().speed
    }

    /// Changes it from now on, also for those who wait.
    pub fn set(&self, speed: Option<NonZeroU64>) {
        let mut state = self.state();
        let now = Instant::now();
        let owed = state.next.map(|next| next.saturating_duration_since(now));
        state.next = owed
            .zip(state.speed)
            .zip(speed)
            .and_then(|((owed, old), new)| {
                // As many bytes as before, at the new speed.
                let nanos = owed.as_nanos() * u128::from(old.get()) / u128::from(new.get());
                now.checked_add(duration(nanos))
            });
        state.speed = speed;
        drop(state);
        self.0.changed.notify_all();
    }

    /// Waits for the turn of so many bytes.
    pub fn wait(&self, bytes: usize) {
        let mut state = self.state();
        while let Some(speed) = state.speed {
            let now = Instant::now();
            let wait = state.next.map(|next| next.saturating_duration_since(now));
            let Some(wait) = wait.filter(|wait| !wait.is_zero()) else {
                let takes = bytes as u128 * 1_000_000_000 / u128::from(speed.get());
                // A limit of a few bytes a century is none that anybody waits for.
                state.next = now.checked_add(duration(takes));
                return;
            };
            let woken = self.0.changed.wait_timeout(state, wait);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// How much of a stream goes at once: what a twentieth of a second allows, but not so little that
    /// calls cost.
    fn piece(&self) -> usize {
        let twentieth = self.get().map_or(u64::MAX, |speed| speed.get() / 20);
        usize::try_from(twentieth).map_or(256 << 10, |bytes| bytes.clamp(4 << 10, 256 << 10))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn duration(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// A stream that is written no faster than a limit.
#[derive(Debug)]
pub struct LimitedStream<W> {
    stream: W,
    limit: Limit,
}

impl<W> LimitedStream<W> {
    /// Limits `stream`.
    pub const fn new(stream: W, limit: Limit) -> Self {
        Self { stream, limit }
    }
}

impl<W: Write> Write for LimitedStream<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.limit.get().is_none() {
            return self.stream.write(bytes);
        }
        let piece = bytes.get(..self.limit.piece()).unwrap_or(bytes);
        self.limit.wait(piece.len());
        self.stream.write(piece)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

#[cfg(test)]
mod tests;
