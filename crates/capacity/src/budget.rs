//! What a store is asked for: the table in the store's `LAYOUT.md`.

use std::collections::BTreeSet;
use std::ops::{Add, AddAssign, Mul};
use std::time::Duration;

use afterimage_block::{Extent, Length};

use crate::real;

/// Numbers of requests; fractions where they are a mean.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Requests {
    /// Objects, or parts of them, that are put.
    pub puts: f64,
    /// Objects, or parts of them, that are read.
    pub gets: f64,
    /// Objects that are deleted.
    pub deletes: f64,
}

impl Requests {
    const fn new(puts: u32, gets: u32, deletes: u32) -> Self {
        Self {
            puts: puts as f64,
            gets: gets as f64,
            deletes: deletes as f64,
        }
    }
}

impl Add for Requests {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            puts: self.puts + other.puts,
            gets: self.gets + other.gets,
            deletes: self.deletes + other.deletes,
        }
    }
}

impl AddAssign for Requests {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Mul<f64> for Requests {
    type Output = Self;

    fn mul(self, factor: f64) -> Self {
        Self {
            puts: self.puts * factor,
            gets: self.gets * factor,
            deletes: self.deletes * factor,
        }
    }
}

/// Publishing an interval: the manifest.
const PUBLICATION: Requests = Requests::new(1, 0, 0);
/// Telling that the machine is idle: the manifest.
const HEARTBEAT: Requests = Requests::new(1, 0, 0);
/// The log of one disk in an object of its own.
const LOG: Requests = Requests::new(1, 0, 0);
/// A log up to this length is in the manifest.
const INLINED_MAX: Length = Length::kib(16);
/// As much of them all; they are put together into one object where they would be more.
const ALL_INLINED_MAX: Length = Length::kib(64);
/// Such an object.
const PACK: Requests = Requests::new(1, 0, 0);
/// A longer log is put in parts of this length, with one request more to begin and one to end.
const PART: Length = Length::mib(8);
/// Parts that are on their way at the same time.
const PARTS_IN_FLIGHT: u64 = 2;
/// No fewer generations are folded into the checkpoint at once.
const FOLD_MIN: usize = 8;
/// They are folded when there are so many, with those that points need.
const GENERATIONS_MAX: usize = 128;
/// Or when they take this part of the disks' size.
const ROOM: u64 = 4;
/// A fold itself.
const FOLD: Requests = Requests::new(0, 2, 0);
/// A log that is folded, in an object of its own.
const FOLDED_LOG: Requests = Requests::new(0, 3, 1);
/// An object with many of them.
const FOLDED_PACK: Requests = Requests::new(0, 1, 1);
/// A chunk that a fold rewrites.
const CHUNK: Requests = Requests::new(1, 1, 1);
/// What each log that has an object of its own has of such a chunk.
const CHUNK_IN_LOG: Requests = Requests::new(0, 1, 0);
/// A page of the index that a fold rewrites; it is read twice more when the former one is deleted.
const PAGE: Requests = Requests::new(1, 3, 1);
/// A disk's root, which every fold rewrites, the same.
const ROOT: Requests = Requests::new(1, 3, 1);
/// The length of a chunk.
const CHUNK_LENGTH: Length = Length::mib(1);
/// The chunks of a page.
const PAGE_CHUNKS: u64 = 64;

/// How many generations that no point needs are kept, of a machine with so many recovery points.
pub(crate) fn fold_every(points: u32) -> usize {
    let kept = usize::try_from(points.saturating_sub(1)).unwrap_or(usize::MAX);
    let more = GENERATIONS_MAX.saturating_sub(kept);
    more.max(kept / 2).max(FOLD_MIN)
}

/// What a machine asks for that is idle for so many intervals: it tells it when that begins, and again after
/// each heartbeat.
pub(crate) fn idle(intervals: u64, interval: Duration, heartbeat: Duration) -> Requests {
    let idle = real(intervals) * interval.as_secs_f64();
    HEARTBEAT * (idle / heartbeat.max(interval).as_secs_f64()).ceil()
}

fn is_inlined(log: Length) -> bool {
    log <= INLINED_MAX
}

/// What the manifest holds of the logs.
#[derive(Debug, Default)]
pub(crate) struct Manifest {
    inlined: u64,
}

/// What shipping one generation takes.
pub(crate) struct Shipping {
    /// All requests.
    pub(crate) requests: Requests,
    /// Those that wait for each other.
    pub(crate) round_trips: f64,
}

impl Manifest {
    /// Ships logs of these lengths and publishes them.
    pub(crate) fn ship(&mut self, logs: impl Iterator<Item = Length>) -> Shipping {
        let (mut requests, mut before) = (PUBLICATION, 0.0_f64);
        for length in logs {
            if is_inlined(length) {
                self.inlined += length.get();
                continue;
            }
            requests += LOG;
            let parts = length.get().div_ceil(PART.get());
            if parts > 1 {
                requests.puts += 1.0 + real(parts);
                before = before.max(2.0 + real(parts.div_ceil(PARTS_IN_FLIGHT)));
            }
            before = before.max(1.0);
        }
        if self.inlined > ALL_INLINED_MAX.get() {
            self.inlined = 0;
            requests += PACK;
            before += 1.0;
        }
        Shipping {
            requests,
            round_trips: before + 1.0,
        }
    }
}

/// What one fold of some generations takes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fold {
    /// The generations that are folded.
    pub(crate) generations: usize,
    /// Whether it is made: no more are waited for.
    pub(crate) is_whole: bool,
    own_logs: u64,
    inlined: u64,
    bytes: u64,
    /// Disks and numbers of chunks.
    chunks: BTreeSet<(usize, u64)>,
    chunks_in_logs: u64,
}

