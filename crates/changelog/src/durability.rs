//! When what was appended is to be forced.

use std::time::Duration;

use afterimage_block::Length;

/// How much of a log a loss of power may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Nothing that was acknowledged: forced after each append or batch.
    Each,
    /// What came in `interval` or the last `bytes`, whichever is less.
    Every {
        /// The longest that something stays unforced.
        interval: Duration,
        /// The most that stays unforced.
        bytes: Length,
    },
    /// What came since the last barrier. Enough where a region is marked dirty before it is written:
    /// what is lost is then read from the disk again.
    #[default]
    AtBarrier,
}

/// Tells when to force a log. It has neither clock nor file: times are arguments, counted from any
/// moment on a clock that does not run backwards.
///
/// ```
/// use std::time::Duration;
/// use afterimage_block::Length;
/// use afterimage_changelog::{Durability, ForceSchedule};
///
/// let (interval, bytes) = (Duration::from_millis(10), Length::mib(1));
/// let mut schedule = ForceSchedule::new(Durability::Every { interval, bytes });
/// schedule.appended(Length::kib(4), Duration::from_millis(3));
/// assert!(!schedule.is_due(Duration::from_millis(4)));
/// assert_eq!(schedule.due_at(), Some(Duration::from_millis(13)));
/// schedule.begun(); // FileWriter::sync
/// assert_eq!(schedule.due_at(), None);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ForceSchedule {
    durability: Durability,
    unforced: Length,
    due_at: Option<Duration>,
}

impl ForceSchedule {
    /// A schedule for a log of which nothing is unforced.
    pub fn new(durability: Durability) -> Self {
        Self {
            durability,
            unforced: Length::ZERO,
            due_at: None,
        }
    }

    /// Takes note of an append or a batch of `length` in the file at `now`.
    pub fn appended(&mut self, length: Length, now: Duration) {
        self.unforced = self.unforced.saturating_add(length);
        let due_at = match self.durability {
            Durability::Each => now,
            Durability::Every { bytes, .. } if self.unforced >= bytes => now,
            Durability::Every { interval, .. } => now.saturating_add(interval),
            Durability::AtBarrier => return,
        };
        self.due_by(due_at);
    }

    /// Takes note of a barrier at `now`: everything before it is to be durable.
    pub fn barrier(&mut self, now: Duration) {
        self.due_by(now);
    }

    fn due_by(&mut self, at: Duration) {
        self.due_at = Some(self.due_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// Whether the log is to be forced at `now`.
    pub fn is_due(&self, now: Duration) -> bool {
        self.due_at.is_some_and(|at| at <= now)
    }

    /// When the log is to be forced, as far as is known; `None` if nothing asks for it.
    pub fn due_at(&self) -> Option<Duration> {
        self.due_at
    }

    /// What was appended since the last force began.
    pub fn unforced(&self) -> Length {
        self.unforced
    }

    /// Takes note that a force begins, which covers everything that was appended before, and nothing
    /// that comes while it runs. If it fails the log takes no more, so nothing is to be done again.
    pub fn begun(&mut self) {
        *self = Self::new(self.durability);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn each_is_due_at_once_and_barriers_are_due_under_any_policy() {
        let mut each = ForceSchedule::new(Durability::Each);
        assert!(!each.is_due(ms(9)));
        each.appended(Length::new(1), ms(5));
        assert!(each.is_due(ms(5)));
        let mut barrier = ForceSchedule::new(Durability::default());
        barrier.appended(Length::gib(9), ms(5));
        assert_eq!(barrier.due_at(), None);
        barrier.barrier(ms(6));
        assert!(barrier.is_due(ms(6)) && !barrier.is_due(ms(5)));
    }

    proptest! {
        /// Forced whenever it is due, a log has less than the policy allows unforced, for no longer.
        #[test]
        fn what_may_be_lost_is_bounded(steps in prop::collection::vec((0..20_u64, 0..200_u64), 0..80)) {
            let policy = Durability::Every { interval: ms(50), bytes: Length::new(500) };
            let mut schedule = ForceSchedule::new(policy);
            let (mut now, mut oldest) = (0, None);
            for (wait, length) in steps {
                now += wait;
                if schedule.is_due(ms(now)) {
                    schedule.begun();
                    oldest = None;
                }
                prop_assert!(oldest.is_none_or(|at| now < at + 50));
                prop_assert!(schedule.unforced() < Length::new(500));
                schedule.appended(Length::new(length), ms(now));
                oldest = oldest.or(Some(now));
            }
        }
    }
}
