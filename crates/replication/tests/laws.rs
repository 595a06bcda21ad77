//! Laws of roles and refusals.

use afterimage_block::{Length, Sequence};
use afterimage_replication::{FailoverKind, Machine, Policy, ReplicaRequest, Request, Role, State};
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
    assert_eq!(machine.state(), State::Disabled);
}
