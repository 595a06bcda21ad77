//! Disks that grow: at a barrier, which has their new size, and the barriers before have the old one.

use afterimage_block::{Extent, Length, Offset, Sequence};
use afterimage_replication::{
    Action, Condition, Ended, Event, Machine, Policy, Position, Request, ResyncReason, Scope,
    Shipment, State,
};
use afterimage_retry::Time;

use crate::walk::{Walk, barrier, reached};

const SMALL: Length = Length::mib(1);
const LARGE: Length = Length::mib(2);

fn new_part() -> Scope {
    let extent = Extent::new(Offset::new(SMALL.get()), Length::new(512)).expect("small");
    Scope::from(afterimage_block::ExtentSet::from(extent))
}

fn enlarged(unproven: Scope) -> Event {
    Event::Enlarged {
        disk: 0,
        size: LARGE,
        unproven,
    }
}

fn shipment(actions: &[Action]) -> Option<Shipment> {
    actions.iter().find_map(|action| match action {
        Action::Ship(shipment) => Some(shipment.clone()),
        _ => None,
    })
}

/// The next generation, which waits to be shipped behind another.
fn wait_behind(walk: &mut Walk) -> Shipment {
    let actions = walk.timeout();
    shipment(&walk.reach(&actions)).expect("nothing else is under way")
}

#[test]
fn barriers_before_have_the_old_size_and_it_goes_on_without_a_resync() {
    let mut walk = Walk::replicating(Policy::default(), Time::ZERO);
    let waiting = wait_behind(&mut walk);
    let actions = walk.ask(Request::ChangeDisks);
    let ordered = barrier(&actions);
    assert!(ordered.changes_disks && !ordered.may_be_quiet && !ordered.snapshot);
    assert_eq!(walk.tell(enlarged(Scope::NOTHING)), []);
    walk.tell(reached(&ordered, Ended::Sealed(Length::new(512))));
    assert_eq!(walk.machine.sizes(), [LARGE]);
    assert_eq!(walk.machine.state(), State::Replicating);
    assert_eq!(waiting.sizes, [SMALL]);
    let next = shipment(&walk.tell(Event::Shipped)).unwrap();
    assert_eq!((next.sequence, next.sizes), (ordered.ends, vec![LARGE]));
    assert!(next.point);
    // Asked for once, it comes once.
    let actions = walk.timeout();
    assert!(!barrier(&actions).changes_disks);
}

#[test]
fn what_nothing_proves_to_be_zeros_is_compared_and_no_more() {
    let mut walk = Walk::replicating(Policy::default(), Time::ZERO);
    let ordered = barrier(&walk.ask(Request::ChangeDisks));
    walk.tell(enlarged(new_part()));
    let sealed = Ended::Sealed(Length::new(512));
    let actions = walk.tell(reached(&ordered, sealed));
    assert_eq!(walk.machine.state(), State::WaitingForStartResynchronize);
    let shipped = shipment(&actions).unwrap();
    assert!(!shipped.point, "its new part is not known");
    assert_eq!(shipped.sizes, [LARGE]);
    let mut actions = walk.reach(&actions);
    let resync = |actions: &[Action]| {
        let mut actions = actions.iter();
        actions.find_map(|action| match action {
            Action::Resync {
                scopes,
                sizes,
                reason,
                ..
            } => Some((scopes.clone(), sizes.clone(), *reason)),
            _ => None,
        })
    };
    while resync(&actions).is_none() {
        actions = walk.tell(Event::Shipped);
    }
    let found = resync(&actions);
    let (scopes, sizes, reason) = found.unwrap();
    assert_eq!((scopes, sizes), (vec![new_part()], vec![LARGE]));
    assert_eq!(reason, ResyncReason::Enlarged);
}

#[test]
fn a_barrier_that_failed_is_made_again_for_who_waits() {
    let mut walk = Walk::replicating(Policy::default(), Time::ZERO);
    let first = barrier(&walk.ask(Request::ChangeDisks));
    let failure = afterimage_replication::Failure {
        class: afterimage_retry::Class::Recoverable,
        retry_after: None,
        message: "the log folder is full".into(),
    };
    let task = afterimage_replication::Task::Barrier;
    walk.tell(Event::Failed { task, failure });
    let again = barrier(&walk.timeout());
    assert_eq!((again.ends, again.changes_disks), (first.ends, true));
}

