//! Failing over to a recovery point, from the replica's side.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use afterimage_block::{Epoch, HydratingDisk, Length, RawDisk, Sequence, SessionId, Timestamp};
use afterimage_replication::{JobKind, NotAllowed, ReplicaRequest, Role, Rpo};
use afterimage_store::{Manifest, PointDisk, PointSelector, RecoveryPoint, Replica};

use crate::driver::sum;
use crate::error::blocking;
use crate::excluded::ExcludedDisk;
use crate::notes::{self, Notes};
use crate::operations::{self, Far};
use crate::shared::{Kept, change_kept};
use crate::state::{FailoverTarget, Fingerprint, Saved, Side, StateFolder, default_folder};
use crate::test_failover::{TestPlace, begin_test};
use crate::{Clock, Error, Result};

/// How a machine is failed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failover {
    /// To see whether it works: nothing changes, and replication goes on meanwhile. One at a time: it is
    /// known to the replica until it is [cleaned up](crate::clean_up).
    Test,
    /// The primary is stopped and its last delta is here.
    Planned,
    /// The primary is lost; it is fenced off. Refused while it may be alive: it reported within its last two
    /// intervals.
    Unplanned,
    /// As unplanned, whether or not the primary may be alive.
    Forced,
}

impl Failover {
    /// What it asks of the replica; a test asks nothing.
    pub(crate) fn request(self, point: Sequence) -> Option<ReplicaRequest> {
        match self {
            Self::Test => None,
            Self::Planned => Some(ReplicaRequest::PlannedFailover { point }),
            Self::Unplanned | Self::Forced => Some(ReplicaRequest::UnplannedFailover { point }),
        }
    }

    const fn job(self) -> JobKind {
        match self {
            Self::Test => JobKind::TestFailover,
            Self::Planned => JobKind::PlannedFailover,
            Self::Unplanned | Self::Forced => JobKind::UnplannedFailover,
        }
    }
}

/// What a failover made.
#[derive(Clone, Debug)]
pub struct FailedOver {
    /// The epoch that it began, by which [`commit`] and [`cancel`] know it; none of a test.
    pub epoch: Option<Epoch>,
    /// The recovery point.
    pub sequence: Sequence,
    /// When its barrier was.
    pub time: Timestamp,
    /// What of the primary it loses, or would if it were no test.
    pub rpo: Rpo,
    /// The images, in the order of the machine's disks.
    pub images: Vec<PathBuf>,
    /// The machine's disks that were not replicated, and are missing.
    pub missing: Vec<ExcludedDisk>,
}

/// Fails the machine of `replica` over to a recovery point and writes each of its disks to
/// `out/NAME.raw`, a sparse image. Images are complete when they have this name.
///
/// A planned or unplanned failover first fences the primary off; it is then committed
/// ([`commit`]) or taken back ([`cancel`]). What it is is kept in the state folder
/// `out/.afterimage-MACHINE`, so that the same failover can be asked for again where it was cut short
/// and makes what is missing, and so that the images can be the primary's disks once it is committed
/// ([`Protection::reverse`](crate::Protection::reverse)). `progress` is told how many bytes of how many
/// are done.
///
/// # Errors
/// [`Error::NotAllowed`] where the replica's role does not admit it, [`Error::Exists`] if an image is
/// there already that is not this failover's, [`Error::Store`] if there is no such point or it is
/// damaged, [`Error::Disk`], [`Error::File`], [`Error::StateInUse`].
pub async fn fail_over(
    replica: &Replica,
    how: Failover,
    selector: PointSelector,
    out: &Path,
    mut progress: impl FnMut(Length, Length),
) -> Result<FailedOver> {
    let manifest = replica.existing().await?;
    let point = manifest.select(selector)?;
    let images = images(&manifest, out);
    let far = Far::default();
    let progress = |done, total| {
        far.set(done, total);
        progress(done, total);
    };
    if how == Failover::Test {
        refuse_existing(&images)?;
        Kept::parse(&manifest.state)?.notes.admit_test()?;
        let place = TestPlace::Images(make_folder(out)?);
        let (_, job) = begin_test(replica, point, place).await?;
        let restored = restore(replica, point, &images, progress);
        let restored = operations::watch(replica, job, || far.get(), restored).await;
        operations::end(replica, job, restored).await?;
        return failed_over(&manifest, None, point, images);
    }
    let begun = begin(replica, &manifest, how, point, out).await?;
    let make = async {
        // Served ones hold what was written to them.
        if let Some(image) = images.iter().find(|image| HydratingDisk::is_begun(image)) {
            return Err(Error::Exists(image.clone()));
        }
        restore(replica, point, &images, progress).await?;
        complete(&begun.folder, Some(point.time))
    };
    let made = operations::watch(replica, begun.job, || far.get(), make).await;
    operations::end(replica, begun.job, made).await?;
    failed_over(&manifest, Some(begun.epoch), point, images)
}

