//! When a resynchronization may begin by itself.

use afterimage_retry::Time;
use serde::{Deserialize, Serialize};

use super::calendar::{TimeOfDay, Zone, begun_on, end, next_beginning};

/// The hours of the day in which a resynchronization may begin by itself: from one time of day to
/// another, in the owner's time zone, summer time or not. The default is outside office hours,
/// 18:30 to 06:00 UTC.
///
/// Time is read as the time since the Unix epoch. One that began goes on when the window closes.
///
/// ```
/// use std::time::Duration;
/// use afterimage_replication::Window;
/// use afterimage_retry::Time;
///
/// let window = Window { zone: "Europe/Berlin".parse()?, ..Window::default() };
/// let at = |seconds| Time::new(Duration::from_secs(seconds));
/// let noon = at(1_767_268_800); // 2026-01-01 12:00 UTC, 13:00 in Berlin
/// assert!(!window.is_open(noon));
/// assert_eq!(window.next_opening(noon), at(1_767_288_600)); // 17:30 UTC, 18:30 in Berlin
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Window {
    /// When it opens. Default 18:30.
    pub from: TimeOfDay,
    /// When it closes; where that is not later than `from`, on the next day. Default 06:00.
    pub to: TimeOfDay,
    /// Whose time of day. Default UTC.
    pub zone: Zone,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            from: TimeOfDay::new(18, 30).unwrap_or_default(),
            to: TimeOfDay::new(6, 0).unwrap_or_default(),
            zone: Zone::utc(),
        }
    }
}

impl Window {
    /// Whether it is open. A time that no calendar knows, beyond the year 9999, finds it open.
    pub fn is_open(&self, now: Time) -> bool {
        begun_on(self.from, self.to, &self.zone, now).is_some() || now >= end()
    }

    /// The first instant, not before `now`, at which it is open.
    pub fn next_opening(&self, now: Time) -> Time {
        if self.is_open(now) {
            return now;
        }
        let opening = next_beginning(self.from, &self.zone, now, |at| self.is_open(at));
        opening.unwrap_or_else(end)
    }
}
