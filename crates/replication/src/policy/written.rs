//! Values of a policy as people write them into a file: `"30s"`, `"1h 30m"`, `"2026-12-01T18:30:00Z"`.
//! They are read beside the numbers that programs store.

use std::time::Duration;

use afterimage_block::Timestamp;
use afterimage_retry::{InvalidSchedule, Schedule};
use jiff::fmt::serde::unsigned_duration::friendly::compact::required;
use serde::de::Error;
use serde::{Deserialize, Deserializer};

#[derive(Deserialize)]
#[serde(untagged, expecting = "a span of time such as `30s` or `1h 30m`")]
enum Span {
    Text(#[serde(with = "required")] Duration),
    Number(Duration),
}

impl From<Span> for Duration {
    fn from(span: Span) -> Self {
        match span {
            Span::Text(duration) | Span::Number(duration) => duration,
        }
    }
}

pub(super) fn span<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    Span::deserialize(from).map(Duration::from)
}

pub(super) fn optional_span<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<Duration>, D::Error> {
    let span: Option<Span> = Option::deserialize(from)?;
    Ok(span.map(Duration::from))
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a time such as `2026-12-01T18:30:00Z`")]
enum Moment {
    Text(jiff::Timestamp),
    Number(Timestamp),
}

pub(super) fn optional_moment<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<Timestamp>, D::Error> {
    let written = match Option::deserialize(from)? {
        Some(Moment::Text(written)) => written,
        Some(Moment::Number(number)) => return Ok(Some(number)),
        None => return Ok(None),
    };
    let nanos = u64::try_from(written.as_nanosecond());
    let before = |_| D::Error::custom("a time before 1970 or after 2554");
    nanos.map(Timestamp::from_nanos).map(Some).map_err(before)
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "the times `after` and `then_every` of a retry schedule"
)]
enum Retries {
    Times(Times),
    Whole(Schedule),
}

/// The times of a schedule that has nothing else of its own.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Times {
    after: Vec<Span>,
    then_every: Span,
}

impl TryFrom<Times> for Schedule {
    type Error = InvalidSchedule;

    fn try_from(times: Times) -> Result<Self, InvalidSchedule> {
        let after: Vec<_> = times.after.into_iter().map(Duration::from).collect();
        Self::fixed(after, times.then_every.into())
    }
}

pub(super) fn schedule<'de, D: Deserializer<'de>>(from: D) -> Result<Schedule, D::Error> {
    match Retries::deserialize(from)? {
        Retries::Times(times) => times.try_into().map_err(D::Error::custom),
        Retries::Whole(schedule) => Ok(schedule),
    }
}
