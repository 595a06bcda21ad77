//! Failing over to a recovery point, from the replica's side.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use afterimage_block::{HydratingDisk, Length, RawDisk, Sequence, SessionId, Timestamp};
use afterimage_replication::{NotAllowed, ReplicaRequest, Role};
use afterimage_store::{Manifest, PointDisk, PointSelector, RecoveryPoint, Replica};

use crate::error::blocking;
use crate::notes::{self, TestFailover};
use crate::shared::{Kept, change_kept};
use crate::state::{FailoverTarget, Fingerprint, Saved, Side, StateFolder, default_folder};
use crate::{Clock, Error, Result};

/// How a machine is failed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failover {
    /// To see whether it works: nothing changes but what [`status`](crate::status) tells of the last
    /// test, and replication goes on meanwhile.
    Test,
    /// The primary is stopped and its last delta is here.
    Planned,
    /// The primary is lost; it is fenced off.
    Unplanned,
}

impl Failover {
    /// What it asks of the replica; a test asks nothing.
    pub(crate) fn request(self, point: Sequence) -> Option<ReplicaRequest> {
        match self {
            Self::Test => None,
            Self::Planned => Some(ReplicaRequest::PlannedFailover { point }),
            Self::Unplanned => Some(ReplicaRequest::UnplannedFailover { point }),
        }
    }
}

