//! What a machine shows of itself.

use afterimage_block::{Epoch, Length, Sequence};

use crate::event::{Failure, Task, Tracking};
use crate::machine::{Copying, Hold, Machine, Phase};
use crate::{Health, Policy, Scope, State};

impl Machine {
    /// The state under the name that users know.
    pub fn state(&self) -> State {
        match (&self.hold, &self.phase) {
            (Some(Hold::Critical { .. }), _) => State::Critical,
            (Some(Hold::Suspended), Phase::Resyncing { .. }) => State::ResynchronizeSuspended,
            (Some(Hold::Suspended), _) => State::Suspended,
            (None, Phase::Disabled) => State::Disabled,
            (None, Phase::Enabling) => State::ReadyForInitialReplication,
            (None, Phase::Copying(Copying { snapshot: None, .. })) => {
                State::WaitingForInitialReplication
            }
            (None, Phase::Copying(_)) => State::InitialReplicationInProgress,
            (None, Phase::Delta) => State::Replicating,
            (None, Phase::ResyncRequired { .. }) => State::WaitingForStartResynchronize,
            (None, Phase::Resyncing { .. }) => State::Resynchronizing,
            (None, Phase::Prepared) => State::PreparedForFailover,
        }
    }

    /// How well the machine is protected: Critical when nothing is sent until somebody acts or a
    /// resynchronization is required; Warning while initial replication, a resynchronization or a
    /// retry is under way, the machine is suspended, or recovery points are late.
    pub fn health(&self) -> Health {
        match (&self.hold, &self.phase) {
            (_, Phase::Disabled) => Health::NotApplicable,
            (Some(Hold::Critical { .. }), _) | (_, Phase::ResyncRequired { .. }) => {
                Health::Critical
            }
            (Some(Hold::Suspended), _)
            | (_, Phase::Enabling | Phase::Copying(_) | Phase::Resyncing { .. }) => Health::Warning,
            (None, _) if self.retry.is_some() || self.late => Health::Warning,
            (None, Phase::Delta | Phase::Prepared) => Health::Normal,
        }
    }

    /// Why it is Critical, and doing what it became so.
    pub fn problem(&self) -> Option<(Task, &Failure)> {
        match &self.hold {
            Some(Hold::Critical { task, failure }) => Some((*task, failure)),
            _ => None,
        }
    }

    /// Whether a base exists or is being copied, so that every write since counts.
    pub fn has_base(&self) -> bool {
        match &self.phase {
            Phase::Disabled | Phase::Enabling => false,
            Phase::Copying(copying) => copying.base.is_some(),
            _ => true,
        }
    }

    /// The epoch of the last claim.
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The generation that takes the writes.
    pub const fn open(&self) -> Sequence {
        self.open
    }

    /// What is kept of writes.
    pub const fn tracking(&self) -> Tracking {
        self.tracking
    }

    /// The newest generation that the replica has acknowledged as durable.
    pub const fn durable(&self) -> Option<Sequence> {
        self.durable
    }

    /// The sealed generations that are still to be shipped, oldest first.
    pub fn unshipped(&self) -> impl Iterator<Item = Sequence> {
        self.queue.iter().map(|sealed| sealed.sequence)
    }

    /// The bytes of sealed logs of generations after `sequence` that are still to be shipped.
    pub fn unshipped_bytes_after(&self, sequence: Sequence) -> Length {
        let queue = self.queue.iter();
        let later = queue.filter(|sealed| sealed.sequence > sequence);
        let lengths = later.flat_map(|sealed| &sealed.lengths);
        lengths.fold(Length::ZERO, |sum, length| sum.saturating_add(*length))
    }

    /// What may differ from the replica apart from unshipped logs, for each disk, whether it is being
    /// compared already or not.
    pub fn doubt(&self) -> Vec<Scope> {
        let mut doubt = self.doubt.clone();
        if let Phase::Resyncing { scopes, .. } = &self.phase {
            for (doubt, compared) in doubt.iter_mut().zip(scopes) {
                doubt.merge(compared);
            }
        }
        doubt
    }

    /// The policy.
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }
}
