//! The logs of a machine's disks: opened, rotated at a barrier, sealed, read again after a crash.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use afterimage_block::{
    Access, BlockRead, BlockWrite, Change, ChangeSink, ContentDigest, DiskId, Doubt, Epoch, Extent,
    ExtentSet, Finished, Generation, IntentLog, Length, Outcome, RawDisk, RunKind, Sequence,
    SinkError, Snapshot, TrackedDisk, WriteGate,
};
use afterimage_changelog::{FileWriter, LogHeader, SealedLog, WriterOptions};
use afterimage_replication::{Barrier, BarrierReached, Ended, Event, Scope, Tracking};
use afterimage_resync::BlockSize;

use crate::growing::{Growing, unproven};
use crate::state::{Fingerprint, SavedDisk, StateFolder};
use crate::{Clock, Error, Result};

/// Data that is read again after a crash goes through memory in pieces of this size.
pub(crate) const PIECE: Length = Length::mib(1);

/// A log that the tracked disk appends to and its owner seals.
#[derive(Clone)]
struct SharedLog(Arc<Mutex<Option<FileWriter>>>);

impl SharedLog {
    fn lock(&self) -> MutexGuard<'_, Option<FileWriter>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ChangeSink for SharedLog {
    fn append(&mut self, change: Change<'_>) -> Result<(), SinkError> {
        let mut log = self.lock();
        let log = log.as_mut().ok_or("the log is sealed")?;
        log.append(change, Clock::timestamp())?;
        Ok(())
    }
}

/// One disk of the machine.
pub(crate) struct Disk {
    pub(crate) id: DiskId,
    pub(crate) path: PathBuf,
    raw: Arc<RawDisk>,
    pub(crate) tracked: Arc<TrackedDisk>,
    logs: PathBuf,
    open: Mutex<Option<SharedLog>>,
    predecessor: Mutex<ContentDigest>,
}

/// All disks of the machine, and the generation that takes their writes.
pub(crate) struct Generations {
    pub(crate) disks: Vec<Disk>,
    gate: WriteGate,
    epoch: Mutex<Epoch>,
    scratch: PathBuf,
    snapshots: Mutex<Vec<Arc<Snapshot>>>,
    /// The disks that are to grow at the next barrier at which disks can change.
    growing: Mutex<Vec<Growing>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The file of a disk's log of generation `sequence` in the folder `logs`.
pub(crate) fn log_path(logs: &Path, sequence: Sequence) -> PathBuf {
    logs.join(format!("{:020}.ailog", sequence.get()))
}

fn intent_path(logs: &Path, sequence: Sequence) -> PathBuf {
    logs.join(format!("{:020}.intent", sequence.get()))
}

/// The generations whose intent files are in `logs`.
fn intents(logs: &Path) -> Vec<Sequence> {
    generations(logs, "intent")
}

/// The generations that have a file with this extension in `logs`.
fn generations(logs: &Path, extension: &str) -> Vec<Sequence> {
    let Ok(entries) = std::fs::read_dir(logs) else {
        return Vec::new();
    };
    let sequence = |path: PathBuf| {
        let is_one = path.extension()? == extension;
        let number = path.file_stem()?.to_str()?.parse().ok()?;
        is_one.then_some(Sequence::new(number))
    };
    entries
        .filter_map(|entry| sequence(entry.ok()?.path()))
        .collect()
}

/// A disk that is open and not yet tracked.
pub(crate) struct OpenDisk {
    pub(crate) saved: SavedDisk,
    pub(crate) raw: Arc<RawDisk>,
    /// Where it is larger than its record was: what of its new part nothing proves to be zeros.
    pub(crate) larger: Option<Scope>,
    logs: PathBuf,
}

impl OpenDisk {
    /// Opens the disk of a record, alone. It may be larger than it was when the record was made.
    pub(crate) fn open(mut saved: SavedDisk, folder: &StateFolder) -> Result<Self> {
        let raw = RawDisk::open(&saved.path, Access::ReadWrite)?;
        if raw.size() < saved.size {
            return Err(Error::Shrunk {
                path: saved.path,
                was: saved.size,
                is: raw.size(),
            });
        }
        let grew = raw.size() > saved.size;
        let larger = grew.then(|| unproven(&raw, saved.size)).transpose()?;
        saved.size = raw.size();
        let logs = folder.logs(saved.id);
        std::fs::create_dir_all(&logs).map_err(|source| Error::File {
            operation: "create",
            path: logs.clone(),
            source,
        })?;
        Ok(Self {
            saved,
            raw: Arc::new(raw),
            larger,
            logs,
        })
    }

