//! Machines that earlier releases stored are read, and go on.

use afterimage_replication::{Action, Machine, State};
use afterimage_retry::Time;

/// One in each state, as the first release stored them.
const FIRST: &str = include_str!("golden/machines-1.jsonl");

#[test]
fn machines_of_the_first_release_go_on() {
    let mut states = Vec::new();
    for line in FIRST.lines() {
        let machine: Machine = serde_json::from_str(line).unwrap();
        states.push(machine.state());
        assert_eq!(machine.rpo(Time::ZERO), stopped(&machine));
        let stored = serde_json::to_string(&machine).unwrap();
        let again: Machine = serde_json::from_str(&stored).unwrap();
        assert_eq!(again.state(), machine.state());
        let suspended = matches!(
            machine.state(),
            State::Suspended | State::ResynchronizeSuspended
        );
        let (_, actions) = again.restart(None, Time::ZERO);
        assert_eq!(actions.contains(&Action::Claim), !suspended, "{line}");
    }
    states.sort_by_key(ToString::to_string);
    let all = [
        State::Critical,
        State::InitialReplicationInProgress,
        State::PreparedForFailover,
        State::ReadyForInitialReplication,
        State::Replicating,
        State::ResynchronizeSuspended,
        State::Resynchronizing,
        State::Suspended,
        State::WaitingForInitialReplication,
        State::WaitingForStartResynchronize,
    ];
    assert_eq!(states, all);
}

/// Nothing is lost with a machine that is stopped; what else is, the first release did not keep.
fn stopped(machine: &Machine) -> Option<std::time::Duration> {
    (machine.state() == State::PreparedForFailover).then_some(std::time::Duration::ZERO)
}
