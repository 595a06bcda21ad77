//! What an idle machine tells its replica, and how seldom.

use std::time::Duration;

use afterimage_replication::{Action, Event, Failure, Health, Policy, Request, State, Task};
use afterimage_retry::{Class, Time};

use crate::walk::Walk;

fn idle() -> Walk {
    let mut walk = Walk::replicating(Policy::default(), Time::ZERO);
    walk.timeout();
    assert_eq!(walk.tell(Event::Quiet), [Action::Heartbeat]);
    walk
}

/// The intervals until something is sent in which nothing is written.
fn quiet_intervals(walk: &mut Walk) -> Duration {
    let since = walk.now;
    loop {
        let mut actions = walk.timeout();
        if actions
            .iter()
            .any(|action| matches!(action, Action::Barrier(_)))
        {
            actions.extend(walk.tell(Event::Quiet));
        }
        if actions.contains(&Action::Heartbeat) {
            return walk.now.since(since);
        }
    }
}

#[test]
fn an_idle_machine_tells_so_at_once_and_then_seldom() {
    let mut walk = idle();
    for _ in 0..3 {
        walk.tell(Event::Heard);
        assert_eq!(quiet_intervals(&mut walk), Policy::default().heartbeat());
    }
}

#[test]
fn one_that_is_written_to_publishes_and_then_tells_anew() {
    let mut walk = idle();
    walk.tell(Event::Heard);
    let actions = walk.timeout();
    let shipped = walk.reach(&actions);
    assert!(matches!(shipped[..], [Action::Ship(_)]), "{shipped:?}");
    assert!(!walk.tell(Event::Shipped).contains(&Action::Heartbeat));
    walk.timeout();
    assert_eq!(walk.tell(Event::Quiet), [Action::Heartbeat]);
}

#[test]
fn a_heartbeat_that_fails_is_tried_again_and_one_that_is_refused_ends_it() {
    let failed = |class| Event::Failed {
        task: Task::Heartbeat,
        failure: Failure {
            class,
            retry_after: None,
            message: "no".into(),
        },
    };
    let mut walk = idle();
    walk.tell(failed(Class::Recoverable));
    assert_eq!(walk.machine.health(), Health::Warning);
    assert_eq!(quiet_intervals(&mut walk), Duration::from_mins(1));
    walk.tell(Event::Heard);
    assert_eq!(walk.machine.health(), Health::Normal);
    quiet_intervals(&mut walk);
    walk.tell(failed(Class::NonRecoverable));
    assert_eq!(walk.machine.state(), State::Critical);
}

#[test]
fn a_machine_that_stops_waits_for_it_and_sends_no_other() {
    let mut walk = idle();
    let actions = walk.ask(Request::Stop);
    assert!(
        actions
            .iter()
            .all(|action| matches!(action, Action::Barrier(_))),
        "{actions:?}"
    );
    assert_eq!(walk.tell(Event::Quiet), []);
    assert_eq!(walk.tell(Event::Heard), [Action::Prepare]);
}

#[test]
fn a_suspended_machine_sends_none() {
    let mut walk = idle();
    walk.tell(Event::Heard);
    walk.ask(Request::Suspend);
    for _ in 0..100 {
        walk.timeout();
        assert!(!walk.tell(Event::Quiet).contains(&Action::Heartbeat));
    }
    walk.ask(Request::Resume);
    walk.tell(Event::Heard);
    assert_eq!(quiet_intervals(&mut walk), Policy::default().heartbeat());
}
