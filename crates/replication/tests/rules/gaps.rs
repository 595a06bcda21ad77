//! Logs with nothing in them that are lost.

use std::time::Duration;

use afterimage_block::{Length, Timestamp};
use afterimage_replication::{
    Action, BarrierReached, Ended, Event, Policy, Report, Request, ResyncReason, Scope, Shipment,
    State,
};
use afterimage_retry::Time;

use crate::walk::{Walk, barrier, reached};

fn shipment(actions: &[Action]) -> Shipment {
    let found = actions.iter().find_map(|action| match action {
        Action::Ship(shipment) => Some(shipment.clone()),
        _ => None,
    });
    found.expect("it is shipped")
}

#[test]
fn no_point_is_made_across_the_gap_they_leave() {
    let mut walk = Walk::replicating(Policy::default(), Time::ZERO);
    // The log could not be opened, and nothing was written either: nothing is in doubt.
    let actions = walk.timeout();
    let lost = reached(&barrier(&actions), Ended::Lost(Scope::NOTHING));
    assert_eq!(walk.tell(lost), []);
    assert_eq!(walk.machine.state(), State::Replicating);
    // The store takes the next logs across the gap, but makes no point of them.
    let actions = walk.timeout();
    let actions = walk.reach(&actions);
    let across = shipment(&actions);
    assert!(across.after_loss && !across.point);
    walk.tell(Event::Shipped);
    // The one after that is a point again, whether or not something was written.
    let actions = walk.timeout();
    assert!(!barrier(&actions).may_be_quiet);
    let actions = walk.reach(&actions);
    let next = shipment(&actions);
    assert!(!next.after_loss && next.point);
}

#[test]
fn an_empty_log_that_is_dropped_for_its_size_is_one_of_them() {
    let mut walk = Walk::replicating(Policy::default(), Time::ZERO);
    let first = walk.timeout();
    walk.reach(&first);
    // Sealed with nothing in it while the first is on its way.
    let second = walk.timeout();
    let empty = reached(&barrier(&second), Ended::Sealed(Length::ZERO));
    walk.tell(empty);
    let overflow = walk.tell(Event::LogsGrew(vec![Length::mib(1)]));
    assert_eq!(barrier(&overflow).dropped, [barrier(&second).ends]);
    walk.reach(&overflow);
    walk.pass(Duration::from_secs(1));
    let across = shipment(&walk.tell(Event::Shipped));
    assert!(across.after_loss && !across.point);
}

/// A copy that was begun again with another snapshot is of no point by itself.
#[test]
fn a_copy_comes_to_a_point_though_the_log_up_to_its_second_snapshot_was_lost() {
    let mut walk = Walk::copying(Policy::default(), Time::ZERO);
    let recovered = BarrierReached {
        time: Timestamp::default(),
        disks: vec![Ended::Sealed(Length::new(512))],
        dropped: vec![Scope::NOTHING],
        tracking: walk.machine.tracking(),
    };
    let (machine, actions) = walk.machine.clone().restart(Some(recovered), walk.now);
    walk.machine = machine;
    assert!(actions.contains(&Action::Claim), "{actions:?}");
    let actions = walk.claimed();
    let again = barrier(&actions);
    assert!(again.snapshot);
    walk.tell(reached(&again, Ended::Lost(Scope::NOTHING)));
    let mut actions = walk.tell(Event::Copied);
    while let Some(Action::Ship(shipment)) = actions.iter().find(|a| matches!(a, Action::Ship(_))) {
        assert!(!shipment.point);
        actions = walk.tell(Event::Shipped);
    }
    // Nothing more is written.
    let across = walk.timeout();
    assert!(!barrier(&across).may_be_quiet);
    assert!(!shipment(&walk.reach(&across)).point);
    walk.tell(Event::Shipped);
    let next = walk.timeout();
    assert!(!barrier(&next).may_be_quiet);
    assert!(shipment(&walk.reach(&next)).point);
}

/// A planned failover is to the last barrier, so that has to be a recovery point.
#[test]
fn a_stop_ends_with_a_recovery_point_also_behind_a_gap() {
    let mut walk = Walk::replicating(Policy::default(), Time::ZERO);
    let actions = walk.timeout();
    let lost = reached(&barrier(&actions), Ended::Lost(Scope::NOTHING));
    assert_eq!(walk.tell(lost), []);
    let across = walk.ask(Request::Stop);
    let last = walk.reach(&across);
    let actions = walk.reach(&last);
    assert!(!shipment(&actions).point);
    let actions = walk.tell(Event::Shipped);
    assert!(shipment(&actions).point);
    let actions = walk.tell(Event::Shipped);
    assert!(actions.contains(&Action::Prepare));
    let actions = walk.tell(Event::Prepared);
    assert!(actions.contains(&Action::Stopped { complete: true }));
}

#[test]
fn what_a_damaged_replica_lacks_is_sent_once() {
    let mut walk = Walk::replicating(Policy::default(), Time::ZERO);
    let lacks = vec![Scope::Everything];
    let told = Event::ReplicaDamaged {
        lacks: lacks.clone(),
    };
    let actions = walk.tell(told.clone());
    let reason = ResyncReason::ReplicaDamaged;
    assert!(actions.contains(&Action::Report(Report::ResyncRequired(reason))));
    walk.reach(&actions);
    // The delta that goes before finds it damaged still.
    let actions = walk.tell(Event::Shipped);
    let resync =
        |action: &Action| matches!(action, Action::Resync { scopes, .. } if *scopes == lacks);
    assert!(actions.iter().any(resync), "{actions:?}");
    assert_eq!(walk.tell(told), []);
    let left = vec![Scope::NOTHING];
    walk.tell(Event::Resynchronized { left });
    assert_eq!(walk.machine.state(), State::Replicating);
}