    /// Ends a generation of which only the regions are known. Where there is no room for its log, they
    /// stay in doubt.
    fn end_again(&mut self, extents: ExtentSet, sequence: Sequence, epoch: Epoch) -> Ended {
        match self.log_again(&extents, sequence, epoch) {
            Ok(sealed) => {
                self.saved.predecessor = sealed.summary().content;
                Ended::Sealed(sealed.summary().file_length)
            }
            Err(error) => {
                tracing::warn!(disk = %self.saved.path.display(), %error, "a log is lost");
                self.lost(Scope::Extents(extents), sequence)
            }
        }
    }

    /// Ends a generation without a log. What there is of one would only be taken for one later.
    fn lost(&mut self, scope: Scope, sequence: Sequence) -> Ended {
        remove(&log_path(&self.logs, sequence));
        self.saved.predecessor = ContentDigest::NONE;
        Ended::Lost(scope)
    }

    /// Makes the log of generation `sequence` anew from what the disk holds now.
    fn log_again(
        &self,
        extents: &ExtentSet,
        sequence: Sequence,
        epoch: Epoch,
    ) -> Result<SealedLog> {
        // What the log says must not be lost from the disk later.
        self.raw.flush()?;
        let path = log_path(&self.logs, sequence);
        let header = header(self.saved.id, self.saved.size, sequence, epoch);
        let mut log = FileWriter::create(&path, header, WriterOptions::default())?;
        for extent in extents.iter() {
            log_extent(&mut log, self.raw.as_ref(), extent)?;
        }
        Ok(log.seal(self.saved.predecessor)?)
    }
}

/// Logs what `disk` holds in `extent`.
pub(crate) fn log_extent(log: &mut FileWriter, disk: &dyn BlockRead, extent: Extent) -> Result<()> {
    let mut buffer = Vec::new();
    let mut at = extent.start();
    while let Some(run) = disk.next_run(at)?
        && let Some(part) = run.extent.intersection(extent)
    {
        at = part.end();
        if run.kind == RunKind::Hole {
            log.append(Change::WriteZeroes(part), Clock::timestamp())?;
            continue;
        }
        for piece in part.pieces(PIECE) {
            buffer.resize(piece.length().to_usize().unwrap_or_default(), 0);
            disk.read_at(piece.start(), &mut buffer)?;
            let change = Change::Write {
                offset: piece.start(),
                data: &buffer,
            };
            log.append(change, Clock::timestamp())?;
        }
    }
    Ok(())
}

/// The header of a disk's log of generation `sequence`.
pub(crate) fn header(
    disk: DiskId,
    disk_size: Length,
    sequence: Sequence,
    epoch: Epoch,
) -> LogHeader {
    LogHeader {
        disk,
        disk_size,
        epoch,
        first: sequence,
        last: sequence,
        created: Clock::timestamp(),
    }
}

fn scope_of(doubt: Doubt) -> Scope {
    match doubt {
        Doubt::Extents(extents) => Scope::Extents(extents),
        Doubt::Everything { .. } => Scope::Everything,
    }
}

/// What may have been written to `disk`, whose files are in `logs`, since generation `first` began,
/// and is in no sealed log.
pub(crate) fn doubt_since(logs: &Path, disk: &SavedDisk, first: Sequence) -> Result<Scope> {
    let mut sequences = intents(logs);
    sequences.retain(|sequence| *sequence >= first);
    // The intent file of a generation exists before any write of it, and before its log.
    let begun = generations(logs, "ailog").into_iter();
    let mut begun = begun.filter(|sequence| *sequence > first).chain([first]);
    if let Some(lacking) = begun.find(|sequence| !sequences.contains(sequence)) {
        tracing::warn!(disk = %disk.path.display(), %lacking, "no intents: all is in doubt");
        return Ok(Scope::Everything);
    }
    let mut all = Scope::NOTHING;
    for sequence in sequences {
        let path = intent_path(logs, sequence);
        let doubt = IntentLog::read(&path, disk.id, disk.size)?;
        if let Doubt::Everything { reason } = &doubt {
            tracing::warn!(disk = %disk.path.display(), reason, "all is in doubt");
        }
        all.merge(&scope_of(doubt));
    }
    Ok(all)
}

/// What an unclean end left behind, read again.
pub(crate) struct Recovered {
    pub(crate) reached: BarrierReached,
    /// Bytes that were read again.
    pub(crate) bytes: Length,
}

/// Ends generation `open` after a crash: what was written in it, or in a later one that was never
/// recorded, is read from the disks again. Memory and time are proportional to what was written since
/// the last barrier.
pub(crate) fn recover(
    disks: &mut [OpenDisk],
    open: Sequence,
    tracking: Tracking,
    epoch: Epoch,
) -> Result<Recovered> {
    let mut reached = BarrierReached {
        time: Clock::timestamp(),
        disks: Vec::new(),
        dropped: vec![Scope::NOTHING; disks.len()],
        tracking,
    };
    let mut bytes = Length::ZERO;
    for disk in disks {
        let scope = doubt_since(&disk.logs, &disk.saved, open)?;
        let ended = match (tracking, scope) {
            (Tracking::Logging, Scope::Extents(extents)) => {
                bytes = bytes.saturating_add(extents.total());
                disk.end_again(extents, open, epoch)
            }
            (_, scope) => disk.lost(scope, open),
        };
        reached.disks.push(ended);
    }
    Ok(Recovered { reached, bytes })
}

/// Sees to it that generation `open` can be recovered before it begins: each disk gets an intent file
/// of it that has none. One that is there is left as it is, since the generation may have begun before
/// a crash, and not have been recorded. None is made where it did and the file was lost: until that is
/// recorded, nothing else tells.
pub(crate) fn keep_intents(disks: &[OpenDisk], open: Sequence) -> Result<()> {
    for disk in disks {
        let path = intent_path(&disk.logs, open);
        if !path.exists() && !log_path(&disk.logs, open).exists() {
            IntentLog::create(&path, disk.saved.id, disk.saved.size, IntentLog::REGION)?;
        }
    }
    Ok(())
}

/// Deletes every log but those of the generations `kept`: a crash may have come between the record
/// that a log is of no use any more and its end, and nothing else would ever delete it.
pub(crate) fn delete_other_logs(disks: &[OpenDisk], kept: &[Sequence]) {
    for disk in disks {
        for sequence in generations(&disk.logs, "ailog") {
            if !kept.contains(&sequence) {
                remove(&log_path(&disk.logs, sequence));
            }
        }
    }
}

impl Generations {
    /// Begins to track `disks` with generation `open`.
    pub(crate) fn begin(
        disks: Vec<OpenDisk>,
        folder: &StateFolder,
        open: Sequence,
        tracking: Tracking,
        epoch: Epoch,
    ) -> Result<Self> {
        let gate = WriteGate::new();
        let mut tracked = Vec::new();
        for disk in disks {
            let header = header(disk.saved.id, disk.saved.size, open, epoch);
            let (intent, log) = begin_generation(header, &disk.logs, tracking)?;
            let sink = log.clone().map(|log| Box::new(log) as Box<dyn ChangeSink>);
            let device: Arc<dyn BlockWrite> = Arc::clone(&disk.raw) as _;
            let first = Generation { intent, sink };
            tracked.push(Disk {
                id: disk.saved.id,
                path: disk.saved.path,
                tracked: Arc::new(TrackedDisk::new(device, gate.clone(), first)),
                raw: disk.raw,
                logs: disk.logs,
                open: Mutex::new(log),
                predecessor: Mutex::new(disk.saved.predecessor),
            });
        }
        Ok(Self {
            disks: tracked,
            gate,
            epoch: Mutex::new(epoch),
            scratch: folder.scratch().into(),
            snapshots: Mutex::default(),
            growing: Mutex::default(),
        })
    }

