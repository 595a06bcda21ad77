//! What came of the cycles, and the health that follows from it.

use std::time::Duration;

use afterimage_block::Sequence;
use afterimage_replication::{
    Action, Event, Failure, Health, Policy, Positions, Report, Request, Task,
};
use afterimage_retry::{Class, Time};

use crate::walk::{Walk, barrier};

fn walk() -> Walk {
    let policy = Policy {
        rpo_alert: None,
        ..Policy::default()
    };
    Walk::replicating(policy, Time::ZERO)
}

/// One cycle whose delta takes `latency`.
fn cycle(walk: &mut Walk, latency: Duration) {
    let actions = walk.timeout();
    walk.reach(&actions);
    walk.pass(latency);
    walk.tell(Event::Shipped);
}

#[test]
fn cycles_are_counted_with_their_bytes_and_latency() {
    let mut walk = walk();
    for seconds in [2, 4, 6] {
        cycle(&mut walk, Duration::from_secs(seconds));
    }
    walk.timeout();
    walk.tell(Event::Quiet);
    let seen = walk.machine.statistics(walk.now);
    assert_eq!((seen.succeeded, seen.missed, seen.failed), (4, 0, 0));
    assert_eq!((seen.bytes.get(), seen.bytes_largest.get()), (3 * 512, 512));
    assert_eq!(
        (seen.latency_mean_ms, seen.latency_max_ms),
        (Some(4000), 6000)
    );
    assert_eq!(walk.machine.health(), Health::Normal);
    // Most of what is older than the window is forgotten.
    let later = walk.now + Duration::from_hours(13);
    assert_eq!(walk.machine.statistics(later).succeeded, 0);
}

#[test]
fn more_than_a_fifth_missed_is_a_warning_until_enough_succeed() {
    let mut walk = walk();
    for _ in 0..3 {
        cycle(&mut walk, Duration::ZERO);
    }
    let actions = walk.timeout();
    walk.reach(&actions);
    assert_eq!(walk.machine.health(), Health::Normal);
    let second = walk.timeout();
    assert_eq!(walk.machine.statistics(walk.now).missed, 1);
    assert_eq!(walk.machine.health(), Health::Warning, "one of four");
    walk.reach(&second);
    walk.tell(Event::Shipped);
    walk.tell(Event::Shipped);
    assert_eq!(walk.machine.health(), Health::Normal, "one of five");
}

#[test]
fn an_hour_without_success_is_a_warning_even_where_nothing_happens() {
    let mut walk = walk();
    cycle(&mut walk, Duration::ZERO);
    let actions = walk.timeout();
    // The barrier hangs: no more cycles begin.
    let begun = barrier(&actions);
    assert_eq!(walk.machine.health(), Health::Normal);
    walk.timeout();
    assert_eq!(walk.machine.health(), Health::Warning);
    assert!(walk.now.since(Time::ZERO) <= Duration::from_mins(61));
    assert_eq!(walk.machine.open(), begun.ends, "it still hangs");
}

#[test]
fn what_the_owner_suspends_is_not_missed() {
    let mut walk = walk();
    cycle(&mut walk, Duration::ZERO);
    walk.ask(Request::Suspend);
    for _ in 0..10 {
        let actions = walk.timeout();
        walk.reach(&actions);
    }
    assert_eq!(walk.machine.statistics(walk.now).missed, 0);
}

#[test]
fn failures_are_counted_by_whether_they_pass() {
    let mut walk = walk();
    let actions = walk.timeout();
    walk.reach(&actions);
    for class in [Class::Recoverable, Class::NonRecoverable] {
        let failure = Failure {
            class,
            retry_after: None,
            message: "no".into(),
        };
        let task = Task::Ship;
        walk.tell(Event::Failed { task, failure });
        until_shipped_again(&mut walk);
    }
    let seen = walk.machine.statistics(walk.now);
    assert_eq!((seen.failed, seen.failed_recoverable), (2, 1));
}

/// Goes on until the retry is due.
fn until_shipped_again(walk: &mut Walk) {
    for _ in 0..3 {
        walk.tell(Event::Quiet);
        let actions = walk.timeout();
        if actions
            .iter()
            .any(|action| matches!(action, Action::Ship(_)))
        {
            return;
        }
    }
}

#[test]
fn a_transfer_that_does_not_move_is_seen_within_two_intervals() {
    let mut walk = walk();
    let actions = walk.timeout();
    walk.reach(&actions);
    let mut told = Vec::new();
    while walk.now < Time::new(Duration::from_mins(3)) {
        let actions = walk.timeout();
        told.extend(reports(&actions));
        walk.tell(Event::Quiet);
    }
    let (task, idle) = (Task::Ship, Duration::from_mins(1));
    assert_eq!(told, [Report::Stalled { task, idle }], "once");
    assert_eq!(walk.machine.health(), Health::Warning);
    let actions = walk.tell(Event::Progressed { task });
    assert_eq!(reports(&actions), [Report::MovesAgain { task }]);
    // One that moves is not reported, however long it takes.
    while walk.now < Time::new(Duration::from_mins(30)) {
        let actions = walk.timeout();
        assert_eq!(reports(&actions), []);
        walk.tell(Event::Quiet);
        walk.tell(Event::Progressed { task });
    }
}

fn reports(actions: &[Action]) -> Vec<Report> {
    let reports = actions.iter().filter_map(|action| match action {
        Action::Report(report) => Some(report.clone()),
        _ => None,
    });
    reports.collect()
}

#[test]
fn positions_are_what_was_acknowledged() {
    let mut walk = walk();
    let at = |number| Some(Sequence::new(number));
    let positions = |walk: &Walk| {
        let Positions {
            appended,
            sealed,
            durable,
            recoverable,
        } = walk.machine.positions();
        (appended.get(), sealed, durable, recoverable)
    };
    assert_eq!(positions(&walk), (2, at(1), at(1), at(1)), "the first copy");
    let actions = walk.timeout();
    walk.reach(&actions);
    assert_eq!(positions(&walk), (3, at(2), at(1), at(1)));
    walk.tell(Event::Shipped);
    assert_eq!(positions(&walk), (3, at(2), at(2), at(2)));
    // Where something is in doubt, what is durable is no recovery point.
    let actions = walk.ask(Request::Resync);
    walk.reach(&actions);
    walk.tell(Event::Shipped);
    assert_eq!(positions(&walk), (5, at(3), at(3), at(2)));
}
