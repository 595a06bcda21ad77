//! Which recovery points are kept.

use std::time::Duration;

use afterimage_block::{Sequence, Timestamp};

use super::Policy;

const HOUR_NANOS: u64 = 3_600_000_000_000;

impl Policy {
    /// Which of `points` are kept at `now`: the newest `recovery_points_max`, and the newest of each
    /// of the last `hourly_points` hours that have any, none of them older than
    /// `recovery_points_age_max`. The newest point is always kept, whatever its age: there would be
    /// nothing to fail over to without it.
    ///
    /// `points` are oldest first, and so is the answer. What is dropped once stays dropped: a point
    /// that is not kept now would not be kept later either.
    pub fn kept(&self, points: &[(Sequence, Timestamp)], now: Timestamp) -> Vec<Sequence> {
        let hour = |time: Timestamp| time.as_nanos() / HOUR_NANOS;
        let oldest_hour = (hour(now) + 1).saturating_sub(self.hourly_points.into());
        let count = usize::try_from(self.recovery_points_max).unwrap_or(usize::MAX);
        let newest_from = points.len().saturating_sub(count);
        let mut kept = Vec::new();
        for (index, (sequence, time)) in points.iter().enumerate() {
            let following = points.get(index + 1);
            let ends_hour = following.is_none_or(|(_, next)| hour(*next) != hour(*time));
            let hourly = ends_hour && hour(*time) >= oldest_hour;
            let age = now.since(*time);
            let young = self.recovery_points_age_max.is_none_or(|max| age <= max);
            if following.is_none() || (young && (index >= newest_from || hourly)) {
                kept.push(*sequence);
            }
        }
        kept
    }

    /// How many of the newest of `points` are to be kept, so that all that [`kept`](Self::kept) names
    /// are among them: for a store that drops only from the oldest end.
    pub fn kept_from_the_end(&self, points: &[(Sequence, Timestamp)], now: Timestamp) -> usize {
        let oldest = self.kept(points, now).first().copied();
        let dropped = points.iter().take_while(|(at, _)| Some(*at) < oldest);
        points.len() - dropped.count()
    }

    /// The age past which the newest recovery point raises an alarm: `rpo_alert`, but never less than
    /// two intervals, since one barrier and its shipping pass between two points of a machine that is
    /// well.
    pub fn rpo_limit(&self) -> Option<Duration> {
        let two = self.interval.saturating_mul(2);
        self.rpo_alert.map(|alert| alert.max(two))
    }
}