    /// Has a disk grow at the next barrier at which disks can change.
    pub(crate) fn prepare_growth(&self, growing: Growing) {
        lock(&self.growing).push(growing);
    }

    /// The disks that grew at the last barrier.
    pub(crate) fn take_grown(&self) -> Vec<Growing> {
        let mut growing = lock(&self.growing);
        growing.extract_if(.., |disk| disk.has_grown).collect()
    }

    /// How many disks are to grow at `barrier`.
    fn growing_at(&self, barrier: &Barrier) -> usize {
        if barrier.changes_disks {
            lock(&self.growing).len()
        } else {
            0
        }
    }

    /// The first `count` that were to grow have.
    fn note_grown(&self, count: usize) {
        for growing in lock(&self.growing).iter_mut().take(count) {
            growing.has_grown = true;
        }
    }

    /// The sizes that the disks have once the first `count` that are to grow have grown.
    fn sizes_after(&self, count: usize) -> Vec<Length> {
        let sizes = self.disks.iter().map(|disk| disk.raw.size());
        let mut sizes: Vec<_> = sizes.collect();
        for growing in lock(&self.growing).iter().take(count) {
            if let Some(size) = sizes.get_mut(growing.disk) {
                *size = growing.size.max(*size);
            }
        }
        sizes
    }

