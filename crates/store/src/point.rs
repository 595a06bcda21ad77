//! Reading a machine's disks at any barrier that the store holds.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use afterimage_block::{
    BlockRead, BlockWrite, ContentDigest, Error as BlockError, Extent, ExtentMap, ExtentSet,
    Length, Offset, Run, RunKind, Sequence, Slice, Timestamp, check_range,
};
use afterimage_changelog::RecordHeader;
use bytes::Bytes;
use futures::future::try_join_all;
use futures::stream::{self, StreamExt, TryStream, TryStreamExt};
use object_store::path::Path;
use tokio::runtime::Handle;

use crate::base::blocking;
use crate::cache::Cache;
use crate::index::{Page, Root, block_digest, number};
use crate::layout::{BLOCK, CHUNK, PAGE};
use crate::objects::DiskObjects;
use crate::pack::Packs;
use crate::records::{NamedLog, OpenLog, Outline, batches, outline};
use crate::{Error, LogEntry, Loss, Manifest, Part, RecoveryPoint, Replica, Result};

/// Chunks and records that are read at the same time when a disk is restored.
const PARALLEL: usize = 4;
/// Outlines of logs that are: they are small, and there can be thousands of them.
const OUTLINES: usize = 32;

/// Which recovery point is meant. One that is known to be damaged is found by its number alone: what
/// cannot be read of it is an error where it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PointSelector {
    /// The newest.
    Latest,
    /// The one at this barrier.
    Sequence(Sequence),
    /// The newest that is not newer than this time.
    AtOrBefore(Timestamp),
}

/// A machine's disks at one barrier.
#[derive(Clone, Debug)]
pub struct Point {
    /// The barrier.
    pub sequence: Sequence,
    /// The disks, in the machine's order.
    pub disks: Vec<Arc<PointDisk>>,
}

impl Manifest {
    /// The recovery point that `selector` means.
    ///
    /// # Errors
    /// [`Error::NoPoint`] tells which there are.
    pub fn select(&self, selector: PointSelector) -> Result<RecoveryPoint> {
        let mut newest_first = self.whole_points().rev();
        let (found, wanted) = match selector {
            PointSelector::Latest => (newest_first.next(), "at all".to_owned()),
            PointSelector::Sequence(sequence) => (
                self.points.iter().find(|point| point.sequence == sequence),
                sequence.to_string(),
            ),
            PointSelector::AtOrBefore(time) => {
                let found = newest_first.find(|point| point.time <= time);
                (found, "from before that time".to_owned())
            }
        };
        found.copied().ok_or_else(|| Error::NoPoint {
            name: self.name.to_string(),
            wanted,
            available: match (self.points.first(), self.points.last()) {
                (Some(first), Some(last)) => match self.damaged_points().count() {
                    0 => format!("{} to {}", first.sequence, last.sequence),
                    damaged => format!(
                        "{} to {}, of which {damaged} cannot be read whole",
                        first.sequence, last.sequence
                    ),
                },
                _ => "none yet".into(),
            },
        })
    }
}

impl Replica {
    /// Opens the disks at barrier `sequence`, a recovery point or not. Reads the indexes of the logs
    /// that lead to it, and no data.
    ///
    /// # Errors
    /// [`Error::NoReplica`], [`Error::NoPoint`], [`Error::Damaged`], [`Error::Store`].
    pub async fn open_point(&self, sequence: Sequence) -> Result<Point> {
        let manifest = self.existing().await?;
        let is_lost = |loss: &Loss| loss.is_settled_at(sequence);
        let sizes = manifest.sizes_at(sequence);
        self.open_without(&manifest, sequence, &sizes, is_lost)
            .await
    }

    /// Opens the disks at the newest barrier, to be compared with the primary's, which have `sizes`: what
    /// the replica does not have of them yet reads as zeros. What is known to be
    /// lost is left out: what lost logs held is not there, and what is [`unreadable`] reads as zeros or
    /// not at all.
    ///
    /// # Errors
    /// As [`open_point`](Self::open_point); [`Error::Shrunk`] if a disk is smaller than the replica has it.
    ///
    /// [`unreadable`]: Manifest::unreadable
    pub async fn open_to_compare(&self, manifest: &Manifest, sizes: &[Length]) -> Result<Point> {
        let last = manifest.last().unwrap_or_default();
        manifest.check_sizes(sizes)?;
        self.open_without(manifest, last, sizes, |_| true).await
    }