#[test]
fn it_is_refused_where_a_copy_or_comparison_would_be_of_another_size() {
    let mut walk = Walk::copying(Policy::default(), Time::ZERO);
    let refused = walk
        .machine
        .request(Request::ChangeDisks, walk.now)
        .unwrap_err();
    assert_eq!(refused.failed, [Condition::Replicating]);
    walk.tell(Event::Copied);
    assert!(walk.machine.allowed().contains(&Request::ChangeDisks));
    // A resynchronization that begins before the barrier comes is waited for.
    let resync = walk.ask(Request::Resync);
    let ordered = barrier(&resync);
    walk.ask(Request::ChangeDisks);
    let actions = walk.tell(reached(&ordered, Ended::Sealed(Length::new(512))));
    let barriers = actions
        .iter()
        .filter(|action| matches!(action, Action::Barrier(_)));
    assert_eq!(
        (walk.machine.state(), barriers.count()),
        (State::Resynchronizing, 0)
    );
    while walk.machine.state() == State::Resynchronizing {
        let shipped = walk.tell(Event::Shipped);
        let left = vec![Scope::NOTHING];
        let actions = [shipped, walk.tell(Event::Resynchronized { left })].concat();
        if walk.machine.state() == State::Replicating {
            assert!(barrier(&actions).changes_disks);
        }
    }
}

/// One that was found larger at a start: the generation that is open is the first that has the new size.
#[test]
fn a_start_takes_over_what_was_enlarged_while_nothing_ran() {
    let mut walk = Walk::replicating(Policy::default(), Time::ZERO);
    let waiting = wait_behind(&mut walk);
    let open = walk.machine.open();
    walk.machine.found_larger(0, LARGE, &Scope::NOTHING);
    walk.machine.found_larger(0, SMALL, &new_part());
    walk.machine.found_larger(7, LARGE, &new_part());
    let stored = serde_json::to_string(&walk.machine).unwrap();
    let machine: Machine = serde_json::from_str(&stored).unwrap();
    assert_eq!(
        (machine.sizes(), machine.sizes_to_claim()),
        (&[LARGE][..], vec![LARGE])
    );
    let (machine, _) = machine.restart(None, walk.now);
    walk.machine = machine;
    let actions = walk.tell(Event::Claimed {
        epoch: walk.machine.epoch().next(),
        position: Position::At(Sequence::new(waiting.sequence.get() - 1)),
    });
    assert_eq!(shipment(&actions).unwrap().sizes, [SMALL]);
    let actions = walk.timeout();
    walk.reach(&actions);
    let next = shipment(&walk.tell(Event::Shipped)).unwrap();
    assert_eq!(
        (next.sequence, next.sizes, next.point),
        (open, vec![LARGE], true)
    );
}

/// The replica hears of the new size though nothing is written, and before a planned failover.
#[test]
fn a_disk_that_was_found_larger_is_no_quiet_one() {
    for stops in [false, true] {
        let mut walk = Walk::replicating(Policy::default(), Time::ZERO);
        walk.machine.found_larger(0, LARGE, &Scope::NOTHING);
        let (machine, _) = walk.machine.restart(None, walk.now);
        walk.machine = machine;
        let durable = walk.machine.durable().unwrap();
        walk.tell(Event::Claimed {
            epoch: walk.machine.epoch().next(),
            position: Position::At(durable),
        });
        let actions = if stops {
            walk.ask(Request::Stop)
        } else {
            walk.timeout()
        };
        assert!(!barrier(&actions).may_be_quiet);
        let shipped = shipment(&walk.reach(&actions)).unwrap();
        assert_eq!((shipped.sizes, shipped.point), (vec![LARGE], true));
    }
}

/// A copy that was begun goes on with the size that it was begun with.
#[test]
fn a_copy_is_of_the_size_at_its_barrier() {
    let mut walk = Walk::copying(Policy::default(), Time::ZERO);
    walk.machine.found_larger(0, LARGE, &new_part());
    assert_eq!(walk.machine.sizes_to_claim(), [SMALL]);
    assert_eq!(walk.machine.sizes(), [LARGE]);
    let (machine, _) = Machine::new(Policy::default(), vec![SMALL]).restart(None, Time::ZERO);
    walk.machine = machine;
    walk.machine.found_larger(0, LARGE, &new_part());
    assert_eq!(
        walk.machine.sizes_to_claim(),
        [LARGE],
        "nothing is copied yet"
    );
}

/// A machine that an earlier release stored knows of no growth.
#[test]
fn what_was_stored_before_is_read() {
    let walk = Walk::replicating(Policy::default(), Time::ZERO);
    let mut stored = serde_json::to_value(&walk.machine).unwrap();
    stored.as_object_mut().unwrap().remove("growths").unwrap();
    let machine: Machine = serde_json::from_value(stored).unwrap();
    assert_eq!(machine.sizes_to_claim(), [SMALL]);
}
