//! Failing over to a recovery point, from the replica's side.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use afterimage_block::{Length, RawDisk, Sequence, Timestamp};
use afterimage_replication::{ReplicaRequest, Role};
use afterimage_store::{Manifest, PointDisk, PointSelector, Replica, Transition};

use crate::error::blocking;
use crate::shared::Kept;
use crate::{Error, Result};

/// How a machine is failed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failover {
    /// To see whether it works: nothing changes, and replication goes on meanwhile.
    Test,
    /// The primary is stopped and its last delta is here.
    Planned,
    /// The primary is lost; it is fenced off.
    Unplanned,
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
/// ([`commit`]) or taken back ([`cancel`]). The same failover can be asked for again where it was cut
/// short. `progress` is told how many bytes of how many are done.
///
/// # Errors
/// [`Error::NotAllowed`] where the replica's role does not admit it, [`Error::Exists`] if an image is
/// there already, [`Error::Store`] if there is no such point or it is damaged, [`Error::Disk`].
pub async fn fail_over(
    replica: &Replica,
    how: Failover,
    selector: PointSelector,
    out: &Path,
    mut progress: impl FnMut(Length, Length),
) -> Result<FailedOver> {
    let manifest = replica.existing().await?;
    let point = manifest.select(selector)?;
    let images: Vec<_> = manifest
        .disks
        .iter()
        .map(|disk| out.join(format!("{}.raw", disk.name)))
        .collect();
    if let Some(image) = images.iter().find(|image| image.exists()) {
        return Err(Error::Exists(image.clone()));
    }
    let request = match how {
        Failover::Test => None,
        Failover::Planned => Some(ReplicaRequest::PlannedFailover {
            point: point.sequence,
        }),
        Failover::Unplanned => Some(ReplicaRequest::UnplannedFailover {
            point: point.sequence,
        }),
    };
    if let Some(request) = request {
        transition(replica, request).await?;
    }
    std::fs::create_dir_all(out).map_err(|source| Error::File {
        operation: "create",
        path: out.into(),
        source,
    })?;
    let opened = replica.open_point(point.sequence).await?;
    let total = opened
        .disks
        .iter()
        .fold(Length::ZERO, |sum, d| sum.saturating_add(d.size()));
    let mut done = Length::ZERO;
    for (disk, image) in opened.disks.iter().zip(&images) {
        let step = |length| {
            done = done.saturating_add(length);
            progress(done, total);
        };
        restore(disk, image, step).await?;
    }
    Ok(FailedOver {
        sequence: point.sequence,
        time: point.time,
        images,
    })
}

/// Writes a disk to `image`, which gets its name when it is complete.
async fn restore(disk: &PointDisk, image: &Path, step: impl FnMut(Length)) -> Result<()> {
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
        let renamed = std::fs::rename(&from, &to)
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
    transition(replica, ReplicaRequest::Commit).await.map(drop)
}

/// Takes a failover back: the replica follows its primary again, which goes on where it was.
///
/// # Errors
/// As [`commit`].
pub async fn cancel(replica: &Replica) -> Result<()> {
    transition(replica, ReplicaRequest::Cancel).await.map(drop)
}

/// Changes the replica's role, and fences every writer of before off.
async fn transition(replica: &Replica, request: ReplicaRequest) -> Result<Role> {
    // Refused here, the request gets its own error; in the change below it is checked again against
    // whatever came in between.
    let manifest = replica.existing().await?;
    let role = Kept::parse(&manifest.state)?
        .replica
        .role
        .request(request)?;
    let change = |manifest: &Manifest| {
        let mut kept = Kept::parse(&manifest.state)?;
        let next = kept.replica.role.request(request);
        kept.replica.role =
            next.map_err(|error| afterimage_store::Error::Refused(error.to_string()))?;
        Ok(Transition {
            state: kept.encode(),
            fences: true,
        })
    };
    replica.transition(change).await?;
    Ok(role)
}
