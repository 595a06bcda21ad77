//! Which units of a disk are still to be hashed.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;

/// How many units are hashed at once at most: enough for as many threads, or for a device that wants
/// a deep queue.
const AT_ONCE: usize = 32;

/// How many at first, and as many more as were hashed: the target may say soon that none need be.
const AT_FIRST: u64 = 4;

/// Into how many parts a disk's units are cut, after each of which there is something to save.
const PARTS: u64 = 64;

/// How many units a cursor is good for: a sixty-fourth of the disk, but so many that storing it costs
/// little beside reading them.
pub(super) fn part(units: u64) -> u64 {
    units.div_ceil(PARTS).max(16)
}

/// The units that are still to be hashed for the tree.
#[derive(Debug)]
pub(super) struct Hashing {
    todo: VecDeque<Range<u64>>,
    running: BTreeSet<u64>,
    /// Those that are hashed though nobody needs them any more.
    forgotten: BTreeSet<u64>,
    left: u64,
    done: u64,
    /// How many were done since there was something to save.
    since_saved: u64,
    part: u64,
}

impl Hashing {
    /// Of the units in `doubt`, of as many as there are.
    pub(super) fn new(doubt: &[Range<u64>], units: u64) -> Self {
        let left = doubt.iter().fold(0_u64, |sum, run| {
            sum.saturating_add(run.end.saturating_sub(run.start))
        });
        Self {
            todo: doubt.iter().cloned().collect(),
            running: BTreeSet::new(),
            forgotten: BTreeSet::new(),
            left,
            done: 0,
            since_saved: 0,
            part: part(units),
        }
    }

    /// How many units are not hashed yet.
    pub(super) const fn left(&self) -> u64 {
        self.left
    }

    /// The next unit to hash, if not enough are being hashed.
    pub(super) fn next(&mut self) -> Option<u64> {
        let most = usize::try_from(AT_FIRST.saturating_add(self.done)).unwrap_or(AT_ONCE);
        if self.running.len() >= most.min(AT_ONCE) {
            return None;
        }
        self.begin()
    }

    /// The next unit, however many are being hashed.
    pub(super) fn begin(&mut self) -> Option<u64> {
        let unit = loop {
            let run = self.todo.front_mut()?;
            if let Some(unit) = run.next() {
                break unit;
            }
            self.todo.pop_front();
        };
        self.running.insert(unit);
        Some(unit)
    }

    /// Takes note that `unit` is hashed; whether it was being hashed.
    pub(super) fn done(&mut self, unit: u64) -> bool {
        let was = self.running.remove(&unit);
        self.left = self.left.saturating_sub(was.into());
        self.done = self.done.saturating_add(was.into());
        self.since_saved = self.since_saved.saturating_add(was.into());
        was
    }

    /// The units of `run` need not be hashed; gives those that were still to be, in runs.
    pub(super) fn skip(&mut self, run: &Range<u64>) -> Vec<Range<u64>> {
        let mut skipped = Vec::new();
        let mut at = self.todo.partition_point(|todo| todo.end <= run.start);
        while let Some(todo) = self
            .todo
            .get(at)
            .filter(|todo| todo.start < run.end)
            .cloned()
        {
            self.todo.remove(at);
            let cut = todo.start.max(run.start)..todo.end.min(run.end);
            for rest in [todo.start..cut.start, cut.end..todo.end] {
                if !rest.is_empty() {
                    self.todo.insert(at, rest);
                    at = at.saturating_add(1);
                }
            }
            let count = cut.end.saturating_sub(cut.start);
            self.left = self.left.saturating_sub(count);
            self.since_saved = self.since_saved.saturating_add(count);
            skipped.push(cut);
        }
        skipped.retain(|run| !run.is_empty());
        skipped
    }

    /// Begins anew with so many units, whatever comes of those that are being hashed.
    pub(super) fn start_over(&mut self, units: u64) {
        let forgotten = std::mem::take(&mut self.running);
        let all = 0..units;
        *self = Self {
            forgotten,
            ..Self::new(&[all], units)
        };
    }

    /// Takes note that `unit` is hashed that nobody needs any more; whether it is such a one.
    pub(super) fn forget(&mut self, unit: u64) -> bool {
        self.forgotten.remove(&unit)
    }

    /// Whether so much was hashed that it is worth saving.
    pub(super) fn is_worth_saving(&mut self) -> bool {
        let worth = self.since_saved >= self.part || (self.left == 0 && self.since_saved > 0);
        if worth {
            self.since_saved = 0;
        }
        worth
    }

    /// The units that are not hashed yet.
    pub(super) fn doubt(&self) -> Vec<Range<u64>> {
        let running = self
            .running
            .iter()
            .map(|unit| *unit..unit.saturating_add(1));
        let mut runs: Vec<_> = running.chain(self.todo.iter().cloned()).collect();
        runs.retain(|run| !run.is_empty());
        runs.sort_by_key(|run| run.start);
        runs
    }
}
