//! What was found damaged and is recorded, until its primary has made up for it.

use std::sync::Arc;

use afterimage_block::{BlockRead, Extent, ExtentSet, Length, Offset, Sequence};
use object_store::path::Path;
use serde::{Deserialize, Serialize};

use crate::base::{blocking, read_chunk};
use crate::index::{chunk_in_page, pages};
use crate::layout::{BLOCK, CHUNK, PAGE};
use crate::objects::DiskObjects;
use crate::records::{NamedLog, outline};
use crate::scrub::prove_log;
use crate::{
    Checkpoint, Damage, Error, Manifest, RecoveryPoint, Replica, ReplicaDisk, Result, Writer,
};

/// How often damage is looked at again because the replica went on meanwhile.
const ATTEMPTS: usize = 8;

/// What an object holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// The digests of a disk's pages.
    Root,
    /// The digests of the chunks of the page with this number.
    Page(u64),
    /// The content of the chunk with this number.
    Chunk(u64),
    /// What was written in this generation.
    Log(Sequence),
}

impl Part {
    /// What of a disk of `size` cannot be read without it; `None` if there is nothing of it.
    pub(crate) fn extent(self, size: Length) -> Option<Extent> {
        let (unit, number) = match self {
            Self::Root | Self::Log(_) => return Extent::whole(size),
            Self::Page(number) => (PAGE, number),
            Self::Chunk(number) => (CHUNK, number),
        };
        let start = number.checked_mul(unit.get())?;
        let end = start.checked_add(unit.get())?.min(size.get());
        Extent::between(Offset::new(start), Offset::new(end))
    }
}

/// An object that is damaged, and what that means for the recovery points.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Loss {
    /// The object.
    pub object: String,
    /// The number of its disk.
    pub disk: usize,
    /// What it holds.
    pub part: Part,
    /// The first barrier at which the disk cannot be read for it.
    pub from: Sequence,
    /// The first later one at which it can, by what was written since; `None` for as long as there is
    /// none.
    pub until: Option<Sequence>,
    /// What the newest barrier lacks for it. Nothing once there is one that lacks nothing.
    pub lacks: ExtentSet,
}

impl Loss {
    /// Whether the disks at barrier `sequence` can be read in spite of it.
    fn spares(&self, sequence: Sequence) -> bool {
        sequence < self.from || self.is_settled_at(sequence)
    }

    /// Whether the disks at barrier `sequence` do not need the object any more.
    pub(crate) fn is_settled_at(&self, sequence: Sequence) -> bool {
        self.until.is_some_and(|until| until <= sequence)
    }

    /// The same, once `made_up` is at the replica anew.
    pub fn without(mut self, made_up: &ExtentSet) -> Self {
        made_up.iter().for_each(|extent| self.lacks.remove(extent));
        self
    }

    pub(crate) fn contradicts(&self, disks: &[ReplicaDisk]) -> bool {
        let size = disks.get(self.disk).map_or(Length::ZERO, |disk| disk.size);
        let reaches = self.lacks.iter().last().map_or(0, |last| last.end().get());
        self.part.extent(size).is_none()
            || reaches > size.get()
            || self.lacks.is_empty() != self.until.is_some()
    }
}

impl Manifest {
    /// The recovery points that can be read, as far as is known, oldest first.
    pub fn whole_points(&self) -> impl DoubleEndedIterator<Item = &RecoveryPoint> {
        self.points
            .iter()
            .filter(|point| self.is_whole(point.sequence))
    }

    /// The recovery points that cannot, oldest first. They can again if the primary finds what is lost
    /// as it was; once [`Loss::until`] is known they cannot be any more.
    pub fn damaged_points(&self) -> impl Iterator<Item = &RecoveryPoint> {
        self.points
            .iter()
            .filter(|point| !self.is_whole(point.sequence))
    }

    pub(crate) fn is_whole(&self, sequence: Sequence) -> bool {
        self.losses.iter().all(|loss| loss.spares(sequence))
    }

    /// The size of disk number `disk` when it was written what `part` holds of it.
    pub(crate) fn size_of(&self, disk: usize, part: Part) -> Length {
        let base = self.checkpoint.as_ref().map(|base| base.sequence);
        match part {
            Part::Log(sequence) => self.size_at(disk, sequence),
            _ => self.size_at(disk, base.unwrap_or_default()),
        }
    }

    /// What is recorded of the loss of `object`.
    pub(crate) fn loss(&self, object: &Path) -> Option<&Loss> {
        self.losses
            .iter()
            .find(|loss| loss.object == object.as_ref())
    }

    /// The losses that nothing made up for yet.
    pub fn open_losses(&self) -> impl Iterator<Item = &Loss> {
        self.losses.iter().filter(|loss| loss.until.is_none())
    }

