//! How fast, by the hours of the week, as it is written on a command line.

use std::num::NonZeroU64;
use std::str::FromStr;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use afterimage::{Bandwidth, BandwidthRule, Weekday, Zone};
use afterimage_block::Length;
use afterimage_resync::Limit;

/// How often the hours are looked at.
const INTERVAL: Duration = Duration::from_secs(5);

/// Bytes a second, by the hours of the week of this machine's time zone. The default has no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Speeds(Bandwidth);

/// A limit that follows the hours until this is dropped.
pub struct Followed {
    limit: Limit,
    _follower: Sender<()>,
}

impl Speeds {
    /// What holds now, and goes on with the hours.
    pub fn follow(&self) -> Followed {
        let limit = Limit::of(self.now());
        let (follower, dropped) = channel();
        if !self.0.rules.is_empty() {
            let (speeds, limit) = (self.clone(), limit.clone());
            thread::spawn(move || {
                while dropped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                    if limit.get() != speeds.now() {
                        limit.set(speeds.now());
                    }
                }
            });
        }
        Followed {
            limit,
            _follower: follower,
        }
    }

    fn now(&self) -> Option<NonZeroU64> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        self.at(now.unwrap_or_default())
    }

    /// What holds so long after 1970 began, UTC; `None` is as fast as it goes.
    pub fn at(&self, now: Duration) -> Option<NonZeroU64> {
        self.0.limit_at(afterimage_retry::Time::new(now))
    }

    /// The same in another time zone.
    pub fn in_zone(self, zone: Zone) -> Self {
        Self(Bandwidth { zone, ..self.0 })
    }
}

impl Followed {
    /// The limit.
    pub fn limit(&self) -> Limit {
        self.limit.clone()
    }
}

impl FromStr for Speeds {
    type Err = String;

    /// `100MiB/s`, or by the hours, the first that hold: `mon-fri/08:00-18:00=10MiB/s,else=100MiB/s`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bandwidth = Bandwidth {
            zone: local_zone(),
            ..Bandwidth::default()
        };
        let mut parts = text.split(',').peekable();
        while let Some(part) = parts.next() {
            let (hours, speed) = part.split_once('=').unwrap_or(("else", part));
            let limit = parse_speed(speed)?;
            if hours != "else" {
                bandwidth.rules.push(parse_rule(hours, limit)?);
                continue;
            }
            bandwidth.otherwise = limit;
            if parts.peek().is_some() {
                return Err(format!(
                    "nothing can follow `{part}`, which holds at all hours"
                ));
            }
        }
        Ok(Self(bandwidth))
    }
}

/// Of this machine, if it says; otherwise UTC.
fn local_zone() -> Zone {
    let local = jiff::tz::TimeZone::system();
    let zone = local.iana_name().and_then(|name| name.parse().ok());
    zone.unwrap_or_default()
}

/// `100MiB/s`, without the `/s`, or `none`.
fn parse_speed(text: &str) -> Result<Option<NonZeroU64>, String> {
    if text == "none" {
        return Ok(None);
    }
    let length = text.strip_suffix("/s").unwrap_or(text).parse::<Length>();
    let bytes = length.map_err(|error| error.to_string())?.get();
    let speed = NonZeroU64::new(bytes).ok_or("nothing would ever be sent")?;
    Ok(Some(speed))
}

/// `08:00-18:00`, of all days or with them in front: `mon-fri/`, `sat/`.
fn parse_rule(text: &str, limit: Option<NonZeroU64>) -> Result<BandwidthRule, String> {
    let (days, hours) = match text.split_once('/') {
        Some((days, hours)) => (parse_days(days)?, hours),
        None => (Weekday::ALL.to_vec(), text),
    };
    let unknown = || format!("`{hours}` are no hours: write 08:00-18:00");
    let (from, to) = hours.split_once('-').ok_or_else(unknown)?;
    Ok(BandwidthRule {
        days,
        from: from.parse().map_err(|_| unknown())?,
        to: to.parse().map_err(|_| unknown())?,
        limit,
    })
}

fn parse_days(text: &str) -> Result<Vec<Weekday>, String> {
    const NAMES: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
    let day = |name: &str| {
        let found = NAMES.iter().position(|known| *known == name);
        found
            .ok_or_else(|| format!("`{name}` is no day: write mon, tue, wed, thu, fri, sat or sun"))
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (day(first)?, day(last)?);
    // fri-mon goes over the end of the week.
    let count = (last + 7 - first) % 7 + 1;
    Ok(Weekday::ALL
        .into_iter()
        .cycle()
        .skip(first)
        .take(count)
        .collect())
}