    /// The epoch that later logs are of.
    pub(crate) fn set_epoch(&self, epoch: Epoch) {
        *lock(&self.epoch) = epoch;
    }

    /// The lengths of the open logs.
    pub(crate) fn open_lengths(&self) -> Vec<Length> {
        let length = |disk: &Disk| disk.with_open(FileWriter::length).unwrap_or_default();
        self.disks.iter().map(length).collect()
    }

    /// Whether an open log should be rotated before it reaches a limit of its own.
    pub(crate) fn nearly_full(&self) -> bool {
        let used = |disk: &Disk| disk.with_open(FileWriter::index_used_percent);
        self.disks
            .iter()
            .filter_map(used)
            .any(|percent| percent >= 50)
    }

    /// The snapshots of initial replication, in the order of the disks.
    pub(crate) fn snapshots(&self) -> Vec<Arc<Snapshot>> {
        lock(&self.snapshots).clone()
    }

    /// Drops them.
    pub(crate) fn release_snapshots(&self) {
        lock(&self.snapshots).clear();
    }

    /// The content digests of the last sealed logs.
    pub(crate) fn predecessors(&self) -> Vec<ContentDigest> {
        self.disks
            .iter()
            .map(|disk| *lock(&disk.predecessor))
            .collect()
    }

    /// Makes a barrier across all disks. The gate is closed only while the logs are exchanged; what
    /// is slow comes before and after.
    pub(crate) fn barrier(&self, barrier: &Barrier) -> Result<Event> {
        if barrier.may_be_quiet
            && self
                .disks
                .iter()
                .all(|disk| disk.tracked.doubt().is_nothing())
        {
            return Ok(Event::Quiet);
        }
        let epoch = *lock(&self.epoch);
        let mut next = Vec::new();
        let growing = self.growing_at(barrier);
        let sizes = self.sizes_after(growing);
        for (disk, size) in self.disks.iter().zip(&sizes) {
            let header = header(disk.id, *size, barrier.next, epoch);
            next.push(begin_generation(header, &disk.logs, barrier.tracking)?);
        }
        let logging = next.iter().all(|(_, log)| log.is_some());
        if barrier.snapshot {
            // So that little is left to be flushed while the gate is closed.
            self.flush()?;
        }
        let (time, finished) = self.exchange(barrier, &sizes, next)?;
        self.note_grown(growing);
        let ended = self.disks.iter().zip(finished);
        let ended = ended
            .map(|(disk, (finished, log))| disk.end(finished, log, barrier.ends))
            .collect();
        if barrier.next != barrier.ends.next() {
            // The differences of a resynchronization come in between.
            self.disks
                .iter()
                .for_each(|disk| *lock(&disk.predecessor) = ContentDigest::NONE);
        }
        Ok(Event::BarrierReached(BarrierReached {
            time,
            disks: ended,
            dropped: self
                .disks
                .iter()
                .map(|disk| disk.dropped(&barrier.dropped))
                .collect(),
            tracking: if logging {
                Tracking::Logging
            } else {
                Tracking::MapOnly
            },
        }))
    }

