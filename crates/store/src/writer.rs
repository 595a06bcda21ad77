//! The one writer of a replica.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use afterimage_block::{ContentDigest, Epoch, Length, Sequence};
use afterimage_changelog::SealedLog;
use object_store::path::Path;
use serde_json::Value;

use crate::base::{BaseProgress, BaseWriter};
use crate::layout::DiskLayout;
use crate::objects::DiskObjects;
use crate::pack::{LogBytes, Packing, Packs, Place};
use crate::replica::Seen;
use crate::upload::{PART, content_of};
use crate::{
    Checkpoint, Error, Fence, LogEntry, LogObject, Loss, Manifest, RecoveryPoint, Replica, Result,
};

/// The member of the state kept with a replica that is not its writer's: what a writer publishes leaves
/// it as it is. It is changed by [`Replica::transition`] alone.
pub const NOTES: &str = "notes";

/// The one writer of a replica, for as long as nobody else claims it: every change that it makes
/// first proves that the fence is still its own.
#[derive(Clone, Debug)]
pub struct Writer {
    replica: Replica,
    fence: Fence,
    /// The manifest as it was written or read last; `None` after whatever leaves that in doubt. It is
    /// replaced only while it is the present one, so that an older one costs a request and no more.
    seen: Arc<Mutex<Option<Seen>>>,
    /// The objects with logs that were put and are not published.
    put: Arc<Mutex<Vec<Put>>>,
}

/// An object with logs that was put.
#[derive(Clone, Debug)]
struct Put {
    /// The newest generation of them.
    sequence: Sequence,
    path: Path,
}

/// The logs of one generation, to be published.
#[derive(Clone, Debug)]
pub struct Publication {
    /// The first generation that the logs are of: it follows the newest that the replica has. That of
    /// [`logs`](Self::logs), unless they are merged.
    pub first: Sequence,
    /// The logs, as they were [put](Writer::put_log).
    pub logs: LogEntry,
    /// The size of each disk at their barrier.
    pub sizes: Vec<Length>,
    /// The digest that each log gives for the one before it; [`ContentDigest::NONE`] where it gives
    /// none.
    pub predecessors: Vec<ContentDigest>,
    /// Whether logs of before were lost, so that these may leave a gap in the sequence. The replica
    /// cannot be at a recovery point then.
    pub after_loss: bool,
    /// The recovery point that the replica reaches with them.
    pub point: Option<RecoveryPoint>,
    /// Losses that were known before, with what these logs leave to be made up for
    /// ([`Loss::without`]).
    pub amends: Vec<Loss>,
}

impl Writer {
    pub(crate) fn new(replica: Replica, seen: Seen) -> Self {
        let writer = Self {
            replica,
            fence: seen.manifest.fence,
            seen: Arc::default(),
            put: Arc::default(),
        };
        writer.remember(seen);
        writer
    }

