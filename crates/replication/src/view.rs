//! What a machine shows of itself.

use afterimage_block::{Epoch, Length, Sequence};
use serde::{Deserialize, Serialize};

use crate::event::{Failure, Task, Tracking};
use crate::machine::{Copying, Hold, Machine, Phase};
use crate::{Health, Policy, Scope, State};

/// How far a machine's writes have come, as proven positions: generations rather than times.
///
/// A replica applies a generation in the same publication that makes it durable, so that what is
/// applied is what is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Positions {
    /// The generation that takes the writes.
    pub appended: Sequence,
    /// The newest generation that is sealed, or shipped already.
    pub sealed: Option<Sequence>,
    /// The newest generation that the replica has acknowledged as durable, and applied.
    pub durable: Option<Sequence>,
    /// The newest recovery point that the replica has acknowledged, with all disks.
    pub recoverable: Option<Sequence>,
}

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
            (None, Phase::Delta | Phase::Preparing) => State::Replicating,
            (None, Phase::ResyncRequired { .. }) => State::WaitingForStartResynchronize,
            (None, Phase::Resyncing { .. }) => State::Resynchronizing,
            (None, Phase::Prepared) => State::PreparedForFailover,
        }
    }

    /// How well the machine is protected: Critical when nothing is sent until somebody acts or a
    /// resynchronization is required; Warning while initial replication, a resynchronization or a
    /// retry is under way, the machine is suspended, a transfer does not move, recovery points
    /// are late, the last cycle that
    /// succeeded is more than an hour ago, more than 20 % of the cycles of the monitoring window were
    /// missed, or their mean latency was over 5 min.
    pub fn health(&self) -> Health {
        match (&self.hold, &self.phase) {
            (_, Phase::Disabled) => Health::NotApplicable,
            (Some(Hold::Critical { .. }), _) | (_, Phase::ResyncRequired { .. }) => {
                Health::Critical
            }
            (Some(Hold::Suspended), _)
            | (_, Phase::Enabling | Phase::Copying(_) | Phase::Resyncing { .. }) => Health::Warning,
            (None, Phase::Prepared) => Health::Normal,
            (None, _) if self.retry.is_some() || self.late || self.alarms.ill_served => {
                Health::Warning
            }
            (None, _) if self.alarms.stalled => Health::Warning,
            (None, Phase::Delta | Phase::Preparing) => Health::Normal,
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

    /// Whether nothing may be written to the disks yet. The machine was stopped, so its replica may be
    /// prepared for a planned failover, which loses nothing as long as this side writes nothing: the
    /// claim of the replica takes that back, and comes first.
    pub const fn must_claim_first(&self) -> bool {
        matches!(self.phase, Phase::Preparing | Phase::Prepared)
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

    /// How far the machine's writes have come.
    pub fn positions(&self) -> Positions {
        let newest = self.queue.back().map(|sealed| sealed.sequence);
        Positions {
            appended: self.open,
            sealed: newest.max(self.durable),
            durable: self.durable,
            recoverable: self.point,
        }
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
