//! The laws of policies: ranges, hours across changes of the clock, and which points are kept.

use std::num::NonZeroU64;
use std::time::Duration;

use afterimage_block::{Length, Sequence, Timestamp};
use afterimage_replication::{
    ApplicationConsistent, Bandwidth, BandwidthRule, Policy, TimeOfDay, Weekday, Window, Zone,
};
use afterimage_retry::{Schedule, Time};
use proptest::prelude::*;

const ZONES: [&str; 6] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe", // half an hour of summer time
    "Pacific/Apia",        // left out a whole day in 2011
    "CET-1CEST,M3.5.0,M10.5.0/3",
];

fn at(seconds: u64) -> Time {
    Time::new(Duration::from_secs(seconds))
}

fn window(from: &str, to: &str, zone: &str) -> Window {
    Window {
        from: from.parse().expect("a time"),
        to: to.parse().expect("a time"),
        zone: zone.parse().expect("a zone"),
    }
}

prop_compose! {
    fn times()(hour in 0..24_i8, minute in 0..60_i8) -> TimeOfDay {
        TimeOfDay::new(hour, minute).expect("in range")
    }
}

prop_compose! {
    fn windows()(from in times(), to in times(), zone in prop::sample::select(&ZONES[..])) -> Window {
        Window { from, to, zone: zone.parse().expect("known") }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_window_opens_at_the_first_instant_at_which_it_is_open(
        window in windows(), now in 0..4_000_000_000_u64,
    ) {
        let now = at(now);
        let opening = window.next_opening(now);
        prop_assert!(opening >= now);
        prop_assert!(window.is_open(opening));
        prop_assert!(opening.since(now) <= Duration::from_hours(49));
        // Not a minute before; all zones since 1970 change on whole minutes.
        let minute = Duration::from_mins(1);
        let mut before = now;
        while before < opening {
            prop_assert!(!window.is_open(before), "open at {before}, said {opening}");
            before = before + minute;
        }
    }

    #[test]
    fn policies_read_back(window in windows(), hours in 0..100_u16, limit in 1..u64::MAX) {
        let rule = BandwidthRule {
            days: Weekday::ALL.to_vec(),
            from: window.from,
            to: window.to,
            limit: NonZeroU64::new(limit),
        };
        let policy = Policy {
            bandwidth: Bandwidth { rules: vec![rule], zone: window.zone.clone(), otherwise: None },
            resync_window: Some(window),
            hourly_points: hours,
            application_consistent: Some(ApplicationConsistent::default()),
            ..Policy::default()
        };
        let stored = serde_json::to_string(&policy).unwrap();
        prop_assert_eq!(serde_json::from_str::<Policy>(&stored).unwrap(), policy);
    }

    #[test]
    fn points_are_kept_by_count_hour_and_age(
        gaps in prop::collection::vec(1..7200_u64, 1..60), count in 1..20_u32, hourly in 0..30_u16,
        age in prop::option::of(60..100_000_u64), later in 0..50_000_u64,
    ) {
        let policy = Policy {
            recovery_points_max: count,
            hourly_points: hourly,
            recovery_points_age_max: age.map(Duration::from_secs),
            ..Policy::default()
        };
        let times = gaps.iter().scan(0, |sum, gap| { *sum += gap; Some(*sum) });
        let times = times.map(|secs| Timestamp::from_nanos(secs * 1_000_000_000));
        let points: Vec<_> = (1..).map(Sequence::new).zip(times).collect();
        let (newest, newest_time) = *points.last().unwrap();
        let now = Timestamp::from_nanos(newest_time.as_nanos() + later * 1_000_000_000);
        let kept = policy.kept(&points, now);
        prop_assert!(kept.is_sorted());
        prop_assert_eq!(kept.last(), Some(&newest), "there is always one to fail over to");
        prop_assert!(kept.len() <= usize::try_from(count).unwrap() + usize::from(hourly) + 1);
        let hour = |time: Timestamp| time.as_nanos() / 3_600_000_000_000;
        let old = |time| age.is_some_and(|age| now.since(time) > Duration::from_secs(age));
        for (index, (sequence, time)) in points.iter().enumerate() {
            let is_kept = kept.contains(sequence);
            let among_newest = points.len() - index <= usize::try_from(count).unwrap();
            prop_assert!(is_kept || !among_newest || old(*time));
            prop_assert!(!is_kept || !old(*time) || *sequence == newest);
            let recent = hour(now) - hour(*time) < u64::from(hourly);
            let of_hour = |(at, _): &&(Sequence, Timestamp)| kept.contains(at);
            let same_hour = points.iter().filter(|(_, other)| hour(*other) == hour(*time));
            if recent && !old(*time) {
                prop_assert!(same_hour.filter(of_hour).count() > 0, "an hour without a point");
            }
        }
        // What is dropped now is not kept later.
        let later = Timestamp::from_nanos(now.as_nanos() + 3_600_000_000_000);
        prop_assert!(policy.kept(&points, later).iter().all(|at| kept.contains(at)));
        let count = policy.kept_from_the_end(&points, now);
        prop_assert_eq!(Some(&points[points.len() - count].0), kept.first());
    }
}

#[test]
fn hours_are_the_owners_in_summer_and_winter() {
    let office = window("18:30", "06:00", "Europe/Berlin");
    let winter = 1_767_222_000; // 2026-01-01 00:00 in Berlin, UTC+1
    let summer = 1_782_856_800; // 2026-07-01 00:00 in Berlin, UTC+2
    for midnight in [winter, summer] {
        let hour = |hours: u64, minutes: u64| at(midnight + 3600 * hours + 60 * minutes);
        assert!(office.is_open(hour(5, 59)));
        assert!(!office.is_open(hour(6, 0)));
        assert_eq!(office.next_opening(hour(6, 0)), hour(18, 30));
        assert!(office.is_open(hour(18, 30)));
    }
}

#[test]
fn a_window_that_begins_in_the_hour_left_out_opens_when_the_clock_jumps() {
    // 2026-03-29: 02:00 becomes 03:00 in Berlin.
    let early = window("02:30", "05:00", "Europe/Berlin");
    let jump = at(1_774_746_000);
    assert!(!early.is_open(at(1_774_745_999)));
    assert_eq!(early.next_opening(at(1_774_740_000)), jump);
    assert!(early.is_open(jump));
}

#[test]
fn a_window_in_the_hour_shown_twice_opens_twice() {
    // 2026-10-25: 03:00 becomes 02:00 in Berlin.
    let twice = window("02:30", "02:45", "Europe/Berlin");
    let first = at(1_792_888_200);
    let second = at(1_792_888_200 + 3600);
    assert_eq!(twice.next_opening(at(1_792_880_000)), first);
    let closed = at(1_792_888_200 + 15 * 60);
    assert!(!twice.is_open(closed));
    assert_eq!(twice.next_opening(closed), second);
}

#[test]
fn times_beyond_the_calendar_wait_for_nothing() {
    let window = window("01:00", "02:00", "Europe/Berlin");
    let far = Time::new(Duration::MAX);
    assert!(window.is_open(far));
    assert_eq!(window.next_opening(far), far);
    let end = at(253_402_207_199); // the last second that the calendar knows
    let opening = window.next_opening(end);
    assert!(opening > end && window.is_open(opening));
}

#[test]
fn bandwidth_follows_the_day_on_which_the_hours_began() {
    let night = BandwidthRule {
        days: vec![Weekday::Friday],
        from: "22:00".parse().unwrap(),
        to: "04:00".parse().unwrap(),
        limit: NonZeroU64::new(7),
    };
    let bandwidth = Bandwidth {
        rules: vec![night],
        otherwise: NonZeroU64::new(9),
        zone: Zone::utc(),
    };
    let friday = 24 * 3600; // 1970-01-02
    let limit = |hour: u64| bandwidth.limit_at(at(friday + 3600 * hour)).unwrap().get();
    assert_eq!([21, 22, 27, 28].map(limit), [9, 7, 7, 9]);
    assert_eq!(limit(2), 9, "the night from Thursday");
}

#[test]
fn text_that_is_no_time_or_zone_is_refused() {
    for text in [
        "24:00", "12:60", "1:00", "01:0", "+1:00", "", "12", "12:00:00",
    ] {
        assert!(text.parse::<TimeOfDay>().is_err(), "{text}");
    }
    assert_eq!("07:05".parse::<TimeOfDay>().unwrap().to_string(), "07:05");
    assert!("Europe/Nowhere".parse::<Zone>().is_err());
    assert!(serde_json::from_str::<Window>(r#"{"from":"25:00"}"#).is_err());
}

#[test]
fn policies_out_of_range_are_refused() {
    let change = |change: fn(&mut Policy)| {
        let mut policy = Policy::default();
        change(&mut policy);
        policy.validate()
    };
    assert!(change(|_| ()).is_ok());
    assert!(change(|p| p.interval = Duration::from_millis(999)).is_err());
    assert!(change(|p| p.interval = Duration::from_secs(901)).is_err());
    assert!(change(|p| p.resync_threshold_percent = 0).is_err());
    assert!(change(|p| p.resync_threshold_percent = 101).is_err());
    assert!(change(|p| p.recovery_points_max = 0).is_err());
    assert!(change(|p| p.hourly_points = 8_761).is_err());
    assert!(change(|p| p.monitoring_window = Duration::from_mins(59)).is_err());
    assert!(change(|p| p.monitoring_window = Duration::from_hours(169)).is_err());
    assert!(change(|p| p.recovery_points_age_max = Some(Duration::ZERO)).is_err());
    assert!(change(|p| p.rpo_alert = Some(Duration::ZERO)).is_err());
    let every = |every| {
        Some(ApplicationConsistent {
            every,
            ..ApplicationConsistent::default()
        })
    };
    let mut policy = Policy::default();
    for (hours, valid) in [(0, false), (1, true), (12, true), (13, false)] {
        policy.application_consistent = every(Duration::from_hours(hours));
        assert_eq!(policy.validate().is_ok(), valid, "{hours} h");
    }
    let refused = change(|p| p.rpo_alert = Some(Duration::ZERO)).unwrap_err();
    assert!(refused.to_string().contains("rpo_alert"), "{refused}");
}

#[test]
fn log_quotas_do_not_overflow() {
    let policy = Policy::default();
    let largest = Length::new(u64::MAX / 512 * 512);
    assert_eq!(policy.log_quota(largest).get(), largest.get() / 2);
    assert_eq!(policy.log_quota(Length::gib(8)), Length::gib(4));
}

#[test]
fn the_alarm_is_never_tighter_than_two_intervals() {
    let policy = Policy {
        interval: Duration::from_mins(15),
        ..Policy::default()
    };
    assert_eq!(policy.rpo_limit(), Some(Duration::from_mins(30)));
    assert_eq!(Policy::default().rpo_limit(), Some(Duration::from_mins(15)));
}

#[test]
fn what_the_first_release_stored_is_read() {
    let stored = r#"{"interval":{"secs":5,"nanos":0},"resync_threshold_percent":40,"automatic_resync":false,"recovery_points_max":7,"retry":{"offsets":[],"then_every":{"secs":1,"nanos":0},"budget":{"attempts_max":null,"elapsed_max":null}}}"#;
    let policy: Policy = serde_json::from_str(stored).unwrap();
    assert_eq!(policy.recovery_points_max, 7);
    assert!(!policy.automatic_resync);
    assert_eq!(policy.resync_window, None);
}

#[test]
fn what_people_write_is_read() {
    let read = |text: &str| serde_json::from_str::<Policy>(text);
    let minutes = |n: u64| Duration::from_secs(60 * n);
    let written = read(
        r#"{ "interval": "5m", "rpo_alert": "1h 30m", "recovery_points_age_max": { "secs": 60, "nanos": 0 },
             "initial_replication": "1970-01-01T02:00:00+01:00",
             "retry": { "after": ["1m"], "then_every": "2m" } }"#,
    );
    let meant = Policy {
        interval: minutes(5),
        rpo_alert: Some(minutes(90)),
        recovery_points_age_max: Some(minutes(1)),
        initial_replication: Some(Timestamp::from_nanos(3_600_000_000_000)),
        retry: Schedule::fixed([minutes(1)], minutes(2)).unwrap(),
        ..Policy::default()
    };
    assert_eq!(written.unwrap(), meant);
    let stored = serde_json::to_string(&meant).unwrap();
    assert_eq!(read(&stored).unwrap(), meant);
    assert_eq!(read(r#"{ "rpo_alert": null }"#).unwrap().rpo_alert, None);
    for bad in [
        r#"{ "interval": "soon" }"#,
        r#"{ "interval": "-5s" }"#,
        r#"{ "initial_replication": "1969-12-31T00:00:00Z" }"#,
        r#"{ "retry": { "after": ["2m", "1m"], "then_every": "2m" } }"#,
    ] {
        assert!(read(bad).is_err(), "{bad}");
    }
    let error = read(r#"{ "interval": "soon" }"#).unwrap_err().to_string();
    assert!(error.contains("such as `30s`"), "{error}");
}