    fn put(&self) -> MutexGuard<'_, Vec<Put>> {
        self.put.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen(&self) -> MutexGuard<'_, Option<Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, seen: Seen) {
        if seen.stamp.is_tagged() || self.replica.store.is_folder() {
            *self.seen() = Some(seen);
        }
    }

    /// The epoch that it writes in.
    pub fn epoch(&self) -> Epoch {
        self.fence.epoch
    }

    /// The replica.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// The manifest as it is remembered, or else read. It may not be the present one any more.
    pub(crate) async fn known(&self) -> Result<Manifest> {
        let seen = self.seen().clone();
        if let Some(seen) = seen {
            self.check_folder().await?;
            return Ok(seen.manifest);
        }
        let seen = self.replica.read_existing().await?;
        self.remember(seen.clone());
        Ok(seen.manifest)
    }

    /// Where a manifest is remembered nothing was asked of the store yet: a folder may be no longer
    /// mounted, and would take what is put.
    async fn check_folder(&self) -> Result<()> {
        if self.replica.store.is_folder() {
            self.replica.store.check_reachable().await?;
        }
        Ok(())
    }

    /// Changes the manifest, if the fence is still this writer's.
    pub(crate) async fn change(
        &self,
        change: impl Fn(&mut Manifest) -> Result<()>,
    ) -> Result<Manifest> {
        let changed = |present: Option<Manifest>| {
            let missing = || Error::NoReplica(self.replica.name.to_string());
            let mut manifest = present.ok_or_else(missing)?;
            if manifest.fence != self.fence {
                return Err(Error::Fenced {
                    own: self.fence.epoch,
                    current: manifest.fence.epoch,
                });
            }
            change(&mut manifest)?;
            Ok(manifest)
        };
        // Taken: whatever fails from here on leaves it in doubt.
        let remembered = self.seen().take();
        let written = match self.change_remembered(remembered, &changed).await? {
            Some(written) => written,
            None => self.replica.change(changed).await?,
        };
        self.remember(written.clone());
        Ok(written.manifest)
    }

    /// Changes the manifest that is remembered; `None` if there is none, or it will not do any more. What
    /// would be refused is refused only by the present one.
    async fn change_remembered(
        &self,
        remembered: Option<Seen>,
        changed: impl Fn(Option<Manifest>) -> Result<Manifest>,
    ) -> Result<Option<Seen>> {
        let Some(Seen { manifest, stamp }) = remembered else {
            return Ok(None);
        };
        let Ok(next) = changed(Some(manifest)) else {
            return Ok(None);
        };
        self.check_folder().await?;
        self.replica.swap(Some(&stamp), next).await
    }

    /// Replaces the state that is kept with the replica; the manifest then.
    ///
    /// # Errors
    /// [`Error::Fenced`], [`Error::Store`].
    pub async fn set_state(&self, state: &Value) -> Result<Manifest> {
        self.update_state(|_| Ok(state.clone())).await
    }

    /// Replaces the state that is kept with the replica by what `update` makes of the present one, as often
    /// as others come in between; the manifest then.
    ///
    /// # Errors
    /// What `update` returns, and as [`set_state`](Self::set_state).
    pub async fn update_state(&self, update: impl Fn(&Value) -> Result<Value>) -> Result<Manifest> {
        let updated = |manifest: &mut Manifest| {
            let state = update(&manifest.state)?;
            manifest.state = published(&manifest.state, &state);
            Ok(())
        };
        self.change(updated).await
    }

    pub(crate) fn objects(&self, manifest: &Manifest, disk: usize) -> Result<DiskObjects> {
        self.replica.disk_objects(manifest, disk)
    }

    /// Begins or goes on with the copy of the machine's disk number `disk`.
    ///
    /// # Errors
    /// [`Error::NoReplica`], [`Error::Store`].
    pub async fn base(&self, disk: usize, progress: BaseProgress) -> Result<BaseWriter> {
        let manifest = self.known().await?;
        Ok(BaseWriter::new(self.objects(&manifest, disk)?, progress))
    }

    /// Publishes the copies of all disks as the checkpoint at barrier `sequence`. Publishing the same
    /// again changes nothing.
    ///
    /// # Errors
    /// [`Error::Fenced`], [`Error::Refused`] if there is another base already, [`Error::Store`].
    pub async fn publish_base(
        &self,
        sequence: Sequence,
        roots: Vec<ContentDigest>,
        point: Option<RecoveryPoint>,
        state: &Value,
    ) -> Result<()> {
        let checkpoint = Checkpoint {
            sequence,
            folded: None,
            roots,
        };
        let publish = |manifest: &mut Manifest| {
            if manifest.checkpoint.as_ref() == Some(&checkpoint) {
                return Ok(());
            }
            if manifest.checkpoint.is_some() {
                return Err(Error::Refused("the replica has a base already".into()));
            }
            manifest.checkpoint = Some(checkpoint.clone());
            manifest.points.extend(point);
            manifest.state = published(&manifest.state, state);
            Ok(())
        };
        self.change(publish).await.map(drop)
    }

    /// Stores a sealed log of disk number `disk`, which counts once it is published: a small one within
    /// what is returned ([`Inlining`](crate::Inlining)), so that publishing it makes it durable; a larger
    /// one is durable when this returns. What is sent is proved on its way, whatever became of the file
    /// since it was.
    ///
    /// # Errors
    /// [`Error::Refused`] if the log is of another disk or of when it was smaller, compressed or encrypted;
    /// [`Error::LogChanged`], [`Error::Folder`], [`Error::Store`].
    pub async fn put_log(&self, disk: usize, log: &SealedLog) -> Result<LogObject> {
        let manifest = self.known().await?;
        let header = log.header();
        let ours = manifest.disks.get(disk);
        if ours.is_none_or(|ours| ours.id != header.disk || header.disk_size < ours.size) {
            let (disk, size) = (header.disk, header.disk_size.get());
            let reason =
                format!("the log is of disk {disk} with {size} bytes, not of this replica");
            return Err(Error::Refused(reason));
        }
        if !log.form().is_plain() {
            let reason =
                "the log is compressed or encrypted, which recovery points cannot be read of";
            return Err(Error::Refused(reason.into()));
        }
        let objects = self.objects(&manifest, disk)?;
        let stored = LogObject {
            epoch: self.fence.epoch,
            length: log.summary().file_length,
            content: log.summary().content,
            place: Place::Content,
        };
        let inlined_max = self.replica.store.inlining.log_max.min(Length::new(PART));
        if stored.length <= inlined_max {
            let place = Place::Inlined(LogBytes(content_of(log).await?));
            return Ok(LogObject { place, ..stored });
        }
        let path = objects.layout.log(header.last, &stored);
        self.note_put(header.last, &path);
        objects.upload_log(log, &path).await?;
        Ok(stored)
    }

    /// Notes what is put, so that it is deleted if it comes to nothing.
    fn note_put(&self, sequence: Sequence, path: &Path) {
        let path = path.clone();
        self.put().push(Put { sequence, path });
    }

    /// Puts the logs that the manifest holds, and those of `publication` that it would, into one object
    /// if they are too many for it.
    async fn pack(&self, publication: &Publication) -> Result<Packing> {
        let manifest = self.known().await?;
        let before = manifest.logs.iter();
        let before = before.filter(|entry| entry.sequence < publication.first);
        let entries = before.chain([&publication.logs]);
        let total_max = self.replica.store.inlining.total_max;
        let packing = Packing::of(entries, total_max, self.fence.epoch);
        if let Some((pack, content)) = &packing.pack {
            let objects = self.objects(&manifest, 0)?;
            let path = objects.layout.pack(pack);
            self.note_put(pack.sequence, &path);
            objects.put(&path, content.clone()).await?;
        }
        Ok(packing)
    }

    /// Publishes the logs of one generation, and the recovery point that they lead to. Publishing
    /// what is published already changes nothing but the state.
    ///
    /// # Errors
    /// [`Error::Fenced`], [`Error::OutOfSequence`], [`Error::BrokenChain`], [`Error::Shrunk`],
    /// [`Error::Store`].
    pub async fn publish(&self, publication: &Publication, state: &Value) -> Result<Manifest> {
        let all = |_: &Manifest| usize::MAX;
        self.publish_retaining(publication, state, all).await
    }

    /// The same, and keeps of the recovery points then as many of the newest as `points_max` says: at
    /// least one, and what is newer than the oldest of these. It is asked of the manifest with the new one.
    /// What only older ones needed is left to [`retain`](Self::retain).
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub async fn publish_retaining(
        &self,
        publication: &Publication,
        state: &Value,
        points_max: impl Fn(&Manifest) -> usize,
    ) -> Result<Manifest> {
        let packing = self.pack(publication).await?;
        let publish = |manifest: &mut Manifest| {
            manifest.state = published(&manifest.state, state);
            if !follows(manifest, publication)? {
                return Ok(());
            }
            manifest.grow(&publication.sizes, publication.logs.sequence)?;
            manifest.logs.push(publication.logs.clone());
            packing.apply(&mut manifest.logs);
            manifest.points.extend(publication.point);
            manifest.amend(&publication.amends, publication.logs.sequence);
            manifest.keep_points(points_max(manifest));
            Ok(())
        };
        let manifest = self.change(publish).await?;
        self.delete_unpublished(&manifest).await?;
        Ok(manifest)
    }

    /// Deletes what was put for the generations of `manifest` and is not in it: earlier attempts,
    /// which nobody can publish any more.
    async fn delete_unpublished(&self, manifest: &Manifest) -> Result<()> {
        let last = manifest.last();
        let settled: Vec<_> = self
            .put()
            .extract_if(.., |put| Some(put.sequence) <= last)
            .collect();
        if settled.is_empty() {
            return Ok(());
        }
        let is_of = |entry: &&LogEntry| settled.iter().any(|put| put.sequence == entry.sequence);
        let named = self.log_objects(manifest, manifest.logs.iter().filter(is_of))?;
        let paths = settled.into_iter().map(|put| put.path);
        let unnamed: Vec<_> = paths.filter(|path| !named.contains(path)).collect();
        if !unnamed.is_empty() {
            self.objects(manifest, 0)?.delete(unnamed).await;
        }
        Ok(())
    }
}

