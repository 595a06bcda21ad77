//! A machine whose replica was made of another copy of its disks: initial replication onto an existing copy.
//!
//! Images are carried to the replica's site, or are there as a backup, and are protected there under the
//! machine's name until they are stopped. The machine itself then has that replica from now on: whoever made
//! it is fenced off, all of the disks is compared, and only what differs is sent.

use std::path::PathBuf;

use afterimage_replication::{Grant, Machine, NotAllowed, Policy};
use afterimage_store::{MachineName, Manifest, Replica};

use crate::shared::{Kept, change_kept};
use crate::state::{Saved, Side, StateFolder, stem};
use crate::{Error, Result};

/// Makes `folder` that of the primary of `replica`, with the disks at `paths`; nothing where it is that of a
/// machine already.
pub(crate) async fn adopt(
    folder: &StateFolder,
    replica: &Replica,
    paths: &[PathBuf],
    policy: &Policy,
) -> Result<()> {
    if folder.saved().is_some() {
        return Ok(());
    }
    // Before anybody is fenced off.
    check_names(&replica.existing().await?, paths)?;
    let (manifest, grant) = change_kept(replica, true, grant).await?;
    check_names(&manifest, paths)?;
    let sizes: Vec<_> = manifest.disks.iter().map(|disk| disk.size).collect();
    folder.save(Saved {
        replication: Machine::adopting(policy.clone(), sizes.clone(), grant),
        ..Saved::of_replica(&manifest, sizes, paths.to_vec(), Side::Primary)
    })
}

fn grant(manifest: &Manifest, kept: &mut Kept) -> Result<Grant, NotAllowed> {
    let (epoch, last) = (manifest.fence.epoch.checked_next(), manifest.last());
    let (Some(epoch), Some(last)) = (epoch, last) else {
        return Err(NotAllowed {
            reason: "the replica holds no copy".into(),
            advice: "protect the copy of the disks there until it has a recovery point",
        });
    };
    kept.replica.adopt(epoch, last)
}

/// The disks here must have the names that the replica's have.
fn check_names(manifest: &Manifest, paths: &[PathBuf]) -> Result<()> {
    let theirs: Vec<_> = manifest
        .disks
        .iter()
        .map(|disk| disk.name.clone())
        .collect();
    let ours = paths
        .iter()
        .map(|path| stem(path))
        .collect::<Result<Vec<_>>>()?;
    if theirs == ours {
        return Ok(());
    }
    let list = |names: &[MachineName]| {
        let names: Vec<_> = names.iter().map(MachineName::as_str).collect();
        names.join(", ")
    };
    Err(Error::Disks(format!(
        "the replica has {} where the machine has {}: name the same disks in the same order",
        list(&theirs),
        list(&ours)
    )))
}
