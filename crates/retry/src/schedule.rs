//! When to try again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Time;

/// The times of the attempts after a first one that failed, all counted from the *start of the first
/// attempt*, so that slow attempts do not stretch the schedule.
///
/// The default is Hyper-V Replica's: after 1, 2, 4, 8 and 10 minutes, then every 30 minutes for as
/// long as it takes.
///
/// ```
/// use std::time::Duration;
/// use afterimage_retry::{Schedule, Time};
///
/// let schedule = Schedule::default();
/// let minutes = |n: u64| Time::ZERO + Duration::from_secs(60 * n);
/// assert_eq!(schedule.next_after(Time::ZERO, minutes(0)), minutes(1));
/// assert_eq!(schedule.next_after(Time::ZERO, minutes(5)), minutes(8)); // a slow attempt
/// assert_eq!(schedule.next_after(Time::ZERO, minutes(10)), minutes(40));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Fields", into = "Fields")]
pub struct Schedule {
    offsets: Vec<Duration>,
    then_every: Duration,
    budget: Budget,
}

/// How much retrying is enough. The default has no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// The greatest number of attempts, the first included.
    pub attempts_max: Option<u32>,
    /// The longest time from the start of the first attempt to the start of the last.
    pub elapsed_max: Option<Duration>,
}

/// A schedule whose times do not increase, or that would retry without a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the times of a retry schedule must increase from above zero, and its period be above zero"
)]
pub struct InvalidSchedule;

impl Schedule {
    /// Attempts at `offsets` from the start of the first one, then every `then_every`.
    ///
    /// # Errors
    /// [`InvalidSchedule`] unless `offsets` increase strictly from above zero and `then_every` is
    /// above zero.
    pub fn fixed(
        offsets: impl Into<Vec<Duration>>,
        then_every: Duration,
    ) -> Result<Self, InvalidSchedule> {
        let offsets = offsets.into();
        let increasing = offsets.is_sorted_by(|a, b| a < b);
        let pauses = offsets.first().is_none_or(|first| !first.is_zero());
        if !increasing || !pauses || then_every.is_zero() {
            return Err(InvalidSchedule);
        }
        Ok(Self {
            offsets,
            then_every,
            budget: Budget::default(),
        })
    }

    /// The same schedule, given up when `budget` is used up.
    pub fn with_budget(mut self, budget: Budget) -> Self {
        self.budget = budget;
        self
    }

    /// How much retrying is enough.
    pub const fn budget(&self) -> Budget {
        self.budget
    }

    /// The first scheduled time strictly after `now`, for a first attempt that started at `started`.
    /// Times that passed during a slow attempt are skipped. The budget is not looked at.
    pub fn next_after(&self, started: Time, now: Time) -> Time {
        let elapsed = now.since(started);
        if let Some(offset) = self.offsets.iter().find(|offset| **offset > elapsed) {
            return started + *offset;
        }
        let last = self.offsets.last().copied().unwrap_or_default();
        let periods = elapsed.saturating_sub(last).as_nanos() / self.then_every.as_nanos() + 1;
        let periods = u32::try_from(periods).unwrap_or(u32::MAX);
        started + last + self.then_every.saturating_mul(periods)
    }
}

impl Default for Schedule {
    fn default() -> Self {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        Self {
            offsets: [1, 2, 4, 8, 10].map(minutes).into(),
            then_every: minutes(30),
            budget: Budget::default(),
        }
    }
}

/// The schedule as it is stored; read back through [`Schedule::fixed`].
#[derive(Serialize, Deserialize)]
struct Fields {
    offsets: Vec<Duration>,
    then_every: Duration,
    budget: Budget,
}

impl From<Schedule> for Fields {
    fn from(schedule: Schedule) -> Self {
        Self {
            offsets: schedule.offsets,
            then_every: schedule.then_every,
            budget: schedule.budget,
        }
    }
}

impl TryFrom<Fields> for Schedule {
    type Error = InvalidSchedule;

    fn try_from(fields: Fields) -> Result<Self, Self::Error> {
        Ok(Self::fixed(fields.offsets, fields.then_every)?.with_budget(fields.budget))
    }
}