    fn flush(&self) -> Result<()> {
        for disk in &self.disks {
            disk.raw.flush()?;
        }
        Ok(())
    }

    /// The barrier itself, from which on the disks have `sizes`.
    #[expect(clippy::type_complexity, reason = "used once, by its only caller")]
    fn exchange(
        &self,
        barrier: &Barrier,
        sizes: &[Length],
        next: Vec<(IntentLog, Option<SharedLog>)>,
    ) -> Result<(
        afterimage_block::Timestamp,
        Vec<(Finished, Option<SharedLog>)>,
    )> {
        let mut snapshots = Vec::new();
        let mut finished = Vec::new();
        let closed = self.gate.close();
        if barrier.snapshot {
            // What a copy shows must not be lost from the disks later: no doubt is kept beside it.
            self.flush()?;
            for disk in &self.disks {
                snapshots.push(Arc::new(disk.tracked.snapshot(&closed, &self.scratch)?));
            }
        }
        let time = Clock::timestamp();
        for (disk, size) in self.disks.iter().zip(sizes) {
            disk.grow(*size);
        }
        for (disk, (intent, log)) in self.disks.iter().zip(next) {
            let sink = log.clone().map(|log| Box::new(log) as Box<dyn ChangeSink>);
            let ended = disk.tracked.rotate(&closed, Generation { intent, sink });
            finished.push((ended, std::mem::replace(&mut *lock(&disk.open), log)));
        }
        drop(closed);
        if barrier.snapshot {
            *lock(&self.snapshots) = snapshots;
        }
        Ok((time, finished))
    }

    /// Closes the disks in order: makes them durable, and tells how their files look now. `None` if
    /// something was written since the last barrier, which a restart then has to read again.
    pub(crate) fn close(&self) -> Option<Vec<Option<Fingerprint>>> {
        let settled = |disk: &Disk| disk.tracked.doubt().is_nothing() && disk.raw.flush().is_ok();
        let all_settled = self.disks.iter().all(settled);
        all_settled.then(|| {
            self.disks
                .iter()
                .map(|disk| Fingerprint::of(&disk.path))
                .collect()
        })
    }

    /// Forgets the intents of the generations before `open`: their logs are sealed and recorded.
    pub(crate) fn forget_intents_before(&self, open: Sequence) {
        for disk in &self.disks {
            for sequence in intents(&disk.logs)
                .into_iter()
                .filter(|sequence| *sequence < open)
            {
                remove(&intent_path(&disk.logs, sequence));
            }
        }
    }

    /// Deletes the logs of these generations.
    pub(crate) fn discard(&self, sequences: &[Sequence]) {
        for disk in &self.disks {
            for sequence in sequences {
                remove(&log_path(&disk.logs, *sequence));
            }
        }
    }
}

impl Disk {
    /// The file of the log of generation `sequence`.
    pub(crate) fn log_path(&self, sequence: Sequence) -> PathBuf {
        log_path(&self.logs, sequence)
    }

    /// Makes its file long enough for `size`.
    pub(crate) fn lengthen(&self, size: Length) -> Result<()> {
        Ok(self.raw.lengthen(size)?)
    }