    /// What cannot be compared of disk number `disk`, since what would tell is lost.
    pub fn unreadable(&self, disk: usize) -> ExtentSet {
        let losses = self.open_losses();
        let losses = losses.filter(|loss| loss.disk == disk && !matches!(loss.part, Part::Log(_)));
        let mut unreadable = ExtentSet::new();
        losses.for_each(|loss| unreadable.union_with(&loss.lacks));
        unreadable
    }

    /// Notes what generation `sequence` makes up for.
    pub(crate) fn amend(&mut self, amends: &[Loss], sequence: Sequence) {
        for amended in amends {
            let losses = self.losses.iter_mut();
            let mut known = losses.filter(|loss| loss.until.is_none());
            if let Some(loss) = known.find(|loss| loss.object == amended.object) {
                loss.lacks.clone_from(&amended.lacks);
                loss.until = loss.lacks.is_empty().then_some(sequence);
            }
        }
    }

    /// Forgets losses that no barrier from the checkpoint on suffers from.
    pub(crate) fn forget_losses(&mut self) {
        let oldest = self.checkpoint.as_ref().map(|kept| kept.sequence);
        self.losses
            .retain(|loss| !oldest.is_some_and(|oldest| loss.is_settled_at(oldest)));
    }

    /// Whether it still names what was found to be damaged.
    fn names(&self, damage: &Damage, objects: &DiskObjects) -> bool {
        match damage.part {
            Part::Log(sequence) => self.logs.iter().any(|entry| {
                let log = entry.of_disk(damage.number);
                let path = log.map(|(_, log)| objects.layout.log(sequence, &log));
                entry.sequence == sequence
                    && path.is_some_and(|path| path.as_ref() == damage.object)
            }),
            _ => self.checkpoint == damage.checkpoint,
        }
    }
}

impl Replica {
    /// Records what a scrub found to be damaged, so that its primary makes up for it at its next round
    /// ([`Writer::mend`]), and nobody is offered a recovery point that cannot be read. What is no longer
    /// needed meanwhile, or known, is passed over. How much is new.
    ///
    /// # Errors
    /// [`Error::NoReplica`], [`Error::Contended`], and as [`manifest`](Self::manifest).
    pub async fn record(&self, damage: &[Damage]) -> Result<usize> {
        for _ in 0..ATTEMPTS {
            let manifest = self.existing().await?;
            let mut losses = Vec::new();
            for damage in damage {
                losses.extend(self.loss(&manifest, damage).await?);
            }
            if losses.is_empty() {
                return Ok(0);
            }
            let recorded = self.change(|present| {
                let missing = || Error::NoReplica(self.name().to_string());
                let mut present = present.ok_or_else(missing)?;
                if present.checkpoint != manifest.checkpoint {
                    return Err(Error::Contended(self.name().to_string()));
                }
                let known = std::mem::take(&mut present.losses);
                let is_new = |loss: &&Loss| known.iter().all(|old| old.object != loss.object);
                let new = losses.iter().filter(is_new).cloned().collect::<Vec<_>>();
                present.losses = [known, new].concat();
                Ok(present)
            });
            match recorded.await {
                Err(Error::Contended(_)) => {}
                recorded => return recorded.map(|_| losses.len()),
            }
        }
        Err(Error::Contended(self.name().to_string()))
    }

    /// What the damage means for the barriers that `manifest` holds; `None` where it means nothing to
    /// it, or nothing new.
    async fn loss(&self, manifest: &Manifest, damage: &Damage) -> Result<Option<Loss>> {
        let disk = damage.number;
        let objects = self.disk_objects(manifest, disk)?;
        let known = manifest.loss(&Path::from(damage.object.as_str())).is_some();
        let Some(Checkpoint { sequence, .. }) = manifest.checkpoint else {
            return Ok(None);
        };
        if known || !manifest.names(damage, &objects) {
            return Ok(None);
        }
        let size = manifest.size_of(disk, damage.part);
        let mut loss = Loss {
            object: damage.object.clone(),
            disk,
            part: damage.part,
            from: sequence,
            until: None,
            lacks: damage.part.extent(size).into_iter().collect(),
        };
        let entries = manifest.logs.iter();
        let entries = entries.filter_map(|entry| entry.of_disk(disk));
        for (sequence, log) in entries {
            let log = NamedLog {
                sequence,
                object: log,
                size: manifest.size_at(disk, sequence),
            };
            let changed = changed(&objects, &log).await?;
            match damage.part {
                Part::Log(lost) if sequence < lost => {}
                Part::Log(lost) if sequence == lost => {
                    loss.from = lost;
                    // Where not even the index can be read, any of it may have been written.
                    loss.lacks = changed.unwrap_or(loss.lacks);
                }
                _ => loss = loss.without(&changed.unwrap_or_default()),
            }
            if loss.lacks.is_empty() {
                loss.until = Some(sequence.max(loss.from));
                break;
            }
        }
        if matches!(damage.part, Part::Log(_)) {
            // It is compared in whole blocks, and finer extents only make the manifest larger.
            let blocks = loss.lacks.iter();
            loss.lacks = blocks
                .map(|extent| extent.aligned_out(BLOCK, size))
                .collect();
        }
        Ok(Some(loss))
    }
}

