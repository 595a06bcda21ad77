//! What a machine asks its driver to do.

use std::time::Duration;

use afterimage_block::{Length, Sequence, Timestamp};
use afterimage_retry::Time;

use crate::{Failure, ResyncReason, Scope, Task, Tracking};

/// What the driver is to do. The machine's state is to be made durable *before* its actions are
/// carried out; each of them may be carried out again after a crash.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Check the prerequisites and claim the replica. Answered by
    /// [`Event::Claimed`](crate::Event::Claimed).
    Claim,
    /// Rotate the logs of all disks at one barrier. Answered by
    /// [`Event::BarrierReached`](crate::Event::BarrierReached) or
    /// [`Event::Quiet`](crate::Event::Quiet).
    Barrier(Barrier),
    /// Have the guest's applications write what they hold in memory, and hold still. Answered by
    /// [`Event::Quiesced`](crate::Event::Quiesced). A late answer is answered with
    /// [`Action::Thaw`]. This and [`Action::Thaw`] are to be carried out in the order in which they
    /// are asked for.
    Quiesce {
        /// How long that may take, and the barrier with it; then the guest is let go on.
        within: Duration,
    },
    /// Let the guest go on, whether or not it was told to hold still.
    Thaw,
    /// Copy what the base still lacks from the snapshot and publish it. Answered by
    /// [`Event::Copied`](crate::Event::Copied).
    Copy {
        /// The barrier after whose log the deltas go on.
        base: Sequence,
        /// When the snapshot was taken, if the base is a recovery point by itself.
        point: Option<Timestamp>,
    },
    /// Ship the logs of one generation and publish them. Answered by
    /// [`Event::Shipped`](crate::Event::Shipped).
    Ship(Shipment),
    /// Compare the disks with the replica within the scopes and publish what differs as the log of
    /// `sequence`. Answered by [`Event::Resynchronized`](crate::Event::Resynchronized).
    Resync {
        /// The sequence number kept free for the differences.
        sequence: Sequence,
        /// What to compare, for each disk.
        scopes: Vec<Scope>,
        /// Why.
        reason: ResyncReason,
        /// The size of each disk at that generation's barrier.
        sizes: Vec<Length>,
    },
    /// Record at the replica that the last delta is there and the machine stopped. Answered by
    /// [`Event::Prepared`](crate::Event::Prepared).
    Prepare,
    /// Record at the replica that the machine is idle, and look at what became of the replica. Answered by
    /// [`Event::Heard`](crate::Event::Heard).
    Heartbeat,
    /// Give up this transfer, which is under way. It is answered once: by
    /// [`Event::Aborted`](crate::Event::Aborted), or as it would have been if it ended before.
    Abort(Task),
    /// Tell the replica, if it can be reached, that its primary no longer replicates. Not answered.
    Release,
    /// Delete the primary's logs of these generations.
    Discard(Vec<Sequence>),
    /// Drop the snapshot of initial replication.
    ReleaseSnapshot,
    /// Tell the owner.
    Report(Report),
    /// All is done that [`Request::Stop`](crate::Request::Stop) asked for.
    Stopped {
        /// Whether the replica holds every write.
        complete: bool,
    },
}

/// A barrier to be made: no write is in flight while it lasts, so every acknowledged write is in a
/// generation up to `ends` and every later one in `next`.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each says what is to be done besides"
)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Barrier {
    /// The generation that it ends.
    pub ends: Sequence,
    /// The generation that it begins.
    pub next: Sequence,
    /// What the new generation is to keep.
    pub tracking: Tracking,
    /// Whether a snapshot of every disk is to be taken at it.
    pub snapshot: bool,
    /// Sealed logs that will never be shipped: their extents are to be reported. They are deleted by
    /// a later [`Action::Discard`].
    pub dropped: Vec<Sequence>,
    /// Whether the guest holds still for it.
    pub application_consistent: bool,
    /// Whether disks can change at it.
    pub changes_disks: bool,
    /// Whether [`Event::Quiet`](crate::Event::Quiet) is an answer.
    pub may_be_quiet: bool,
}

/// The logs of one generation on their way to the replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shipment {
    /// The generation.
    pub sequence: Sequence,
    /// When its barrier was.
    pub time: Timestamp,
    /// Which disks' logs there are; the others were lost, and are in doubt.
    pub present: Vec<bool>,
    /// The size of each disk at the barrier.
    pub sizes: Vec<Length>,
    /// Whether logs between the newest that the replica acknowledged and these were lost; what they
    /// held is in doubt.
    pub after_loss: bool,
    /// Whether the replica is at a recovery point once it has them.
    pub point: bool,
    /// Whether the guest held still for that point.
    pub application_consistent: bool,
}

/// What the owner should hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Report {
    /// A task failed and will be tried again.
    RetryAt {
        /// Which.
        task: Task,
        /// Why it failed.
        failure: Failure,
        /// The number of the attempt to come, from 2.
        attempt: u32,
        /// When.
        due: Time,
    },
    /// A task failed for good: the machine is Critical.
    GaveUp {
        /// Which.
        task: Task,
        /// Why.
        failure: Failure,
    },
    /// A resynchronization is required.
    ResyncRequired(ResyncReason),
    /// An application-consistent point was due, and will be a crash-consistent one.
    CrashConsistentOnly {
        /// Why.
        failure: Failure,
    },
    /// The newest recovery point is older than the policy's limit.
    RecoveryPointsLate {
        /// How old.
        rpo: Duration,
    },
    /// Recovery points are no longer late.
    RecoveryPointsOnTime,
    /// A transfer has not moved for two intervals.
    Stalled {
        /// Which.
        task: Task,
        /// For how long.
        idle: Duration,
    },
    /// A transfer that had stalled moves again.
    MovesAgain {
        /// Which.
        task: Task,
    },
}
