//! When to try again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Jitter, Time};

/// The times of the attempts after a first one that failed. By default they are counted from the
/// *start of the first attempt*, so that slow attempts do not stretch the schedule;
/// [`counted_from`](Self::counted_from) makes them pauses after each failure instead.
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
    origin: Origin,
    jitter: Jitter,
    budget: Budget,
    retry_after_max: Duration,
}

/// What the times of a schedule are counted from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Origin {
    /// The start of the first attempt: an attempt that hangs does not push the later ones back.
    #[default]
    FirstStart,
    /// The failure of the last attempt: the other side always gets its pause.
    LastFailure,
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

/// When the next attempt is due, before jitter and the other side's wish.
pub(crate) struct Slot {
    pub(crate) due: Time,
    /// How long until the one after it.
    pub(crate) pause: Duration,
}

impl Schedule {
    /// The longest wish of the other side that is heeded unless
    /// [`with_retry_after_max`](Self::with_retry_after_max) says otherwise: a day.
    pub const RETRY_AFTER_MAX: Duration = Duration::from_hours(24);

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
            origin: Origin::default(),
            jitter: Jitter::NONE,
            budget: Budget::default(),
            retry_after_max: Self::RETRY_AFTER_MAX,
        })
    }

    /// A first pause of `first`, each later one `factor` times as long as the one before, up to
    /// `cap`, at which it stays.
    ///
    /// ```
    /// use std::time::Duration;
    /// use afterimage_retry::{Schedule, Time};
    ///
    /// let second = Duration::from_secs(1);
    /// let schedule = Schedule::exponential(second, 2, 8 * second)?;
    /// let mut now = Time::ZERO;
    /// let mut due = Vec::new();
    /// for _ in 0..6 {
    ///     now = schedule.next_after(Time::ZERO, now);
    ///     due.push(now.since_origin().as_secs());
    /// }
    /// assert_eq!(due, [1, 3, 7, 15, 23, 31]);
    /// # Ok::<(), afterimage_retry::InvalidSchedule>(())
    /// ```
    ///
    /// # Errors
    /// [`InvalidSchedule`] if `first` is zero, `factor` below two, or `cap` below `first`.
    pub fn exponential(
        first: Duration,
        factor: u32,
        cap: Duration,
    ) -> Result<Self, InvalidSchedule> {
        if first.is_zero() || factor < 2 || cap < first {
            return Err(InvalidSchedule);
        }
        let mut offsets = Vec::new();
        let mut sum = Duration::ZERO;
        let mut pause = first;
        // It at least doubles, so these are at most a hundred.
        while pause < cap {
            let Some(next) = sum.checked_add(pause) else {
                break;
            };
            sum = next;
            offsets.push(sum);
            pause = pause.saturating_mul(factor);
        }
        Self::fixed(offsets, cap)
    }

    /// The same times, counted from `origin`.
    pub fn counted_from(mut self, origin: Origin) -> Self {
        self.origin = origin;
        self
    }

    /// The same schedule, its attempts spread by `jitter`.
    pub fn with_jitter(mut self, jitter: Jitter) -> Self {
        self.jitter = jitter;
        self
    }

    /// The same schedule, given up when `budget` is used up.
    pub fn with_budget(mut self, budget: Budget) -> Self {
        self.budget = budget;
        self
    }

    /// The same schedule, which lets the other side ask for a pause of at most `longest`.
    pub fn with_retry_after_max(mut self, longest: Duration) -> Self {
        self.retry_after_max = longest;
        self
    }

    /// What the times are counted from.
    pub const fn origin(&self) -> Origin {
        self.origin
    }

    /// How far attempts are spread.
    pub const fn jitter(&self) -> Jitter {
        self.jitter
    }

    /// How much retrying is enough.
    pub const fn budget(&self) -> Budget {
        self.budget
    }

    /// The longest wish of the other side that is heeded: a hostile or broken one cannot shut us out
    /// for good.
    pub const fn retry_after_max(&self) -> Duration {
        self.retry_after_max
    }

    /// The first scheduled time strictly after `now`, for a first attempt that started at `started`.
    /// Times that passed during a slow attempt are skipped. The budget, the jitter and the origin are
    /// not looked at.
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

    /// The pause after the failure of attempt `attempt`, counted from 1, where pauses are counted from
    /// failures.
    pub fn pause_after(&self, attempt: u32) -> Duration {
        let index = usize::try_from(attempt.max(1) - 1).unwrap_or(usize::MAX);
        let Some(offset) = self.offsets.get(index) else {
            return self.then_every;
        };
        let before = index.checked_sub(1).and_then(|at| self.offsets.get(at));
        offset.saturating_sub(before.copied().unwrap_or_default())
    }

    /// Where the attempt after `attempt` goes, which failed at `now`.
    pub(crate) fn slot(&self, started: Time, attempt: u32, now: Time) -> Slot {
        match self.origin {
            Origin::FirstStart => {
                let due = self.next_after(started, now);
                let pause = self.next_after(started, due).since(due);
                Slot { due, pause }
            }
            Origin::LastFailure => {
                let pause = self.pause_after(attempt);
                Slot {
                    due: now + pause,
                    pause,
                }
            }
        }
    }
}

impl Default for Schedule {
    fn default() -> Self {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        Self {
            offsets: [1, 2, 4, 8, 10].map(minutes).into(),
            then_every: minutes(30),
            origin: Origin::default(),
            jitter: Jitter::NONE,
            budget: Budget::default(),
            retry_after_max: Self::RETRY_AFTER_MAX,
        }
    }
}

/// The schedule as it is stored; read back through [`Schedule::fixed`]. What came later than the first
/// release is left out where it is the default.
#[derive(Serialize, Deserialize)]
struct Fields {
    offsets: Vec<Duration>,
    then_every: Duration,
    budget: Budget,
    #[serde(default, skip_serializing_if = "is_default")]
    origin: Origin,
    #[serde(default, skip_serializing_if = "is_default")]
    jitter: Jitter,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry_after_max: Option<Duration>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl From<Schedule> for Fields {
    fn from(schedule: Schedule) -> Self {
        let longest = schedule.retry_after_max;
        Self {
            offsets: schedule.offsets,
            then_every: schedule.then_every,
            budget: schedule.budget,
            origin: schedule.origin,
            jitter: schedule.jitter,
            retry_after_max: (longest != Schedule::RETRY_AFTER_MAX).then_some(longest),
        }
    }
}

impl TryFrom<Fields> for Schedule {
    type Error = InvalidSchedule;

    fn try_from(fields: Fields) -> Result<Self, Self::Error> {
        let longest = fields.retry_after_max.unwrap_or(Self::RETRY_AFTER_MAX);
        let schedule = Self::fixed(fields.offsets, fields.then_every)?;
        Ok(schedule
            .counted_from(fields.origin)
            .with_jitter(fields.jitter)
            .with_budget(fields.budget)
            .with_retry_after_max(longest))
    }
}