pub(crate) fn failed_over(
    manifest: &Manifest,
    epoch: Option<Epoch>,
    point: RecoveryPoint,
    images: Vec<PathBuf>,
) -> Result<FailedOver> {
    let kept = Kept::parse(&manifest.state)?;
    Ok(FailedOver {
        epoch,
        sequence: point.sequence,
        time: point.time,
        rpo: kept.replica.rpo(point.sequence, point.time),
        images,
        missing: kept.excluded,
    })
}

/// Records that the images are complete, and that they were left with the time `left`.
pub(crate) fn complete(folder: &StateFolder, left: Option<Timestamp>) -> Result<()> {
    folder.update(|saved| {
        if let Side::FailedOver(target) = &mut saved.side {
            target.complete = true;
        }
        for disk in &mut saved.disks {
            disk.closed_as = left.and_then(|time| Fingerprint::left_on(&disk.path, time));
        }
    })
}

/// The images' paths, in the order of the disks.
pub(crate) fn images(manifest: &Manifest, out: &Path) -> Vec<PathBuf> {
    let disks = manifest.disks.iter();
    disks
        .map(|disk| out.join(format!("{}.raw", disk.name)))
        .collect()
}

/// Where an image is until it is complete.
pub(crate) fn partial(image: &Path) -> PathBuf {
    image.with_extension("raw.partial")
}

fn refuse_existing(images: &[PathBuf]) -> Result<()> {
    let taken = |image: &&PathBuf| image.exists() || HydratingDisk::is_begun(image);
    match images.iter().find(taken) {
        Some(image) => Err(Error::Exists(image.clone())),
        None => Ok(()),
    }
}

/// Makes the folder for images; its real path.
fn make_folder(out: &Path) -> Result<PathBuf> {
    let failed = |operation| {
        move |source| Error::File {
            operation,
            path: out.into(),
            source,
        }
    };
    std::fs::create_dir_all(out).map_err(failed("create"))?;
    out.canonicalize().map_err(failed("find"))
}

/// A failover that is recorded here and at the replica.
pub(crate) struct Begun {
    pub(crate) folder: StateFolder,
    /// The epoch that it began.
    pub(crate) epoch: Epoch,
    /// The number of its job, which ends once the disks are made.
    pub(crate) job: u64,
}

