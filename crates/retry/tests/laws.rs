//! The laws of schedules and attempts, in virtual time.

use std::io;
use std::time::Duration;

use afterimage_retry::{
    Budget, Class, Classify, Decision, GiveUp, Jitter, Origin, Retry, Schedule, Time,
};
use proptest::prelude::*;

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

prop_compose! {
    fn schedules()(
        steps in prop::collection::vec(1..1000_u64, 0..8),
        period in 1..5000_u64,
    ) -> Schedule {
        let offsets: Vec<_> = steps
            .iter()
            .scan(0, |sum, step| { *sum += step; Some(seconds(*sum)) })
            .collect();
        Schedule::fixed(offsets, seconds(period)).expect("increasing")
    }
}

proptest! {
    #[test]
    fn the_next_time_is_scheduled_and_strictly_later(
        schedule in schedules(), started in 0..10_000_u64, later in 0..100_000_u64,
    ) {
        let started = Time::new(seconds(started));
        let now = started + seconds(later);
        let next = schedule.next_after(started, now);
        prop_assert!(next > now);
        // Nothing scheduled lies between: the instant before it has the same answer.
        let just_before = Time::new(next.since_origin().saturating_sub(Duration::from_nanos(1)));
        prop_assert_eq!(schedule.next_after(started, just_before), next);
    }

    #[test]
    fn slow_attempts_do_not_shift_the_schedule(schedule in schedules(), slow in 0..500_u64) {
        let mut quick = Retry::begin(Time::ZERO);
        let mut slowed = Retry::begin(Time::ZERO);
        let first = schedule.next_after(Time::ZERO, Time::ZERO);
        let slow = seconds(slow).min(first.since_origin().saturating_sub(Duration::from_nanos(1)));
        prop_assert_eq!(
            quick.failed(&schedule, Class::Recoverable, None, Time::ZERO),
            slowed.failed(&schedule, Class::Recoverable, None, Time::ZERO + slow),
        );
    }

    #[test]
    fn pauses_grow_by_the_factor_up_to_the_cap(
        first in 1..100_u64, factor in 2..10_u32, cap in 100..10_000_u64, attempt in 1..50_u32,
    ) {
        let schedule = Schedule::exponential(seconds(first), factor, seconds(cap)).unwrap();
        let wanted = u64::from(factor).saturating_pow(attempt - 1).saturating_mul(first).min(cap);
        prop_assert_eq!(schedule.pause_after(attempt), seconds(wanted));
    }

    #[test]
    fn both_origins_agree_where_attempts_take_no_time(schedule in schedules(), failures in 1..20_u32) {
        let paused = schedule.clone().counted_from(Origin::LastFailure);
        let (mut one, mut other) = (Retry::begin(Time::ZERO), Retry::begin(Time::ZERO));
        let mut now = Time::ZERO;
        for _ in 0..failures {
            let decision = one.failed(&schedule, Class::Recoverable, None, now);
            prop_assert_eq!(other.failed(&paused, Class::Recoverable, None, now), decision);
            let Decision::RetryAt(due) = decision else { panic!("no budget was set") };
            now = due;
        }
    }

    #[test]
    fn the_other_side_gets_its_whole_pause_after_a_failure(
        schedule in schedules(), slow in 0..10_000_u64, percent in 0..=100_u8, seed: u64,
    ) {
        let schedule = schedule
            .counted_from(Origin::LastFailure)
            .with_jitter(Jitter::percent(percent).unwrap());
        let now = Time::new(seconds(slow));
        let decision = Retry::begin(Time::ZERO)
            .seeded(seed)
            .failed(&schedule, Class::Recoverable, None, now);
        let Decision::RetryAt(due) = decision else { panic!("no budget was set") };
        prop_assert!(due >= now + schedule.pause_after(1));
    }

    #[test]
    fn jitter_only_puts_off_and_never_by_a_whole_pause(
        schedule in schedules(), seed: u64, percent in 0..=100_u8, failures in 1..12_u32,
        wish in prop::option::of(0..500_u64),
    ) {
        let jittered = schedule.clone().with_jitter(Jitter::percent(percent).unwrap());
        let mut retry = Retry::begin(Time::ZERO).seeded(seed);
        let mut again = retry.clone();
        let mut now = Time::ZERO;
        for _ in 0..failures {
            let plain = schedule.next_after(Time::ZERO, now);
            let following = schedule.next_after(Time::ZERO, plain);
            let wish = wish.map(seconds);
            let asked = now + wish.unwrap_or_default();
            let decision = retry.failed(&jittered, Class::Recoverable, wish, now);
            let Decision::RetryAt(due) = decision else { panic!("no budget was set") };
            prop_assert!(due >= plain && due >= asked);
            prop_assert!(due.since(plain.max(asked)) < following.since(plain));
            prop_assert_eq!(again.failed(&jittered, Class::Recoverable, wish, now), decision);
            now = due;
        }
    }

    #[test]
    fn a_shutdown_of_our_own_uses_nothing_up(schedule in schedules(), shutdowns in 0..20_u64) {
        let schedule = schedule.with_budget(Budget { attempts_max: Some(2), elapsed_max: None });
        let mut retry = Retry::begin(Time::ZERO);
        for at in 0..shutdowns {
            retry.interrupted(Time::new(seconds(at)));
            prop_assert_eq!(retry.attempt(), 1);
            prop_assert_eq!(retry.due(), Time::new(seconds(at)));
        }
        let decision = retry.failed(&schedule, Class::Recoverable, None, Time::new(seconds(shutdowns)));
        prop_assert!(matches!(decision, Decision::RetryAt(_)));
    }

    #[test]
    fn a_restart_changes_nothing(
        schedule in schedules(), failures in 1..10_u32, seed: u64, percent in 0..=100_u8,
        after_failures: bool,
    ) {
        let origin = if after_failures { Origin::LastFailure } else { Origin::FirstStart };
        let schedule = schedule
            .with_jitter(Jitter::percent(percent).unwrap())
            .counted_from(origin)
            .with_retry_after_max(seconds(7));
        let mut kept = Retry::begin(Time::ZERO).seeded(seed);
        let mut now = Time::ZERO;
        for _ in 0..failures {
            let stored = serde_json::to_string(&(&kept, &schedule)).unwrap();
            let (mut restored, same): (Retry, Schedule) = serde_json::from_str(&stored).unwrap();
            prop_assert_eq!(&same, &schedule);
            let decision = kept.failed(&schedule, Class::Recoverable, None, now);
            prop_assert_eq!(restored.failed(&same, Class::Recoverable, None, now), decision);
            let Decision::RetryAt(due) = decision else { panic!("no budget was set") };
            now = due;
        }
        prop_assert_eq!(kept.attempt(), failures + 1);
    }
}

