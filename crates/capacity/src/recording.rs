//! Changes and when they were made.

use std::time::Duration;

use afterimage_block::{Change, Extent, Length, Timestamp};
use afterimage_changelog::{ChangeLog, Result};

/// One change of one disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recorded {
    pub(crate) time: Timestamp,
    pub(crate) disk: usize,
    pub(crate) extent: Extent,
    /// Whether it has bytes, and is not zeros.
    pub(crate) written: bool,
}

/// The changes of the disks of one machine. Memory is 48 bytes a change; the bytes written are not kept.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    pub(crate) disks: Vec<Length>,
    changes: Vec<Recorded>,
}

impl Recording {
    /// Of a machine without disks.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a disk; its number.
    pub fn add_disk(&mut self, size: Length) -> usize {
        self.disks.push(size);
        self.disks.len() - 1
    }

    /// Records a change of disk number `disk`. An empty write is none.
    ///
    /// # Panics
    /// If there is no such disk.
    pub fn record(&mut self, disk: usize, time: Timestamp, change: &Change<'_>) {
        assert!(disk < self.disks.len(), "there is no disk {disk}");
        self.changes.extend(change.extent().map(|extent| Recorded {
            time,
            disk,
            extent,
            written: matches!(change, Change::Write { .. }),
        }));
    }

    /// Records the changes of a log of disk number `disk`. Logs may come in any order.
    ///
    /// # Errors
    /// As [`ChangeLog::changes`]; what was read until then is recorded.
    ///
    /// # Panics
    /// If there is no such disk.
    pub fn record_log(&mut self, disk: usize, log: &dyn ChangeLog) -> Result<()> {
        log.changes(&mut |time, change| {
            self.record(disk, time, &change);
            Ok(())
        })
    }

    /// The size of all disks.
    pub fn size(&self) -> Length {
        total(self.disks.iter().copied())
    }

    /// The number of changes.
    pub fn changes(&self) -> usize {
        self.changes.len()
    }

    /// The time from the first change to the last. Where the clock of the machine that recorded them
    /// was set, it is wrong by as much.
    pub fn span(&self) -> Duration {
        let times = || self.changes.iter().map(|change| change.time);
        match (times().min(), times().max()) {
            (Some(first), Some(last)) => last.since(first),
            _ => Duration::ZERO,
        }
    }

    /// The changes in the order of their times; those of one time in the order in which they came.
    pub(crate) fn in_order(&self) -> Vec<Recorded> {
        let mut changes = self.changes.clone();
        changes.sort_by_key(|change| change.time);
        changes
    }
}

/// The sum of lengths.
pub(crate) fn total(lengths: impl Iterator<Item = Length>) -> Length {
    lengths.fold(Length::ZERO, Length::saturating_add)
}
