//! How a machine stands, as its replica knows it.

use afterimage_block::{Epoch, Length, Timestamp};
use afterimage_replication::{Health, Liveness, Positions, PrimaryReport, Role, State, Statistics};
use afterimage_store::{Loss, MachineName, RecoveryPoint, Replica, ReplicaDisk};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::excluded::ExcludedDisk;
use crate::notes::Diverged;
use crate::shared::Kept;
use crate::test_failover::{TestFailover, Tested};
use afterimage_replication::{Job, JobAction};

/// How a machine stands, as its replica knows it.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The machine's name.
    pub name: MachineName,
    /// The state: the replica's where it is failed over, else what the primary last reported.
    pub state: State,
    /// The health, which is at most warning where the primary should have reported again.
    pub health: Health,
    /// What the replica is.
    pub role: Role,
    /// The epoch.
    pub epoch: Epoch,
    /// Bytes that the primary had still to ship when it last reported.
    pub lag_bytes: Length,
    /// The age of the newest recovery point, in seconds; `None` without one. A guest that writes
    /// nothing makes no recovery points.
    pub lag_secs: Option<u64>,
    /// The recovery points, oldest first.
    pub recovery_points: Vec<RecoveryPoint>,
    /// Those that cannot be read whole, and are not offered, oldest first. Where nothing made up for what
    /// was lost yet, its primary may still find it as it was.
    pub damaged_points: Vec<RecoveryPoint>,
    /// What is known to be damaged at the replica.
    pub losses: Vec<Loss>,
    /// The disks.
    pub disks: Vec<ReplicaDisk>,
    /// The machine's disks that are not replicated, and missing after a failover, as its primary last told.
    pub excluded: Vec<ExcludedDisk>,
    /// The primary's newest jobs when it last reported: those that had ended, and the one that ran where it
    /// took long.
    pub jobs: Vec<Job>,
    /// What had come of the primary's cycles when it last reported.
    pub statistics: Option<Statistics>,
    /// How far its writes had come then.
    pub positions: Option<Positions>,
    /// When the primary last reported.
    pub reported: Option<Timestamp>,
    /// Whether the primary is alive, as far as can be told from here. Where it is, or is idle, an unplanned
    /// failover would fence a machine off that may run.
    pub liveness: Liveness,
    /// Whether another replica feeds it, not the primary: what is reported is that extension's.
    pub extended: bool,
    /// Former primaries that came back and are shut out, until they follow the replica.
    pub diverged: Vec<Diverged>,
    /// The test failover that is not cleaned up.
    pub test: Option<TestFailover>,
    /// What came of the last one that was.
    pub tested: Option<Tested>,
    /// What operators did here, the oldest first.
    pub operations: Vec<Operation>,
}

/// Something that is or was done to a machine or its replica.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Operation {
    /// The job.
    #[serde(flatten)]
    pub job: Job,
    /// What can be done about it now.
    pub actions: Vec<JobAction>,
}

/// How the machine of `replica` stands at `now`.
///
/// # Errors
/// [`Error::Store`](crate::Error::Store) if there is no such replica, or it cannot be read.
pub async fn status(replica: &Replica, now: Timestamp) -> Result<Status> {
    let manifest = replica.existing().await?;
    let kept = Kept::parse(&manifest.state)?;
    let operations = kept.notes.operations.iter().map(|job| Operation {
        job: job.clone(),
        actions: kept.replica.role.job_actions(job),
    });
    let operations: Vec<_> = operations.collect();
    let liveness = kept.replica.liveness(now);
    let primary = kept.replica.primary;
    let lag = manifest
        .latest_point()
        .map(|point| now.since(point.time).as_secs());
    Ok(Status {
        state: state(kept.replica.role, primary.as_ref()),
        health: health(kept.replica.role, primary.as_ref(), liveness),
        role: kept.replica.role,
        liveness,
        epoch: manifest.fence.epoch,
        lag_bytes: primary
            .as_ref()
            .map(|primary| primary.pending)
            .unwrap_or_default(),
        lag_secs: lag,
        recovery_points: manifest.whole_points().copied().collect(),
        damaged_points: manifest.damaged_points().copied().collect(),
        losses: manifest.losses,
        disks: manifest.disks,
        excluded: kept.excluded,
        jobs: kept.jobs,
        statistics: primary.as_ref().and_then(|primary| primary.statistics),
        positions: primary.as_ref().and_then(|primary| primary.positions),
        reported: primary.map(|primary| primary.time),
        extended: kept.extended.is_some(),
        diverged: kept.notes.diverged,
        test: kept.notes.test,
        tested: kept.notes.tested,
        operations,
        name: manifest.name,
    })
}

fn state(role: Role, primary: Option<&PrimaryReport>) -> State {
    match role {
        Role::PreparedForFailover { .. } => State::PreparedForFailover,
        Role::FailedOverWaitingCompletion { .. } => State::FailedOverWaitingCompletion,
        Role::FailedOver { .. } => State::FailedOver,
        _ => primary.map_or(State::ReadyForInitialReplication, |primary| primary.state),
    }
}

fn health(role: Role, primary: Option<&PrimaryReport>, liveness: Liveness) -> Health {
    if role != Role::Replica {
        // Prepared or failed over: nothing replicates.
        return Health::Warning;
    }
    let Some(primary) = primary else {
        return Health::Warning;
    };
    match (liveness, primary.health) {
        (Liveness::Silent { .. }, Health::Normal) => Health::Warning,
        (_, told) => told,
    }
}