/// What a log says that it changes; `None` if it cannot be asked.
async fn changed(objects: &DiskObjects, log: &NamedLog) -> Result<Option<ExtentSet>> {
    match outline(objects, log).await {
        Ok(outline) => Ok(Some(
            outline.index.iter().map(|piece| piece.extent).collect(),
        )),
        Err(Error::Damaged { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Writer {
    /// Mends what is recorded as lost, as far as it can be: a chunk that `disks`, which are the
    /// machine's in order, hold as it was is put anew, and what can be read again is lost no more. What
    /// the replica still lacks of each disk is to be sent to it by a resynchronization.
    ///
    /// # Errors
    /// [`Error::Fenced`], [`Error::Disk`], [`Error::Store`].
    pub async fn mend(&self, disks: &[Arc<dyn BlockRead>]) -> Result<Vec<ExtentSet>> {
        let manifest = self.replica().existing().await?;
        let mut mended = Vec::new();
        for loss in manifest.open_losses() {
            if self.mends(&manifest, loss, disks).await? {
                tracing::info!(object = loss.object, "it is whole again");
                mended.push(loss.object.clone());
            }
        }
        let manifest = if mended.is_empty() {
            manifest
        } else {
            self.change(|manifest| {
                manifest
                    .losses
                    .retain(|loss| !mended.contains(&loss.object));
                Ok(())
            })
            .await?
        };
        let lacks = |disk| {
            let mut lacks = ExtentSet::new();
            let losses = manifest.open_losses().filter(|loss| loss.disk == disk);
            losses.for_each(|loss| lacks.union_with(&loss.lacks));
            lacks
        };
        Ok((0..manifest.disks.len()).map(lacks).collect())
    }

    /// Whether the object of `loss` is as it was.
    async fn mends(
        &self,
        manifest: &Manifest,
        loss: &Loss,
        disks: &[Arc<dyn BlockRead>],
    ) -> Result<bool> {
        let objects = self.objects(manifest, loss.disk)?;
        let Some(source) = disks.get(loss.disk) else {
            return Ok(false);
        };
        let mended = match loss.part {
            Part::Log(lost) => {
                let mut logs = manifest.logs.iter();
                let log = logs.find_map(|entry| entry.of_disk(loss.disk).filter(|at| at.0 == lost));
                let Some((_, log)) = log else {
                    return Ok(false);
                };
                let log = NamedLog {
                    sequence: lost,
                    object: log,
                    size: manifest.size_at(loss.disk, lost),
                };
                prove_log(&objects, &log).await
            }
            part => self.mend_tree(manifest, &objects, part, source).await,
        };
        match mended {
            Err(Error::Damaged { .. }) => Ok(false),
            mended => mended.map(|()| true),
        }
    }

    /// Reads down to a part of the checkpoint's tree; a chunk that is not as it was is put as `source`
    /// has it, if that is as it was.
    async fn mend_tree(
        &self,
        manifest: &Manifest,
        objects: &DiskObjects,
        part: Part,
        source: &Arc<dyn BlockRead>,
    ) -> Result<()> {
        let gone = || Error::damaged("checkpoint", "it does not name the object any more");
        let checkpoint = manifest.checkpoint.as_ref();
        let disk = manifest.disks.iter().position(|disk| disk.id == objects.id);
        let node = checkpoint.and_then(|checkpoint| checkpoint.root(disk?));
        let root = objects.read_root(node.ok_or_else(gone)?).await?;
        let Some(extent) = part.extent(objects.size) else {
            return Err(gone());
        };
        if part == Part::Root {
            return Ok(());
        }
        let mut nodes = pages(objects.size).zip(&root.pages);
        let found = nodes.find(|(page, _)| page.contains(extent));
        let (page_extent, node) = found.ok_or_else(gone)?;
        let page = objects.read_page(page_extent, *node).await?;
        if matches!(part, Part::Page(_)) {
            return Ok(());
        }
        let Err(damaged) = objects.read_chunk(extent, &page).await else {
            return Ok(());
        };
        if !matches!(damaged, Error::Damaged { .. }) {
            return Err(damaged);
        }
        let source = Arc::clone(source);
        let content = blocking(move || read_chunk(source.as_ref(), extent)).await?;
        let in_page = chunk_in_page(extent);
        let content = content.filter(|content| page.verifies(in_page, content));
        let content = content.ok_or(damaged)?;
        let node = page.chunk(in_page);
        objects.write_chunk(extent, node, content.into()).await?;
        Ok(())
    }
}
