//! What goes over to the replica: the claim, the first copy, deltas, and that one was the last.

use std::sync::Arc;

use afterimage_block::{
    BlockRead, ContentDigest, Epoch, Length, Offset, RunKind, Sequence, SessionId, Timestamp,
};
use afterimage_changelog::SealedLog;
use afterimage_replication::{Event, Policy, Position, PrimaryReport, Role, Scope, Shipment};
use afterimage_store::{
    Claim, Consistency, LogEntry, LogObject, Manifest, Publication, RecoveryPoint, ReplicaDisk,
    Store, Writer,
};
use futures::stream::{self, StreamExt, TryStreamExt};

use crate::driver::sum;
use crate::error::blocking;
use crate::generations::Disk;
use crate::mend::mend;
use crate::notes::Notes;
use crate::notice::Notice;
use crate::shared::{Kept, RunningJob, Shared};
use crate::test_failover::TestFailover;
use crate::{Clock, Error, Result};
use afterimage_replication::{JobKind, Progress};

/// Logs of one generation that are on their way at the same time.
const LOGS_IN_FLIGHT: usize = 8;

/// What a transfer tells the machine, and then its owner.
pub(crate) struct Outcome {
    pub(crate) event: Event,
    pub(crate) notice: Option<Notice>,
    /// What the replica lacks of each disk, if it was found damaged.
    pub(crate) lacks: Option<Vec<Scope>>,
}

impl Outcome {
    pub(crate) fn new(event: Event, notice: Option<Notice>) -> Self {
        Self {
            event,
            notice,
            lacks: None,
        }
    }
}

/// A replica that is ours.
pub(crate) struct Claimed {
    pub(crate) writer: Writer,
    pub(crate) position: Position,
    /// What the replica lacks of each disk, if it was found damaged.
    pub(crate) lacks: Option<Vec<Scope>>,
}

/// Checks the prerequisites and claims the replica for `disks`, which was last claimed in `epoch`. Where the machine has a base already, the store
/// must be there.
pub(crate) async fn claim(
    shared: &Shared,
    known: bool,
    epoch: Epoch,
    disks: Vec<ReplicaDisk>,
) -> Result<Claimed> {
    let job = shared.job(JobKind::EnableProtection, shared.name.to_string());
    let claimed = try_claim(shared, known, epoch, disks, &job).await;
    job.end(claimed)
}

async fn try_claim(
    shared: &Shared,
    known: bool,
    epoch: Epoch,
    disks: Vec<ReplicaDisk>,
    job: &RunningJob<'_>,
) -> Result<Claimed> {
    let store = if known {
        Store::open_existing(&shared.replica_url).await?
    } else {
        Store::open(&shared.replica_url).await?
    };
    let store = store.with_key(shared.key.clone());
    let present = store.replica(shared.name.clone()).manifest().await?;
    if !known && present.is_none_or(|manifest| manifest.last().is_none()) {
        check_room(shared, &store)?;
    }
    job.step();
    let claim = Claim {
        machine: shared.machine,
        session: SessionId::random(),
        disks,
    };
    // The primary runs: what is prepared is no longer the last delta, from the moment of the claim on. What
    // had shut it out was taken back.
    let admits = |state: &serde_json::Value| {
        let mut kept = Kept::parse(state)?;
        let admitted = kept.claimed(epoch);
        admitted.map_err(|refusal| afterimage_store::Error::Refused(refusal.to_string()))?;
        kept.excluded.clone_from(&shared.excluded);
        Ok(kept.encode())
    };
    let writer = store
        .replica(shared.name.clone())
        .claim(claim, admits)
        .await?;
    let manifest = writer.replica().existing().await?;
    let position = manifest.last().map_or(Position::Empty, Position::At);
    let lacks = mend(shared, &writer, &manifest).await;
    Ok(Claimed {
        writer,
        position,
        lacks,
    })
}

/// Refuses to begin a first copy that cannot fit.
fn check_room(shared: &Shared, store: &Store) -> Result<()> {
    let Some(available) = store.available()? else {
        return Ok(());
    };
    let mut needed = Length::ZERO;
    for disk in &shared.generations.disks {
        needed = needed.saturating_add(stored(disk.tracked.as_ref())?);
    }
    if needed > available {
        return Err(Error::NoRoom { needed, available });
    }
    Ok(())
}

/// The bytes of a disk that are not holes.
fn stored(disk: &dyn BlockRead) -> Result<Length> {
    let mut data = Length::ZERO;
    let mut at = Offset::ZERO;
    while let Some(run) = disk.next_run(at)? {
        at = run.extent.end();
        if run.kind == RunKind::Data {
            data = data.saturating_add(run.extent.length());
        }
    }
    Ok(data)
}

fn recovery_point(sequence: Sequence, time: Timestamp) -> RecoveryPoint {
    RecoveryPoint {
        sequence,
        time,
        consistency: Consistency::Crash,
    }
}

