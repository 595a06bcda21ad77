//! A side that was failed over becomes the primary.
//!
//! What it may do is recorded at the replica first, where it is answered the same however often it is
//! asked for; then, durably, the epoch that it knows from then on is recorded here. Only after that
//! anything is published.

use std::path::{Path, PathBuf};

use afterimage_block::{Access, ContentDigest, Length, RawDisk, Sequence};
use afterimage_replication::{Grant, JobKind, Machine, NotAllowed, Policy, Scope};
use afterimage_store::{Manifest, Replica};

use crate::Result;
use crate::operations;
use crate::shared::{Kept, change_kept};
use crate::state::{
    FailoverTarget, Fingerprint, Saved, SavedDisk, Side, StateFolder, default_folder,
};

fn refused(reason: &str, advice: &'static str) -> NotAllowed {
    NotAllowed {
        reason: reason.into(),
        advice,
    }
}

/// Makes the images in `out` that `replica` was failed over to the disks of its primary, once that failover is
/// committed, and returns them in the machine's order; does nothing where they are already. They replicate
/// in the other direction as soon as they are [protected](crate::Protection::reverse): this is the first
/// step of that, for many machines at once, before any of them is started.
///
/// # Errors
/// [`Error::NotAllowed`](crate::Error::NotAllowed) where nothing was failed over to there, or the failover
/// is not committed; [`Error::StateInUse`](crate::Error::StateInUse) while the images are served or
/// protected; [`Error::File`](crate::Error::File), [`Error::Store`](crate::Error::Store).
pub async fn reverse(replica: &Replica, out: &Path) -> Result<Vec<PathBuf>> {
    let path = default_folder(out, replica.name());
    if !path.exists() {
        return Err(nothing_here().into());
    }
    let folder = StateFolder::open(&path)?;
    make_primary(&folder, replica, &Policy::default()).await?;
    let disks = folder.saved().map(|saved| saved.disks).unwrap_or_default();
    Ok(disks.into_iter().map(|disk| disk.path).collect())
}

fn nothing_here() -> NotAllowed {
    refused(
        "nothing was failed over to here",
        "name the disks and the state folder of the failover",
    )
}

/// Makes the disks of `folder`, which the replica was failed over to, those of its primary; nothing
/// where they are already.
pub(crate) async fn make_primary(
    folder: &StateFolder,
    replica: &Replica,
    policy: &Policy,
) -> Result<()> {
    let saved = folder.saved().ok_or_else(nothing_here)?;
    let target = match &saved.side {
        Side::Primary => return Ok(()),
        Side::FailedOver(target) if target.complete => target.clone(),
        Side::FailedOver(_) => {
            let incomplete = refused(
                "the images of the failover are not complete",
                "ask for the same failover again",
            );
            return Err(incomplete.into());
        }
        Side::Standby(_) => return Err(follows().into()),
    };
    let reverse = |manifest: &Manifest, kept: &mut Kept| {
        let grant = grant(manifest, kept, &target)?;
        let place = folder.scratch().display();
        let job = kept.notes.begin(JobKind::ReverseReplication, place, 1);
        Ok((grant, job))
    };
    let (manifest, (grant, job)) = change_kept(replica, false, reverse).await?;
    let doubt = doubt(replica, &manifest, &saved, target.point, grant.last).await;
    let begun =
        doubt.and_then(|doubt| become_primary(folder, saved, policy, &manifest, grant, doubt));
    operations::end(replica, job, begun).await
}

fn become_primary(
    folder: &StateFolder,
    saved: Saved,
    policy: &Policy,
    manifest: &Manifest,
    grant: Grant,
    doubt: Vec<Scope>,
) -> Result<()> {
    let sizes = manifest.disks.iter().map(|disk| disk.size).collect();
    let mut disks = saved.disks.clone();
    for (disk, theirs) in disks.iter_mut().zip(&manifest.disks) {
        disk.predecessor = ContentDigest::NONE;
        enlarge(disk, theirs.size)?;
    }
    folder.save(Saved {
        disks,
        replication: Machine::reversed(policy.clone(), sizes, grant, doubt),
        side: Side::Primary,
        ..saved
    })
}

/// Makes a disk at least as large as it is at the replica's newest barrier, whose size stays: it may be
/// of an older point, of before it grew. What it has more reads as zeros.
fn enlarge(disk: &mut SavedDisk, size: Length) -> Result<()> {
    if size <= disk.size {
        return Ok(());
    }
    let is_as_closed = disk.is_as_closed();
    RawDisk::open(&disk.path, Access::ReadWrite)?.lengthen(size)?;
    disk.size = size;
    if is_as_closed {
        disk.closed_as = Fingerprint::of(&disk.path);
    }
    Ok(())
}

/// Disks that follow the replica are not to be written to by anybody else.
pub(crate) fn follows() -> NotAllowed {
    refused(
        "the disks here follow the replica",
        "fail back to them and commit that first",
    )
}

fn grant(
    manifest: &Manifest,
    kept: &mut Kept,
    target: &FailoverTarget,
) -> Result<Grant, NotAllowed> {
    if kept.failover != Some(target.failover) {
        return Err(refused(
            "the replica is not failed over to the disks here",
            "reverse from where it was failed over to last, or follow the replica with these disks",
        ));
    }
    let epoch = manifest.fence.epoch;
    let last = manifest.last().unwrap_or(target.point);
    kept.replica.reverse(epoch, epoch, last)
}

/// What of each disk may differ from the replica's newest generation, apart from what is written to
/// it after the failover, which its fingerprint tells.
async fn doubt(
    replica: &Replica,
    manifest: &Manifest,
    saved: &Saved,
    point: Sequence,
    last: Sequence,
) -> Result<Vec<Scope>> {
    let Some(changed) = replica.changed_between(manifest, point, last).await? else {
        return Ok(vec![Scope::Everything; saved.disks.len()]);
    };
    let disks = saved.disks.iter().zip(changed);
    Ok(disks
        .map(|(disk, changed)| match disk.closed_as {
            Some(_) => Scope::Extents(changed),
            None => Scope::Everything,
        })
        .collect())
}