    /// Opens the disks at barrier `sequence`, as disks of `sizes`, without the objects of the losses that
    /// are `lost`.
    async fn open_without(
        &self,
        manifest: &Manifest,
        sequence: Sequence,
        sizes: &[Length],
        lost: impl Fn(&Loss) -> bool,
    ) -> Result<Point> {
        let packs = Packs::default();
        let disks = sizes.iter().enumerate();
        let disks = disks.map(|(disk, size)| {
            let barrier = (sequence, *size);
            self.open_disk(manifest, disk, barrier, &packs, &lost)
        });
        let disks = try_join_all(disks).await?;
        let disks = disks.into_iter().map(Arc::new).collect();
        Ok(Point { sequence, disks })
    }

    /// What the logs after barrier `after`, up to barrier `through`, say of each disk, in the
    /// machine's order. What a disk grew by in between is zeros where they say nothing of it. `None` where `through` is the earlier one, or the store no longer holds both and
    /// all between them.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Store`].
    pub async fn changed_between(
        &self,
        manifest: &Manifest,
        after: Sequence,
        through: Sequence,
    ) -> Result<Option<Vec<ExtentSet>>> {
        if through < after || !manifest.holds(after) || !manifest.holds(through) {
            return Ok(None);
        }
        let between = |entry: &&LogEntry| after < entry.sequence && entry.sequence <= through;
        let mut losses = manifest.losses.iter();
        if losses.any(|loss| matches!(loss.part, Part::Log(log) if after < log && log <= through)) {
            // What it held is somewhere in a later one, among other things.
            return Ok(None);
        }
        let (packs, mut changed) = (Packs::default(), Vec::new());
        for number in 0..manifest.disks.len() {
            let objects = self.disk_objects(manifest, number)?.sharing(&packs);
            let logs = logs_of(manifest, number, manifest.logs.iter().filter(between));
            let mut extents = ExtentSet::new();
            let mut outlines = outlines(&objects, logs);
            while let Some(outline) = outlines.try_next().await? {
                extents.extend(outline.index.iter().map(|piece| piece.extent));
            }
            drop(outlines);
            changed.push(extents);
        }
        Ok(Some(changed))
    }

    async fn open_disk(
        &self,
        manifest: &Manifest,
        disk: usize,
        (sequence, size): (Sequence, Length),
        packs: &Packs,
        lost: impl Fn(&Loss) -> bool,
    ) -> Result<PointDisk> {
        let objects = self.disk_objects(manifest, disk)?.sharing(packs);
        let base = manifest
            .checkpoint
            .as_ref()
            .filter(|base| base.sequence <= sequence);
        let root = base.and_then(|base| base.root(disk));
        let Some(root) = root.filter(|_| Some(sequence) <= manifest.last()) else {
            return Err(Error::NoPoint {
                name: self.name.to_string(),
                wanted: sequence.to_string(),
                available: format!("{:?} to {:?}", manifest.checkpoint, manifest.last()),
            });
        };
        let is_lost = |path: &Path| manifest.loss(path).is_some_and(&lost);
        let root = if is_lost(&objects.layout.root(&root)) {
            Root::zero(objects.size)
        } else {
            objects.read_root(root).await?
        };
        let mut opened = PointDisk {
            size,
            root,
            objects: objects.clone(),
            overlay: ExtentMap::new(),
            logs: Vec::new(),
            pages: Cache::new(8),
            chunks: Cache::new(8),
            records: Cache::new(8),
        };
        let up_to = manifest
            .logs
            .iter()
            .take_while(|entry| entry.sequence <= sequence);
        let logs = logs_of(manifest, disk, up_to)
            .filter(|log| !is_lost(&objects.layout.log(log.sequence, &log.object)));
        let mut outlines = outlines(&objects, logs);
        while let Some(outline) = outlines.try_next().await? {
            opened.lay_over(outline);
        }
        drop(outlines);
        Ok(opened)
    }
}

/// The logs of disk number `disk`, oldest first.
fn logs_of<'m>(
    manifest: &'m Manifest,
    disk: usize,
    entries: impl Iterator<Item = &'m LogEntry>,
) -> impl Iterator<Item = NamedLog> {
    entries.filter_map(move |entry| {
        let (sequence, object) = entry.of_disk(disk)?;
        Some(NamedLog {
            sequence,
            object,
            size: manifest.size_at(disk, sequence),
        })
    })
}

/// What is known of these logs, in their order; many are asked for at a time.
fn outlines<'o>(
    objects: &'o DiskObjects,
    logs: impl Iterator<Item = NamedLog> + 'o,
) -> impl TryStream<Ok = Outline, Error = Error> + Unpin + 'o {
    let outline = move |log: NamedLog| async move { outline(objects, &log).await };
    Box::pin(stream::iter(logs.map(outline)).buffered(OUTLINES))
}

