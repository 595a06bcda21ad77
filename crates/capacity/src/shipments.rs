//! The generations of a recording on their way, one after the other.

use crate::budget::{Manifest, Requests, idle};
use crate::cut::{Cut, Generation};
use crate::{Assumptions, Spread, real};

/// What is shipped when; one entry for each generation.
pub(crate) struct Shipments {
    interval: f64,
    /// Bytes of logs as they are written.
    pub(crate) logged: Vec<f64>,
    /// Bytes of logs as they are shipped.
    pub(crate) shipped: Vec<f64>,
    pub(crate) requests: Requests,
    manifest: Manifest,
    /// When each is cut, in seconds.
    ready: Vec<f64>,
    /// When its recovery point is there.
    done: Vec<f64>,
    merged: bool,
}

impl Shipments {
    pub(crate) fn of(cut: &Cut, assumptions: &Assumptions) -> Self {
        let interval = assumptions.interval.as_secs_f64();
        let mut shipments = Self {
            interval,
            logged: Vec::new(),
            shipped: Vec::new(),
            requests: Requests::default(),
            manifest: Manifest::default(),
            ready: Vec::new(),
            done: Vec::new(),
            merged: assumptions.merged,
        };
        let mut next = 0;
        for generation in &cut.generations {
            let intervals = generation.interval.saturating_sub(next);
            shipments.requests += idle(intervals, assumptions.interval, assumptions.heartbeat);
            next = generation.interval.saturating_add(1);
            shipments.ship(generation, assumptions);
        }
        shipments
    }

    fn ship(&mut self, generation: &Generation, assumptions: &Assumptions) {
        let logs = generation.shipped(assumptions.merged);
        let bytes: f64 = logs.clone().map(|length| real(length.get())).sum();
        let sending = assumptions
            .bandwidth
            .map_or(0.0, |rate| bytes / real(rate.max(1)));
        let shipping = self.manifest.ship(logs);
        let waiting = shipping.round_trips * assumptions.round_trip.as_secs_f64();
        let ready = self.interval * real(generation.interval.saturating_add(1));
        let free = self.done.last().copied().unwrap_or_default();
        self.requests += shipping.requests;
        self.logged.push(real(generation.logged().get()));
        self.shipped.push(bytes);
        self.ready.push(ready);
        self.done.push(free.max(ready) + waiting + sending);
    }

    /// How old the recovery point before is when each appears: the write that waits for longest is the
    /// one just behind that barrier.
    pub(crate) fn ages(&self) -> Spread {
        let ages = self.done.iter().zip(&self.ready);
        let ages = ages.map(|(done, ready)| done - ready + self.interval);
        Spread::of(ages, real(self.done.len() as u64))
    }

    /// Whether the last is there before another interval has gone by.
    pub(crate) fn keeps_up(&self) -> bool {
        let mut last = self.done.last().zip(self.ready.last()).into_iter();
        last.all(|(done, ready)| done - ready <= self.interval)
    }

    /// The most bytes of logs that are on the primary's disks at once: just before one is deleted, those
    /// behind it, the open one among them, and what it was merged into.
    pub(crate) fn log_bytes_max(&self) -> f64 {
        let mut max = 0.0_f64;
        let (mut begun, mut held) = (0, 0.0);
        for (number, done) in self.done.iter().enumerate() {
            while let Some(ready) = self.ready.get(begun)
                && ready - self.interval <= *done
            {
                held += self.logged.get(begun).copied().unwrap_or_default();
                begun += 1;
            }
            let merged = self.shipped.get(number).filter(|_| self.merged);
            max = max.max(held + merged.copied().unwrap_or_default());
            held -= self.logged.get(number).copied().unwrap_or_default();
        }
        max
    }

    /// The most bytes that are logged within so many seconds; of a shorter recording in proportion.
    pub(crate) fn logged_within(&self, seconds: f64, intervals: f64) -> f64 {
        let recorded = self.interval * intervals;
        let all: f64 = self.logged.iter().sum();
        if seconds >= recorded {
            return if recorded > 0.0 {
                all * seconds / recorded
            } else {
                0.0
            };
        }
        let mut max = 0.0_f64;
        let (mut first, mut held) = (0, 0.0);
        for (last, ready) in self.ready.iter().enumerate() {
            held += self.logged.get(last).copied().unwrap_or_default();
            while let Some(oldest) = self.ready.get(first)
                && oldest + seconds <= *ready
            {
                held -= self.logged.get(first).copied().unwrap_or_default();
                first += 1;
            }
            max = max.max(held);
        }
        max
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "they are whole numbers")]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cut::Lengths;
    use afterimage_block::Length;

    /// Intervals of 10 s with so many bytes logged in each; half of them are left by the merge.
    fn cut(logged: &[u64]) -> Cut {
        let generation = |(interval, bytes): (u64, &u64)| Generation {
            interval,
            logs: vec![Lengths {
                disk: 0,
                logged: Length::new(*bytes),
                merged: Length::new(bytes / 2),
            }],
        };
        let changed = (0..).zip(logged).filter(|(_, bytes)| **bytes > 0);
        Cut {
            intervals: logged.len() as u64,
            length: real(logged.len() as u64),
            generations: changed.map(generation).collect(),
            folds: Vec::new(),
        }
    }

    fn shipments(logged: &[u64], bandwidth: u64, merged: bool) -> Shipments {
        let assumptions = Assumptions {
            interval: Duration::from_secs(10),
            bandwidth: Some(bandwidth),
            round_trip: Duration::ZERO,
            merged,
            ..Assumptions::default()
        };
        Shipments::of(&cut(logged), &assumptions)
    }

    #[test]
    fn a_burst_delays_what_is_behind_it() {
        // 100 bytes a second: the burst takes 25 s from second 20 on, the one behind it 1 s more.
        let shipments = shipments(&[100, 2500, 100, 0, 100], 100, false);
        let ages = shipments.ages();
        assert_eq!(ages.max, 35.0);
        assert_eq!(ages.mean, (11.0 + 35.0 + 26.0 + 11.0) / 4.0);
        assert!(shipments.keeps_up());
        // Just before the burst is deleted there are the third and, begun in second 40, the fifth.
        assert_eq!(shipments.log_bytes_max(), 2700.0);
    }

    #[test]
    fn who_is_too_slow_does_not_keep_up() {
        assert!(!shipments(&[1000; 20], 50, false).keeps_up());
        // Merged it is half as much, and what is merged needs room, too.
        let merged = shipments(&[1000; 20], 50, true);
        assert!(merged.keeps_up());
        assert_eq!(merged.log_bytes_max(), 1000.0 * 3.0 + 500.0);
    }

    #[test]
    fn an_outage_is_reckoned_with_the_busiest_hours() {
        let shipments = shipments(&[100, 900, 0, 800, 100], 100, false);
        assert_eq!(shipments.logged_within(10.0, 5.0), 900.0);
        assert_eq!(shipments.logged_within(30.0, 5.0), 1700.0);
        assert_eq!(shipments.logged_within(100.0, 5.0), 3800.0);
    }
}
