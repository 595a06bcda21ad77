//! What is cancelled is taken back, whatever is under way.

use std::time::Duration;

use afterimage_block::{Epoch, Length, Sequence};
use afterimage_replication::{
    Action, Event, Failure, Machine, Policy, Position, Request, Scope, State, Task,
};
use afterimage_retry::{Class, Time};

use crate::walk::{Walk, barrier};

/// A machine that resynchronizes.
fn resynchronizing() -> Walk {
    let mut walk = Walk::replicating(Policy::default(), Time::ZERO);
    let actions = walk.ask(Request::Resync);
    walk.reach(&actions);
    // What was logged before goes first.
    let actions = walk.tell(Event::Shipped);
    assert!(
        matches!(&actions[..], [.., Action::Resync { .. }]),
        "{actions:?}"
    );
    walk
}

#[test]
fn a_cancelled_resynchronization_keeps_its_doubt_and_waits_to_be_asked_for() {
    let mut walk = resynchronizing();
    let actions = walk.ask(Request::CancelResync);
    assert_eq!(actions, [Action::Abort(Task::Resync)]);
    assert_eq!(walk.machine.state(), State::WaitingForStartResynchronize);
    assert_eq!(walk.machine.doubt(), [Scope::Everything]);
    // Whether its differences are there a claim tells.
    let task = Task::Resync;
    assert_eq!(walk.tell(Event::Aborted { task }), [Action::Claim]);
    let last = walk.machine.durable().unwrap();
    walk.tell(claimed(last));
    for _ in 0..20 {
        let actions = walk.timeout();
        let barrier = barrier(&actions);
        assert_eq!(barrier.next, barrier.ends.next(), "it begins by itself");
        walk.reach(&actions);
        walk.tell(Event::Shipped);
    }
    let actions = walk.ask(Request::Resync);
    walk.reach(&actions);
    assert_eq!(walk.machine.state(), State::Resynchronizing);
}

#[test]
fn differences_that_were_there_before_it_was_cancelled_do_no_harm() {
    let mut walk = resynchronizing();
    walk.ask(Request::CancelResync);
    let done = Event::Resynchronized {
        left: vec![Scope::NOTHING],
    };
    assert_eq!(walk.tell(done), [Action::Claim]);
    let differences = walk.machine.durable().unwrap().next();
    walk.tell(claimed(differences));
    assert_eq!(walk.machine.durable(), Some(differences));
    assert_eq!(walk.machine.doubt(), [Scope::Everything]);
}

#[test]
fn one_that_is_cancelled_before_its_barrier_does_not_begin() {
    let mut walk = Walk::replicating(Policy::default(), Time::ZERO);
    let actions = walk.ask(Request::Resync);
    walk.ask(Request::CancelResync);
    walk.reach(&actions);
    assert_eq!(walk.machine.state(), State::WaitingForStartResynchronize);
}

#[test]
fn a_suspended_machine_sends_no_more_of_what_takes_long() {
    let mut walk = resynchronizing();
    let actions = walk.ask(Request::Suspend);
    assert_eq!(actions, [Action::Abort(Task::Resync)]);
    let task = Task::Resync;
    assert_eq!(walk.tell(Event::Aborted { task }), []);
    assert_eq!(walk.machine.state(), State::ResynchronizeSuspended);
    assert_eq!(walk.ask(Request::Resume), [Action::Claim]);
}

#[test]
fn protection_ends_from_every_step_and_nothing_is_logged_any_more() {
    let mut walk = Walk::replicating(Policy::default(), Time::ZERO);
    let actions = walk.timeout();
    let sealed = barrier(&actions).ends;
    walk.reach(&actions);
    let actions = walk.ask(Request::Disable);
    assert_eq!(
        actions[..3],
        [
            Action::Abort(Task::Ship),
            Action::Discard(vec![sealed]),
            Action::Release
        ]
    );
    assert_eq!(walk.machine.state(), State::Disabled);
    let last = walk.reach(&actions);
    assert_eq!(last, [Action::Discard(vec![sealed.next()])]);
    assert_eq!(walk.machine.next_timeout(), None, "nothing is awaited");
    // The answer that was too late does not count for the next time.
    assert_eq!(walk.ask(Request::Enable), []);
    assert_eq!(walk.tell(Event::Shipped), [Action::Claim]);
    let actions = walk.tell(claimed(sealed));
    assert!(barrier(&actions).next > sealed.next());
    walk.reach(&actions);
    assert_eq!(walk.machine.state(), State::Resynchronizing);
}

#[test]
fn a_first_copy_that_is_given_up_is_begun_from_nothing() {
    let mut walk = Walk {
        machine: Machine::new(Policy::default(), vec![Length::mib(1)]),
        now: Time::ZERO,
    };
    walk.ask(Request::Enable);
    let empty = Event::Claimed {
        epoch: Epoch::new(1),
        position: Position::Empty,
    };
    let actions = walk.tell(empty.clone());
    walk.reach(&actions);
    assert_eq!(walk.machine.state(), State::InitialReplicationInProgress);
    let actions = walk.ask(Request::Disable);
    assert_eq!(
        actions[..2],
        [Action::Abort(Task::Copy), Action::ReleaseSnapshot]
    );
    assert!(!walk.machine.has_base());
    walk.ask(Request::Enable);
    let task = Task::Copy;
    assert_eq!(walk.tell(Event::Aborted { task }), [Action::Claim]);
    walk.reach(&actions);
    let actions = walk.tell(empty);
    assert!(barrier(&actions).snapshot);
}

#[test]
fn a_barrier_that_fails_is_not_tried_again_at_once_whatever_it_is_for() {
    let mut walk = Walk::replicating(Policy::default(), Time::ZERO);
    let actions = walk.tell(Event::LogsGrew(vec![Length::mib(1)]));
    assert!(!barrier(&actions).may_be_quiet);
    let failure = Failure {
        class: Class::Recoverable,
        retry_after: None,
        message: "no space".into(),
    };
    let failed = Event::Failed {
        task: Task::Barrier,
        failure,
    };
    let actions = walk.tell(failed);
    assert!(matches!(&actions[..], [Action::Report(_)]), "{actions:?}");
    let before = walk.now;
    barrier(&walk.timeout());
    assert_eq!(walk.now.since(before), Duration::from_secs(30));
}

fn claimed(at: Sequence) -> Event {
    Event::Claimed {
        epoch: Epoch::new(2),
        position: Position::At(at),
    }
}