#[test]
fn budgets_end_it() {
    let two = Schedule::default().with_budget(Budget {
        attempts_max: Some(2),
        elapsed_max: None,
    });
    let mut retry = Retry::begin(Time::ZERO);
    let again = retry.failed(&two, Class::Recoverable, None, Time::ZERO);
    assert_eq!(again, Decision::RetryAt(Time::ZERO + seconds(60)));
    let enough = retry.failed(&two, Class::Recoverable, None, Time::ZERO + seconds(60));
    assert_eq!(enough, Decision::GiveUp(GiveUp::Attempts));

    let brief = Schedule::default().with_budget(Budget {
        attempts_max: None,
        elapsed_max: Some(seconds(59)),
    });
    let decision = Retry::begin(Time::ZERO).failed(&brief, Class::Recoverable, None, Time::ZERO);
    assert_eq!(decision, Decision::GiveUp(GiveUp::Elapsed));
}

#[test]
fn a_longer_wish_of_the_other_side_is_honoured() {
    let mut retry = Retry::begin(Time::ZERO);
    let wish = Some(seconds(90));
    let decision = retry.failed(&Schedule::default(), Class::Recoverable, wish, Time::ZERO);
    assert_eq!(decision, Decision::RetryAt(Time::ZERO + seconds(90)));
}