/// Where the newest bytes of a run stand.
#[derive(Clone, Copy, Debug)]
struct Patch {
    /// The number of the log; `None` for zeros.
    log: Option<usize>,
    /// The record in the log.
    record: u64,
    /// Where in the log the run's bytes start.
    data: u64,
}

impl Slice for Patch {
    fn advanced(&self, length: Length) -> Self {
        Self {
            data: self.data + length.get(),
            ..*self
        }
    }
}

/// One disk at one barrier. Memory is proportional to the pieces of the logs that lead to the
/// barrier, not to the disk.
#[derive(Debug)]
pub struct PointDisk {
    size: Length,
    /// Of the base, which may be of when the disk was smaller.
    objects: DiskObjects,
    root: Root,
    overlay: ExtentMap<Patch>,
    logs: Vec<OpenLog>,
    pages: Cache<u64, Arc<Page>>,
    chunks: Cache<u64, Option<Bytes>>,
    records: Cache<(usize, u64), Bytes>,
}

impl PointDisk {
    /// The disk's size.
    pub fn size(&self) -> Length {
        self.size
    }

    /// The `unit` of the base with this number; `None` behind the base's end.
    fn unit_of_base(&self, number: u64, unit: Length) -> Option<Extent> {
        let start = Offset::new(number.checked_mul(unit.get())?);
        let base = Offset::new(self.objects.size.get());
        let end = start.checked_add(unit).map_or(base, |end| end.min(base));
        Extent::between(start, end)
    }

    /// Whether `extent` is shorter in the base, where the disk ended within it.
    pub(crate) fn outgrew(&self, extent: Extent) -> bool {
        let base = self.objects.size.get();
        extent.start().get() < base && base < extent.end().get()
    }

    /// Lays the changes of one log over what there is so far.
    fn lay_over(&mut self, outline: Outline) {
        let log = self.logs.len();
        for piece in outline.index.iter() {
            let patch = Patch {
                log: piece.data_at.map(|_| log),
                record: piece.record_at,
                data: piece.data_at.unwrap_or_default(),
            };
            self.overlay.insert(piece.extent, patch);
        }
        self.logs.push(OpenLog {
            object: outline.object,
            salt: outline.salt,
            disk_size: outline.disk_size,
        });
    }

    /// The bytes of `extent`, each verified by its log record's checksum or its block's digest.
    ///
    /// # Errors
    /// [`Error::Disk`] if it ends behind the disk; [`Error::Damaged`], [`Error::Store`].
    pub async fn read(&self, extent: Extent) -> Result<Vec<u8>> {
        check_range(extent.start(), extent.length(), self.size())?;
        let mut content = vec![0; extent.length().to_usize().unwrap_or_default()];
        let mut covered = ExtentSet::new();
        let patches: Vec<_> = self.overlay.within(extent).collect();
        for (part, _) in &patches {
            covered.insert(*part);
        }
        self.read_patches(extent, &patches, &mut content).await?;
        let gaps: Vec<_> = covered
            .gaps(extent)
            .flat_map(|gap| gap.pieces(CHUNK))
            .collect();
        for gap in gaps {
            if let Some((chunk, stored)) = self.chunk(gap.start()).await? {
                let skip = gap
                    .start()
                    .checked_since(chunk.start())
                    .and_then(Length::to_usize);
                let stored = stored.get(skip.unwrap_or_default()..).unwrap_or_default();
                for (place, byte) in place_of(&mut content, extent, gap).iter_mut().zip(stored) {
                    *place = *byte;
                }
            }
        }
        Ok(content)
    }

    /// Puts what `patches` say into the content of `whole`. Each record is read once, and those that
    /// stand close together in one request.
    async fn read_patches(
        &self,
        whole: Extent,
        patches: &[(Extent, Patch)],
        content: &mut [u8],
    ) -> Result<()> {
        let mut wanted: BTreeMap<(usize, u64), Vec<(Extent, u64)>> = BTreeMap::new();
        for (part, patch) in patches {
            if let Some(log) = patch.log {
                let places = wanted.entry((log, patch.record)).or_default();
                places.push((*part, patch.data));
            }
        }
        let ranges = wanted.iter().map(|((log, record), places)| {
            let ends = places
                .iter()
                .map(|(part, at)| at.saturating_add(part.length().get()));
            (*log, *record..ends.max().unwrap_or(*record))
        });
        for (number, ranges) in batches(ranges) {
            let log = self.logs.get(number);
            let log = log.ok_or_else(|| Error::damaged("log", "there is no such log"))?;
            for (record, payload) in self.records(number, log, &ranges).await? {
                for (part, at) in wanted.get(&(number, record)).into_iter().flatten() {
                    let from = at.checked_sub(record + RecordHeader::LEN as u64);
                    let from = from.and_then(|from| usize::try_from(from).ok());
                    let place = place_of(content, whole, *part);
                    let bytes = from.and_then(|from| payload.get(from..)?.get(..place.len()));
                    place.copy_from_slice(bytes.ok_or_else(|| log.does_not_fit())?);
                }
            }
        }
        Ok(())
    }

