//! Old recovery points are dropped, and their logs folded into the checkpoint.

use afterimage_block::{ContentDigest, Extent, Length, Sequence};
use futures::stream::{self, StreamExt, TryStreamExt};

use crate::index::{Page, block_digests, chunk_digest, chunk_in_page, pages};
use crate::layout::{Birth, CHUNK, Node};
use crate::point::PointDisk;
use crate::writer::Writer;
use crate::{Checkpoint, LogEntry, Manifest, Result, Retired};

/// A fold rewrites whole chunks, for whatever was changed in them, and a chunk that is put costs as much as
/// keeping a quarter of it in logs for a month. So logs are folded as late as may be, when chunks that many
/// of them touch are rewritten once. Never fewer generations than this are:
const FOLD_MIN: usize = 8;
/// A point that is opened reads the outlines of all logs that lead to it. With so many generations, asked for
/// 32 at a time, it opens within a second where an answer takes 50 ms.
const GENERATIONS_MAX: usize = 128;
/// Logs that no point needs take no more room than this part of the disks.
const ROOM: u64 = 4;
/// Chunks that are folded at the same time.
const PARALLEL: usize = 4;

impl Manifest {
    /// The oldest recovery point that is kept where the newest `points_max`, at least one, of those that
    /// can be read are; `None` if there is none.
    fn oldest_kept(&self, points_max: usize) -> Option<Sequence> {
        let newest_first = self.whole_points().rev();
        let kept = newest_first.take(points_max.max(1));
        kept.last().map(|point| point.sequence)
    }

    /// Whether more can be read than these. Only then older ones are dropped: those that are damaged
    /// are shown as such until they are older than what is kept.
    fn has_surplus(&self, points_max: usize) -> bool {
        self.whole_points().count() > points_max.max(1)
    }

    /// Drops the recovery points that are older than those, if there are more.
    pub(crate) fn keep_points(&mut self, points_max: usize) {
        if self.has_surplus(points_max)
            && let Some(oldest) = self.oldest_kept(points_max)
        {
            self.points.retain(|point| point.sequence >= oldest);
        }
    }
}

impl Writer {
    /// Keeps the newest `points_max` recovery points, at least one, of those that can be read, and what
    /// is newer than the oldest of these. The logs that only older ones needed are folded into the
    /// checkpoint once there are several, and what the fold before replaced is deleted. A crash at any
    /// instant loses nothing. Asks for nothing where nothing is to be done.
    ///
    /// # Errors
    /// [`Error::Fenced`](crate::Error::Fenced), [`Error::Damaged`](crate::Error::Damaged),
    /// [`Error::Store`](crate::Error::Store).
    pub async fn retain(&self, points_max: usize) -> Result<()> {
        let manifest = self.known().await?;
        let Some(oldest) = manifest.oldest_kept(points_max) else {
            return Ok(());
        };
        if is_worth_a_fold(&manifest, oldest) {
            return self.fold(points_max).await;
        }
        if manifest.has_surplus(points_max) {
            let keep = |manifest: &mut Manifest| {
                manifest.keep_points(points_max);
                Ok(())
            };
            self.change(keep).await?;
        }
        Ok(())
    }

    /// Makes the oldest of the newest `points_max` barriers the checkpoint. What the fold before this one
    /// replaced is deleted, what this one replaces by the next.
    async fn fold(&self, points_max: usize) -> Result<()> {
        // Not as it is remembered: points may have been found damaged, or the writer fenced off.
        let manifest = self.replica().existing().await?;
        let Some(at) = manifest.oldest_kept(points_max) else {
            return Ok(());
        };
        self.sweep(&manifest).await?;
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
                let folded = std::mem::replace(&mut manifest.logs, newer);
                manifest.retired = Some(Retired {
                    checkpoint: old,
                    logs: folded.into_iter().map(LogEntry::without_inlined).collect(),
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

/// Whether the logs up to barrier `at` are to be folded into the checkpoint.
fn is_worth_a_fold(manifest: &Manifest, at: Sequence) -> bool {
    let foldable = manifest.logs.partition_point(|entry| entry.sequence <= at);
    let (old, kept) = manifest.logs.split_at(foldable);
    let logs = old.iter().flat_map(|entry| entry.disks.iter().flatten());
    let logs = logs.fold(Length::ZERO, |sum, log| sum.saturating_add(log.length));
    let disks = manifest.disks.iter();
    let disks = disks.fold(Length::ZERO, |sum, disk| sum.saturating_add(disk.size));
    let takes_room = logs.get() >= disks.get() / ROOM;
    old.len() >= FOLD_MIN && (takes_room || old.len() >= generations_max(kept.len()))
}

/// How many generations that no point needs are kept beside the `kept` ones that points need. Where these
/// are many, opening the newest takes its time anyway, and takes half as long again at most.
fn generations_max(kept: usize) -> usize {
    GENERATIONS_MAX.saturating_sub(kept).max(kept / 2)
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
    let chunks = extent.pieces(CHUNK);
    let chunks = chunks.filter(|chunk| differs_in_base(disk, *chunk));
    let chunks: Vec<_> = chunks
        .map(|chunk| (chunk, page.chunk(chunk_in_page(chunk)).digest))
        .collect();
    let mut folds = stream::iter(chunks)
        .map(|(chunk, known)| fold_chunk(disk, chunk, birth, known))
        .buffered(PARALLEL);
    let mut differs = false;
    while let Some(folded) = folds.try_next().await? {
        if let Some((chunk, digests)) = folded {
            differs = true;
            page.set_chunk(chunk_in_page(chunk), birth, &digests);
        }
    }
    Ok(differs)
}

/// Stores a chunk if its digest is no longer the `known` one, or its length another; its blocks' digests then.
async fn fold_chunk(
    disk: &PointDisk,
    chunk: Extent,
    birth: Birth,
    known: ContentDigest,
) -> Result<Option<(Extent, Vec<u8>)>> {
    let content = disk.read(chunk).await?;
    let digests = block_digests(&content);
    let node = Node::new(birth, chunk_digest(&digests));
    if node.digest == known && !disk.outgrew(chunk) {
        return Ok(None);
    }
    let objects = disk.objects();
    objects.write_chunk(chunk, node, content.into()).await?;
    Ok(Some((chunk, digests)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_points_need_decides_how_much_more_is_kept() {
        let all = [(0, 128), (23, 105), (85, 43), (86, 43), (1000, 500)];
        for (kept, more) in all {
            assert_eq!(generations_max(kept), more, "{kept}");
        }
    }
}
