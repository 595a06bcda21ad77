//! When initial replication and a resynchronization begin.

use std::time::Duration;

use afterimage_block::Timestamp;
use afterimage_replication::{Action, Event, Policy, Request, State, Window};
use afterimage_retry::Time;

use crate::walk::{Walk, barrier};

const HOUR: u64 = 3600;

fn at_noon(policy: Policy) -> Walk {
    let noon = Time::new(Duration::from_secs(12 * HOUR));
    let mut walk = Walk::replicating(policy, noon);
    let actions = walk.timeout();
    walk.lose(&actions);
    walk
}

fn policy() -> Policy {
    Policy {
        resync_window: Some(Window::default()),
        rpo_alert: None,
        ..Policy::default()
    }
}

/// Goes on without a write until the next barrier that is not one of the interval's.
fn until_the_resync(walk: &mut Walk) {
    for _ in 0..2_000 {
        let actions = walk.timeout();
        let barrier = barrier(&actions);
        if barrier.next != barrier.ends.next() {
            walk.reach(&actions);
            return;
        }
        walk.reach(&actions);
        walk.tell(Event::Shipped);
    }
    panic!("it never came: {:?}", walk.machine);
}

#[test]
fn it_waits_for_its_hours() {
    let mut walk = at_noon(policy());
    assert_eq!(walk.machine.state(), State::WaitingForStartResynchronize);
    until_the_resync(&mut walk);
    assert_eq!(walk.now, Time::new(Duration::from_secs(18 * HOUR + 1800)));
    assert_eq!(walk.machine.state(), State::Resynchronizing);
}

#[test]
fn a_request_does_not_wait() {
    let mut walk = at_noon(policy());
    let now = walk.now;
    let actions = walk.machine.request(Request::Resync, now).unwrap();
    walk.reach(&actions);
    assert_eq!(walk.machine.state(), State::Resynchronizing);
}

#[test]
fn without_hours_it_begins_at_once() {
    let policy = Policy {
        resync_window: None,
        ..policy()
    };
    let noon = Time::new(Duration::from_secs(12 * HOUR));
    let mut walk = Walk::replicating(policy, noon);
    let actions = walk.timeout();
    let actions = walk.lose(&actions);
    walk.reach(&actions);
    assert_eq!(walk.machine.state(), State::Resynchronizing);
}

#[test]
fn a_manual_one_waits_for_a_person_whatever_the_hour() {
    let manual = Policy {
        automatic_resync: false,
        ..policy()
    };
    let mut walk = at_noon(manual);
    for _ in 0..2_500 {
        let actions = walk.timeout();
        walk.reach(&actions);
        let shipping = walk.machine.unshipped().next().is_some();
        let answer = shipping.then(|| walk.tell(Event::Shipped));
        assert_ne!(answer, Some(vec![Action::Claim]));
        assert_eq!(walk.machine.state(), State::WaitingForStartResynchronize);
    }
    assert!(walk.now > Time::new(Duration::from_secs(24 * HOUR)));
}

#[test]
fn initial_replication_waits_for_its_time() {
    let evening = Time::new(Duration::from_secs(20 * HOUR));
    let policy = Policy {
        initial_replication: Some(Timestamp::from_nanos(20 * HOUR * 1_000_000_000)),
        rpo_alert: None,
        ..Policy::default()
    };
    let noon = Time::new(Duration::from_secs(12 * HOUR));
    let (mut walk, actions) = Walk::enabled(policy.clone(), noon);
    assert_eq!(actions, []);
    let (restarted, actions) = walk.machine.clone().restart(None, noon);
    assert_eq!(actions, [Action::Claim]);
    walk.machine = restarted;
    assert_eq!(walk.claimed(), []);
    assert_eq!(walk.machine.state(), State::WaitingForInitialReplication);
    let actions = walk.timeout();
    assert_eq!(walk.now, evening);
    assert!(barrier(&actions).snapshot);
    walk.reach(&actions);
    assert_eq!(walk.machine.state(), State::InitialReplicationInProgress);
    let (_, actions) = Walk::enabled(policy, evening);
    assert!(barrier(&actions).snapshot);
}