fn shipped_point(shipment: &Shipment) -> Option<RecoveryPoint> {
    let consistency = if shipment.application_consistent {
        Consistency::Application
    } else {
        Consistency::Crash
    };
    shipment.point.then_some(RecoveryPoint {
        consistency,
        ..recovery_point(shipment.sequence, shipment.time)
    })
}

/// Copies what the base still lacks from the snapshots, disk by disk, and publishes it.
pub(crate) async fn copy(
    shared: &Shared,
    writer: &Writer,
    base: Sequence,
    point: Option<Timestamp>,
    report: PrimaryReport,
) -> Result<Outcome> {
    let snapshots = shared.generations.snapshots();
    let mut roots = Vec::new();
    let mut sent = Length::ZERO;
    for (disk, snapshot) in snapshots.into_iter().enumerate() {
        let mut job = shared.disk_job(JobKind::InitialReplication, disk);
        let copied = copy_disk(shared, writer, disk, snapshot, &mut job).await;
        let (root, more) = job.end(copied)?;
        roots.push(root);
        sent = sent.saturating_add(more);
    }
    let finalize = shared.job(JobKind::FinalizeProtection, base.to_string());
    let state = shared.kept(Role::Replica, report, writer.epoch());
    let recovery = point.map(|time| recovery_point(base, time));
    let published = writer.publish_base(base, roots, recovery, &state).await;
    finalize.end(published.map_err(Error::from))?;
    let notice = point.map(|time| Notice::RecoveryPoint {
        sequence: base,
        time,
        sent,
    });
    Ok(Outcome::new(Event::Copied, notice))
}

async fn copy_disk(
    shared: &Shared,
    writer: &Writer,
    disk: usize,
    source: Arc<dyn BlockRead>,
    job: &mut RunningJob<'_>,
) -> Result<(ContentDigest, Length)> {
    let saved = shared.folder.saved();
    let saved = saved.as_ref().and_then(|saved| saved.disks.get(disk));
    let progress = saved.map(|disk| disk.base.clone()).unwrap_or_default();
    let mut base = writer.base(disk, progress).await?;
    let total = source.size();
    let mut sent = Length::ZERO;
    job.progress(Progress {
        total,
        ..Progress::default()
    });
    while let Some(page) = base.next_page() {
        let copied = base.copy_page(Arc::clone(&source)).await?;
        sent = sent.saturating_add(copied.sent);
        shared.keep_pace(copied.sent).await;
        job.progress(Progress {
            done: Length::new(page.end().get()),
            total,
            sent,
        });
        let progress = base.progress();
        shared.folder.update(|saved| {
            if let Some(saved) = saved.disks.get_mut(disk) {
                saved.base = progress;
            }
        })?;
    }
    Ok((base.finish().await?, sent))
}

/// Ships the logs of one generation and publishes them.
pub(crate) async fn ship(
    shared: &Shared,
    writer: &Writer,
    shipment: Shipment,
    report: PrimaryReport,
) -> Result<Outcome> {
    let job = shared.job(JobKind::Delta, shipment.sequence.to_string());
    let shipped = try_ship(shared, writer, &shipment, report, &job).await;
    job.end(shipped)
}

async fn try_ship(
    shared: &Shared,
    writer: &Writer,
    shipment: &Shipment,
    report: PrimaryReport,
    job: &RunningJob<'_>,
) -> Result<Outcome> {
    let mut logs = Vec::new();
    for (number, disk) in shared.generations.disks.iter().enumerate() {
        let present = shipment.present.get(number).copied().unwrap_or_default();
        if !present {
            logs.push(None);
            continue;
        }
        match open_log(disk, shipment.sequence).await {
            Ok(log) => logs.push(Some(log)),
            Err(error) => {
                tracing::error!(%error, sequence = %shipment.sequence, "a log is unreadable");
                return Ok(Outcome::new(Event::LogUnreadable { disk: number }, None));
            }
        }
    }
    let predecessor = |log: &Option<SealedLog>| {
        let log = log.as_ref();
        log.map_or(ContentDigest::NONE, |log| log.summary().predecessor)
    };
    let predecessors = logs.iter().map(predecessor).collect();
    let logs = put_logs(shared, writer, &logs).await?;
    job.step();
    let sent = sum(logs.iter().flatten().map(|log| log.length));
    let publication = Publication {
        first: shipment.sequence,
        logs: LogEntry {
            sequence: shipment.sequence,
            disks: logs,
        },
        sizes: shipment.sizes.clone(),
        predecessors,
        after_loss: shipment.after_loss,
        point: shipped_point(shipment),
        amends: Vec::new(),
    };
    let state = shared.kept(Role::Replica, report, writer.epoch());
    let manifest = publish(&shared.policy, writer, &publication, &state).await?;
    let notice = shipment.point.then_some(Notice::RecoveryPoint {
        sequence: shipment.sequence,
        time: shipment.time,
        sent,
    });
    Ok(Outcome {
        lacks: mend(shared, writer, &manifest).await,
        ..Outcome::new(Event::Shipped, notice)
    })
}

