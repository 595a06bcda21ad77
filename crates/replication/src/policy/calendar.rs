//! Civil time: what an owner means by "outside office hours".
//!
//! All of it is a function of an instant and a time zone. Zones come with the program rather than
//! from the system, so that a simulation finds the same hours everywhere.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use afterimage_retry::Time;
use jiff::civil::Date;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

/// A time of day, to the minute, written as `18:30`. Default midnight.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct TimeOfDay {
    hour: i8,
    minute: i8,
}

/// A day of the week, on which a span begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Weekday {
    /// Monday
    Monday,
    /// Tuesday
    Tuesday,
    /// Wednesday
    Wednesday,
    /// Thursday
    Thursday,
    /// Friday
    Friday,
    /// Saturday
    Saturday,
    /// Sunday
    Sunday,
}

/// A time zone with its rules for summer time, written as its name in the IANA database
/// (`Europe/Berlin`) or as a POSIX rule (`CET-1CEST,M3.5.0,M10.5.0/3`). Default `UTC`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Zone {
    name: String,
    rules: TimeZone,
}

/// A text that is no time of day or names no time zone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is not {expected}")]
pub struct InvalidCalendar {
    found: String,
    expected: &'static str,
}

impl TimeOfDay {
    /// `hour` 0 to 23 and `minute` 0 to 59; `None` beyond.
    pub const fn new(hour: i8, minute: i8) -> Option<Self> {
        if hour < 0 || hour > 23 || minute < 0 || minute > 59 {
            return None;
        }
        Some(Self { hour, minute })
    }

    const fn civil(self) -> jiff::civil::Time {
        jiff::civil::Time::constant(self.hour, self.minute, 0, 0)
    }
}

impl FromStr for TimeOfDay {
    type Err = InvalidCalendar;

    fn from_str(text: &str) -> Result<Self, InvalidCalendar> {
        let two = |digits: &str| {
            let plain = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
            plain.then(|| digits.parse().ok()).flatten()
        };
        let parsed = text
            .split_once(':')
            .and_then(|(hour, minute)| Self::new(two(hour)?, two(minute)?));
        parsed.ok_or_else(|| InvalidCalendar {
            found: text.into(),
            expected: "a time of day, such as 18:30",
        })
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.hour, self.minute)
    }
}

impl TryFrom<String> for TimeOfDay {
    type Error = InvalidCalendar;

    fn try_from(text: String) -> Result<Self, InvalidCalendar> {
        text.parse()
    }
}

impl From<TimeOfDay> for String {
    fn from(time: TimeOfDay) -> Self {
        time.to_string()
    }
}

impl Weekday {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Monday,
        Self::Tuesday,
        Self::Wednesday,
        Self::Thursday,
        Self::Friday,
        Self::Saturday,
        Self::Sunday,
    ];
    /// Monday to Friday.
    pub const WORKING: [Self; 5] = [
        Self::Monday,
        Self::Tuesday,
        Self::Wednesday,
        Self::Thursday,
        Self::Friday,
    ];

    fn of(date: Date) -> Self {
        let index = date.weekday().to_monday_zero_offset();
        let index = usize::try_from(index).unwrap_or_default();
        Self::ALL.get(index).copied().unwrap_or(Self::Monday)
    }
}

impl Zone {
    /// Coordinated universal time.
    pub fn utc() -> Self {
        Self {
            name: "UTC".into(),
            rules: TimeZone::UTC,
        }
    }
}

impl Default for Zone {
    fn default() -> Self {
        Self::utc()
    }
}

impl FromStr for Zone {
    type Err = InvalidCalendar;

    fn from_str(text: &str) -> Result<Self, InvalidCalendar> {
        let named = TimeZoneDatabase::bundled().get(text);
        let rules = named.or_else(|_| TimeZone::posix(text));
        let rules = rules.map_err(|_| InvalidCalendar {
            found: text.into(),
            expected: "a time zone, such as Europe/Berlin or CET-1CEST,M3.5.0,M10.5.0/3",
        })?;
        Ok(Self {
            name: text.into(),
            rules,
        })
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl TryFrom<String> for Zone {
    type Error = InvalidCalendar;

    fn try_from(text: String) -> Result<Self, InvalidCalendar> {
        text.parse()
    }
}

impl From<Zone> for String {
    fn from(zone: Zone) -> Self {
        zone.name
    }
}

/// Whether `from` to `to` takes in `now`, which is a time on some date: on which date it began then.
/// A span that ends no later than it begins goes on to the next day; a span that ends as it begins
/// lasts a whole day.
pub(super) fn begun_on(from: TimeOfDay, to: TimeOfDay, zone: &Zone, now: Time) -> Option<Weekday> {
    let local = zone.rules.to_datetime(instant(now)?);
    let (today, time) = (local.date(), local.time());
    let overnight = to <= from;
    if time >= from.civil() && (overnight || time < to.civil()) {
        return Some(Weekday::of(today));
    }
    let yesterday = today.yesterday().ok()?;
    (overnight && time < to.civil()).then(|| Weekday::of(yesterday))
}

/// The first instant from `now` on that `is_inside`, of those at which a daily span that begins at
/// `from` can begin: at that time of day, also where the clock shows it twice, or where the clock
/// jumps over it.
pub(super) fn next_beginning(
    from: TimeOfDay,
    zone: &Zone,
    now: Time,
    is_inside: impl Fn(Time) -> bool,
) -> Option<Time> {
    let start = instant(now)?;
    let today = zone.rules.to_datetime(start).date();
    // Two days on there was one beginning at least; a zone may leave a whole day out.
    let dates = (0..3).filter_map(|days| today.checked_add(days.days()).ok());
    let regular = dates.flat_map(|date| {
        let at = zone
            .rules
            .to_ambiguous_timestamp(date.to_datetime(from.civil()));
        [at.earlier().ok(), at.later().ok()]
    });
    let jumps = zone.rules.following(start).take(2);
    let candidates = regular.flatten().chain(jumps.map(|jump| jump.timestamp()));
    let candidates = candidates.filter(|at| *at >= start).filter_map(time);
    candidates.filter(|at| is_inside(*at)).min()
}

/// The first instant that no calendar knows, in the year 10 000.
pub(super) fn end() -> Time {
    let last = time(Timestamp::MAX).unwrap_or(Time::ZERO);
    last + Duration::from_nanos(1)
}

/// `None` from [`end`] on.
fn instant(time: Time) -> Option<Timestamp> {
    let nanos = i128::try_from(time.since_origin().as_nanos()).ok()?;
    Timestamp::from_nanosecond(nanos).ok()
}

fn time(instant: Timestamp) -> Option<Time> {
    let since = instant.duration_since(Timestamp::UNIX_EPOCH);
    Some(Time::new(since.try_into().ok()?))
}
