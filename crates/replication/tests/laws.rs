//! Laws of roles and refusals.

use afterimage_block::{Epoch, Length, Sequence, Timestamp};
use afterimage_replication::{
    Condition, DivergenceToken, FailoverKind, Health, Machine, Policy, PrimaryReport,
    ReplicaRequest, ReplicaState, Request, Role, Standby, State,
};
use afterimage_retry::Time;

const POINT: Sequence = Sequence::new(7);

#[test]
fn a_planned_failover_needs_the_last_delta() {
    let planned = ReplicaRequest::PlannedFailover { point: POINT };
    assert!(Role::Replica.request(planned).is_err());
    let prepared = Role::PreparedForFailover { through: POINT };
    let waiting = Role::FailedOverWaitingCompletion {
        kind: FailoverKind::Planned,
        point: POINT,
    };
    assert_eq!(prepared.request(planned), Ok(waiting));
    let older = Sequence::new(6);
    let refused = prepared.request(ReplicaRequest::PlannedFailover { point: older });
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains("recovery point 7")
    );
}

#[test]
fn a_failover_shuts_the_primary_out_until_it_is_cancelled() {
    let unplanned = ReplicaRequest::UnplannedFailover { point: POINT };
    let waiting = Role::Replica.request(unplanned).unwrap();
    assert!(waiting.admits_primary().is_err());
    assert_eq!(waiting.request(unplanned), Ok(waiting), "the same again");
    let other = Sequence::new(8);
    let second = waiting.request(ReplicaRequest::UnplannedFailover { point: other });
    assert!(second.is_err(), "one failover at a time");
    let cancelled = waiting.request(ReplicaRequest::Cancel).unwrap();
    assert!(cancelled.admits_primary().is_ok());
    let committed = waiting.request(ReplicaRequest::Commit).unwrap();
    assert_eq!(committed, Role::FailedOver { point: POINT });
    assert!(committed.admits_primary().is_err());
    assert!(committed.request(ReplicaRequest::Cancel).is_err());
}

#[test]
fn a_primary_that_reported_within_two_intervals_is_not_taken_for_lost() {
    let at = |secs: u64| Timestamp::from_nanos(secs * 1_000_000_000);
    let mut state = ReplicaState {
        primary: Some(PrimaryReport {
            state: State::Replicating,
            health: Health::Normal,
            pending: Length::ZERO,
            interval_secs: 30,
            time: at(100),
            statistics: None,
            positions: None,
            idle_secs: None,
            rpo: None,
        }),
        ..ReplicaState::default()
    };
    let refused = state.presume_lost(at(160)).unwrap_err().to_string();
    assert!(refused.contains("60 s ago"), "{refused}");
    assert!(refused.contains("force"), "{refused}");
    assert!(state.presume_lost(at(99)).is_err(), "its clock is ahead");
    assert!(state.presume_lost(at(161)).is_ok());
    state.role = Role::PreparedForFailover { through: POINT };
    assert!(state.presume_lost(at(100)).is_ok(), "it is stopped");
}

#[test]
fn only_the_failover_that_is_named_is_completed() {
    let (own, other) = (Epoch::new(4), Epoch::new(6));
    let mut state = ReplicaState {
        role: Role::FailedOverWaitingCompletion {
            kind: FailoverKind::Unplanned,
            point: POINT,
        },
        ..ReplicaState::default()
    };
    assert!(state.is_in(own, own).is_ok());
    let refused = state.is_in(own, other).unwrap_err().to_string();
    assert!(
        refused.contains("epoch 6, not by that of epoch 4"),
        "{refused}"
    );
    assert!(!state.is_committed(own, own));
    state.role = state.role.request(ReplicaRequest::Commit).unwrap();
    assert!(state.is_committed(own, Epoch::new(5)));
    assert!(!state.is_committed(other, Epoch::new(5)));
}

#[test]
fn nothing_waits_for_completion_before_a_failover() {
    assert!(Role::Replica.request(ReplicaRequest::Commit).is_err());
    assert!(Role::Replica.request(ReplicaRequest::Cancel).is_err());
}

#[test]
fn a_refused_request_names_what_is_allowed_and_changes_nothing() {
    let mut machine = Machine::new(Policy::default(), vec![Length::mib(1)]);
    let refused = machine.request(Request::Resync, Time::ZERO).unwrap_err();
    assert_eq!(refused.state, State::Disabled);
    assert_eq!(refused.allowed, [Request::Enable, Request::Stop]);
    assert_eq!(refused.failed, [Condition::Replicating]);
    let said = refused.to_string();
    assert!(said.contains("the first copy is done"), "{said}");
    assert_eq!(machine.state(), State::Disabled);
}

#[test]
fn a_former_primary_is_shut_out_until_it_follows_with_the_token_of_its_epoch() {
    let (old, committed) = (Epoch::new(1), Epoch::new(3));
    let mut replica = ReplicaState {
        role: Role::FailedOver { point: POINT },
        primary: None,
        lineage: old,
    };
    assert!(replica.reverse(Epoch::new(2), committed, POINT).is_err());
    let grant = replica.reverse(committed, committed, POINT).unwrap();
    assert_eq!(replica.reverse(committed, committed, POINT), Ok(grant));
    assert!(replica.admits(grant.lineage).is_ok());
    assert!(replica.admits(old).is_err());

    let follow = |token| Standby::follow(&replica, old, token);
    let refused = follow(None).unwrap_err().to_string();
    assert!(refused.contains("discard-epoch-1"), "{refused}");
    let other: DivergenceToken = "discard-epoch-2".parse().unwrap();
    assert!(follow(Some(other)).is_err());
    assert!(follow(Some("discard-epoch-1".parse().unwrap())).is_ok());
    assert!("discard-epoch-".parse::<DivergenceToken>().is_err());
    assert!(Standby::follow(&replica, grant.lineage, None).is_err());
}

#[test]
fn a_reversed_machine_compares_its_disks_and_goes_on() {
    use afterimage_replication::{Action, Event, Grant, Position, Scope};
    let grant = Grant {
        lineage: Epoch::new(3),
        last: POINT,
    };
    let machine = Machine::reversed(
        Policy::default(),
        vec![Length::mib(1)],
        grant,
        vec![Scope::Everything],
    );
    let (mut machine, actions) = machine.restart(None, Time::ZERO);
    assert_eq!(actions, [Action::Claim]);
    let claimed = Event::Claimed {
        epoch: Epoch::new(4),
        position: Position::At(POINT),
    };
    let actions = machine.handle(claimed, Time::ZERO);
    let [Action::Barrier(barrier)] = &actions[..] else {
        panic!("{actions:?}");
    };
    assert_eq!(barrier.ends, POINT.next());
    assert_eq!(
        barrier.next,
        barrier.ends.next().next(),
        "differences go between"
    );
    assert_eq!(machine.state(), State::WaitingForStartResynchronize);
}
