//! How fast a machine may send, by the hours of the week.

use std::num::NonZeroU64;
use std::time::Duration;

use afterimage_block::Length;
use afterimage_retry::Time;
use serde::{Deserialize, Serialize};

use super::calendar::{TimeOfDay, Weekday, Zone, begun_on};

/// How fast a machine may send to its replica, by the hours of the week. The default has no limit.
///
/// ```
/// use std::num::NonZeroU64;
/// use std::time::Duration;
/// use afterimage_replication::{Bandwidth, BandwidthRule, TimeOfDay, Weekday};
/// use afterimage_retry::Time;
///
/// let limit = NonZeroU64::new(1 << 20);
/// let office = BandwidthRule {
///     days: Weekday::WORKING.to_vec(),
///     from: "08:00".parse()?,
///     to: "18:00".parse()?,
///     limit,
/// };
/// let bandwidth = Bandwidth { rules: vec![office], ..Bandwidth::default() };
/// let thursday = |hour: u64| Time::new(Duration::from_secs(3600 * hour)); // 1970-01-01
/// assert_eq!(bandwidth.limit_at(thursday(9)), limit);
/// assert_eq!(bandwidth.limit_at(thursday(18)), None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bandwidth {
    /// Bytes a second where no rule holds; `None` is as fast as it goes.
    pub otherwise: Option<NonZeroU64>,
    /// The first that holds is followed. At most [`Bandwidth::RULES_MAX`].
    pub rules: Vec<BandwidthRule>,
    /// Whose time of day and day of the week. Default UTC.
    pub zone: Zone,
}

/// A limit for some hours of some days.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BandwidthRule {
    /// The days on which its hours begin.
    pub days: Vec<Weekday>,
    /// When it begins to hold.
    pub from: TimeOfDay,
    /// When it ends; where that is not later than `from`, on the next day.
    pub to: TimeOfDay,
    /// Bytes a second; `None` is as fast as it goes.
    pub limit: Option<NonZeroU64>,
}

/// Keeps a sender to a limit: what was sent is paid for with time before more is sent.
///
/// ```
/// use std::num::NonZeroU64;
/// use std::time::Duration;
/// use afterimage_block::Length;
/// use afterimage_replication::Pace;
/// use afterimage_retry::Time;
///
/// let mut pace = Pace::default();
/// let limit = NonZeroU64::new(1 << 20);
/// let free = pace.sent(Length::mib(3), limit, Time::ZERO);
/// assert_eq!(free, Time::new(Duration::from_secs(3)));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    free: Time,
}

impl Pace {
    /// Notes that `length` was sent, of which `limit` bytes a second are allowed at `now`, and returns
    /// when more may be sent. What would take longer than an hour takes an hour: the limit may be
    /// another one by then.
    pub fn sent(&mut self, length: Length, limit: Option<NonZeroU64>, now: Time) -> Time {
        let Some(limit) = limit else {
            self.free = now;
            return now;
        };
        let nanos = u128::from(length.get()) * 1_000_000_000 / u128::from(limit.get());
        let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let latest = now + Self::WAIT_MAX;
        self.free = (self.free.max(now) + takes).min(latest);
        self.free
    }

    const WAIT_MAX: Duration = Duration::from_hours(1);
}

impl Bandwidth {
    /// The greatest number of rules: one for each quarter of an hour of a week.
    pub const RULES_MAX: usize = 7 * 24 * 4;

    /// The limit at `now`, in bytes a second; `None` is as fast as it goes. Time is read as the time
    /// since the Unix epoch.
    pub fn limit_at(&self, now: Time) -> Option<NonZeroU64> {
        let holds = |rule: &&BandwidthRule| {
            let begun = begun_on(rule.from, rule.to, &self.zone, now);
            begun.is_some_and(|day| rule.days.contains(&day))
        };
        let rule = self.rules.iter().find(holds);
        rule.map_or(self.otherwise, |rule| rule.limit)
    }
}
