//! Application-consistent points.

use std::time::Duration;

use afterimage_replication::{
    Action, ApplicationConsistent, Event, Failure, Policy, Report, Request, Task,
};
use afterimage_retry::{Class, Time};

use crate::walk::{Walk, barrier};

const LIMIT: Duration = Duration::from_secs(20);

fn quiescing() -> Walk {
    let application = ApplicationConsistent {
        every: Duration::from_mins(10),
        quiesce_max: LIMIT,
    };
    let policy = Policy {
        application_consistent: Some(application),
        ..Policy::default()
    };
    Walk::replicating(policy, Time::ZERO)
}

fn shipped_as_consistent(actions: &[Action]) -> bool {
    let shipment = actions.iter().find_map(|action| match action {
        Action::Ship(shipment) => Some(shipment.application_consistent),
        _ => None,
    });
    shipment.expect("it is shipped")
}

fn asked(walk: &mut Walk) {
    let actions = walk.timeout();
    assert_eq!(actions, [Action::Quiesce { within: LIMIT }]);
}

#[test]
fn the_guest_holds_still_from_before_the_barrier_until_after_it() {
    let mut walk = quiescing();
    asked(&mut walk);
    let actions = walk.tell(Event::Quiesced);
    assert!(barrier(&actions).application_consistent);
    let actions = walk.reach(&actions);
    assert_eq!(actions[0], Action::Thaw);
    assert!(shipped_as_consistent(&actions));
    walk.tell(Event::Shipped);
    // Then crash-consistent ones until the next is due.
    let mut plain = 0;
    loop {
        let actions = walk.timeout();
        if actions == [Action::Quiesce { within: LIMIT }] {
            break;
        }
        assert!(!barrier(&actions).application_consistent);
        let actions = walk.reach(&actions);
        assert!(!shipped_as_consistent(&actions));
        walk.tell(Event::Shipped);
        plain += 1;
    }
    assert_eq!(plain, 19, "every 10 min, at an interval of 30 s");
}

#[test]
fn a_hook_that_fails_makes_it_crash_consistent_with_a_warning() {
    let mut walk = quiescing();
    asked(&mut walk);
    let failure = Failure {
        class: Class::NonRecoverable,
        retry_after: None,
        message: "fsfreeze: not found".into(),
    };
    let actions = walk.tell(Event::Failed {
        task: Task::Quiesce,
        failure: failure.clone(),
    });
    let warning = Report::CrashConsistentOnly { failure };
    assert_eq!(actions[..2], [Action::Report(warning), Action::Thaw]);
    assert!(!barrier(&actions).application_consistent);
    assert_eq!(walk.machine.problem(), None, "replication goes on");
}

#[test]
fn a_hook_that_hangs_is_not_waited_for() {
    let mut walk = quiescing();
    asked(&mut walk);
    let begun = walk.now;
    let actions = walk.timeout();
    assert_eq!(walk.now, begun + LIMIT);
    assert!(matches!(
        actions[..2],
        [
            Action::Report(Report::CrashConsistentOnly { .. }),
            Action::Thaw
        ]
    ));
    let actions = walk.reach(&actions);
    assert!(!shipped_as_consistent(&actions));
    walk.tell(Event::Shipped);
    // It is not asked again before it has answered, which could be taken for the next answer.
    for _ in 0..60 {
        let actions = walk.timeout();
        walk.reach(&actions);
        walk.tell(Event::Shipped);
    }
    // It does after all, and the guest would hold still for good.
    assert_eq!(walk.tell(Event::Quiesced), [Action::Thaw]);
    while walk.timeout() != [Action::Quiesce { within: LIMIT }] {
        walk.tell(Event::Quiet);
    }
}

#[test]
fn a_barrier_that_does_not_come_in_time_is_crash_consistent() {
    let mut walk = quiescing();
    asked(&mut walk);
    let ordered = walk.tell(Event::Quiesced);
    let actions = walk.timeout();
    assert!(actions.contains(&Action::Thaw), "{actions:?}");
    let actions = walk.reach(&ordered);
    assert!(!shipped_as_consistent(&actions), "the guest went on before");
}

#[test]
fn a_stop_and_a_restart_let_the_guest_go_on() {
    let mut walk = quiescing();
    asked(&mut walk);
    let actions = walk.machine.request(Request::Stop, walk.now).unwrap();
    assert_eq!(actions[0], Action::Thaw);

    let mut walk = quiescing();
    asked(&mut walk);
    let (_, actions) = walk.machine.restart(None, walk.now);
    assert_eq!(actions[0], Action::Thaw);
}

#[test]
fn a_guest_is_not_asked_where_the_barrier_is_no_point() {
    let mut walk = quiescing();
    let changed = Event::ChangedUntracked { disk: 0 };
    let actions = walk.tell(changed);
    walk.reach(&actions);
    walk.pass(Duration::from_mins(1));
    let actions = walk.machine.handle_timeout(walk.now);
    assert!(!barrier(&actions).application_consistent);
}
