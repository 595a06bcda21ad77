//! The one writer of a replica.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use afterimage_block::{ContentDigest, Epoch, Length, Sequence};
use afterimage_changelog::SealedLog;
use object_store::path::Path;
use serde_json::Value;

use crate::base::{BaseProgress, BaseWriter};
use crate::layout::DiskLayout;
use crate::manifest::Naming;
use crate::objects::DiskObjects;
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
    /// The logs that were put and are not published.
    put: Arc<Mutex<Vec<PutLog>>>,
}

/// A log that was put.
#[derive(Clone, Debug)]
struct PutLog {
    disk: usize,
    sequence: Sequence,
    path: Path,
}

/// The logs of one generation, to be published.
#[derive(Clone, Debug)]
pub struct Publication {
    /// The first generation that the logs are of: it follows the newest that the replica has. That of
    /// [`logs`](Self::logs), unless they are merged.
    pub first: Sequence,
    /// The logs, all durable.
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
    pub(crate) fn new(replica: Replica, fence: Fence) -> Self {
        Self {
            replica,
            fence,
            put: Arc::default(),
        }
    }

    fn put(&self) -> MutexGuard<'_, Vec<PutLog>> {
        self.put.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The epoch that it writes in.
    pub fn epoch(&self) -> Epoch {
        self.fence.epoch
    }

    /// The replica.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// Changes the manifest, if the fence is still this writer's.
    pub(crate) async fn change(
        &self,
        change: impl Fn(&mut Manifest) -> Result<()>,
    ) -> Result<Manifest> {
        self.replica.store.check_reachable().await?;
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
        self.replica.change(changed).await
    }

    /// Replaces the state that is kept with the replica; the manifest then.
    ///
    /// # Errors
    /// [`Error::Fenced`], [`Error::Store`].
    pub async fn set_state(&self, state: &Value) -> Result<Manifest> {
        let set = |manifest: &mut Manifest| {
            manifest.state = published(&manifest.state, state);
            Ok(())
        };
        self.change(set).await
    }

    pub(crate) fn objects(&self, manifest: &Manifest, disk: usize) -> Result<DiskObjects> {
        self.replica.disk_objects(manifest, disk)
    }

    /// Begins or goes on with the copy of the machine's disk number `disk`.
    ///
    /// # Errors
    /// [`Error::NoReplica`], [`Error::Store`].
    pub async fn base(&self, disk: usize, progress: BaseProgress) -> Result<BaseWriter> {
        let manifest = self.replica.existing().await?;
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

    /// Stores a sealed log of disk number `disk`; it is durable when this returns, and counts once it
    /// is published. What is sent is proved on its way, whatever became of the file since it was.
    ///
    /// # Errors
    /// [`Error::Refused`] if the log is of another disk or of when it was smaller, compressed or encrypted;
    /// [`Error::LogChanged`], [`Error::Folder`], [`Error::Store`].
    pub async fn put_log(&self, disk: usize, log: &SealedLog) -> Result<LogObject> {
        self.replica.store.check_reachable().await?;
        let manifest = self.replica.existing().await?;
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
            naming: Naming::Content,
        };
        let path = objects.layout.log(header.last, &stored);
        let sequence = header.last;
        self.put().push(PutLog {
            disk,
            sequence,
            path: path.clone(),
        });
        objects.upload_log(log, &path).await?;
        Ok(stored)
    }

    /// Publishes the logs of one generation, and the recovery point that they lead to. Publishing
    /// what is published already changes nothing but the state.
    ///
    /// # Errors
    /// [`Error::Fenced`], [`Error::OutOfSequence`], [`Error::BrokenChain`], [`Error::Shrunk`],
    /// [`Error::Store`].
    pub async fn publish(&self, publication: &Publication, state: &Value) -> Result<Manifest> {
        let publish = |manifest: &mut Manifest| {
            manifest.state = published(&manifest.state, state);
            if !follows(manifest, publication)? {
                return Ok(());
            }
            manifest.grow(&publication.sizes, publication.logs.sequence)?;
            manifest.logs.push(publication.logs.clone());
            manifest.points.extend(publication.point);
            manifest.amend(&publication.amends, publication.logs.sequence);
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
        for PutLog {
            disk,
            sequence,
            path,
        } in settled
        {
            let objects = self.objects(manifest, disk)?;
            let mut entries = manifest
                .logs
                .iter()
                .filter(|entry| entry.sequence == sequence);
            let published = entries.find_map(|entry| *entry.disks.get(disk)?);
            let published = published.map(|log| objects.layout.log(sequence, &log));
            if published.as_ref() != Some(&path) {
                objects.delete(vec![path]).await;
            }
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
    if manifest.logs.last() == Some(&publication.logs) {
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
        let before = before.and_then(|entry| *entry.disks.get(disk)?);
        let known = before
            .map(|log| log.content)
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
        })
    }
}
