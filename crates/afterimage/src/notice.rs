//! What a protected machine tells its owner while it runs.

use afterimage_block::{Length, Sequence, Timestamp};
use afterimage_replication::{Health, ResyncReason, State, Task};
use serde::{Deserialize, Serialize};

use afterimage_replication::Job;

/// Something that the owner of a machine may want to know, in the order in which it happened.
/// Serialized with its kind in the field `event`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Notice {
    /// A disk was made larger, and that is recorded.
    Grown {
        /// Its number in the machine's order.
        disk: usize,
        /// Its size now.
        size: Length,
    },
    /// The exports accept clients.
    Ready {
        /// The URI of each export, in the order of the disks.
        exports: Vec<String>,
    },
    /// After an unclean end, this much was read from the disks again, and no more.
    Recovered {
        /// Bytes of the regions that were marked as written.
        bytes: Length,
    },
    /// The machine's state or health changed.
    State {
        /// The state.
        state: State,
        /// The health.
        health: Health,
        /// Why, where it is Critical.
        problem: Option<String>,
    },
    /// A job started, moved on or ended.
    Job(Job),
    /// The replica has a new recovery point.
    RecoveryPoint {
        /// Its barrier.
        sequence: Sequence,
        /// When the barrier was.
        time: Timestamp,
        /// Bytes of logs or base that were sent for it.
        sent: Length,
    },
    /// A resynchronization is required.
    ResyncRequired {
        /// Why.
        reason: ResyncReason,
    },
    /// An application-consistent point was due, and will be a crash-consistent one.
    CrashConsistentOnly {
        /// Why.
        error: String,
    },
    /// The newest recovery point is older than the policy's limit.
    RecoveryPointsLate {
        /// How old, in seconds.
        rpo_secs: u64,
    },
    /// Recovery points are no longer late.
    RecoveryPointsOnTime,
    /// A transfer does not move.
    Stalled {
        /// Which.
        task: Task,
        /// For how long, in seconds of the machine's clock.
        idle_secs: u64,
    },
    /// A transfer that had stalled moves again.
    MovesAgain {
        /// Which.
        task: Task,
    },
    /// A resynchronization is done.
    Resync {
        /// Why it was required.
        reason: ResyncReason,
        /// Bytes whose digests were compared.
        compared: Length,
        /// Bytes that differed and were sent.
        sent: Length,
    },
    /// A task failed and will be tried again.
    Retry {
        /// Which.
        task: Task,
        /// The number of the attempt to come.
        attempt: u32,
        /// How long until then, in seconds of the machine's clock.
        in_secs: u64,
        /// Why it failed.
        error: String,
    },
    /// A task failed for good.
    GaveUp {
        /// Which.
        task: Task,
        /// Why.
        error: String,
    },
    /// The machine is stopped.
    Stopped {
        /// Whether the replica holds every write.
        complete: bool,
    },
}
