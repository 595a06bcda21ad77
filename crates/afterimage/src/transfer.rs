//! What goes over to the replica: the claim, the first copy, deltas, differences.

use std::num::NonZeroUsize;
use std::sync::Arc;

use afterimage_block::{
    BlockRead, ContentDigest, Epoch, Extent, ExtentSet, Length, Offset, RunKind, Sequence,
    SessionId, Timestamp, free_space,
};
use afterimage_changelog::{Error as LogError, FileWriter, LogHeader, SealedLog, WriterOptions};
use afterimage_replication::{Event, Position, PrimaryReport, ResyncReason, Role, Scope, Shipment};
use afterimage_resync::{BlockSize, Comparer, Session, Signature, SignaturePage, Summary};
use afterimage_store::{
    Claim, Consistency, LogEntry, LogObject, PointDisk, Publication, RecoveryPoint, Store, Writer,
};

use crate::driver::sum;
use crate::error::blocking;
use crate::generations::Disk;
use crate::job::{JobKind, Progress};
use crate::notice::Notice;
use crate::shared::{Kept, RunningJob, Shared};
use crate::{Clock, Error, Result};

/// Signatures that are fetched for one step of a comparison.
const SIGNATURES: usize = 256;

/// What a transfer tells the machine, and then its owner.
pub(crate) type Outcome = (Event, Option<Notice>);

/// A replica that is ours.
pub(crate) struct Claimed {
    pub(crate) writer: Writer,
    pub(crate) position: Position,
}

/// Checks the prerequisites and claims the replica. Where the machine has a base already, the store
/// must be there.
pub(crate) async fn claim(shared: &Shared, known: bool) -> Result<Claimed> {
    let job = shared.job(JobKind::EnableProtection, shared.name.to_string());
    let claimed = try_claim(shared, known).await;
    job.end(claimed)
}

async fn try_claim(shared: &Shared, known: bool) -> Result<Claimed> {
    let store = if known {
        Store::open_existing(&shared.replica_url).await?
    } else {
        Store::open(&shared.replica_url).await?
    };
    if !known {
        check_room(shared, &store)?;
    }
    let claim = Claim {
        machine: shared.machine,
        session: SessionId::random(),
        disks: shared.disks.clone(),
    };
    let admits = |state: &serde_json::Value| {
        let role = Kept::parse(state)?.replica.role;
        let admitted = role.admits_primary();
        admitted.map_err(|refusal| afterimage_store::Error::Refused(refusal.to_string()))
    };
    let writer = store
        .replica(shared.name.clone())
        .claim(claim, admits)
        .await?;
    let manifest = writer.replica().existing().await?;
    let mut kept = Kept::parse(&manifest.state)?;
    if kept.replica.role != Role::Replica {
        // The primary runs again: what is prepared is no longer the last delta.
        kept.replica.role = Role::Replica;
        writer.set_state(&kept.encode()).await?;
    }
    let position = manifest.last().map_or(Position::Empty, Position::At);
    Ok(Claimed { writer, position })
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
        let name = shared
            .disks
            .get(disk)
            .map(|disk| disk.name.to_string())
            .unwrap_or_default();
        let mut job = shared.job(JobKind::InitialReplication, name);
        let copied = copy_disk(shared, writer, disk, snapshot, &mut job).await;
        let (root, more) = job.end(copied)?;
        roots.push(root);
        sent = sent.saturating_add(more);
    }
    let state = shared.kept(Role::Replica, report);
    let recovery = point.map(|time| recovery_point(base, time));
    writer.publish_base(base, roots, recovery, &state).await?;
    let notice = point.map(|time| Notice::RecoveryPoint {
        sequence: base,
        time,
        sent,
    });
    Ok((Event::Copied, notice))
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
    while let Some(page) = base.next_page() {
        let copied = base.copy_page(Arc::clone(&source)).await?;
        sent = sent.saturating_add(copied.sent);
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
    let shipped = try_ship(shared, writer, &shipment, report).await;
    job.end(shipped)
}

