//! What happens to a machine: requests of its owner and results of its actions.

use std::fmt;
use std::time::Duration;

use afterimage_block::{Epoch, Length, Sequence, Timestamp};
use afterimage_retry::Class;
use serde::{Deserialize, Serialize};

use crate::Scope;

/// What the owner of a machine can ask of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Request {
    /// Enable protection: claim the replica, then copy the disks, or compare them with it where it
    /// holds the machine from when it was protected before.
    Enable,
    /// Remove replication: nothing is sent or tracked any more, and what runs is given up, also the
    /// first copy. The replica keeps its recovery points.
    Disable,
    /// Send nothing until [`Request::Resume`]; writes are tracked meanwhile.
    Suspend,
    /// Go on after [`Request::Suspend`], or try again after the error that made it Critical.
    Resume,
    /// Compare everything with the replica; or start a resynchronization that waits for approval.
    Resync,
    /// Make a barrier soon at which disks can change: a driver that is to enlarge one does so at it, and
    /// tells by [`Event::Enlarged`].
    ChangeDisks,
    /// Give up the resynchronization that runs or waits. What is in doubt stays so, recovery points
    /// stay, and it starts again only by [`Request::Resync`].
    CancelResync,
    /// The machine is stopped and takes no more writes: ship the last delta and prepare the replica
    /// for a planned failover.
    Stop,
}

/// One of the actions that take time and can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Task {
    /// [`Action::Claim`](crate::Action::Claim)
    Claim,
    /// [`Action::Barrier`](crate::Action::Barrier)
    Barrier,
    /// [`Action::Copy`](crate::Action::Copy)
    Copy,
    /// [`Action::Ship`](crate::Action::Ship)
    Ship,
    /// [`Action::Resync`](crate::Action::Resync)
    Resync,
    /// [`Action::Prepare`](crate::Action::Prepare)
    Prepare,
    /// [`Action::Heartbeat`](crate::Action::Heartbeat)
    Heartbeat,
    /// [`Action::Quiesce`](crate::Action::Quiesce)
    Quiesce,
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Claim => "claim the replica",
            Self::Barrier => "rotate the logs",
            Self::Copy => "initial replication",
            Self::Ship => "ship a delta",
            Self::Resync => "resynchronize",
            Self::Prepare => "prepare for failover",
            Self::Heartbeat => "tell the replica that the machine is alive",
            Self::Quiesce => "quiesce the guest",
        })
    }
}

/// Why a task failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Whether another attempt can help.
    pub class: Class,
    /// The pause that the other side asked for.
    pub retry_after: Option<Duration>,
    /// What a person needs to know, and to do.
    pub message: String,
}

/// How far the replica is when it is claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Position {
    /// It holds no base: initial replication has not finished.
    Empty,
    /// It holds every disk at this barrier.
    At(Sequence),
}

/// What became of one disk's log of the generation that a barrier ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It is sealed and durable at the primary, this long.
    Sealed(Length),
    /// It does not hold every write: what it may lack.
    Lost(Scope),
}

/// What goes on being kept of writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Tracking {
    /// Their after-images, in change logs.
    Logging,
    /// Only their regions.
    MapOnly,
}

/// A barrier was reached: the old generation is durable, the new one takes the writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BarrierReached {
    /// When, by the wall clock: the time of the recovery point.
    pub time: Timestamp,
    /// What became of each disk's log, in the machine's order of disks.
    pub disks: Vec<Ended>,
    /// What the dropped logs held, for each disk; nothing where none were dropped.
    pub dropped: Vec<Scope>,
    /// What the new generation keeps; map only where logging was asked for and could not be had.
    pub tracking: Tracking,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The replica is ours.
    Claimed {
        /// The epoch in which we ship.
        epoch: Epoch,
        /// How far the replica is.
        position: Position,
    },
    /// A disk was made larger at the barrier that is under way, whose answer follows.
    Enlarged {
        /// The disk's index in the machine's order.
        disk: usize,
        /// Its size from then on.
        size: Length,
        /// What of its new part nothing proves to be zeros.
        unproven: Scope,
    },
    /// A barrier was reached.
    BarrierReached(BarrierReached),
    /// Nothing was written since the last barrier, so none was made: the last recovery point still
    /// shows the present.
    Quiet,
    /// The guest holds still.
    Quiesced,
    /// Every disk is copied and the base is published.
    Copied,
    /// The delta in transit is durable at the replica and published.
    Shipped,
    /// What was in doubt is compared, all of it or a first part, and what differed is durable at the
    /// replica and published.
    Resynchronized {
        /// What is still in doubt, for each disk, because the log of differences had no room for more:
        /// another pass goes on with it.
        left: Vec<Scope>,
    },
    /// The replica knows that the last delta is there.
    Prepared,
    /// The replica knows that the machine is idle, and alive.
    Heard,
    /// The open logs have grown to these lengths, one for each disk.
    LogsGrew(Vec<Length>),
    /// The log of the oldest unshipped generation turned out to be unreadable for the disk with this
    /// index in the machine's order. It answers [`Action::Ship`](crate::Action::Ship).
    LogUnreadable {
        /// The disk's index.
        disk: usize,
    },
    /// An open log nears one of its limits, so that a barrier should come soon.
    LogNearlyFull,
    /// The disk with this index in the machine's order was changed while nothing tracked it.
    ChangedUntracked {
        /// The disk's index.
        disk: usize,
    },
    /// The replica was found damaged: what it lacks of each disk. While anything else is in doubt it is
    /// ignored, and to be told again with the next delta for as long as it lacks it.
    ReplicaDamaged {
        /// For each disk, in the machine's order.
        lacks: Vec<Scope>,
    },
    /// A transfer moves: something of it was done since the last time.
    Progressed {
        /// Which.
        task: Task,
    },
    /// A transfer was given up, as [`Action::Abort`](crate::Action::Abort) asked.
    Aborted {
        /// Which.
        task: Task,
    },
    /// A task failed.
    Failed {
        /// Which.
        task: Task,
        /// Why.
        failure: Failure,
    },
}

impl Event {
    /// The transfer that it answers with success.
    pub(crate) const fn answers(&self) -> Option<Task> {
        match self {
            Self::Claimed { .. } => Some(Task::Claim),
            Self::Copied => Some(Task::Copy),
            Self::Shipped | Self::LogUnreadable { .. } => Some(Task::Ship),
            Self::Resynchronized { .. } => Some(Task::Resync),
            Self::Prepared => Some(Task::Prepare),
            Self::Heard => Some(Task::Heartbeat),
            _ => None,
        }
    }
}
