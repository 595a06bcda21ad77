//! What came of the cycles of the last hours.
//!
//! A cycle begins with a barrier of the interval. It succeeds when the replica has the recovery point
//! that the barrier makes, or when nothing was written; it is missed where the next one begins before.

use std::collections::VecDeque;
use std::time::Duration;

use afterimage_block::Length;
use afterimage_retry::Time;
use serde::{Deserialize, Serialize};

/// Statistics of a machine over its policy's monitoring window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statistics {
    /// Cycles that succeeded.
    pub succeeded: u64,
    /// Cycles that were not done when the next one began.
    pub missed: u64,
    /// Attempts at a barrier or a transfer that failed.
    pub failed: u64,
    /// How many of them failed for something that passes: the network, the replica, room.
    pub failed_recoverable: u64,
    /// Application-consistent points that became crash-consistent ones.
    pub application_failed: u64,
    /// Bytes of logs that were shipped.
    pub bytes: Length,
    /// Bytes of the largest delta.
    pub bytes_largest: Length,
    /// Bytes of sealed logs that are still to be shipped.
    pub pending: Length,
    /// From the order of a barrier until the replica had its logs, in milliseconds: the mean; `None`
    /// where none was shipped.
    pub latency_mean_ms: Option<u64>,
    /// The same, at most.
    pub latency_max_ms: u64,
}

impl Statistics {
    /// The greatest share of cycles that may be missed, in percent.
    const MISSED_MAX_PERCENT: u64 = 20;
    /// The greatest mean latency.
    const LATENCY_MAX_MS: u64 = 5 * 60 * 1000;

    /// Whether the machine was served well: few cycles were missed, and deltas were swift.
    pub fn is_normal(&self) -> bool {
        let cycles = self.succeeded + self.missed;
        let few = self.missed * 100 <= cycles * Self::MISSED_MAX_PERCENT;
        few && self
            .latency_mean_ms
            .is_none_or(|mean| mean <= Self::LATENCY_MAX_MS)
    }
}

/// Counts for a part of the window. Stored as numbers in this order, since a machine is stored often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "[u64; 11]", from = "[u64; 11]")]
struct Slot {
    begins: Time,
    succeeded: u64,
    missed: u64,
    failed: u64,
    failed_recoverable: u64,
    application_failed: u64,
    shipped: u64,
    bytes: Length,
    bytes_largest: Length,
    latency_ms: u64,
    latency_max_ms: u64,
}

/// Counts, in parts of the window, the oldest first: what is older than the window is forgotten part
/// by part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Monitor {
    slots: VecDeque<Slot>,
    /// Whether a cycle has begun and not succeeded.
    open: bool,
    /// When the last cycle succeeded, or the first began.
    pub(crate) last_success: Option<Time>,
}

impl From<Slot> for [u64; 11] {
    fn from(slot: Slot) -> Self {
        [
            millis(slot.begins.since_origin()),
            slot.succeeded,
            slot.missed,
            slot.failed,
            slot.failed_recoverable,
            slot.application_failed,
            slot.shipped,
            slot.bytes.get(),
            slot.bytes_largest.get(),
            slot.latency_ms,
            slot.latency_max_ms,
        ]
    }
}

