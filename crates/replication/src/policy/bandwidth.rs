//! How fast a machine may send, by the hours of the week.

use std::num::NonZeroU64;

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