#[test]
fn non_recoverable_errors_are_not_retried() {
    let mut retry = Retry::begin(Time::ZERO);
    let decision = retry.failed(
        &Schedule::default(),
        Class::NonRecoverable,
        None,
        Time::ZERO,
    );
    assert_eq!(decision, Decision::GiveUp(GiveUp::NonRecoverable));
}

#[test]
fn schedules_that_would_spin_are_refused() {
    assert!(Schedule::fixed([], Duration::ZERO).is_err());
    assert!(Schedule::fixed([Duration::ZERO], seconds(1)).is_err());
    assert!(Schedule::fixed([seconds(2), seconds(2)], seconds(1)).is_err());
    let stored = r#"{"offsets":[],"then_every":{"secs":0,"nanos":0},"budget":{"attempts_max":null,"elapsed_max":null}}"#;
    assert!(serde_json::from_str::<Schedule>(stored).is_err());
}

#[test]
fn a_wish_to_be_left_alone_for_good_is_not_heeded() {
    let schedule = Schedule::default().with_retry_after_max(seconds(3600));
    let mut retry = Retry::begin(Time::ZERO);
    let decision = retry.failed(
        &schedule,
        Class::Recoverable,
        Some(Duration::MAX),
        Time::ZERO,
    );
    assert_eq!(decision, Decision::RetryAt(Time::ZERO + seconds(3600)));
}

#[test]
fn different_seeds_come_back_at_different_times() {
    let schedule = Schedule::default().with_jitter(Jitter::FULL);
    let due = |seed| {
        let mut retry = Retry::begin(Time::ZERO).seeded(seed);
        retry.failed(&schedule, Class::Recoverable, None, Time::ZERO);
        retry.due()
    };
    let times: std::collections::BTreeSet<_> = (0..1000).map(due).collect();
    assert_eq!(times.len(), 1000);
    let (first, last) = (times.first().unwrap(), times.last().unwrap());
    // The minute after the scheduled one is used from end to end.
    assert!(first.since_origin() < seconds(62) && last.since_origin() > seconds(118));
}

#[test]
fn a_shutdown_of_the_other_side_is_recoverable() {
    use io::ErrorKind as Kind;
    for kind in [
        Kind::ConnectionReset,
        Kind::ConnectionAborted,
        Kind::BrokenPipe,
        Kind::UnexpectedEof,
        Kind::NotConnected,
        Kind::Interrupted,
        Kind::TimedOut,
        Kind::StorageFull,
        Kind::OutOfMemory,
    ] {
        assert_eq!(io::Error::from(kind).class(), Class::Recoverable, "{kind}");
    }
}

#[test]
fn exponential_schedules_that_would_spin_or_shrink_are_refused() {
    assert!(Schedule::exponential(Duration::ZERO, 2, seconds(1)).is_err());
    assert!(Schedule::exponential(seconds(1), 1, seconds(2)).is_err());
    assert!(Schedule::exponential(seconds(2), 2, seconds(1)).is_err());
    assert!(Schedule::exponential(Duration::from_nanos(1), 2, Duration::MAX).is_ok());
    assert!(Jitter::percent(101).is_err());
    assert!(serde_json::from_str::<Jitter>("101").is_err());
}

#[test]
fn what_the_first_release_stored_is_read() {
    let schedule = r#"{"offsets":[{"secs":60,"nanos":0}],"then_every":{"secs":5,"nanos":0},"budget":{"attempts_max":3,"elapsed_max":null}}"#;
    let read: Schedule = serde_json::from_str(schedule).unwrap();
    assert_eq!(read.jitter(), Jitter::NONE);
    assert_eq!(read.origin(), Origin::FirstStart);
    assert_eq!(
        serde_json::to_string(&read).unwrap(),
        schedule,
        "and written the same"
    );
    let retry = r#"{"started":{"secs":1,"nanos":0},"attempts":2,"due":{"secs":61,"nanos":0}}"#;
    let read: Retry = serde_json::from_str(retry).unwrap();
    assert_eq!((read.attempt(), read.due()), (2, Time::new(seconds(61))));
}
