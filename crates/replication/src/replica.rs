//! The replica's side: what it is to its machine, and what its operator may ask of it.

use afterimage_block::{Epoch, Sequence, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{Liveness, PrimaryReport, Rpo};

/// What a replica is at present. Kept in the replica's manifest and changed only by its
/// compare-and-swap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Role {
    /// It follows a primary; a base may still be missing.
    #[default]
    Replica,
    /// It has the primary's last delta, up to this barrier, and the primary is stopped.
    PreparedForFailover {
        /// The last barrier.
        through: Sequence,
    },
    /// It is failed over to a recovery point, which may still be committed or cancelled.
    FailedOverWaitingCompletion {
        /// How.
        kind: FailoverKind,
        /// The recovery point.
        point: Sequence,
    },
    /// It is failed over for good. The former primary is fenced off until it has been resynchronized
    /// as a replica.
    FailedOver {
        /// The recovery point.
        point: Sequence,
    },
    /// After that, it follows the machine that was failed over, which has not claimed it yet.
    Reversed {
        /// The recovery point of the failover.
        point: Sequence,
    },
    /// It was made of another copy of the machine's disks, and follows the machine itself, which has not
    /// claimed it yet.
    Adopted {
        /// The newest recovery point of that copy.
        point: Sequence,
    },
}

/// How a replica is failed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FailoverKind {
    /// The primary is stopped and its last delta is here: nothing is lost.
    Planned,
    /// The primary is lost: what came after the recovery point is lost with it.
    Unplanned,
}

/// What the primary last told its replica of itself, and what the replica is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaState {
    /// What the replica is.
    pub role: Role,
    /// The primary's own words; `None` before the first.
    pub primary: Option<PrimaryReport>,
    /// The newest epoch in which something was published, or in which the direction was reversed. Who
    /// does not know of it holds another history.
    #[serde(default)]
    pub lineage: Epoch,
}

impl ReplicaState {
    /// Whether the primary is alive at `now`, as far as can be told from here.
    pub fn liveness(&self, now: Timestamp) -> Liveness {
        match (self.role, &self.primary) {
            (Role::Replica, Some(primary)) => primary.liveness(now),
            (Role::Replica | Role::Reversed { .. } | Role::Adopted { .. }, _) => Liveness::Unknown,
            _ => Liveness::Stopped,
        }
    }

    /// Whether the primary may be taken for lost at `now`, so that an unplanned failover fences nobody off
    /// who is alive.
    ///
    /// # Errors
    /// [`NotAllowed`] where it may be alive.
    pub fn presume_lost(&self, now: Timestamp) -> Result<(), NotAllowed> {
        let (Some(primary), Liveness::Alive { .. } | Liveness::Idle { .. }) =
            (&self.primary, self.liveness(now))
        else {
            return Ok(());
        };
        let silence = now.since(primary.time).as_secs();
        let limit = primary.silence_max().as_secs();
        let idle = if primary.idle_secs.is_some() {
            " that it publishes nothing now"
        } else {
            ""
        };
        Err(NotAllowed::new(
            format!(
                "the primary reported {silence} s ago{idle} and may be alive: it is taken for lost after \
                 {limit} s of silence"
            ),
            "stop it and make a planned failover, wait until it is silent, or force the failover, which \
             fences it off",
        ))
    }

    /// What a failover to the recovery point `point`, whose barrier was at `time`, loses, or lost where the
    /// replica is in it.
    pub fn rpo(&self, point: Sequence, time: Timestamp) -> Rpo {
        let last_delta = match self.role {
            Role::PreparedForFailover { through } => Some(through),
            Role::FailedOverWaitingCompletion {
                kind: FailoverKind::Planned,
                point,
            } => Some(point),
            _ => None,
        };
        match &self.primary {
            _ if last_delta == Some(point) => Rpo::Nothing,
            Some(primary) => primary.rpo(point, time),
            None => Rpo::Unknown,
        }
    }

    /// Whether the replica is in the failover that began epoch `failover`, or in none; `epoch` is its present
    /// one. Two operators who fail a machine over do not complete each other's failover.
    ///
    /// # Errors
    /// [`NotAllowed`] where it is in another one.
    pub fn is_in(&self, failover: Epoch, epoch: Epoch) -> Result<(), NotAllowed> {
        match self.role {
            Role::FailedOverWaitingCompletion { point, .. } if failover != epoch => {
                Err(NotAllowed::new(
                    format!(
                        "the replica is failed over to recovery point {point} by the failover of epoch \
                         {epoch}, not by that of epoch {failover}"
                    ),
                    "look at that failover; to commit or cancel it, name its epoch",
                ))
            }
            _ => Ok(()),
        }
    }

