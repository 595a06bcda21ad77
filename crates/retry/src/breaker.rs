//! Leaving a service alone that fails everybody.

use std::num::NonZeroU32;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Class, Time};

/// When a [`Breaker`] opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakerPolicy {
    /// Recoverable failures in a row that open it. Default 5.
    pub failures: NonZeroU32,
    /// How long it stays open before one attempt probes the service, and how long that attempt may
    /// take before another one does. Default 1 min.
    pub cool_down: Duration,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self {
            failures: NonZeroU32::MIN.saturating_add(4),
            cool_down: Duration::from_mins(1),
        }
    }
}

/// A circuit breaker: what many pieces of work share that use one service. A [`Retry`](crate::Retry)
/// paces one piece of work; a breaker keeps a thousand of them from hammering a service that is down.
///
/// A value like the others here: time is passed in, and it serializes.
///
/// ```text
///            failures in a row                cool-down is over
/// Closed ----------------------> Open(until) -------------------> Probing(until)
///    ^                             ^                                 |   |
///    |                             '---------- the probe fails ------'   |
///    '------------------------------------ the probe succeeds -----------'
/// ```
///
/// ```
/// use std::time::Duration;
/// use afterimage_retry::{Admission, Breaker, BreakerPolicy, Class, Time};
///
/// let policy = BreakerPolicy::default();
/// let mut breaker = Breaker::default();
/// for _ in 0..5 {
///     assert_eq!(breaker.admit(&policy, Time::ZERO), Admission::Go);
///     breaker.failed(&policy, Class::Recoverable, Time::ZERO);
/// }
/// let minute = Time::ZERO + Duration::from_secs(60);
/// assert_eq!(breaker.admit(&policy, Time::ZERO), Admission::NotBefore(minute));
/// assert_eq!(breaker.admit(&policy, minute), Admission::Probe);
/// breaker.succeeded();
/// assert_eq!(breaker.admit(&policy, minute), Admission::Go);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Breaker(Circuit);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Circuit {
    Closed { failures: u32 },
    Open { until: Time },
    Probing { until: Time },
}

impl Default for Circuit {
    fn default() -> Self {
        Self::Closed { failures: 0 }
    }
}

/// Whether an attempt may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It may.
    Go,
    /// It may, and the others wait for what comes of it.
    Probe,
    /// Not before this time. Not an attempt: it uses up no budget.
    NotBefore(Time),
}

impl Breaker {
    /// Whether an attempt may be made `now`. What comes of it is to be told; a probe that is never
    /// heard of again is given up after the cool-down, and another one is admitted.
    pub fn admit(&mut self, policy: &BreakerPolicy, now: Time) -> Admission {
        match self.0 {
            Circuit::Closed { .. } => Admission::Go,
            Circuit::Open { until } | Circuit::Probing { until } if now < until => {
                Admission::NotBefore(until)
            }
            Circuit::Open { .. } | Circuit::Probing { .. } => {
                self.0 = Circuit::Probing {
                    until: now + policy.cool_down,
                };
                Admission::Probe
            }
        }
    }

    /// An attempt succeeded: the service is back.
    pub fn succeeded(&mut self) {
        self.0 = Circuit::default();
    }

    /// An attempt failed with an error of `class`. A service that refuses for good has answered, so
    /// that a non-recoverable error counts as a success here.
    pub fn failed(&mut self, policy: &BreakerPolicy, class: Class, now: Time) {
        if class == Class::NonRecoverable {
            return self.succeeded();
        }
        let open = Circuit::Open {
            until: now + policy.cool_down,
        };
        self.0 = match self.0 {
            Circuit::Closed { failures } if failures.saturating_add(1) < policy.failures.get() => {
                Circuit::Closed {
                    failures: failures + 1,
                }
            }
            // An attempt from before it opened fails late: that is no news.
            already @ Circuit::Open { .. } => already,
            Circuit::Closed { .. } | Circuit::Probing { .. } => open,
        };
    }

    /// Whether attempts are held back, or one is probing.
    pub const fn is_open(&self) -> bool {
        !matches!(self.0, Circuit::Closed { .. })
    }
}
