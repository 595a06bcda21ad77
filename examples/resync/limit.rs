//! A limit on bytes a second, for writes to a disk or to a stream.

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use afterimage_block::{BlockRead, BlockWrite, Extent, Length, Offset, Run, Zeroing};

use super::Speed;

/// Makes writers wait so that together they keep to a limit, evenly rather than in bursts.
#[derive(Debug)]
pub struct Rate {
    speed: Speed,
    /// When the next may begin.
    next: Mutex<Instant>,
}

impl Rate {
    /// A limit from now on.
    pub fn new(speed: Speed) -> Self {
        let next = Mutex::new(Instant::now());
        Self { speed, next }
    }

    /// Waits for the turn of so many bytes.
    pub fn wait(&self, bytes: usize) {
        let nanos = bytes as u128 * 1_000_000_000 / u128::from(self.speed.get());
        let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let turn = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let turn = (*next).max(Instant::now());
            // A limit of a few bytes a century is none that anybody waits for.
            *next = turn.checked_add(takes).unwrap_or(turn);
            turn
        };
        thread::sleep(turn.saturating_duration_since(Instant::now()));
    }

    /// How much goes at once: what a twentieth of a second allows, but not so little that calls cost.
    fn piece(&self) -> usize {
        let twentieth = usize::try_from(self.speed.get() / 20).unwrap_or(usize::MAX);
        twentieth.clamp(4 << 10, 256 << 10)
    }
}

/// A stream that is written no faster than a rate, if there is one.
pub struct LimitedStream<W> {
    stream: W,
    rate: Option<Rate>,
}

impl<W> LimitedStream<W> {
    /// Limits `stream`.
    pub fn new(stream: W, speed: Option<Speed>) -> Self {
        let rate = speed.map(Rate::new);
        Self { stream, rate }
    }
}

impl<W: Write> Write for LimitedStream<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(rate) = &self.rate else {
            return self.stream.write(bytes);
        };
        let piece = bytes.get(..rate.piece()).unwrap_or(bytes);
        rate.wait(piece.len());
        self.stream.write(piece)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// A disk to which data is written no faster than a rate, if there is one. To make zeros takes none.
pub struct LimitedDisk<D> {
    disk: D,
    rate: Option<Rate>,
}

impl<D> LimitedDisk<D> {
    /// Limits `disk`.
    pub fn new(disk: D, speed: Option<Speed>) -> Self {
        let rate = speed.map(Rate::new);
        Self { disk, rate }
    }
}

type Done<T = ()> = afterimage_block::Result<T>;

impl BlockRead for LimitedDisk<Box<dyn BlockWrite>> {
    fn size(&self) -> Length {
        self.disk.size()
    }

    fn read_at(&self, offset: Offset, buf: &mut [u8]) -> Done {
        self.disk.read_at(offset, buf)
    }

    fn next_run(&self, from: Offset) -> Done<Option<Run>> {
        self.disk.next_run(from)
    }
}

impl BlockWrite for LimitedDisk<Box<dyn BlockWrite>> {
    fn write_at(&self, offset: Offset, data: &[u8]) -> Done {
        if let Some(rate) = &self.rate {
            rate.wait(data.len());
        }
        self.disk.write_at(offset, data)
    }

    fn write_zeroes(&self, extent: Extent, zeroing: Zeroing) -> Done {
        self.disk.write_zeroes(extent, zeroing)
    }

    fn discard(&self, extent: Extent) -> Done {
        self.disk.discard(extent)
    }

    fn flush(&self) -> Done {
        self.disk.flush()
    }
}
