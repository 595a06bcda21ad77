//! Old recovery points are dropped, and their logs folded into the checkpoint.

use afterimage_block::{ContentDigest, Extent, Sequence};

use crate::index::{Page, block_digests, chunk_digest, chunk_in_page, pages};
use crate::layout::{Birth, CHUNK, Node};
use crate::point::PointDisk;
use crate::writer::Writer;
use crate::{Checkpoint, Manifest, Result, Retired};

/// Logs are folded into the checkpoint when there are this many to fold: each fold rewrites whole
/// chunks, and chunks that several logs touch are rewritten once.
const FOLD_MIN: usize = 8;

impl Writer {
    /// Keeps the newest `points_max` recovery points, at least one, of those that can be read, and what
    /// is newer than the oldest of these. The logs that only older ones needed are folded into the
    /// checkpoint once there are several, and what the fold before replaced is deleted. A crash at any
    /// instant loses nothing.
    ///
    /// # Errors
    /// [`Error::Fenced`](crate::Error::Fenced), [`Error::Damaged`](crate::Error::Damaged),
    /// [`Error::Store`](crate::Error::Store).
    pub async fn retain(&self, points_max: usize) -> Result<()> {
        let manifest = self.replica().existing().await?;
        let whole: Vec<_> = manifest.whole_points().collect();
        let surplus = whole.len().saturating_sub(points_max.max(1));
        let Some(oldest) = whole.get(surplus).map(|point| point.sequence) else {
            return Ok(());
        };
        let foldable = manifest
            .logs
            .iter()
            .filter(|entry| entry.sequence <= oldest)
            .count();
        if foldable >= FOLD_MIN {
            return self.fold(&manifest, oldest).await;
        }
        if surplus > 0 {
            self.change(|manifest| {
                manifest.points.retain(|point| point.sequence >= oldest);
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Makes barrier `at` the checkpoint. What the fold before this one replaced is deleted, what
    /// this one replaces by the next.
    async fn fold(&self, manifest: &Manifest, at: Sequence) -> Result<()> {
        self.sweep(manifest).await?;
        let point = self.replica().open_point(at).await?;
        let birth = Birth {
            sequence: at,
            epoch: self.epoch(),
        };
        let mut roots = Vec::new();
        for disk in &point.disks {
            roots.push(fold_disk(disk, birth).await?);
        }
        let checkpoint = Checkpoint {
            sequence: at,
            folded: Some(birth.epoch),
            roots,
        };
        let replace = |manifest: &mut Manifest| {
            if let Some(old) = manifest.checkpoint.take_if(|old| old.sequence < at) {
                let before = old.sequence;
                let after = manifest.logs.partition_point(|entry| entry.sequence <= at);
                let newer = manifest.logs.split_off(after);
                manifest.retired = Some(Retired {
                    checkpoint: old,
                    logs: std::mem::replace(&mut manifest.logs, newer),
                });
                manifest.checkpoint = Some(checkpoint.clone());
                manifest.points.retain(|point| point.sequence >= at);
                manifest.forget_losses();
                manifest.forget_growths(before);
            }
            Ok(())
        };
        self.change(replace).await.map(drop)
    }
}

/// Whether the base has other content in `extent`, or objects of another length.
fn differs_in_base(disk: &PointDisk, extent: Extent) -> bool {
    disk.is_patched(extent) || disk.outgrew(extent)
}

/// Stores what differs of the disk; its new root.
async fn fold_disk(disk: &PointDisk, birth: Birth) -> Result<ContentDigest> {
    let objects = disk.objects();
    let mut root = disk.root().clone().extended_to(disk.size());
    for (extent, node) in pages(disk.size()).zip(&mut root.pages) {
        if !differs_in_base(disk, extent) {
            continue;
        }
        let known = disk.page_at(extent).await?;
        let is_other = known.is_none() || disk.outgrew(extent);
        let known = known.map(|page| page.extended_to(extent));
        let mut page = known.unwrap_or_else(|| Page::zero(extent));
        if fold_page(disk, extent, birth, &mut page).await? || is_other {
            *node = objects.write_page(extent, birth, &page).await?;
        }
    }
    objects.write_root(birth, &root).await
}

/// Stores the chunks of a page that differ; whether there are any.
async fn fold_page(
    disk: &PointDisk,
    extent: Extent,
    birth: Birth,
    page: &mut Page,
) -> Result<bool> {
    let mut differs = false;
    let touched = |chunk: &Extent| differs_in_base(disk, *chunk);
    for chunk in extent.pieces(CHUNK).filter(touched) {
        let in_page = chunk_in_page(chunk);
        let content = disk.read(chunk).await?;
        let digests = block_digests(&content);
        let node = Node::new(birth, chunk_digest(&digests));
        if node.digest != page.chunk(in_page).digest || disk.outgrew(chunk) {
            differs = true;
            disk.objects()
                .write_chunk(chunk, node, content.into())
                .await?;
            page.set_chunk(in_page, birth, &digests);
        }
    }
    Ok(differs)
}
