//! What a store is asked for: the table in the store's `LAYOUT.md`.

use std::collections::BTreeSet;
use std::ops::{Add, AddAssign, Mul};

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

/// Publishing an interval, once as many points are kept as may be.
const PUBLICATION: Requests = Requests::new(2, 5, 0);
/// Of that, what comes before the recovery point is there.
const BEFORE_POINT: Requests = Requests::new(1, 3, 0);
/// The log of one disk.
const LOG: Requests = Requests::new(1, 2, 0);
/// A longer log is put in parts of this length, with one request more to begin and one to end.
const PART: Length = Length::mib(8);
/// So many intervals with changes are folded into the checkpoint at once.
pub(crate) const FOLD_EVERY: usize = 8;
/// A fold itself.
const FOLD: Requests = Requests::new(0, 1, 0);
/// A log that is folded.
const FOLDED_LOG: Requests = Requests::new(0, 3, 1);
/// A chunk that a fold rewrites.
const CHUNK: Requests = Requests::new(1, 1, 1);
/// What each log has of such a chunk.
const CHUNK_IN_LOG: Requests = Requests::new(0, 1, 0);
/// A page of the index that a fold rewrites; it is read twice more when the former one is deleted.
const PAGE: Requests = Requests::new(1, 3, 1);
/// A disk's root, which every fold rewrites, the same.
const ROOT: Requests = Requests::new(1, 3, 1);
/// The length of a chunk.
const CHUNK_LENGTH: Length = Length::mib(1);
/// The chunks of a page.
const PAGE_CHUNKS: u64 = 64;

/// Shipping logs of these lengths and publishing them.
pub(crate) fn shipping(logs: impl Iterator<Item = Length>) -> Requests {
    logs.fold(PUBLICATION, |all, length| all + log(length))
}

/// Of that, what is asked one after the other until the recovery point is there.
pub(crate) fn until_point(logs: impl Iterator<Item = Length>) -> f64 {
    let all = logs.fold(BEFORE_POINT, |all, length| all + log(length));
    all.puts + all.gets
}

fn log(length: Length) -> Requests {
    let mut requests = LOG;
    if length > PART {
        requests.puts += 1.0 + real(length.get().div_ceil(PART.get()));
    }
    requests
}

/// What one fold of some generations rewrites.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fold {
    /// The generations that are folded.
    pub(crate) generations: usize,
    logs: u64,
    /// Disks and numbers of chunks.
    chunks: BTreeSet<(usize, u64)>,
    chunks_in_logs: u64,
}

impl Fold {
    /// Adds a log of a disk that changes `extents`, which are in order.
    pub(crate) fn add(&mut self, disk: usize, extents: impl Iterator<Item = Extent>) {
        self.logs += 1;
        let chunk = |byte: u64| byte / CHUNK_LENGTH.get();
        let mut next = 0;
        for extent in extents {
            let first = chunk(extent.start().get()).max(next);
            next = chunk(extent.end().get().saturating_sub(1)) + 1;
            self.chunks
                .extend((first..next).map(|number| (disk, number)));
            self.chunks_in_logs += next.saturating_sub(first);
        }
    }

    /// The length of the chunks that are rewritten.
    pub(crate) fn bytes(&self) -> f64 {
        real(self.chunks.len() as u64) * real(CHUNK_LENGTH.get())
    }

    /// What the fold asks for, of a machine of so many disks.
    pub(crate) fn requests(&self, disks: usize) -> Requests {
        let pages: BTreeSet<_> = self
            .chunks
            .iter()
            .map(|(disk, chunk)| (disk, chunk / PAGE_CHUNKS))
            .collect();
        FOLD + FOLDED_LOG * real(self.logs)
            + CHUNK * real(self.chunks.len() as u64)
            + CHUNK_IN_LOG * real(self.chunks_in_logs)
            + PAGE * real(pages.len() as u64)
            + ROOT * real(disks as u64)
    }
}