    /// Whether the failover that began epoch `failover` is committed, and nothing has come since; `epoch` is the
    /// present one. So a commit whose answer was lost is asked for again.
    pub fn is_committed(&self, failover: Epoch, epoch: Epoch) -> bool {
        let committed = matches!(self.role, Role::FailedOver { .. } | Role::Reversed { .. });
        committed && failover.checked_next() == Some(epoch)
    }
}

/// What a replica's operator can ask of it. A test failover asks nothing: it reads a recovery point
/// and changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReplicaRequest {
    /// Fail over to the last delta of a stopped primary.
    PlannedFailover {
        /// The recovery point; must be the primary's last barrier.
        point: Sequence,
    },
    /// Fail over to a recovery point without the primary, which is fenced off.
    UnplannedFailover {
        /// The recovery point.
        point: Sequence,
    },
    /// Make the failover final.
    Commit,
    /// Take the failover back: the replica follows its primary again.
    Cancel,
}

/// A request that the replica's role does not admit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}; {advice}")]
pub struct NotAllowed {
    /// What stands against it.
    pub reason: String,
    /// What can be done instead.
    pub advice: &'static str,
}

impl NotAllowed {
    pub(crate) fn new(reason: impl Into<String>, advice: &'static str) -> Self {
        Self {
            reason: reason.into(),
            advice,
        }
    }
}

impl Role {
    /// The role after `request`.
    ///
    /// # Errors
    /// [`NotAllowed`] names the failed condition and what can be done instead.
    pub fn request(self, request: ReplicaRequest) -> Result<Self, NotAllowed> {
        match (self, request) {
            (Self::PreparedForFailover { through }, ReplicaRequest::PlannedFailover { point })
                if through == point =>
            {
                Ok(Self::waiting(FailoverKind::Planned, point))
            }
            (Self::PreparedForFailover { through }, ReplicaRequest::PlannedFailover { .. }) => {
                Err(NotAllowed::new(
                    format!("a planned failover goes to the last delta, recovery point {through}"),
                    "leave the point out, or make an unplanned failover to an older one",
                ))
            }
            (
                Self::Replica | Self::Reversed { .. } | Self::Adopted { .. },
                ReplicaRequest::PlannedFailover { .. },
            ) => Err(NotAllowed::new(
                "the primary has not been stopped with its last delta shipped",
                "stop the primary first, or make an unplanned failover",
            )),
            (
                Self::Replica
                | Self::PreparedForFailover { .. }
                | Self::Reversed { .. }
                | Self::Adopted { .. },
                ReplicaRequest::UnplannedFailover { point },
            ) => Ok(Self::waiting(FailoverKind::Unplanned, point)),
            // The same again: the first attempt may have been cut short.
            (
                Self::FailedOverWaitingCompletion {
                    kind: FailoverKind::Planned,
                    point,
                },
                ReplicaRequest::PlannedFailover { point: again },
            )
            | (
                Self::FailedOverWaitingCompletion {
                    kind: FailoverKind::Unplanned,
                    point,
                },
                ReplicaRequest::UnplannedFailover { point: again },
            ) if point == again => Ok(self),
            (
                Self::FailedOverWaitingCompletion { point, .. },
                ReplicaRequest::PlannedFailover { .. } | ReplicaRequest::UnplannedFailover { .. },
            ) => Err(NotAllowed::new(
                format!("it is already failed over to recovery point {point}"),
                "commit that failover, or cancel it first",
            )),
            (Self::FailedOverWaitingCompletion { point, .. }, ReplicaRequest::Commit) => {
                Ok(Self::FailedOver { point })
            }
            (Self::FailedOverWaitingCompletion { .. }, ReplicaRequest::Cancel) => Ok(Self::Replica),
            (Self::FailedOver { point }, _) => Err(NotAllowed::new(
                format!("its failover to recovery point {point} is committed"),
                "protect the failed-over machine under a new name",
            )),
            (_, ReplicaRequest::Commit | ReplicaRequest::Cancel) => Err(NotAllowed::new(
                "no failover waits for completion",
                "start one first",
            )),
        }
    }

    const fn waiting(kind: FailoverKind, point: Sequence) -> Self {
        Self::FailedOverWaitingCompletion { kind, point }
    }

    /// Whether a primary may ship to it.
    ///
    /// # Errors
    /// [`NotAllowed`] while it is failed over.
    pub fn admits_primary(self) -> Result<(), NotAllowed> {
        match self {
            Self::Replica
            | Self::PreparedForFailover { .. }
            | Self::Reversed { .. }
            | Self::Adopted { .. } => Ok(()),
            Self::FailedOverWaitingCompletion { point, .. } => Err(NotAllowed::new(
                format!("the replica is failed over to recovery point {point}"),
                "cancel the failover to go on replicating",
            )),
            Self::FailedOver { point } => Err(NotAllowed::new(
                format!("the replica is failed over to recovery point {point} for good"),
                "this machine is no longer the primary: protect the failed-over one instead",
            )),
        }
    }
}