async fn try_ship(
    shared: &Shared,
    writer: &Writer,
    shipment: &Shipment,
    report: PrimaryReport,
) -> Result<Outcome> {
    let mut logs = Vec::new();
    let mut predecessors = Vec::new();
    for (number, disk) in shared.generations.disks.iter().enumerate() {
        let present = shipment.present.get(number).copied().unwrap_or_default();
        let log = if present {
            match open_log(disk, shipment.sequence).await {
                Ok(log) => Some(log),
                Err(error) => {
                    tracing::error!(%error, sequence = %shipment.sequence, "a log is unreadable");
                    return Ok((Event::LogUnreadable { disk: number }, None));
                }
            }
        } else {
            None
        };
        predecessors.push(
            log.as_ref()
                .map_or(ContentDigest::NONE, |l| l.summary().predecessor),
        );
        logs.push(match log {
            Some(log) => Some(writer.put_log(number, &log).await?),
            None => None,
        });
    }
    let sent = sum(logs.iter().flatten().map(|log| log.length));
    let publication = Publication {
        logs: LogEntry {
            sequence: shipment.sequence,
            disks: logs,
        },
        predecessors,
        after_loss: shipment.after_loss,
        point: shipment
            .point
            .then(|| recovery_point(shipment.sequence, shipment.time)),
    };
    writer
        .publish(&publication, &shared.kept(Role::Replica, report))
        .await?;
    if shipment.point {
        let notice = Notice::RecoveryPoint {
            sequence: shipment.sequence,
            time: shipment.time,
            sent,
        };
        retain(shared, writer).await;
        return Ok((Event::Shipped, Some(notice)));
    }
    Ok((Event::Shipped, None))
}

async fn open_log(disk: &Disk, sequence: Sequence) -> Result<SealedLog> {
    let path = disk.log_path(sequence);
    blocking(move || Ok(SealedLog::open(&path)?)).await
}

/// Drops old recovery points. What fails is done the next time: the new point is there in any case.
async fn retain(shared: &Shared, writer: &Writer) {
    if let Err(error) = writer.retain(shared.points_max).await {
        tracing::warn!(%error, "old recovery points are kept for now");
    }
}

/// Compares the disks with the replica where they are in doubt, and publishes what differs as the
/// logs of generation `sequence`.
pub(crate) async fn resync(
    shared: &Shared,
    writer: &Writer,
    sequence: Sequence,
    scopes: Vec<Scope>,
    reason: ResyncReason,
    report: PrimaryReport,
) -> Result<Outcome> {
    let manifest = writer.replica().existing().await?;
    let last = manifest.last().ok_or_else(|| {
        afterimage_store::Error::Refused("the replica has no base to compare with".into())
    })?;
    let point = writer.replica().open_point(last).await?;
    let mut total = Summary::default();
    let (mut logs, mut left) = (Vec::new(), Vec::new());
    for (number, (scope, replica)) in scopes.iter().zip(&point.disks).enumerate() {
        let name = shared
            .disks
            .get(number)
            .map(|disk| disk.name.to_string())
            .unwrap_or_default();
        let mut job = shared.job(JobKind::Resynchronize, name);
        let compared =
            resync_disk(shared, writer, number, sequence, scope, replica, &mut job).await;
        let (log, summary, rest) = job.end(compared)?;
        logs.push(log);
        left.push(rest.into());
        total.compared = total.compared.saturating_add(summary.compared);
        total.sent = total.sent.saturating_add(summary.sent);
    }
    let publication = Publication {
        predecessors: vec![ContentDigest::NONE; logs.len()],
        logs: LogEntry {
            sequence,
            disks: logs,
        },
        after_loss: true,
        point: None,
    };
    writer
        .publish(&publication, &shared.kept(Role::Replica, report))
        .await?;
    let notice = Notice::Resync {
        reason,
        compared: total.compared,
        sent: total.sent,
    };
    Ok((Event::Resynchronized { left }, Some(notice)))
}

