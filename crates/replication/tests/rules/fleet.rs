//! Many machines that live by one policy.

use std::time::Duration;

use afterimage_block::Length;
use afterimage_replication::{Action, Event, Machine, Policy, Position, Request, State};
use afterimage_retry::Time;

use crate::walk::Walk;

/// A machine with this seed that has come to replicate at the same moment as all others.
fn replicating(seed: u64) -> Walk {
    let machine = Machine::new(Policy::default(), vec![Length::mib(1)]).seeded(seed);
    let now = Time::new(Duration::from_secs(1_000_000));
    let mut walk = Walk { machine, now };
    walk.ask(Request::Enable);
    let actions = walk.claimed();
    walk.reach(&actions);
    walk.tell(Event::Copied);
    assert_eq!(walk.machine.state(), State::Replicating);
    walk
}

#[test]
fn barriers_of_machines_that_start_at_once_are_spread_over_the_interval() {
    let interval = Policy::default().interval;
    let mut tenths = [0; 10];
    for seed in 0..1000 {
        let mut walk = replicating(seed);
        let started = walk.now;
        walk.timeout();
        let waited = walk.now.since(started);
        assert!(Duration::ZERO < waited && waited <= interval, "{waited:?}");
        let tenth = (waited.as_nanos() - 1) * 10 / interval.as_nanos();
        tenths[usize::try_from(tenth).unwrap()] += 1;
    }
    assert!(
        tenths.iter().all(|count| (60..140).contains(count)),
        "{tenths:?}"
    );
}

#[test]
fn what_a_barrier_takes_does_not_put_the_next_one_off() {
    let interval = Policy::default().interval;
    let mut walk = replicating(7);
    walk.timeout();
    let first = walk.now;
    for number in 1..20 {
        walk.pass(Duration::from_millis(137));
        walk.quiet();
        let actions = walk.timeout();
        assert!(matches!(actions[..], [Action::Barrier(_)]), "{actions:?}");
        assert_eq!(walk.now.since(first), interval * number);
    }
}

#[test]
fn a_machine_keeps_its_moments_when_it_is_started_again() {
    let mut walk = replicating(7);
    walk.timeout();
    walk.tell(Event::Quiet);
    let due = walk.machine.next_timeout().unwrap();
    walk.pass(Duration::from_secs(1));
    let (machine, _) = walk.machine.restart(None, walk.now);
    walk.machine = machine;
    walk.tell(Event::Claimed {
        epoch: walk.machine.epoch().next(),
        position: Position::At(walk.machine.durable().unwrap()),
    });
    walk.timeout();
    assert_eq!(walk.now, due);
}