impl Fold {
    /// Adds a log of a disk of this length that changes `extents`, which are in order.
    pub(crate) fn add(
        &mut self,
        disk: usize,
        length: Length,
        extents: impl Iterator<Item = Extent>,
    ) {
        self.bytes = self.bytes.saturating_add(length.get());
        if is_inlined(length) {
            self.inlined += length.get();
        } else {
            self.own_logs += 1;
        }
        let chunk = |byte: u64| byte / CHUNK_LENGTH.get();
        let mut next = 0;
        for extent in extents {
            let first = chunk(extent.start().get()).max(next);
            next = chunk(extent.end().get().saturating_sub(1)) + 1;
            self.chunks
                .extend((first..next).map(|number| (disk, number)));
            if !is_inlined(length) {
                self.chunks_in_logs += next.saturating_sub(first);
            }
        }
    }

    /// Ends a generation of a machine whose disks have `size`; the fold, if it is made now, which comes
    /// every `fold_every` generations at the latest.
    pub(crate) fn end_generation(&mut self, size: Length, fold_every: usize) -> Option<Self> {
        self.generations += 1;
        let takes_room = self.bytes >= size.get() / ROOM;
        self.is_whole =
            self.generations >= fold_every || (takes_room && self.generations >= FOLD_MIN);
        self.is_whole.then(|| std::mem::take(self))
    }

    /// The length of the chunks that are rewritten.
    pub(crate) fn bytes(&self) -> f64 {
        real(self.chunks.len() as u64) * real(CHUNK_LENGTH.get())
    }

    /// What reading and deleting the logs asks for.
    pub(crate) fn requests_for_logs(&self) -> Requests {
        FOLDED_LOG * real(self.own_logs)
            + FOLDED_PACK * (real(self.inlined) / real(ALL_INLINED_MAX.get()))
            + CHUNK_IN_LOG * real(self.chunks_in_logs)
    }

    /// What rewriting the checkpoint asks for, of a machine of so many disks.
    pub(crate) fn requests_for_checkpoint(&self, disks: usize) -> Requests {
        let pages: BTreeSet<_> = self
            .chunks
            .iter()
            .map(|(disk, chunk)| (disk, chunk / PAGE_CHUNKS))
            .collect();
        FOLD + CHUNK * real(self.chunks.len() as u64)
            + PAGE * real(pages.len() as u64)
            + ROOT * real(disks as u64)
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "they are whole numbers")]
mod tests {
    use super::*;

    #[test]
    fn who_is_idle_says_so_and_again_after_each_heartbeat() {
        let told = |intervals, secs, heartbeat| {
            let (interval, heartbeat) = (Duration::from_secs(secs), Duration::from_secs(heartbeat));
            idle(intervals, interval, heartbeat).puts
        };
        assert_eq!(told(0, 30, 600), 0.0);
        assert_eq!(told(1, 30, 600), 1.0);
        assert_eq!(told(20, 30, 600), 1.0);
        assert_eq!(told(21, 30, 600), 2.0);
        assert_eq!(told(3, 900, 600), 3.0, "not more often than the interval");
    }

    #[test]
    fn what_is_small_waits_for_one_answer_and_what_is_large_for_few() {
        let mut manifest = Manifest::default();
        let mut ship = |lengths: &[Length]| {
            let shipping = manifest.ship(lengths.iter().copied());
            (shipping.requests.puts, shipping.round_trips)
        };
        let (small, own, large) = (Length::kib(15), Length::kib(17), Length::mib(33));
        assert_eq!(ship(&[small, small, small, small]), (1.0, 1.0));
        assert_eq!(ship(&[small]), (2.0, 2.0), "together too large");
        assert_eq!(ship(&[small, own, own]), (3.0, 2.0));
        assert_eq!(ship(&[own, large]), (1.0 + 1.0 + 7.0, 6.0));
    }
}
