//! What the owner of a machine asks of its replication.

use std::time::Duration;

use afterimage_block::Length;
use afterimage_retry::Schedule;
use serde::{Deserialize, Serialize};

/// What the owner of a machine asks of its replication. [`Default`] is what production should run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// The time between two barriers, 1 s to 15 min. Default 30 s.
    pub interval: Duration,
    /// The share of a disk's size that its unshipped logs may reach, in percent, 1 to 100. Past it
    /// the logs are dropped and the machine is marked for resynchronization. Default 50.
    pub resync_threshold_percent: u8,
    /// Whether a resynchronization starts by itself when one is required. Default true.
    pub automatic_resync: bool,
    /// How many recovery points the replica keeps, 1 to 10 000. Default 24.
    pub recovery_points_max: u32,
    /// When recoverable errors are tried again.
    pub retry: Schedule,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(30),
            resync_threshold_percent: 50,
            automatic_resync: true,
            recovery_points_max: 24,
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
        let invalid = |field, found: &dyn std::fmt::Debug, range| {
            Err(InvalidPolicy {
                field,
                found: format!("{found:?}"),
                range,
            })
        };
        if !(Self::INTERVAL_MIN..=Self::INTERVAL_MAX).contains(&self.interval) {
            return invalid("interval", &self.interval, "1 s to 15 min");
        }
        if !(1..=100).contains(&self.resync_threshold_percent) {
            let found = &self.resync_threshold_percent;
            return invalid("resync_threshold_percent", found, "1 to 100");
        }
        if !(1..=10_000).contains(&self.recovery_points_max) {
            let found = &self.recovery_points_max;
            return invalid("recovery_points_max", found, "1 to 10 000");
        }
        Ok(())
    }

    /// How many bytes of unshipped logs a disk of `size` may have.
    pub fn log_quota(&self, size: Length) -> Length {
        let quota = u128::from(size.get()) * u128::from(self.resync_threshold_percent) / 100;
        Length::new(u64::try_from(quota).unwrap_or(u64::MAX))
    }
}
