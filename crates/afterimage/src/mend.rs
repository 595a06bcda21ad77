//! What a scrub found damaged at the replica is put there anew.

use std::sync::Arc;

use afterimage_block::BlockRead;
use afterimage_replication::Scope;
use afterimage_store::{Manifest, Writer};

use crate::shared::Shared;

/// Mends what `manifest` says to be lost, as far as the disks hold it as it was; what the replica still
/// lacks then of each disk, if anything.
pub(crate) async fn mend(
    shared: &Shared,
    writer: &Writer,
    manifest: &Manifest,
) -> Option<Vec<Scope>> {
    manifest.open_losses().next()?;
    let disks = shared.generations.disks.iter();
    let disks: Vec<_> = disks
        .map(|disk| Arc::clone(&disk.tracked) as Arc<dyn BlockRead>)
        .collect();
    match writer.mend(&disks).await {
        Ok(lacks) => {
            let lacking = lacks.iter().any(|extents| !extents.is_empty());
            lacking.then(|| lacks.into_iter().map(Scope::from).collect())
        }
        Err(error) => {
            tracing::warn!(%error, "what is damaged at the replica stays so for now");
            None
        }
    }
}
