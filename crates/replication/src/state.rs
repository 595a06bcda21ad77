//! The names of a machine's states, as users of Hyper-V Replica and Site Recovery know them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The state of a protected machine as its users name it. Derived: [`Machine`](crate::Machine)
/// holds what it is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum State {
    /// Not protected.
    Disabled,
    /// Protection is being enabled: the replica is being claimed and the prerequisites checked.
    ReadyForInitialReplication,
    /// The replica is claimed; the barrier at which the disks are copied is still to come.
    WaitingForInitialReplication,
    /// The disks are being copied, one by one; writes go to the logs meanwhile.
    InitialReplicationInProgress,
    /// Logs are rotated at the interval and shipped.
    Replicating,
    /// A resynchronization is required and has not started.
    WaitingForStartResynchronize,
    /// What may differ is being compared and sent.
    Resynchronizing,
    /// A resynchronization was suspended in the middle.
    ResynchronizeSuspended,
    /// Suspended by request: writes are tracked and nothing is sent.
    Suspended,
    /// The last delta is at the replica and the machine is stopped.
    PreparedForFailover,
    /// The replica is failed over; the failover may still be committed or cancelled.
    FailedOverWaitingCompletion,
    /// The replica is failed over for good.
    FailedOver,
    /// An error that does not pass by itself: writes are tracked, nothing is sent, and a person must
    /// act.
    Critical,
}

impl State {
    /// All of them, in the order of a machine's life.
    pub const ALL: [Self; 13] = [
        Self::Disabled,
        Self::ReadyForInitialReplication,
        Self::WaitingForInitialReplication,
        Self::InitialReplicationInProgress,
        Self::Replicating,
        Self::WaitingForStartResynchronize,
        Self::Resynchronizing,
        Self::ResynchronizeSuspended,
        Self::Suspended,
        Self::Critical,
        Self::PreparedForFailover,
        Self::FailedOverWaitingCompletion,
        Self::FailedOver,
    ];

    /// Whether a primary can be in it; the others are a replica's.
    pub const fn is_primary(self) -> bool {
        !matches!(self, Self::FailedOverWaitingCompletion | Self::FailedOver)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// How well the machine is protected at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Health {
    /// Not protected, so there is nothing to judge.
    NotApplicable,
    /// Recovery points appear as the policy asks.
    Normal,
    /// Recovery points are late or missing for a known and passing reason.
    Warning,
    /// No recovery points appear until somebody or something acts.
    Critical,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Why a resynchronization is required.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ResyncReason {
    /// The unshipped logs outgrew the policy's share of a disk.
    LogOverflow,
    /// A write could not be logged, so that only its region is known.
    LogLost,
    /// The disk was changed while nothing tracked it.
    ChangedUntracked,
    /// The replica holds an older state than it once acknowledged.
    ReplicaBehind,
    /// Somebody asked for it.
    Requested,
    /// The replica holds the machine from when it was protected before, or was made of another copy of its
    /// disks.
    ExistingCopy,
    /// The direction was reversed: what the machine wrote since its failover is not at the replica.
    Reversed,
    /// A disk became larger, and nothing proves what its new part holds.
    Enlarged,
    /// The replica was found damaged, and what it lost is sent anew.
    ReplicaDamaged,
}

impl fmt::Display for ResyncReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LogOverflow => "the logs outgrew their share of the disk",
            Self::LogLost => "a write could not be logged",
            Self::ChangedUntracked => "the disk was changed while nothing tracked it",
            Self::ReplicaBehind => "the replica holds an older state than it once acknowledged",
            Self::Requested => "requested",
            Self::ExistingCopy => "the replica holds a copy from before",
            Self::Reversed => "the direction of replication was reversed",
            Self::Enlarged => "a disk became larger, and its new part is not known",
            Self::ReplicaDamaged => "the replica was found damaged",
        })
    }
}
