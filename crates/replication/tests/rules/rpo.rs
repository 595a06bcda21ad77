//! How much would be lost, and who is told of it.

use std::time::Duration;

use afterimage_replication::{Action, Event, Health, Policy, Report, Task};
use afterimage_retry::Time;

use crate::walk::Walk;

fn walk() -> Walk {
    Walk::replicating(Policy::default(), Time::ZERO)
}

#[test]
fn it_counts_from_the_order_of_a_barrier_that_the_replica_has() {
    let mut walk = walk();
    let actions = walk.timeout();
    let ordered = walk.now;
    walk.pass(Duration::from_secs(3));
    walk.reach(&actions);
    walk.pass(Duration::from_secs(4));
    let before = walk.machine.rpo(walk.now).unwrap();
    assert_eq!(before, walk.now.since(Time::ZERO), "it is not there yet");
    walk.tell(Event::Shipped);
    assert_eq!(walk.machine.rpo(walk.now), Some(walk.now.since(ordered)));
    walk.pass(Duration::from_secs(5));
    assert_eq!(walk.machine.rpo(walk.now), Some(Duration::from_secs(12)));
}

#[test]
fn a_guest_that_writes_nothing_loses_nothing() {
    let mut walk = walk();
    for _ in 0..100 {
        walk.timeout();
        walk.quiet();
        assert_eq!(walk.machine.rpo(walk.now), Some(Duration::ZERO));
    }
}

#[test]
fn what_was_not_written_after_a_barrier_is_no_loss_once_that_is_there() {
    let mut walk = walk();
    let actions = walk.timeout();
    walk.reach(&actions);
    walk.timeout();
    walk.tell(Event::Quiet);
    let quiet = walk.now;
    assert!(walk.machine.rpo(walk.now).unwrap() >= Duration::from_mins(1));
    walk.tell(Event::Shipped);
    assert_eq!(walk.machine.rpo(walk.now), Some(walk.now.since(quiet)));
}

#[test]
fn late_points_are_reported_once_and_so_is_the_end_of_it() {
    let mut walk = walk();
    let actions = walk.timeout();
    walk.reach(&actions);
    let mut reports = Vec::new();
    while walk.now < Time::new(Duration::from_hours(1)) {
        let actions = walk.timeout();
        reports.extend(actions.iter().filter_map(|action| match action {
            Action::Report(report) => Some(report.clone()),
            _ => None,
        }));
        if actions
            .iter()
            .any(|action| matches!(action, Action::Barrier(_)))
        {
            walk.tell(Event::Quiet);
        }
    }
    let (task, idle) = (Task::Ship, Duration::from_mins(1));
    let rpo = Duration::from_mins(15);
    let late = Report::RecoveryPointsLate { rpo };
    assert_eq!(reports, [Report::Stalled { task, idle }, late]);
    assert_eq!(walk.machine.health(), Health::Warning);
    let actions = walk.tell(Event::Shipped);
    assert!(actions.contains(&Action::Report(Report::RecoveryPointsOnTime)));
    let seen = walk.machine.statistics(walk.now);
    assert!(!seen.is_normal(), "most cycles were missed: {seen:?}");
    assert_eq!(walk.machine.health(), Health::Warning);
}