    /// Gives the disk its new size at a barrier, and says so at the end of the log.
    fn grow(&self, size: Length) {
        if size <= self.raw.size() {
            return;
        }
        if let Some(log) = &*lock(&self.open) {
            // A log that does not say so would be of a disk of another size: it is lost.
            log.lock().take_if(|writer| {
                let noted = writer.resize(size, Clock::timestamp());
                noted.is_err()
            });
        }
        self.raw.grow_to(size);
    }

    fn with_open<T>(&self, ask: impl FnOnce(&FileWriter) -> T) -> Option<T> {
        let log = lock(&self.open);
        log.as_ref()?.lock().as_ref().map(ask)
    }

    /// Seals the log of a generation that a barrier ended, once the disk is durable: only then may
    /// the generation's intents be forgotten.
    fn end(&self, finished: Finished, log: Option<SharedLog>, sequence: Sequence) -> Ended {
        let lost = |scope| {
            // What there is of it would only be taken for a log later.
            remove(&self.log_path(sequence));
            *lock(&self.predecessor) = ContentDigest::NONE;
            Ended::Lost(scope)
        };
        let doubt = scope_of(finished.intent.doubt());
        if let Err(error) = self.raw.flush() {
            tracing::error!(disk = %self.path.display(), %error, "the disk cannot be flushed");
            return lost(doubt);
        }
        let writer = log.and_then(|log| log.lock().take());
        let (Outcome::Logged(_), Some(writer)) = (finished.outcome, writer) else {
            return lost(doubt);
        };
        // A statement of its own: the lock must not be held in the arms below.
        let sealed = writer.seal(*lock(&self.predecessor));
        match sealed {
            Ok(sealed) => {
                *lock(&self.predecessor) = sealed.summary().content;
                Ended::Sealed(sealed.summary().file_length)
            }
            Err(error) => {
                tracing::warn!(disk = %self.path.display(), %error, "a log cannot be sealed");
                lost(doubt)
            }
        }
    }

    /// What the logs of these generations hold, in whole blocks of the comparison to come: finer
    /// extents would only make the saved state larger.
    fn dropped(&self, sequences: &[Sequence]) -> Scope {
        let mut scope = Scope::NOTHING;
        for sequence in sequences {
            let path = self.log_path(*sequence);
            if !path.exists() {
                continue; // lost before, and in doubt since
            }
            let extents = SealedLog::open(&path).and_then(|log| log.extents());
            scope.merge(&match extents {
                Ok(extents) => Scope::Extents(self.in_blocks(&extents)),
                Err(error) => {
                    tracing::warn!(%error, "a dropped log is unreadable: all is in doubt");
                    Scope::Everything
                }
            });
        }
        scope
    }

    fn in_blocks(&self, extents: &[Extent]) -> ExtentSet {
        let (block, size) = (BlockSize::default().length(), self.raw.size());
        let blocks = extents.iter();
        blocks
            .map(|extent| extent.aligned_out(block, size))
            .collect()
    }
}

/// The files of a new generation. Where the log cannot be made, only regions are kept.
fn begin_generation(
    header: LogHeader,
    logs: &Path,
    tracking: Tracking,
) -> Result<(IntentLog, Option<SharedLog>)> {
    let path = intent_path(logs, header.first);
    let intent = IntentLog::create(&path, header.disk, header.disk_size, IntentLog::REGION)?;
    if tracking == Tracking::MapOnly {
        return Ok((intent, None));
    }
    let path = log_path(logs, header.first);
    match FileWriter::create(&path, header, WriterOptions::default()) {
        Ok(log) => Ok((intent, Some(SharedLog(Arc::new(Mutex::new(Some(log))))))),
        Err(error) => {
            tracing::warn!(%error, "no change log can be opened: only regions are kept");
            Ok((intent, None))
        }
    }
}

/// Deletes a file that is of no use any more. One that is left behind is only in the way of space.
fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "a file is left behind");
    }
}

#[cfg(test)]
mod tests;
