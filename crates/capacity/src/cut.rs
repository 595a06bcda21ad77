//! A recording cut at each interval.

use std::collections::BTreeMap;
use std::time::Duration;

use afterimage_block::{Length, Timestamp};

use crate::Assumptions;
use crate::budget::{Fold, fold_every};
use crate::log::Log;
use crate::recording::{Recorded, Recording, total};

/// The lengths of one disk's log of one interval.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lengths {
    pub(crate) disk: usize,
    /// With every record.
    pub(crate) logged: Length,
    /// With each byte once.
    pub(crate) merged: Length,
}

impl Lengths {
    fn shipped(&self, merged: bool) -> Length {
        if merged { self.merged } else { self.logged }
    }
}

/// What was changed in one interval.
#[derive(Clone, Debug)]
pub(crate) struct Generation {
    /// Which interval of the recording it is of, from 0.
    pub(crate) interval: u64,
    /// The logs of the disks that were changed.
    pub(crate) logs: Vec<Lengths>,
}

impl Generation {
    /// The lengths of the logs as they are shipped.
    pub(crate) fn shipped(&self, merged: bool) -> impl Iterator<Item = Length> + Clone {
        self.logs.iter().map(move |log| log.shipped(merged))
    }

    /// The length of all logs as they are written.
    pub(crate) fn logged(&self) -> Length {
        total(self.logs.iter().map(|log| log.logged))
    }
}

/// The intervals of a recording in which there was something to ship, and what folds of them rewrite.
#[derive(Debug, Default)]
pub(crate) struct Cut {
    /// Those that were begun.
    pub(crate) intervals: u64,
    /// How many of them the recording is long, and at least one: the last may be cut short.
    pub(crate) length: f64,
    pub(crate) generations: Vec<Generation>,
    pub(crate) folds: Vec<Fold>,
}

impl Cut {
    /// Cuts `recording` at each interval.
    pub(crate) fn of(recording: &Recording, assumptions: &Assumptions) -> Self {
        let interval = assumptions.interval;
        let fold_every = fold_every(assumptions.points);
        let changes = recording.in_order();
        let Some(first) = changes.first().map(|change| change.time) else {
            return Self::default();
        };
        let number = |change: &Recorded| nth(change.time, first, interval);
        let mut cut = Self {
            intervals: changes.last().map_or(0, number) + 1,
            length: (recording.span().as_secs_f64() / interval.as_secs_f64()).max(1.0),
            ..Self::default()
        };
        let mut fold = Fold::default();
        for part in changes.chunk_by(|one, other| number(one) == number(other)) {
            let mut logs: BTreeMap<usize, Log> = BTreeMap::new();
            for change in part {
                logs.entry(change.disk).or_default().append(change);
            }
            let mut generation = Generation {
                interval: part.first().map_or(0, number),
                logs: Vec::new(),
            };
            for (disk, log) in logs {
                let lengths = Lengths {
                    disk,
                    logged: log.length(),
                    merged: log.merged(),
                };
                fold.add(disk, lengths.shipped(assumptions.merged), log.extents());
                generation.logs.push(lengths);
            }
            let made = fold.end_generation(recording.size(), fold_every);
            cut.folds.extend(made);
            cut.generations.push(generation);
        }
        if fold.generations > 0 {
            cut.folds.push(fold);
        }
        cut
    }
}

/// In which interval after `first` a time is.
fn nth(time: Timestamp, first: Timestamp, interval: Duration) -> u64 {
    let nanos = time.since(first).as_nanos() / interval.as_nanos().max(1);
    u64::try_from(nanos).unwrap_or(u64::MAX - 1)
}
