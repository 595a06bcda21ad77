//! Everything that a manifest names is read again and proved.

use std::sync::Arc;

use afterimage_block::{ContentDigest, Extent, Length, Sequence};
use futures::stream::{self, StreamExt};
use object_store::path::Path;
use sha2::{Digest, Sha256};

use crate::cas::proved;
use crate::index::{Page, Root, chunk_in_page, number, pages};
use crate::layout::{CHUNK, Node, PAGE};
use crate::objects::DiskObjects;
use crate::records::{NamedLog, Outline, outline};
use crate::{Checkpoint, Error, LogEntry, LogObject, MachineName, Manifest, Part, Replica, Result};

/// Chunks of one page that are read at the same time.
const PARALLEL: usize = 4;
/// How much of a log is read at a time.
const LOG_STEP: u64 = 8 << 20;

/// Reads a replica again, step by step, and tells what is damaged. A step is one page of a disk with
/// its chunks, or the logs of one generation; the pace is the caller's.
///
/// The replica may be written to meanwhile: a step proves what there is when it begins.
#[derive(Debug)]
pub struct Scrub {
    replica: Replica,
    at: Place,
    /// The root that was read last, so that it is not read for each page.
    root: Option<(Node, Arc<Root>)>,
}

/// What comes next.
#[derive(Clone, Copy, Debug)]
enum Place {
    Page { disk: usize, page: usize },
    LogsAfter(Sequence),
}

/// What one step of a scrub found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// How many objects are what they should be.
    pub objects: u64,
    /// Their bytes.
    pub proved: Length,
    /// What is damaged.
    pub damage: Vec<Damage>,
}

/// An object that is missing or is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The object.
    pub object: String,
    /// What is wrong.
    pub reason: String,
    /// The disk that it is of.
    pub disk: MachineName,
    /// The part of the disk that cannot be read for it, at some of the recovery points.
    pub extent: Extent,
    pub(crate) number: usize,
    pub(crate) part: Part,
    /// The checkpoint whose tree it was found in.
    pub(crate) checkpoint: Option<Checkpoint>,
}

impl Replica {
    /// A scrub of all that the replica holds.
    pub fn scrub(&self) -> Scrub {
        Scrub {
            replica: self.clone(),
            at: Place::Page { disk: 0, page: 0 },
            root: None,
        }
    }
}

impl Scrub {
    /// Makes the next step; `None` once everything was read.
    ///
    /// # Errors
    /// [`Error::NoReplica`]; [`Error::Damaged`] if the manifest itself is; [`Error::Store`], after
    /// which the step can be made again.
    pub async fn step(&mut self) -> Result<Option<Scrubbed>> {
        loop {
            let manifest = self.replica.existing().await?;
            let mut found = Scrubbed::default();
            let next = match self.at {
                Place::Page { disk, page } => {
                    self.page(&manifest, (disk, page), &mut found).await?
                }
                Place::LogsAfter(last) => {
                    let mut entries = manifest.logs.iter();
                    let Some(entry) = entries.find(|entry| entry.sequence > last) else {
                        return Ok(None);
                    };
                    self.logs(&manifest, entry, &mut found).await?;
                    Place::LogsAfter(entry.sequence)
                }
            };
            // What was made up for nobody needs any more.
            found.damage.retain(|damage| {
                let loss = manifest.loss(&Path::from(damage.object.as_str()));
                loss.is_none_or(|loss| loss.until.is_none())
            });
            if !found.damage.is_empty() && !self.is_kept(&manifest).await? {
                // What was missing was deleted meanwhile, and rightly: the replica went on.
                continue;
            }
            self.at = next;
            if found != Scrubbed::default() {
                return Ok(Some(found));
            }
        }
    }

    /// Whether what `manifest` names is still to be there.
    async fn is_kept(&self, manifest: &Manifest) -> Result<bool> {
        let now = self.replica.existing().await?;
        let retired = now.retired.as_ref().map(|retired| &retired.checkpoint);
        let kept = [now.checkpoint.as_ref(), retired];
        Ok(kept.contains(&manifest.checkpoint.as_ref()))
    }

    /// Reads the first page from number `page` on that is not all zeros, and its chunks; what comes
    /// after it.
    async fn page(
        &mut self,
        manifest: &Manifest,
        (disk, page): (usize, usize),
        found: &mut Scrubbed,
    ) -> Result<Place> {
        let root = manifest.checkpoint.as_ref();
        let root = root.and_then(|checkpoint| checkpoint.root(disk));
        let Some(root) = root else {
            return Ok(Place::LogsAfter(Sequence::ZERO));
        };
        let objects = self.replica.disk_objects(manifest, disk)?;
        let next_disk = Place::Page {
            disk: disk.saturating_add(1),
            page: 0,
        };
        let subject = Subject { manifest, disk };
        let Some(root) = self.root(&objects, root, subject, found).await? else {
            return Ok(next_disk);
        };
        let nodes = pages(objects.size).zip(&root.pages).enumerate().skip(page);
        let mut nodes = nodes.filter(|(_, (_, node))| **node != Node::ZERO);
        let Some((page, (extent, node))) = nodes.next() else {
            return Ok(next_disk);
        };
        let read = objects.read_page(extent, *node).await;
        let length = read.as_ref().map_or(Length::ZERO, Page::length);
        let subject = Subject { manifest, disk };
        let part = Part::Page(number(extent.start(), PAGE));
        if let Some(page) = found.proved(read, length, subject, part)? {
            chunks(&objects, extent, &page, subject, found).await?;
        }
        Ok(Place::Page {
            disk,
            page: page.saturating_add(1),
        })
    }

