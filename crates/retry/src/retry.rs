//! One piece of work and its attempts.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Class, Classify, Schedule, Time};

/// The attempts at one piece of work: a value that is asked what to do after each failure, and that
/// serializes, so that a restart neither forgets the schedule nor starts it over.
///
/// ```
/// use std::time::Duration;
/// use afterimage_retry::{Class, Decision, Retry, Schedule, Time};
///
/// let schedule = Schedule::default();
/// let mut now = Time::ZERO;
/// let mut retry = Retry::begin(now);
/// now = now + Duration::from_secs(3); // the first attempt took 3 s to fail
/// let decision = retry.failed(&schedule, Class::Recoverable, None, now);
/// assert_eq!(decision, Decision::RetryAt(Time::ZERO + Duration::from_secs(60)));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    started: Time,
    attempts: u32,
    due: Time,
    /// Where chance comes from; stored states of the first release have none.
    #[serde(default)]
    seed: u64,
}

/// What to do after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Try again at this time, not before.
    RetryAt(Time),
    /// Do not try again.
    GiveUp(GiveUp),
}

/// Why there is no further attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GiveUp {
    /// The error will not pass by itself.
    #[error("the error is non-recoverable")]
    NonRecoverable,
    /// The schedule's budget of attempts is used up.
    #[error("the budget of attempts is used up")]
    Attempts,
    /// The next attempt would start after the schedule's budget of time.
    #[error("the budget of time is used up")]
    Elapsed,
}

impl Retry {
    /// The first attempt starts `now`.
    pub const fn begin(now: Time) -> Self {
        Self {
            started: now,
            attempts: 1,
            due: now,
            seed: 0,
        }
    }

    /// The same, with its own chance for the schedule's jitter: clients that are to come back at
    /// different times need different seeds.
    pub const fn seeded(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The running attempt failed with an error of `class` at `now`; the other side may have asked
    /// for a pause of `retry_after`, which is honoured where it is longer than the schedule's, up to
    /// [`Schedule::retry_after_max`].
    pub fn failed(
        &mut self,
        schedule: &Schedule,
        class: Class,
        retry_after: Option<Duration>,
        now: Time,
    ) -> Decision {
        if class == Class::NonRecoverable {
            return Decision::GiveUp(GiveUp::NonRecoverable);
        }
        let budget = schedule.budget();
        if budget.attempts_max.is_some_and(|max| self.attempts >= max) {
            return Decision::GiveUp(GiveUp::Attempts);
        }
        let wish = retry_after.unwrap_or_default();
        let asked = now + wish.min(schedule.retry_after_max());
        let slot = schedule.slot(self.started, self.attempts, now);
        let off = schedule.jitter().of(slot.pause, self.seed, self.attempts);
        let due = slot.due.max(asked) + off;
        if budget
            .elapsed_max
            .is_some_and(|max| due.since(self.started) > max)
        {
            return Decision::GiveUp(GiveUp::Elapsed);
        }
        self.attempts = self.attempts.saturating_add(1);
        self.due = due;
        Decision::RetryAt(due)
    }

    /// The running attempt was cut short by a shutdown of our own: it is not one that failed, and
    /// uses nothing up. It is made again at `now`, the time of the next start.
    ///
    /// An attempt that a crash cut short is better told as [`failed`](Self::failed): it may have been
    /// what crashed us.
    pub fn interrupted(&mut self, now: Time) {
        self.due = self.due.max(now);
    }

    /// As [`failed`](Self::failed), for an error that classifies itself.
    pub fn failed_with(
        &mut self,
        schedule: &Schedule,
        error: &impl Classify,
        now: Time,
    ) -> Decision {
        self.failed(schedule, error.class(), error.retry_after(), now)
    }

    /// When the first attempt started.
    pub const fn started(&self) -> Time {
        self.started
    }

    /// The number of the running or next attempt, from 1.
    pub const fn attempt(&self) -> u32 {
        self.attempts
    }

    /// When the running or next attempt was or is due.
    pub const fn due(&self) -> Time {
        self.due
    }
}