/// Records a failover to `out` here and at the replica, in this order; does nothing where both have
/// the record of it already.
///
/// # Panics
/// If `how` is a test, which is recorded elsewhere.
pub(crate) async fn begin(
    replica: &Replica,
    manifest: &Manifest,
    how: Failover,
    point: RecoveryPoint,
    out: &Path,
) -> Result<Begun> {
    let request = how.request(point.sequence);
    let request = request.unwrap_or_else(|| panic!("a test fails nothing over"));
    let subject = format!("recovery point {} at {}", point.sequence, out.display());
    // What is done by the change that records the job is that the primary is fenced off.
    let note = |notes: &mut Notes| notes.begin(how.job(), &subject, 1);
    let path = default_folder(out, &manifest.name);
    let kept = Kept::parse(&manifest.state)?;
    if path.exists() {
        let folder = StateFolder::open(&path)?;
        if is_under_way(&folder, &kept, point.sequence) {
            let epoch = begun_epoch(&folder, manifest, &kept)?;
            let job = notes::change(replica, note).await?;
            return Ok(Begun { folder, epoch, job });
        }
        if folder.saved().is_some_and(|saved| saved.target().is_none()) {
            return Err(Error::Exists(path));
        }
    }
    refuse_existing(&images(manifest, out))?;
    kept.replica.role.request(request)?;
    if how == Failover::Unplanned {
        kept.replica.presume_lost(Clock::timestamp())?;
    }
    let place = make_folder(out)?;
    let folder = StateFolder::open(&path)?;
    let target = FailoverTarget {
        failover: SessionId::random(),
        epoch: manifest.fence.epoch.next(),
        point: point.sequence,
        complete: false,
    };
    let failover = Some(target.failover);
    let paths = images(manifest, &place);
    let sizes = manifest.sizes_at(point.sequence);
    folder.save(Saved::of_replica(
        manifest,
        sizes,
        paths,
        Side::FailedOver(target),
    ))?;
    let (epoch, job) = transition(replica, request, failover, note).await?;
    note_epoch(&folder, epoch)?;
    Ok(Begun { folder, epoch, job })
}

/// The epoch that the failover of `folder` began, which the replica is in, or was. Whoever recorded it may have
/// been cut short before.
pub(crate) fn begun_epoch(folder: &StateFolder, manifest: &Manifest, kept: &Kept) -> Result<Epoch> {
    if let Role::FailedOverWaitingCompletion { .. } = kept.replica.role {
        note_epoch(folder, manifest.fence.epoch)?;
    }
    let saved = folder.saved().ok_or(Error::NotRunning)?;
    Ok(saved.own_epoch())
}

/// Records the epoch that a failover began; it is another than was expected where somebody came in
/// between.
pub(crate) fn note_epoch(folder: &StateFolder, epoch: Epoch) -> Result<()> {
    folder.update(|saved| {
        if let Side::FailedOver(target) = &mut saved.side {
            target.epoch = epoch;
        }
    })
}

/// Whether `folder` has the failover that the replica is in.
fn is_under_way(folder: &StateFolder, kept: &Kept, point: Sequence) -> bool {
    let failed_over = matches!(
        kept.replica.role,
        Role::FailedOverWaitingCompletion { .. } | Role::FailedOver { .. }
    );
    let saved = folder.saved();
    let target = saved.as_ref().and_then(Saved::target);
    failed_over
        && target
            .is_some_and(|target| kept.failover == Some(target.failover) && target.point == point)
}

/// Writes the images that are not there.
async fn restore(
    replica: &Replica,
    point: RecoveryPoint,
    images: &[PathBuf],
    mut progress: impl FnMut(Length, Length),
) -> Result<()> {
    let opened = replica.open_point(point.sequence).await?;
    let total = sum(opened.disks.iter().map(|disk| disk.size()));
    let mut done = Length::ZERO;
    for (disk, image) in opened.disks.iter().zip(images) {
        let mut step = |length| {
            done = done.saturating_add(length);
            progress(done, total);
        };
        if image.exists() {
            step(disk.size());
        } else {
            restore_disk(disk, image, point.time, step).await?;
        }
    }
    Ok(())
}

/// Writes a disk to `image`, which gets its name when it is complete, and the time of the point.
async fn restore_disk(
    disk: &PointDisk,
    image: &Path,
    time: Timestamp,
    step: impl FnMut(Length),
) -> Result<()> {
    let partial = partial(image);
    let failed = |operation| {
        let path = partial.clone();
        move |source| Error::File {
            operation,
            path,
            source,
        }
    };
    // What an attempt that was cut short left behind.
    match std::fs::remove_file(&partial) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(failed("remove")(error));
        }
        _ => {}
    }
    let target = Arc::new(RawDisk::create(&partial, disk.size())?);
    disk.restore(target, step).await?;
    let (from, to) = (partial.clone(), image.to_owned());
    let renamed = blocking(move || {
        let renamed = Fingerprint::leave(&from, time)
            .and_then(|()| std::fs::rename(&from, &to))
            .and_then(|()| std::fs::File::open(to.parent().unwrap_or(Path::new(".")))?.sync_all());
        renamed.map_err(|source| Error::File {
            operation: "rename",
            path: from,
            source,
        })
    });
    renamed.await
}

