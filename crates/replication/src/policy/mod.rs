//! What the owner of a machine asks of its replication.

mod bandwidth;
mod calendar;
mod retention;
mod window;
mod written;

use std::time::Duration;

use afterimage_block::{Length, Timestamp};
use afterimage_retry::{Schedule, Time};
use serde::{Deserialize, Serialize};

pub use bandwidth::{Bandwidth, BandwidthRule, Pace};
pub use calendar::{InvalidCalendar, TimeOfDay, Weekday, Zone};
pub use window::Window;

/// What the owner of a machine asks of its replication. [`Default`] is what production should run.
///
/// It is read from any format of serde; what is left out is the default. People write spans as `"30s"` or
/// `"1h 30m"`, and the retry schedule by its times:
///
/// ```
/// use std::time::Duration;
/// use afterimage_replication::Policy;
///
/// let policy: Policy = serde_json::from_str(
///     r#"{
///         "interval": "15s",
///         "initial_replication": "2026-12-01T18:30:00Z",
///         "resync_window": { "from": "18:30", "to": "06:00", "zone": "Europe/Berlin" },
///         "application_consistent": { "every": "1h", "quiesce_max": "10s" },
///         "retry": { "after": ["1m", "2m", "4m"], "then_every": "30m" }
///     }"#,
/// )?;
/// policy.validate()?;
/// assert_eq!(policy.interval, Duration::from_secs(15));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// The time between two barriers, 1 s to 15 min. Default 30 s.
    #[serde(deserialize_with = "written::span")]
    pub interval: Duration,
    /// The time after which an idle machine, which publishes nothing, tells its replica again that it is alive,
    /// 1 s to 24 h; see [`Policy::heartbeat`]. Until then, and two intervals more, it is not taken for lost.
    /// Each time costs a request or two at the store. Default 10 min.
    #[serde(deserialize_with = "written::span")]
    pub heartbeat: Duration,
    /// When initial replication may begin, such as tonight; until then writes are served, and nothing is
    /// sent. `None` is at once. Default `None`.
    #[serde(deserialize_with = "written::optional_moment")]
    pub initial_replication: Option<Timestamp>,
    /// The share of a disk's size that its unshipped logs may reach, in percent, 1 to 100. Past it
    /// the logs are dropped and the machine is marked for resynchronization. Default 50.
    pub resync_threshold_percent: u8,
    /// Whether a resynchronization starts by itself when one is required. Default true.
    pub automatic_resync: bool,
    /// The hours in which it may start by itself; `None` is at any time. Default `None`, since only
    /// what is in doubt is compared and no recovery point appears before that is done.
    pub resync_window: Option<Window>,
    /// How many recovery points the replica keeps, 1 to 10 000. Default 24.
    pub recovery_points_max: u32,
    /// How many hours back the replica keeps one recovery point of each hour as well, 0 to 8 760.
    /// Default 0.
    pub hourly_points: u16,
    /// How old a recovery point may grow, at least a minute, unless it is the newest; `None` is as old
    /// as it likes. Default `None`.
    #[serde(deserialize_with = "written::optional_span")]
    pub recovery_points_age_max: Option<Duration>,
    /// Application-consistent points, which need a quiesce hook. Default `None`.
    pub application_consistent: Option<ApplicationConsistent>,
    /// How fast the machine may send, by the hours of the week. Default without limit.
    pub bandwidth: Bandwidth,
    /// The age past which the newest recovery point raises an alarm, 1 s to 7 days; see
    /// [`Policy::rpo_limit`]. Default 15 min.
    #[serde(deserialize_with = "written::optional_span")]
    pub rpo_alert: Option<Duration>,
    /// How far back statistics and health look, 1 h to 7 days. Default 12 h.
    #[serde(deserialize_with = "written::span")]
    pub monitoring_window: Duration,
    /// When recoverable errors are tried again. Default after 1, 2, 4, 8 and 10 min from the first
    /// attempt's start, then every 30 min.
    #[serde(deserialize_with = "written::schedule")]
    pub retry: Schedule,
}

/// Points at which the guest's applications have written all they hold in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApplicationConsistent {
    /// The time between two of them, the interval to 12 h. Default 1 h.
    #[serde(deserialize_with = "written::span")]
    pub every: Duration,
    /// How long the guest may be quiesced, 1 s to 5 min. If the hook does not answer, or the barrier
    /// does not come by then, the guest is let go on and the point is a crash-consistent one. Default
    /// 30 s.
    #[serde(deserialize_with = "written::span")]
    pub quiesce_max: Duration,
}