/// What a failover made.
#[derive(Clone, Debug)]
pub struct FailedOver {
    /// The recovery point.
    pub sequence: Sequence,
    /// When its barrier was.
    pub time: Timestamp,
    /// The images, in the order of the machine's disks.
    pub images: Vec<PathBuf>,
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
    progress: impl FnMut(Length, Length),
) -> Result<FailedOver> {
    let manifest = replica.existing().await?;
    let point = manifest.select(selector)?;
    match how.request(point.sequence) {
        None => {
            let images = images(&manifest, out);
            refuse_existing(&images)?;
            make_folder(out)?;
            let done = restore(replica, point, images, progress).await?;
            tested(replica, point).await;
            Ok(done)
        }
        Some(request) => {
            let folder = begin(replica, &manifest, request, point, out).await?;
            let images = images(&manifest, out);
            // Served ones hold what was written to them.
            if let Some(image) = images.iter().find(|image| HydratingDisk::is_begun(image)) {
                return Err(Error::Exists(image.clone()));
            }
            let done = restore(replica, point, images, progress).await?;
            complete(&folder, Some(point.time))?;
            Ok(done)
        }
    }
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

/// Notes a test failover that ended well. A replica that cannot be written to was tested all the same.
async fn tested(replica: &Replica, point: RecoveryPoint) {
    let test = TestFailover {
        sequence: point.sequence,
        time: Clock::timestamp(),
    };
    if let Err(error) = notes::change(replica, |notes| notes.tested = Some(test)).await {
        tracing::warn!(%error, "the status does not show this test failover");
    }
}

/// The images' paths, in the order of the disks.
pub(crate) fn images(manifest: &Manifest, out: &Path) -> Vec<PathBuf> {
    let disks = manifest.disks.iter();
    disks
        .map(|disk| out.join(format!("{}.raw", disk.name)))
        .collect()
}

fn refuse_existing(images: &[PathBuf]) -> Result<()> {
    let taken = |image: &&PathBuf| image.exists() || HydratingDisk::is_begun(image);
    match images.iter().find(taken) {
        Some(image) => Err(Error::Exists(image.clone())),
        None => Ok(()),
    }
}

fn make_folder(out: &Path) -> Result<()> {
    std::fs::create_dir_all(out).map_err(|source| Error::File {
        operation: "create",
        path: out.into(),
        source,
    })
}

/// Records a failover to `out` here and at the replica, in this order; does nothing where both have
/// the record of it already.
pub(crate) async fn begin(
    replica: &Replica,
    manifest: &Manifest,
    request: ReplicaRequest,
    point: RecoveryPoint,
    out: &Path,
) -> Result<StateFolder> {
    let path = default_folder(out, &manifest.name);
    let kept = Kept::parse(&manifest.state)?;
    if path.exists() {
        let folder = StateFolder::open(&path)?;
        if is_under_way(&folder, &kept, point.sequence) {
            return Ok(folder);
        }
        if folder.saved().is_some_and(|saved| saved.target().is_none()) {
            return Err(Error::Exists(path));
        }
    }
    refuse_existing(&images(manifest, out))?;
    kept.replica.role.request(request)?;
    make_folder(out)?;
    let place = out.canonicalize().map_err(|source| Error::File {
        operation: "find",
        path: out.into(),
        source,
    })?;
    let folder = StateFolder::open(&path)?;
    let target = FailoverTarget {
        failover: SessionId::random(),
        epoch: manifest.fence.epoch.next(),
        point: point.sequence,
        complete: false,
    };
    let failover = Some(target.failover);
    let paths = images(manifest, &place);
    folder.save(Saved::of_replica(manifest, paths, Side::FailedOver(target)))?;
    transition(replica, request, failover).await?;
    Ok(folder)
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
    images: Vec<PathBuf>,
    mut progress: impl FnMut(Length, Length),
) -> Result<FailedOver> {
    let opened = replica.open_point(point.sequence).await?;
    let sizes = opened.disks.iter().map(|disk| disk.size());
    let total = sizes.fold(Length::ZERO, Length::saturating_add);
    let mut done = Length::ZERO;
    for (disk, image) in opened.disks.iter().zip(&images) {
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
    Ok(FailedOver {
        sequence: point.sequence,
        time: point.time,
        images,
    })
}

/// Writes a disk to `image`, which gets its name when it is complete, and the time of the point.
async fn restore_disk(
    disk: &PointDisk,
    image: &Path,
    time: Timestamp,
    step: impl FnMut(Length),
) -> Result<()> {
    let partial = image.with_extension("raw.partial");
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

/// Makes a failover final: its former primary stays fenced off.
///
/// # Errors
/// [`Error::NotAllowed`] unless a failover waits for completion; [`Error::Store`].
pub async fn commit(replica: &Replica) -> Result<()> {
    let request = ReplicaRequest::Commit;
    let commit = |_: &Manifest, kept: &mut Kept| {
        kept.replica.role = kept.replica.role.request(request)?;
        // What feeds it holds another history from now on.
        kept.extended = None;
        Ok(())
    };
    change_kept(replica, true, commit).await.map(drop)
}

/// Takes a failover back: the replica follows its primary again, which goes on where it was.
///
/// # Errors
/// As [`commit`].
pub async fn cancel(replica: &Replica) -> Result<()> {
    transition(replica, ReplicaRequest::Cancel, None).await
}

/// Changes the replica's role, which is about `failover` from then on, and fences every writer of
/// before off.
pub(crate) async fn transition(
    replica: &Replica,
    request: ReplicaRequest,
    failover: Option<SessionId>,
) -> Result<()> {
    let change = |manifest: &Manifest, kept: &mut Kept| {
        check_point(manifest, request)?;
        kept.replica.role = kept.replica.role.request(request)?;
        kept.failover = failover;
        Ok(())
    };
    change_kept(replica, true, change).await.map(drop)
}

/// Refuses a failover to a point that retention has dropped since it was chosen: the primary would be
/// fenced off for nothing.
fn check_point(manifest: &Manifest, request: ReplicaRequest) -> Result<(), NotAllowed> {
    match request {
        ReplicaRequest::PlannedFailover { point } | ReplicaRequest::UnplannedFailover { point } => {
            let found = manifest.select(PointSelector::Sequence(point)).map(drop);
            found.map_err(|error| NotAllowed {
                reason: error.to_string(),
                advice: "choose one that is there",
            })
        }
        _ => Ok(()),
    }
}
