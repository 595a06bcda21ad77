//! The one writer of a replica.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use afterimage_block::{ContentDigest, Epoch, Length, Sequence};
use afterimage_changelog::SealedLog;
use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload, WriteMultipart};
use serde_json::Value;

use crate::base::{BaseProgress, BaseWriter, blocking};
use crate::cipher::{Cipher, Sealing};
use crate::layout::DiskLayout;
use crate::objects::DiskObjects;
use crate::{
    Checkpoint, Error, Fence, LogEntry, LogObject, Manifest, RecoveryPoint, Replica, Result,
};

/// Logs up to this length are put in one request, longer ones in parts of it. S3 refuses parts of less
/// than 5 MiB, all but the last.
const PART: u64 = 8 << 20;
/// Parts that are on their way at the same time.
const PARTS_IN_FLIGHT_MAX: usize = 2;

/// The member of the state kept with a replica that is not its writer's: what a writer publishes leaves
/// it as it is. It is changed by [`Replica::transition`] alone.
pub const NOTES: &str = "notes";

/// The one writer of a replica, for as long as nobody else claims it: every change that it makes
/// first proves that the fence is still its own.
#[derive(Clone, Debug)]
pub struct Writer {
    replica: Replica,
    fence: Fence,
}

/// The logs of one generation, to be published.
#[derive(Clone, Debug)]
pub struct Publication {
    /// The logs, all durable.
    pub logs: LogEntry,
    /// The digest that each log gives for the one before it; [`ContentDigest::NONE`] where it gives
    /// none.
    pub predecessors: Vec<ContentDigest>,
    /// Whether logs of before were lost, so that these may leave a gap in the sequence. The replica
    /// cannot be at a recovery point then.
    pub after_loss: bool,
    /// The recovery point that the replica reaches with them.
    pub point: Option<RecoveryPoint>,
}