impl Default for ApplicationConsistent {
    fn default() -> Self {
        Self {
            every: Duration::from_hours(1),
            quiesce_max: Duration::from_secs(30),
        }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(30),
            heartbeat: Duration::from_mins(10),
            initial_replication: None,
            resync_threshold_percent: 50,
            automatic_resync: true,
            resync_window: None,
            recovery_points_max: 24,
            hourly_points: 0,
            recovery_points_age_max: None,
            application_consistent: None,
            bandwidth: Bandwidth::default(),
            rpo_alert: Some(Duration::from_mins(15)),
            monitoring_window: Duration::from_hours(12),
            retry: Schedule::default(),
        }
    }
}

/// A policy value outside its range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("policy `{field}` is {found}, but must be {range}")]
pub struct InvalidPolicy {
    field: &'static str,
    found: String,
    range: &'static str,
}

impl Policy {
    /// The shortest interval.
    pub const INTERVAL_MIN: Duration = Duration::from_secs(1);
    /// The longest interval.
    pub const INTERVAL_MAX: Duration = Duration::from_mins(15);

    /// Checks every value against its range.
    ///
    /// # Errors
    /// [`InvalidPolicy`] names the first value that is out of range.
    pub fn validate(&self) -> Result<(), InvalidPolicy> {
        let second = Duration::from_secs(1);
        let interval = Self::INTERVAL_MIN..=Self::INTERVAL_MAX;
        within("interval", self.interval, interval, "1 s to 15 min")?;
        let heartbeats = second..=Duration::from_hours(24);
        within("heartbeat", self.heartbeat, heartbeats, "1 s to 24 h")?;
        let threshold = self.resync_threshold_percent;
        within("resync_threshold_percent", threshold, 1..=100, "1 to 100")?;
        let points = self.recovery_points_max;
        within("recovery_points_max", points, 1..=10_000, "1 to 10 000")?;
        within("hourly_points", self.hourly_points, 0..=8_760, "0 to 8 760")?;
        if let Some(age) = self.recovery_points_age_max {
            let ages = Duration::from_mins(1)..=Duration::MAX;
            within("recovery_points_age_max", age, ages, "at least 1 min")?;
        }
        if let Some(application) = &self.application_consistent {
            let range = self.interval..=Duration::from_hours(12);
            let field = "application_consistent.every";
            within(field, application.every, range, "the interval to 12 h")?;
            let range = second..=Duration::from_mins(5);
            let field = "application_consistent.quiesce_max";
            within(field, application.quiesce_max, range, "1 s to 5 min")?;
        }
        let rules = self.bandwidth.rules.len();
        within(
            "bandwidth.rules",
            rules,
            0..=Bandwidth::RULES_MAX,
            "at most 672 rules",
        )?;
        let windows = Duration::from_hours(1)..=Duration::from_hours(7 * 24);
        within(
            "monitoring_window",
            self.monitoring_window,
            windows,
            "1 h to 7 days",
        )?;
        if let Some(alert) = self.rpo_alert {
            let range = second..=Duration::from_hours(7 * 24);
            within("rpo_alert", alert, range, "1 s to 7 days")?;
        }
        Ok(())
    }

    /// The time between two heartbeats of an idle machine: never shorter than the interval.
    pub fn heartbeat(&self) -> Duration {
        self.heartbeat.max(self.interval)
    }

    /// When initial replication may begin.
    pub(crate) fn begins_at(&self) -> Time {
        let at = self.initial_replication.unwrap_or_default();
        Time::new(Duration::from_nanos(at.as_nanos()))
    }

    /// How many bytes of unshipped logs a disk of `size` may have.
    pub fn log_quota(&self, size: Length) -> Length {
        let quota = u128::from(size.get()) * u128::from(self.resync_threshold_percent) / 100;
        Length::new(u64::try_from(quota).unwrap_or(u64::MAX))
    }
}

fn within<T: Copy + PartialOrd + std::fmt::Debug>(
    field: &'static str,
    found: T,
    allowed: std::ops::RangeInclusive<T>,
    range: &'static str,
) -> Result<(), InvalidPolicy> {
    if allowed.contains(&found) {
        return Ok(());
    }
    Err(InvalidPolicy {
        field,
        found: format!("{found:?}"),
        range,
    })
}
