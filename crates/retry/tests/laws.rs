//! The laws of schedules and attempts, in virtual time.

use std::time::Duration;

use afterimage_retry::{Budget, Class, Decision, GiveUp, Retry, Schedule, Time};
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
    fn a_restart_changes_nothing(schedule in schedules(), failures in 1..10_u32) {
        let mut kept = Retry::begin(Time::ZERO);
        let mut now = Time::ZERO;
        for _ in 0..failures {
            let stored = serde_json::to_string(&(&kept, &schedule)).unwrap();
            let (mut restored, same): (Retry, Schedule) = serde_json::from_str(&stored).unwrap();
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