async fn open_log(disk: &Disk, sequence: Sequence) -> Result<SealedLog> {
    let path = disk.log_path(sequence);
    blocking(move || Ok(SealedLog::open(&path)?)).await
}

/// Puts the logs of one generation, several at a time.
async fn put_logs(
    shared: &Shared,
    writer: &Writer,
    logs: &[Option<SealedLog>],
) -> Result<Vec<Option<LogObject>>> {
    let put = |(number, log): (usize, Option<SealedLog>)| async move {
        let Some(log) = log else {
            return Ok(None);
        };
        let put = writer.put_log(number, &log).await?;
        shared.keep_pace(put.length).await;
        Ok(Some(put))
    };
    let logs = logs.iter().cloned().enumerate();
    stream::iter(logs)
        .map(put)
        .buffered(LOGS_IN_FLIGHT)
        .try_collect()
        .await
}

/// Publishes a generation. Where it is a recovery point old ones are dropped with it, and what only they
/// needed then.
pub(crate) async fn publish(
    policy: &Policy,
    writer: &Writer,
    publication: &Publication,
    state: &serde_json::Value,
) -> Result<Manifest> {
    if publication.point.is_none() {
        return Ok(writer.publish(publication, state).await?);
    }
    let now = Clock::timestamp();
    let kept = |manifest: &Manifest| points_max(policy, manifest, now);
    let manifest = writer.publish_retaining(publication, state, kept).await?;
    // What fails is done the next time: the new point is there in any case.
    if let Err(error) = writer.retain(kept(&manifest)).await {
        tracing::warn!(%error, "what only old recovery points needed is kept for now");
    }
    Ok(manifest)
}

/// How many of the newest recovery points are kept: as many as the policy says, and what a test failover reads.
fn points_max(policy: &Policy, manifest: &Manifest, now: Timestamp) -> usize {
    let tested = tested(manifest, now).map_or(0, |test| {
        let points = manifest.whole_points();
        points.filter(|at| at.sequence >= test.sequence).count()
    });
    points_of_policy(policy, manifest, now).max(tested)
}

/// The test failover that is not cleaned up, unless it is forgotten.
fn tested(manifest: &Manifest, now: Timestamp) -> Option<TestFailover> {
    let test = Notes::test_in(&manifest.state)?;
    (now.since(test.begun) <= TestFailover::HOLDS_MAX).then_some(test)
}

/// The store drops points from the oldest on, so that those between two that are kept stay too.
fn points_of_policy(policy: &Policy, manifest: &Manifest, now: Timestamp) -> usize {
    if policy.hourly_points == 0 && policy.recovery_points_age_max.is_none() {
        return usize::try_from(policy.recovery_points_max).unwrap_or(usize::MAX);
    }
    let points = manifest.whole_points().map(|at| (at.sequence, at.time));
    let points: Vec<_> = points.collect();
    policy.kept_from_the_end(&points, now)
}

/// Records at the replica that the machine is idle, and alive; mends what is damaged there.
pub(crate) async fn heartbeat(
    shared: &Shared,
    writer: &Writer,
    report: PrimaryReport,
) -> Result<Outcome> {
    let kept = shared.kept(Role::Replica, report, writer.epoch());
    let manifest = writer.set_state(&kept).await?;
    Ok(Outcome {
        lacks: mend(shared, writer, &manifest).await,
        ..Outcome::new(Event::Heard, None)
    })
}

/// Records at the replica how the machine stands, unless something newer is known there already.
pub(crate) async fn tell(shared: &Shared, writer: &Writer, report: &PrimaryReport) -> Result<()> {
    let told = |state: &serde_json::Value| {
        let kept = shared.told(Kept::parse(state)?, report)?;
        Ok(kept.encode())
    };
    Ok(writer.update_state(told).await.map(drop)?)
}

/// Records at the replica that the last delta is there and the machine stopped.
pub(crate) async fn prepare(
    shared: &Shared,
    writer: &Writer,
    through: Sequence,
    report: PrimaryReport,
) -> Result<()> {
    let job = shared.job(JobKind::PrepareFailover, through.to_string());
    let state = shared.kept(
        Role::PreparedForFailover { through },
        report,
        writer.epoch(),
    );
    let set = writer.set_state(&state).await;
    job.end(set.map(drop).map_err(Error::from))
}

/// Records at the replica that its primary no longer replicates.
pub(crate) async fn release(shared: &Shared, writer: &Writer, report: PrimaryReport) -> Result<()> {
    let job = shared.job(JobKind::Disable, shared.name.to_string());
    let kept = shared.kept(Role::Replica, report, writer.epoch());
    let set = writer.set_state(&kept).await;
    job.end(set.map(drop).map_err(Error::from))
}