    /// The records of a log that start where `ranges` do, and their payloads.
    async fn records(
        &self,
        number: usize,
        log: &OpenLog,
        ranges: &[Range<u64>],
    ) -> Result<Vec<(u64, Bytes)>> {
        let [range] = ranges else {
            return log.records(&self.objects, ranges).await;
        };
        // One record is likely to be read from again, piece by piece.
        let key = (number, range.start);
        if let Some(payload) = self.records.get(&key) {
            return Ok(vec![(range.start, payload)]);
        }
        let found = log.records(&self.objects, ranges).await?;
        for (_, payload) in &found {
            self.records.put(key, payload.clone());
        }
        Ok(found)
    }

    async fn page(&self, at: Offset) -> Result<Arc<Page>> {
        let position = number(at, PAGE);
        if let Some(page) = self.pages.get(&position) {
            return Ok(page);
        }
        let node = usize::try_from(position)
            .ok()
            .and_then(|p| self.root.pages.get(p));
        let page = match node.zip(self.unit_of_base(position, PAGE)) {
            Some((node, extent)) => self.objects.read_page(extent, *node).await?,
            None => Page::zero(unit_of(at, PAGE, self.size())),
        };
        let page = Arc::new(page);
        self.pages.put(position, Arc::clone(&page));
        Ok(page)
    }

    /// The chunk of the base that holds `at`; `None` if it is all zeros.
    async fn chunk(&self, at: Offset) -> Result<Option<(Extent, Bytes)>> {
        let position = number(at, CHUNK);
        let Some(extent) = self.unit_of_base(position, CHUNK) else {
            return Ok(None);
        };
        if let Some(content) = self.chunks.get(&position) {
            return Ok(content.map(|content| (extent, content)));
        }
        let page = self.page(at).await?;
        let content = self.objects.read_chunk(extent, &page).await?;
        self.chunks.put(position, content.clone());
        Ok(content.map(|content| (extent, content)))
    }

