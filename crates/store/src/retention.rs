//! Old recovery points are dropped, and their logs folded into the checkpoint.

use afterimage_block::{ContentDigest, Extent, Sequence};
use object_store::path::Path;

use crate::index::{Page, Root, block_digests, chunk_digest, chunk_in_page, number, pages};
use crate::layout::{CHUNK, PAGE};
use crate::point::PointDisk;
use crate::writer::Writer;
use crate::{Checkpoint, Manifest, Result};

/// Logs are folded into the checkpoint when there are this many to fold: each fold rewrites whole
/// chunks, and chunks that several logs touch are rewritten once.
const FOLD_MIN: usize = 8;

impl Writer {
    /// Keeps the newest `points_max` recovery points, at least one. The logs that only older ones
    /// needed are folded into the checkpoint once there are several, and what nothing names any more
    /// is deleted. A crash at any instant loses nothing.
    ///
    /// # Errors
    /// [`Error::Fenced`](crate::Error::Fenced), [`Error::Damaged`](crate::Error::Damaged),
    /// [`Error::Store`](crate::Error::Store).
    pub async fn retain(&self, points_max: usize) -> Result<()> {
        let manifest = self.replica().existing().await?;
        let surplus = manifest.points.len().saturating_sub(points_max.max(1));
        let Some(oldest) = manifest.points.get(surplus).map(|point| point.sequence) else {
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

    /// Makes barrier `at` the checkpoint.
    async fn fold(&self, manifest: &Manifest, at: Sequence) -> Result<()> {
        let point = self.replica().open_point(at).await?;
        let mut roots = Vec::new();
        let mut unused = Vec::new();
        for disk in &point.disks {
            let folded = fold_disk(disk).await?;
            roots.push(folded.root);
            unused.extend(folded.unused);
        }
        let checkpoint = Checkpoint {
            sequence: at,
            roots,
        };
        self.change(|manifest| {
            manifest.checkpoint = Some(checkpoint.clone());
            manifest.logs.retain(|entry| entry.sequence > at);
            manifest.points.retain(|point| point.sequence >= at);
            Ok(())
        })
        .await?;
        for (disk, opened) in point.disks.iter().enumerate() {
            let entries = manifest.logs.iter().filter(|entry| entry.sequence <= at);
            for (sequence, log) in entries.map(|entry| (entry.sequence, entry.disks.get(disk))) {
                if let Some(Some(log)) = log {
                    unused.push(opened.objects().layout.log(sequence, log.epoch));
                }
            }
        }
        if let Some(disk) = point.disks.first() {
            for path in &unused {
                disk.objects().delete(path).await;
            }
        }
        Ok(())
    }
}

/// A disk's new root, and the objects that only the old one named.
struct Folded {
    root: ContentDigest,
    unused: Vec<Path>,
}

async fn fold_disk(disk: &PointDisk) -> Result<Folded> {
    let objects = disk.objects();
    let mut root = disk.root().clone();
    let mut unused = Vec::new();
    for (extent, digest) in pages(disk.size()).zip(&mut root.pages) {
        if !disk.is_patched(extent) {
            continue;
        }
        let old = *digest;
        let mut page = disk.page_at(extent).await?;
        fold_page(disk, extent, &mut page, &mut unused).await?;
        *digest = objects.write_page(extent, &page).await?;
        if old != *digest && old != ContentDigest::NONE {
            unused.push(objects.layout.page(number(extent.start(), PAGE), &old));
        }
    }
    let written = objects.write_root(&root).await?;
    let old = Root::digest(disk.root());
    if old != written {
        unused.push(objects.layout.root(&old));
    }
    Ok(Folded {
        root: written,
        unused,
    })
}

async fn fold_page(
    disk: &PointDisk,
    extent: Extent,
    page: &mut Page,
    unused: &mut Vec<Path>,
) -> Result<()> {
    let objects = disk.objects();
    let chunks: Vec<_> = extent
        .pieces(CHUNK)
        .filter(|chunk| disk.is_patched(*chunk))
        .collect();
    for chunk in chunks {
        let in_page = chunk_in_page(chunk);
        let old = page.chunk(in_page);
        let content = disk.read(chunk).await?;
        let digests = block_digests(&content);
        let new = chunk_digest(&digests);
        objects.write_chunk(chunk, &new, content.into()).await?;
        page.set_chunk(in_page, &digests);
        if old != new && old != ContentDigest::NONE {
            unused.push(objects.layout.chunk(number(chunk.start(), CHUNK), &old));
        }
    }
    Ok(())
}