/// What is kept with the replica once its writer publishes `state`.
fn published(present: &Value, state: &Value) -> Value {
    let mut next = state.clone();
    if let Some(members) = next.as_object_mut() {
        match present.get(NOTES) {
            Some(notes) => drop(members.insert(NOTES.into(), notes.clone())),
            None => drop(members.remove(NOTES)),
        }
    }
    next
}

/// Whether `publication` is the next in the manifest's history; `false` if it is there already.
fn follows(manifest: &Manifest, publication: &Publication) -> Result<bool> {
    let found = publication.first;
    let last = manifest.last().ok_or_else(|| {
        Error::Refused("the replica has no base yet that a log could follow".into())
    })?;
    let newest = manifest.logs.last();
    if newest.is_some_and(|newest| newest.is_same(&publication.logs)) {
        return Ok(false);
    }
    if Some(found) != last.checked_next() {
        let may_leave_a_gap = publication.after_loss && publication.point.is_none();
        return if may_leave_a_gap && found > last {
            Ok(true)
        } else {
            Err(Error::OutOfSequence { last, found })
        };
    }
    for (disk, predecessor) in publication.predecessors.iter().enumerate() {
        // Where the log before was lost, what it was to be followed by is of no log that is here.
        let before = manifest.logs.last();
        let before = before.and_then(|entry| entry.of_disk(disk));
        let known = before
            .map(|(_, log)| log.content)
            .filter(|_| *predecessor != ContentDigest::NONE);
        if known.is_some_and(|known| known != *predecessor) {
            return Err(Error::BrokenChain { sequence: found });
        }
    }
    Ok(true)
}

impl Replica {
    /// The objects of disk number `disk`, as large as it is at the checkpoint, or now where there is none.
    pub(crate) fn disk_objects(&self, manifest: &Manifest, disk: usize) -> Result<DiskObjects> {
        let oldest = manifest.checkpoint.as_ref().map(|kept| kept.sequence);
        let oldest = oldest.or(manifest.last()).unwrap_or_default();
        self.disk_objects_at(manifest, disk, oldest)
    }

    /// The objects of disk number `disk`, as large as it is at barrier `sequence`.
    pub(crate) fn disk_objects_at(
        &self,
        manifest: &Manifest,
        disk: usize,
        sequence: Sequence,
    ) -> Result<DiskObjects> {
        let found = manifest.disks.get(disk);
        let found = found.ok_or_else(|| Error::Refused(format!("there is no disk {disk}")))?;
        Ok(DiskObjects {
            store: self.store.clone(),
            layout: DiskLayout::new(&self.name, found.id, manifest.cipher()),
            id: found.id,
            size: manifest.size_at(disk, sequence),
            packs: Packs::default(),
        })
    }
}