/// Makes the failover that began epoch `failover` final, or the one that the replica is in where `None`
/// is named: its former primary stays fenced off. Asked for again by its epoch it answers the same.
///
/// # Errors
/// [`Error::NotAllowed`] unless that failover waits for completion; [`Error::Store`].
pub async fn commit(replica: &Replica, failover: impl Into<Option<Epoch>>) -> Result<()> {
    let failover = failover.into();
    let manifest = replica.existing().await?;
    let kept = Kept::parse(&manifest.state)?;
    let epoch = manifest.fence.epoch;
    if failover.is_some_and(|failover| kept.replica.is_committed(failover, epoch)) {
        return Ok(());
    }
    end(replica, ReplicaRequest::Commit, failover.unwrap_or(epoch)).await
}

/// Takes the failover that began epoch `failover` back, or the one that the replica is in where `None` is
/// named: the replica follows its primary again, which goes on where it was.
///
/// # Errors
/// As [`commit`].
pub async fn cancel(replica: &Replica, failover: impl Into<Option<Epoch>>) -> Result<()> {
    let failover = match failover.into() {
        Some(failover) => failover,
        None => replica.existing().await?.fence.epoch,
    };
    end(replica, ReplicaRequest::Cancel, failover).await
}

/// Ends the failover that began epoch `failover`, if the replica is in it.
async fn end(replica: &Replica, request: ReplicaRequest, failover: Epoch) -> Result<()> {
    let end = |manifest: &Manifest, kept: &mut Kept| {
        kept.replica.is_in(failover, manifest.fence.epoch)?;
        kept.replica.role = kept.replica.role.request(request)?;
        let subject = format!("the failover of epoch {failover}");
        if request == ReplicaRequest::Cancel {
            kept.failover = None;
            kept.notes.cancel_failovers();
            kept.notes.done(JobKind::CancelFailover, subject);
        } else {
            // What feeds it holds another history from now on.
            kept.extended = None;
            kept.notes.done(JobKind::Commit, subject);
        }
        Ok(())
    };
    change_kept(replica, true, end).await.map(drop)
}

/// Fails the replica over, which is about `failover` from then on, and fences every writer of before off;
/// the epoch that this begins, and what `note` returned.
pub(crate) async fn transition<T: Send>(
    replica: &Replica,
    request: ReplicaRequest,
    failover: Option<SessionId>,
    note: impl Fn(&mut Notes) -> T + Send + Sync,
) -> Result<(Epoch, T)> {
    let change = |manifest: &Manifest, kept: &mut Kept| {
        check_point(manifest, request)?;
        kept.replica.role = kept.replica.role.request(request)?;
        kept.failover = failover;
        Ok(note(&mut kept.notes))
    };
    let (manifest, noted) = change_kept(replica, true, change).await?;
    Ok((manifest.fence.epoch, noted))
}

fn check_point(manifest: &Manifest, request: ReplicaRequest) -> Result<(), NotAllowed> {
    match request {
        ReplicaRequest::PlannedFailover { point } | ReplicaRequest::UnplannedFailover { point } => {
            check_kept(manifest, point)
        }
        _ => Ok(()),
    }
}

/// Refuses a failover to a point that retention has dropped since it was chosen: the primary would be
/// fenced off for nothing.
pub(crate) fn check_kept(manifest: &Manifest, point: Sequence) -> Result<(), NotAllowed> {
    let found = manifest.select(PointSelector::Sequence(point)).map(drop);
    found.map_err(|error| NotAllowed {
        reason: error.to_string(),
        advice: "choose one that is there",
    })
}