    /// The digest of the 64 KiB block that starts at `at`: as stored where no log has touched it,
    /// else computed.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn block_digest(&self, at: Offset) -> Result<ContentDigest> {
        let block = unit_of(at, BLOCK, self.size());
        if self.is_patched(block) || self.outgrew(block) {
            return Ok(block_digest(&self.read(block).await?));
        }
        let page = self.page(at).await?;
        Ok(page.block(Length::new(at.get() % PAGE.get())))
    }

    pub(crate) fn is_patched(&self, extent: Extent) -> bool {
        self.overlay.within(extent).next().is_some()
    }

    /// Whether the logs hold all of `extent`, so that the base is not needed for it.
    fn is_covered(&self, extent: Extent) -> bool {
        let parts = self.overlay.within(extent).map(|(part, _)| part.length());
        parts.fold(Length::ZERO, Length::saturating_add) == extent.length()
    }

    pub(crate) fn root(&self) -> &Root {
        &self.root
    }

    pub(crate) fn objects(&self) -> &DiskObjects {
        &self.objects
    }

    /// The page of the base at `page`; `None` where it cannot be read and the logs hold all of it.
    pub(crate) async fn page_at(&self, page: Extent) -> Result<Option<Page>> {
        let in_base = self.unit_of_base(number(page.start(), PAGE), PAGE);
        match self.page(page.start()).await {
            Ok(found) => Ok(Some(Arc::unwrap_or_clone(found))),
            Err(Error::Damaged { .. }) if self.is_covered(in_base.unwrap_or(page)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The run that holds the byte at `from`, starting there: what is known to be zeros is a hole.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Store`].
    pub async fn next_run(&self, from: Offset) -> Result<Option<Run>> {
        let Some(rest) = Extent::between(from, Offset::new(self.size().get())) else {
            return Ok(None);
        };
        let patch = self.overlay.within(rest).next();
        let gap_end = match patch {
            Some((part, patch)) if part.start() == from => {
                let kind = match patch.log {
                    Some(_) => RunKind::Data,
                    None => RunKind::Hole,
                };
                return Ok(Some(Run { extent: part, kind }));
            }
            Some((part, _)) => part.start(),
            None => rest.end(),
        };
        let page = self.page(from).await?;
        let limit = unit_of(from, PAGE, self.size()).end().min(gap_end);
        let kind_at = |at: Offset| match page.block(Length::new(at.get() % PAGE.get())) {
            ContentDigest::NONE => RunKind::Hole,
            _ => RunKind::Data,
        };
        let kind = kind_at(from);
        let mut end = from;
        while end < limit && kind_at(end) == kind {
            end = unit_of(end, BLOCK, self.size()).end();
        }
        let extent = Extent::between(from, end.min(limit));
        Ok(extent.map(|extent| Run { extent, kind }))
    }

    /// Writes the disk to `target`, which must be as large and all zeros: holes are left out.
    /// `progress` is told how many bytes each step dealt with.
    ///
    /// # Errors
    /// [`Error::Refused`] if the sizes differ; [`Error::Damaged`], [`Error::Store`],
    /// [`Error::Disk`].
    pub async fn restore(
        &self,
        target: Arc<dyn BlockWrite>,
        mut progress: impl FnMut(Length),
    ) -> Result<()> {
        if target.size() != self.size() {
            return Err(Error::Refused(
                "the target has another size than the disk".into(),
            ));
        }
        let whole = Extent::whole(self.size());
        let mut steps = stream::iter(whole.into_iter().flat_map(|whole| whole.pieces(CHUNK)))
            .map(|chunk| self.restore_chunk(chunk, Arc::clone(&target)))
            .buffered(PARALLEL);
        while let Some(length) = steps.try_next().await? {
            progress(length);
        }
        drop(steps);
        blocking(move || Ok(target.flush()?)).await
    }

    async fn restore_chunk(&self, chunk: Extent, target: Arc<dyn BlockWrite>) -> Result<Length> {
        let mut data = ExtentSet::new();
        let mut at = chunk.start();
        while let Some(run) = self.next_run(at).await?
            && let Some(part) = run.extent.intersection(chunk)
        {
            at = part.end();
            if run.kind == RunKind::Data {
                data.insert(part);
            }
        }
        if data.is_empty() {
            return Ok(chunk.length());
        }
        let mut content = self.read(chunk).await?;
        let write = move || -> Result<()> {
            for part in data.iter() {
                target.write_at(part.start(), place_of(&mut content, chunk, part))?;
            }
            Ok(())
        };
        blocking(write).await?;
        Ok(chunk.length())
    }
}

/// The `unit` of the disk that holds `at`, held at the disk's end.
fn unit_of(at: Offset, unit: Length, size: Length) -> Extent {
    let byte = Extent::between(at, Offset::new(at.get().saturating_add(1)));
    let byte = byte.unwrap_or_else(|| unreachable!("one byte is an extent"));
    byte.aligned_out(unit, size)
}

/// The place of `part` in the content of `whole`.
fn place_of(content: &mut [u8], whole: Extent, part: Extent) -> &mut [u8] {
    let start = part
        .start()
        .checked_since(whole.start())
        .and_then(Length::to_usize);
    let start = start.unwrap_or_default();
    let end = start + part.length().to_usize().unwrap_or_default();
    content.get_mut(start..end).unwrap_or_default()
}

/// A disk at a barrier as a block device, for threads that may block: not for those of the runtime.
#[derive(Clone, Debug)]
pub struct BlockingDisk {
    disk: Arc<PointDisk>,
    runtime: Handle,
}

impl BlockingDisk {
    /// The device; its reads run on `runtime`.
    pub fn new(disk: Arc<PointDisk>, runtime: Handle) -> Self {
        Self { disk, runtime }
    }
}

fn failed(offset: Offset, length: Length, error: Error) -> BlockError {
    match error {
        Error::Disk(error) => error,
        error => BlockError::Io {
            operation: "read",
            device: "recovery point".into(),
            offset,
            length,
            source: std::io::Error::other(error),
        },
    }
}

impl BlockRead for BlockingDisk {
    fn size(&self) -> Length {
        self.disk.size()
    }

    fn read_at(&self, offset: Offset, buf: &mut [u8]) -> afterimage_block::Result<()> {
        let Some(extent) = check_range(offset, Length::of(buf), self.size())? else {
            return Ok(());
        };
        let read = self.runtime.block_on(self.disk.read(extent));
        let content = read.map_err(|error| failed(offset, extent.length(), error))?;
        buf.copy_from_slice(&content);
        Ok(())
    }

    fn next_run(&self, from: Offset) -> afterimage_block::Result<Option<Run>> {
        let run = self.runtime.block_on(self.disk.next_run(from));
        run.map_err(|error| failed(from, Length::ZERO, error))
    }
}