    async fn root(
        &mut self,
        objects: &DiskObjects,
        node: Node,
        subject: Subject<'_>,
        found: &mut Scrubbed,
    ) -> Result<Option<Arc<Root>>> {
        if let Some((_, root)) = self.root.as_ref().filter(|(known, _)| *known == node) {
            return Ok(Some(Arc::clone(root)));
        }
        let read = objects.read_root(node).await.map(Arc::new);
        let length = read.as_ref().map_or(Length::ZERO, |root| root.length());
        let root = found.proved(read, length, subject, Part::Root)?;
        self.root = root.clone().map(|root| (node, root));
        Ok(root)
    }

    async fn logs(
        &self,
        manifest: &Manifest,
        entry: &LogEntry,
        found: &mut Scrubbed,
    ) -> Result<()> {
        for (number, log) in entry.disks.iter().enumerate() {
            let Some(log) = log else {
                continue;
            };
            let objects = self.replica.disk_objects(manifest, number)?;
            let named = NamedLog {
                sequence: entry.sequence,
                object: log.clone(),
                size: manifest.size_at(number, entry.sequence),
            };
            let read = prove_log(&objects, &named).await;
            let subject = Subject {
                manifest,
                disk: number,
            };
            found.proved(read, log.length, subject, Part::Log(entry.sequence))?;
        }
        Ok(())
    }
}

/// A disk of a manifest, by its number.
#[derive(Clone, Copy)]
struct Subject<'m> {
    manifest: &'m Manifest,
    disk: usize,
}

impl Scrubbed {
    /// Notes what was read, of `length` bytes, or that it is damaged.
    fn proved<T>(
        &mut self,
        read: Result<T>,
        length: Length,
        subject: Subject<'_>,
        part: Part,
    ) -> Result<Option<T>> {
        match read {
            Ok(read) => {
                self.objects = self.objects.saturating_add(1);
                self.proved = self.proved.saturating_add(length);
                Ok(Some(read))
            }
            Err(Error::Damaged { object, reason }) => {
                let Subject { manifest, disk } = subject;
                let told = manifest.disks.get(disk);
                let extent = part.extent(manifest.size_of(disk, part));
                let told = told.zip(extent);
                self.damage.extend(told.map(|(told, extent)| Damage {
                    object,
                    reason,
                    disk: told.name.clone(),
                    extent,
                    number: disk,
                    part,
                    checkpoint: manifest.checkpoint.clone(),
                }));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// Reads the chunks of a page.
async fn chunks(
    objects: &DiskObjects,
    extent: Extent,
    page: &Page,
    subject: Subject<'_>,
    found: &mut Scrubbed,
) -> Result<()> {
    let stored = extent
        .pieces(CHUNK)
        .filter(|chunk| page.chunk(chunk_in_page(*chunk)) != Node::ZERO);
    let mut reads = stream::iter(stored)
        .map(async |chunk| (chunk, objects.read_chunk(chunk, page).await))
        .buffered(PARALLEL);
    while let Some((chunk, read)) = reads.next().await {
        let part = Part::Chunk(number(chunk.start(), CHUNK));
        found.proved(read, chunk.length(), subject, part)?;
    }
    Ok(())
}

/// Every byte of a log: header and records by the content's digest, the footer by its own.
pub(crate) async fn prove_log(objects: &DiskObjects, log: &NamedLog) -> Result<()> {
    let object = &log.object;
    if object.place.is_own() {
        let path = objects.layout.log(log.sequence, object);
        objects.check_length(&path, object.length).await?;
    }
    let outline = outline(objects, log).await?;
    proved(|| prove_body(objects, &outline, object)).await
}

async fn prove_body(objects: &DiskObjects, outline: &Outline, log: &LogObject) -> Result<()> {
    let (mut at, mut digest) = (0, Sha256::new());
    while at < outline.body_end {
        let step = LOG_STEP.min(outline.body_end - at);
        digest.update(objects.range(&outline.object, at, step).await?);
        at += step;
    }
    if ContentDigest::new(digest.finalize().into()) != log.content {
        let path = &outline.object.path;
        return Err(Error::damaged(path, "its content's digest does not match"));
    }
    Ok(())
}
