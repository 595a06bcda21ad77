//! What the records of a log come to.

use afterimage_block::{Extent, ExtentSet, Length, Timestamp};
use afterimage_changelog::Kind;

use super::show::Line;

/// Counts of records, and what they change.
#[derive(Default)]
pub(super) struct Totals {
    pub(super) writes: u64,
    pub(super) zeroed: u64,
    pub(super) discarded: u64,
    /// Records that change no byte: labels, barriers, resizes.
    pub(super) marks: u64,
    /// The bytes of all changes, those changed twice counted twice.
    pub(super) changed: Length,
    /// The bytes that the records hold, and those of the file that they take for them.
    pub(super) held: u64,
    pub(super) stored: u64,
    /// What is changed at all.
    pub(super) extents: ExtentSet,
    /// The times of the oldest and the newest record.
    pub(super) span: Option<(Timestamp, Timestamp)>,
}

impl Totals {
    pub(super) fn add(&mut self, line: &Line<'_>) {
        match line.kind {
            Kind::Write => self.writes += 1,
            Kind::WriteZeroes => self.zeroed += 1,
            Kind::Discard => self.discarded += 1,
            Kind::Bookmark | Kind::Barrier | Kind::Resize => self.marks += 1,
        }
        self.extents.extend(line.extent);
        self.held = self.held.saturating_add(line.held);
        self.stored = self.stored.saturating_add(line.stored);
        let length = line.extent.map_or(Length::ZERO, Extent::length);
        self.changed = self.changed.saturating_add(length);
        let (oldest, newest) = self.span.unwrap_or((line.time, line.time));
        self.span = Some((oldest.min(line.time), newest.max(line.time)));
    }

    pub(super) fn records(&self) -> u64 {
        self.writes + self.zeroed + self.discarded + self.marks
    }

    /// How many bytes one that is stored stands for, on the average.
    #[expect(clippy::cast_precision_loss, reason = "shown with two decimals")]
    pub(super) fn compression_ratio(&self) -> f64 {
        match self.stored {
            0 => 1.0,
            stored => self.held as f64 / stored as f64,
        }
    }

    /// How often a byte that is changed was changed, on the average.
    #[expect(clippy::cast_precision_loss, reason = "shown with two decimals")]
    pub(super) fn overwrite_ratio(&self) -> f64 {
        match self.extents.total().get() {
            0 => 1.0,
            distinct => self.changed.get() as f64 / distinct as f64,
        }
    }

    /// The extent from the first changed byte to the last.
    pub(super) fn reach(&self) -> Option<Extent> {
        let first = self.extents.iter().next()?;
        let last = self.extents.iter().last()?;
        Extent::between(first.start(), last.end())
    }
}