async fn resync_disk(
    shared: &Shared,
    writer: &Writer,
    number: usize,
    sequence: Sequence,
    scope: &Scope,
    replica: &Arc<PointDisk>,
    job: &mut RunningJob<'_>,
) -> Result<(Option<LogObject>, Summary, ExtentSet)> {
    let size = replica.size();
    let doubtful = scope.extents(size);
    let Some(disk) = shared
        .generations
        .disks
        .get(number)
        .filter(|_| !doubtful.is_empty())
    else {
        return Ok((None, Summary::default(), ExtentSet::new()));
    };
    let mut differences = differences_log(shared, disk, sequence, writer.epoch())?;
    let mut left = ExtentSet::new();
    let session = Session::of(size, BlockSize::default(), &doubtful)?;
    let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let mut comparer: Comparer = Comparer::new(session).threads(threads);
    while let Some(next) = comparer.next_in_doubt() {
        let signatures = signatures(replica, next).await?;
        let source = Arc::clone(&disk.tracked);
        let compared;
        (comparer, differences, compared) = blocking(move || {
            let first = comparer.session().grid().index_at(next.start());
            let page = SignaturePage::new(first, &signatures);
            let compared = comparer.compare::<Error>(source.as_ref(), page, |change| {
                differences.append(change, Clock::timestamp())?;
                Ok(())
            });
            Ok((comparer, differences, compared))
        })
        .await?;
        match compared {
            Err(Error::Log(LogError::OverQuota { .. } | LogError::IndexFull { .. }))
                if differences.records() > 0 =>
            {
                left = not_before(doubtful, next.start());
                break;
            }
            compared => compared?,
        }
        let progress = comparer.session().progress();
        job.progress(Progress {
            done: progress.summary.compared,
            total: progress.total,
            sent: progress.summary.sent,
        });
    }
    let summary = comparer.session().summary();
    let sealed = blocking(move || Ok(differences.seal(ContentDigest::NONE)?)).await?;
    let log = writer.put_log(number, &sealed).await?;
    // At once, so that the next disk's differences find the room that these took.
    shared.generations.discard(&[sequence]);
    Ok((Some(log), summary, left))
}

/// The part of `extents` that starts at or after `offset`.
fn not_before(mut extents: ExtentSet, offset: Offset) -> ExtentSet {
    if let Some(before) = Extent::between(Offset::ZERO, offset) {
        extents.remove(before);
    }
    extents
}

/// The log that the differences of one disk go to. It may take half of what is free: writes are logged
/// meanwhile, and what does not fit takes another pass.
fn differences_log(
    shared: &Shared,
    disk: &Disk,
    sequence: Sequence,
    epoch: Epoch,
) -> Result<FileWriter> {
    let header = LogHeader {
        disk: disk.id,
        disk_size: disk.tracked.size(),
        epoch,
        first: sequence,
        last: sequence,
        created: Clock::timestamp(),
    };
    let free = free_space(shared.folder.scratch())?;
    let options = WriterOptions::default().with_quota(Length::new(free.get() / 2));
    Ok(FileWriter::create(
        &disk.log_path(sequence),
        header,
        options,
    )?)
}

/// The replica's signatures of the first blocks of `extent`.
async fn signatures(replica: &PointDisk, extent: Extent) -> Result<Vec<Signature>> {
    let block = BlockSize::default().length();
    let mut signatures = Vec::with_capacity(SIGNATURES);
    for block in extent.pieces(block).take(SIGNATURES) {
        let digest = replica.block_digest(block.start()).await?;
        signatures.push(Signature::from(digest));
    }
    Ok(signatures)
}

/// Records at the replica that the last delta is there and the machine stopped.
pub(crate) async fn prepare(
    shared: &Shared,
    writer: &Writer,
    through: Sequence,
    report: PrimaryReport,
) -> Result<()> {
    let job = shared.job(JobKind::PlannedFailover, through.to_string());
    let state = shared.kept(Role::PreparedForFailover { through }, report);
    let set = writer.set_state(&state).await;
    job.end(set.map_err(Error::from))
}