impl Writer {
    pub(crate) fn new(replica: Replica, fence: Fence) -> Self {
        Self { replica, fence }
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

    /// Replaces the state that is kept with the replica.
    ///
    /// # Errors
    /// [`Error::Fenced`], [`Error::Store`].
    pub async fn set_state(&self, state: &Value) -> Result<()> {
        let set = |manifest: &mut Manifest| {
            manifest.state = published(&manifest.state, state);
            Ok(())
        };
        self.change(set).await.map(drop)
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
    /// is published.
    ///
    /// # Errors
    /// [`Error::Refused`] if the log is of another disk or size, compressed or encrypted, [`Error::Log`], [`Error::Store`].
    pub async fn put_log(&self, disk: usize, log: &SealedLog) -> Result<LogObject> {
        self.replica.store.check_reachable().await?;
        let manifest = self.replica.existing().await?;
        let header = log.header();
        let ours = manifest.disks.get(disk);
        if ours.is_none_or(|ours| ours.id != header.disk || ours.size != header.disk_size) {
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
        let path = objects.layout.log(header.last, self.fence.epoch);
        self.upload(log, &path, objects.layout.cipher.clone())
            .await?;
        Ok(LogObject {
            epoch: self.fence.epoch,
            length: log.summary().file_length,
            content: log.summary().content,
        })
    }

    async fn upload(
        &self,
        log: &SealedLog,
        path: &Path,
        cipher: Option<Arc<Cipher>>,
    ) -> Result<()> {
        let failed = |source| Error::store("write", path, source);
        let length = log.summary().file_length.get();
        let objects = &self.replica.store.objects;
        let mut parts = Parts::of(log, path, cipher)?;
        if length <= PART {
            let content = parts.next().await?.unwrap_or_default();
            let put = objects.put(path, PutPayload::from(content)).await;
            return put.map(drop).map_err(failed);
        }
        let upload = objects.put_multipart(path).await.map_err(failed)?;
        let part = usize::try_from(PART).unwrap_or(usize::MAX);
        let mut upload = WriteMultipart::new_with_chunk_size(upload, part);
        match put_parts(parts, &mut upload).await {
            Ok(()) => upload.finish().await.map(drop).map_err(failed),
            Err(error) => {
                // What was put would be kept, and paid for, without a name.
                let _ = upload.abort().await;
                match error {
                    PartError::Log(error) => Err(error),
                    PartError::Store(source) => Err(failed(source)),
                }
            }
        }
    }

    /// Publishes the logs of one generation, and the recovery point that they lead to. Publishing
    /// what is published already changes nothing but the state.
    ///
    /// # Errors
    /// [`Error::Fenced`], [`Error::OutOfSequence`], [`Error::BrokenChain`], [`Error::Store`].
    pub async fn publish(&self, publication: &Publication, state: &Value) -> Result<Manifest> {
        let publish = |manifest: &mut Manifest| {
            manifest.state = published(&manifest.state, state);
            if !follows(manifest, publication)? {
                return Ok(());
            }
            manifest.logs.push(publication.logs.clone());
            manifest.points.extend(publication.point);
            Ok(())
        };
        self.change(publish).await
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
    let found = publication.logs.sequence;
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

/// Why a part of a log was not put.
enum PartError {
    Log(Error),
    Store(object_store::Error),
}

async fn put_parts(mut parts: Parts<'_>, upload: &mut WriteMultipart) -> Result<(), PartError> {
    while let Some(content) = parts.next().await.map_err(PartError::Log)? {
        let capacity = upload.wait_for_capacity(PARTS_IN_FLIGHT_MAX).await;
        capacity.map_err(PartError::Store)?;
        upload.put(content);
    }
    Ok(())
}

/// What a log's object consists of, part by part.
struct Parts<'a> {
    log: &'a SealedLog,
    at: u64,
    length: u64,
    /// What comes before the next part, and what seals it.
    sealed: Option<(Vec<u8>, Sealing)>,
}

impl<'a> Parts<'a> {
    fn of(log: &'a SealedLog, path: &Path, cipher: Option<Arc<Cipher>>) -> Result<Self> {
        let length = log.summary().file_length.get();
        let sealed = cipher.map(|cipher| cipher.begin(path.as_ref(), length));
        Ok(Self {
            log,
            at: 0,
            length,
            sealed: sealed.transpose()?,
        })
    }

    /// The next part; `None` after the last.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        if self.at >= self.length {
            return Ok(None);
        }
        let (path, at) = (self.log.path().to_owned(), self.at);
        let length = PART.min(self.length - at);
        let sealed = self.sealed.take();
        let (content, sealing) = blocking(move || {
            let content = read_part(&path, at, length)?;
            let Some((mut out, mut sealing)) = sealed else {
                return Ok((content, None));
            };
            sealing.seal(&content, &mut out)?;
            Ok((out, Some(sealing)))
        })
        .await?;
        self.at += length;
        self.sealed = sealing.map(|sealing| (Vec::new(), sealing));
        Ok(Some(content.into()))
    }
}

fn read_part(path: &std::path::Path, at: u64, length: u64) -> Result<Vec<u8>> {
    let mut content = vec![0; Length::new(length).to_usize().unwrap_or_default()];
    let file = std::fs::File::open(path);
    let read = file.and_then(|file| file.read_exact_at(&mut content, at));
    read.map_err(|source| Error::Folder {
        operation: "read",
        path: path.display().to_string(),
        source,
    })?;
    Ok(content)
}

impl Replica {
    pub(crate) fn disk_objects(&self, manifest: &Manifest, disk: usize) -> Result<DiskObjects> {
        let found = manifest.disks.get(disk);
        let found = found.ok_or_else(|| Error::Refused(format!("there is no disk {disk}")))?;
        Ok(DiskObjects {
            store: self.store.clone(),
            layout: DiskLayout::new(&self.name, found.id, manifest.cipher()),
            size: found.size,
        })
    }
}