impl From<[u64; 11]> for Slot {
    fn from(stored: [u64; 11]) -> Self {
        let [
            begins,
            succeeded,
            missed,
            failed,
            failed_recoverable,
            application_failed,
            ..,
        ] = stored;
        let [
            ..,
            shipped,
            bytes,
            bytes_largest,
            latency_ms,
            latency_max_ms,
        ] = stored;
        Self {
            begins: Time::new(Duration::from_millis(begins)),
            succeeded,
            missed,
            failed,
            failed_recoverable,
            application_failed,
            shipped,
            bytes: Length::new(bytes),
            bytes_largest: Length::new(bytes_largest),
            latency_ms,
            latency_max_ms,
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Monitor {
    /// Parts of a window.
    const SLOTS: u32 = 12;

    pub(crate) fn cycle_begins(&mut self, now: Time, window: Duration) {
        if std::mem::replace(&mut self.open, true) {
            self.slot(now, window).missed += 1;
        }
        self.last_success.get_or_insert(now);
    }

    pub(crate) fn cycle_succeeded(&mut self, now: Time, window: Duration) {
        if std::mem::take(&mut self.open) {
            self.slot(now, window).succeeded += 1;
        }
        self.last_success = Some(now);
    }

    /// Nobody waits for the cycle that has begun.
    pub(crate) fn cycle_dropped(&mut self) {
        self.open = false;
    }

    pub(crate) fn shipped(
        &mut self,
        length: Length,
        latency: Duration,
        now: Time,
        window: Duration,
    ) {
        let latency = millis(latency);
        let slot = self.slot(now, window);
        slot.shipped += 1;
        slot.bytes = slot.bytes.saturating_add(length);
        slot.bytes_largest = slot.bytes_largest.max(length);
        slot.latency_ms = slot.latency_ms.saturating_add(latency);
        slot.latency_max_ms = slot.latency_max_ms.max(latency);
    }

    pub(crate) fn failed(&mut self, recoverable: bool, now: Time, window: Duration) {
        let slot = self.slot(now, window);
        slot.failed += 1;
        slot.failed_recoverable += u64::from(recoverable);
    }

    pub(crate) fn application_failed(&mut self, now: Time, window: Duration) {
        self.slot(now, window).application_failed += 1;
    }

    /// The sums, with `pending`.
    pub(crate) fn statistics(&self, pending: Length, now: Time, window: Duration) -> Statistics {
        let mut sums = Statistics {
            pending,
            ..Statistics::default()
        };
        let (mut shipped, mut latency) = (0_u64, 0_u64);
        let within = |slot: &&Slot| now.since(slot.begins) < window;
        for slot in self.slots.iter().filter(within) {
            sums.succeeded += slot.succeeded;
            sums.missed += slot.missed;
            sums.failed += slot.failed;
            sums.failed_recoverable += slot.failed_recoverable;
            sums.application_failed += slot.application_failed;
            sums.bytes = sums.bytes.saturating_add(slot.bytes);
            sums.bytes_largest = sums.bytes_largest.max(slot.bytes_largest);
            sums.latency_max_ms = sums.latency_max_ms.max(slot.latency_max_ms);
            shipped += slot.shipped;
            latency = latency.saturating_add(slot.latency_ms);
        }
        sums.latency_mean_ms = latency.checked_div(shipped);
        sums
    }

    /// The part of the window that `now` is in; what is older than the window is forgotten.
    fn slot(&mut self, now: Time, window: Duration) -> &mut Slot {
        let part = window / Self::SLOTS;
        while self
            .slots
            .front()
            .is_some_and(|slot| now.since(slot.begins) >= window)
        {
            self.slots.pop_front();
        }
        let current = self
            .slots
            .back()
            .is_some_and(|slot| now.since(slot.begins) < part);
        if !current {
            self.slots.push_back(Slot {
                begins: now,
                ..Slot::default()
            });
        }
        let last = self.slots.len() - 1;
        &mut self.slots[last]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_hours(12);

    fn at(minutes: u64) -> Time {
        Time::new(Duration::from_mins(minutes))
    }

    #[test]
    fn what_is_older_than_the_window_is_forgotten_and_memory_is_bounded() {
        let mut monitor = Monitor::default();
        for minute in 0..100_000 {
            monitor.cycle_begins(at(minute), WINDOW);
            if minute % 2 == 0 {
                monitor.cycle_succeeded(at(minute), WINDOW);
            }
        }
        assert!(monitor.slots.len() <= 13);
        let sums = monitor.statistics(Length::ZERO, at(100_000), WINDOW);
        let cycles = sums.succeeded + sums.missed;
        assert!((660..=720).contains(&cycles), "{sums:?}");
        assert!(!sums.is_normal());
        let later = monitor.statistics(Length::ZERO, at(101_000), WINDOW);
        assert_eq!(later, Statistics::default());
    }

    #[test]
    fn what_is_stored_is_read() {
        let mut monitor = Monitor::default();
        monitor.cycle_begins(at(5), WINDOW);
        monitor.failed(true, at(6), WINDOW);
        monitor.shipped(Length::new(7), Duration::from_millis(8), at(9), WINDOW);
        let stored = serde_json::to_string(&monitor).unwrap();
        assert!(stored.contains("[360000,0,0,1,1,0,1,7,7,8,8]"), "{stored}");
        assert_eq!(serde_json::from_str::<Monitor>(&stored).unwrap(), monitor);
    }

    #[test]
    fn latency_is_a_mean_and_a_maximum() {
        let mut monitor = Monitor::default();
        for (bytes, seconds) in [(100, 60), (300, 660)] {
            let latency = Duration::from_secs(seconds);
            monitor.shipped(Length::new(bytes), latency, at(1), WINDOW);
        }
        let sums = monitor.statistics(Length::ZERO, at(2), WINDOW);
        assert_eq!((sums.bytes.get(), sums.bytes_largest.get()), (400, 300));
        assert_eq!(sums.latency_mean_ms, Some(360_000));
        assert_eq!(sums.latency_max_ms, 660_000);
        assert!(!sums.is_normal(), "six minutes are too long");
    }
}
