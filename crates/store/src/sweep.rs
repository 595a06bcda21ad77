//! What the last fold replaced is deleted.

use std::collections::BTreeSet;

use afterimage_block::Extent;
use object_store::path::Path;

use crate::index::{Root, number, pages};
use crate::layout::{CHUNK, Node, PAGE};
use crate::objects::DiskObjects;
use crate::writer::Writer;
use crate::{Checkpoint, Error, LogEntry, Manifest, Result};

impl Writer {
    /// Deletes what the manifest says is retired. What is gone already is passed over, so that a sweep
    /// that was stopped can be made again.
    pub(crate) async fn sweep(&self, manifest: &Manifest) -> Result<()> {
        let (Some(retired), Some(kept)) = (&manifest.retired, &manifest.checkpoint) else {
            return Ok(());
        };
        let mut unused = self.log_objects(manifest, &retired.logs)?;
        // A pack may hold logs that are not folded yet.
        for needed in self.log_objects(manifest, &manifest.logs)? {
            unused.remove(&needed);
        }
        let unused = unused.into_iter().collect();
        self.objects(manifest, 0)?.delete(unused).await;
        for disk in 0..manifest.disks.len() {
            let of = |checkpoint: &Checkpoint| {
                let at = checkpoint.sequence;
                self.replica().disk_objects_at(manifest, disk, at)
            };
            let (objects, newer) = (of(&retired.checkpoint)?, of(kept)?);
            if let (Some(old), Some(new)) = (retired.checkpoint.root(disk), kept.root(disk)) {
                objects.sweep_root(old, &newer, new).await?;
            }
        }
        Ok(())
    }

    /// The objects that the logs of `entries` are in.
    pub(crate) fn log_objects<'e>(
        &self,
        manifest: &Manifest,
        entries: impl IntoIterator<Item = &'e LogEntry>,
    ) -> Result<BTreeSet<Path>> {
        let disks = 0..manifest.disks.len();
        let objects = disks.map(|disk| self.objects(manifest, disk));
        let objects = objects.collect::<Result<Vec<_>>>()?;
        let of_entry = |entry: &LogEntry| {
            let logs = objects.iter().zip(&entry.disks);
            let paths = logs.filter_map(|(objects, log)| {
                objects.layout.object_of(entry.sequence, log.as_ref()?)
            });
            paths.collect::<Vec<_>>()
        };
        Ok(entries.into_iter().flat_map(of_entry).collect())
    }
}

/// `None` of an object that is not there, or cannot be read: it was swept, or what it names is not
/// known, and left behind.
fn present<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Ok(found) => Ok(Some(found)),
        Err(Error::Damaged { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

impl DiskObjects {
    /// Deletes of the `old` tree what is not in the `new` one, which is of the `newer` disk: first what a
    /// node names, then the node.
    async fn sweep_root(&self, old: Node, newer: &Self, new: Node) -> Result<()> {
        let Some(old_root) = present(self.read_root(old).await)? else {
            return Ok(());
        };
        let Some(Root { pages: new_pages }) = present(newer.read_root(new).await)? else {
            return Ok(());
        };
        let pairs = old_root.pages.iter().zip(&new_pages);
        let extents = pages(self.size).zip(pages(newer.size));
        for (extents, (old, new)) in extents.zip(pairs) {
            if old != new {
                self.sweep_page(extents, *old, *new).await?;
            }
        }
        if old != new {
            self.delete(vec![self.layout.root(&old)]).await;
        }
        Ok(())
    }

    async fn sweep_page(
        &self,
        (extent, newer): (Extent, Extent),
        old: Node,
        new: Node,
    ) -> Result<()> {
        let Some(old_page) = present(self.read_page(extent, old).await)? else {
            return Ok(());
        };
        let Some(new_page) = present(self.read_page(newer, new).await)? else {
            return Ok(());
        };
        let pairs = old_page.chunks().zip(new_page.chunks());
        let unused = extent
            .pieces(CHUNK)
            .zip(pairs)
            .filter(|(_, (old, new))| old != new && *old != Node::ZERO)
            .map(|(chunk, (old, _))| self.layout.chunk(number(chunk.start(), CHUNK), &old));
        self.delete(unused.collect()).await;
        if old != Node::ZERO {
            let page = self.layout.page(number(extent.start(), PAGE), &old);
            self.delete(vec![page]).await;
        }
        Ok(())
    }
}
