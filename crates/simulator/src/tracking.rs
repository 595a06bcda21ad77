//! The logs of a site's disks as a driver keeps them: rotated at a barrier, sealed, read again after a
//! crash. Tracked disks, write intents and change logs are the real ones, in a folder in memory.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use afterimage_block::{
    BlockRead, BlockWrite, Change, ChangeSink, ContentDigest, DiskId, Doubt, Epoch, Extent,
    ExtentSet, Finished, Generation, IntentLog, Length, Outcome, Sequence, SinkError, Snapshot,
    TrackedDisk, WriteGate,
};
use afterimage_changelog::{FileWriter, LogHeader, SealedLog, WriterOptions};
use afterimage_replication::{Barrier, BarrierReached, Ended, Event, Scope, Tracking};
use afterimage_resync::BlockSize;

use crate::coverage::Mark;
use crate::disk::SimDisk;
use crate::error::Failed;
use crate::hub::Hub;
use crate::plant::Plant;

/// The disks of a machine at one moment.
pub(crate) type Images = Vec<Vec<u8>>;

/// A log that the tracked disk appends to and its owner seals.
#[derive(Clone)]
struct SharedLog(Arc<Mutex<Option<FileWriter>>>);

impl SharedLog {
    fn lock(&self) -> MutexGuard<'_, Option<FileWriter>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a tracked disk appends to: the log, with its faults.
struct Sink {
    log: SharedLog,
    hub: Hub,
    /// A write that is logged after the next one.
    held: Option<(afterimage_block::Offset, Vec<u8>)>,
}

impl ChangeSink for Sink {
    fn append(&mut self, change: Change<'_>) -> Result<(), SinkError> {
        let hub = &self.hub;
        if hub.log_fault() {
            hub.mark(Mark::LogLost);
            return Err("no space, simulated".into());
        }
        let zeroes = !matches!(change, Change::Write { .. });
        if (hub.is_planted(Plant::ZeroesNotLogged) && zeroes)
            || (hub.is_planted(Plant::WriteNotLogged) && hub.chance(20))
        {
            return Ok(());
        }
        let time = hub.wall();
        let mut log = self.log.lock();
        let log = log.as_mut().ok_or("the log is sealed")?;
        if let Some((offset, data)) = self.held.take() {
            log.append(change, time)?;
            let data = &data;
            log.append(Change::Write { offset, data }, time)?;
            return Ok(());
        }
        if let Change::Write { offset, data } = change
            && hub.is_planted(Plant::LogReordered)
            && hub.chance(100)
        {
            self.held = Some((offset, data.to_vec()));
            return Ok(());
        }
        log.append(change, time)?;
        Ok(())
    }
}

/// One disk that is tracked.
pub(crate) struct Tracked {
    pub(crate) id: DiskId,
    pub(crate) raw: Arc<SimDisk>,
    pub(crate) device: Arc<TrackedDisk>,
    pub(crate) logs: PathBuf,
    open: Option<SharedLog>,
    predecessor: ContentDigest,
    /// The generations that have an intent file, oldest first.
    intents: Vec<Sequence>,
}

/// A disk that is not tracked yet.
#[derive(Clone)]
pub(crate) struct Untracked {
    pub(crate) id: DiskId,
    pub(crate) raw: Arc<SimDisk>,
    pub(crate) logs: PathBuf,
    pub(crate) predecessor: ContentDigest,
}

/// The disks of a machine, and the generation that takes their writes.
pub(crate) struct Tracker {
    pub(crate) disks: Vec<Tracked>,
    gate: WriteGate,
    epoch: Epoch,
    region: Length,
    hub: Hub,
    pub(crate) snapshots: Vec<Arc<Snapshot>>,
}

pub(crate) fn log_path(logs: &Path, sequence: Sequence) -> PathBuf {
    logs.join(format!("{:020}.ailog", sequence.get()))
}

pub(crate) fn intent_path(logs: &Path, sequence: Sequence) -> PathBuf {
    logs.join(format!("{:020}.intent", sequence.get()))
}

/// The generations whose intent files are in `logs`, oldest first.
pub(crate) fn intents(logs: &Path) -> Vec<Sequence> {
    generations(logs, "intent")
}

/// The generations that have a file with this extension in `logs`, oldest first.
fn generations(logs: &Path, extension: &str) -> Vec<Sequence> {
    let sequence = |path: PathBuf| {
        let is_one = path.extension()? == extension;
        let number = path.file_stem()?.to_str()?.parse().ok()?;
        is_one.then_some(Sequence::new(number))
    };
    let entries = std::fs::read_dir(logs).into_iter().flatten();
    let mut found: Vec<_> = entries
        .filter_map(|entry| sequence(entry.ok()?.path()))
        .collect();
    found.sort();
    found
}

pub(crate) fn scope_of(doubt: Doubt) -> Scope {
    match doubt {
        Doubt::Extents(extents) => Scope::Extents(extents),
        Doubt::Everything { .. } => Scope::Everything,
    }
}

fn remove(path: &Path) {
    // One that is not there is what is wanted.
    let _ = std::fs::remove_file(path);
}

impl Untracked {
    fn header(&self, sequence: Sequence, epoch: Epoch, hub: &Hub) -> LogHeader {
        LogHeader {
            disk: self.id,
            disk_size: self.raw.size(),
            epoch,
            first: sequence,
            last: sequence,
            created: hub.wall(),
        }
    }

    /// What may have been written since generation `first` began and is in no sealed log.
    fn doubt_since(&self, first: Sequence, hub: &Hub) -> Result<Scope, Failed> {
        let mut sequences = intents(&self.logs);
        sequences.retain(|sequence| *sequence >= first);
        // The intent file of a generation exists before any write of it, and before its log.
        let mut begun = generations(&self.logs, "ailog");
        begun.retain(|sequence| *sequence > first);
        if hub.is_planted(Plant::LaterIntentsNotMissed) {
            begun.clear();
        }
        begun.push(first);
        if begun.iter().any(|sequence| !sequences.contains(sequence)) {
            return Ok(Scope::Everything);
        }
        if hub.is_planted(Plant::RecoveryOfOneGeneration) {
            sequences.truncate(1);
        }
        let mut all = Scope::NOTHING;
        for sequence in sequences {
            let path = intent_path(&self.logs, sequence);
            all.merge(&scope_of(IntentLog::read(&path, self.id, self.raw.size())?));
        }
        if let (Scope::Extents(extents), true) = (&all, hub.is_planted(Plant::RecoveryIncomplete)) {
            return Ok(Scope::Extents(extents.iter().take(1).collect()));
        }
        Ok(all)
    }

    fn lost(&mut self, scope: Scope, sequence: Sequence) -> Ended {
        remove(&log_path(&self.logs, sequence));
        self.predecessor = ContentDigest::NONE;
        Ended::Lost(scope)
    }

    /// Makes the log of generation `sequence` anew from what the disk holds now.
    fn log_again(
        &self,
        extents: &ExtentSet,
        sequence: Sequence,
        epoch: Epoch,
        hub: &Hub,
    ) -> Result<SealedLog, Failed> {
        self.raw.flush()?;
        let path = log_path(&self.logs, sequence);
        let header = self.header(sequence, epoch, hub);
        let mut log = FileWriter::create(&path, header, WriterOptions::default())?;
        for extent in extents.iter() {
            let mut data = vec![0; extent.length().to_usize().unwrap_or_default()];
            self.raw.read_at(extent.start(), &mut data)?;
            let (offset, data) = (extent.start(), &data[..]);
            log.append(Change::Write { offset, data }, hub.wall())?;
        }
        Ok(log.seal(self.predecessor)?)
    }
}

/// Ends generation `open` after a crash: what was written in it, or in a later one that was never
/// recorded, is read from the disks again.
pub(crate) fn recover(
    disks: &mut [Untracked],
    open: Sequence,
    tracking: Tracking,
    epoch: Epoch,
    hub: &Hub,
) -> Result<BarrierReached, Failed> {
    let mut ended = Vec::new();
    for disk in &mut *disks {
        let scope = disk.doubt_since(open, hub)?;
        ended.push(match (tracking, scope) {
            (Tracking::Logging, Scope::Extents(extents)) => {
                match disk.log_again(&extents, open, epoch, hub) {
                    Ok(sealed) => {
                        disk.predecessor = sealed.summary().content;
                        Ended::Sealed(sealed.summary().file_length)
                    }
                    Err(_) => disk.lost(Scope::Extents(extents), open),
                }
            }
            (_, scope) => disk.lost(scope, open),
        });
    }
    hub.mark(Mark::Recovered);
    Ok(BarrierReached {
        time: hub.wall(),
        dropped: vec![Scope::NOTHING; disks.len()],
        disks: ended,
        tracking,
    })
}

/// Each disk gets an intent file of generation `open` that has none, unless it was begun and the file
/// lost: until that is recorded, nothing else tells.
pub(crate) fn keep_intents(
    disks: &[Untracked],
    open: Sequence,
    region: Length,
) -> Result<(), Failed> {
    for disk in disks {
        let path = intent_path(&disk.logs, open);
        if !path.exists() && !log_path(&disk.logs, open).exists() {
            IntentLog::create(&path, disk.id, disk.raw.size(), region)?;
        }
    }
    Ok(())
}

/// Deletes every log but those of `kept`: what was to be deleted when a crash came in between.
pub(crate) fn delete_other_logs(disks: &[Untracked], kept: &[Sequence]) {
    for disk in disks {
        for sequence in generations(&disk.logs, "ailog") {
            if !kept.contains(&sequence) {
                remove(&log_path(&disk.logs, sequence));
            }
        }
    }
}

/// The files of a new generation. Where the log cannot be made, only regions are kept.
fn begin_generation(
    header: LogHeader,
    logs: &Path,
    tracking: Tracking,
    region: Length,
    hub: &Hub,
) -> Result<(IntentLog, Option<SharedLog>), Failed> {
    if hub.log_fault() {
        hub.mark(Mark::BarrierFailed);
        return Err(Failed::Simulated("no write-intent file can be made"));
    }
    let path = intent_path(logs, header.first);
    let intent = IntentLog::create(&path, header.disk, header.disk_size, region)?;
    if tracking == Tracking::MapOnly {
        return Ok((intent, None));
    }
    if hub.log_fault() {
        hub.mark(Mark::LogNotBegun);
        return Ok((intent, None));
    }
    let path = log_path(logs, header.first);
    let log = FileWriter::create(&path, header, WriterOptions::default())?;
    Ok((intent, Some(SharedLog(Arc::new(Mutex::new(Some(log)))))))
}

fn sink(log: Option<&SharedLog>, hub: &Hub) -> Option<Box<dyn ChangeSink>> {
    let log = log?.clone();
    let hub = hub.clone();
    Some(Box::new(Sink {
        log,
        hub,
        held: None,
    }))
}

impl Tracker {
    /// Begins to track `disks` with generation `open`.
    pub(crate) fn begin(
        disks: Vec<Untracked>,
        open: Sequence,
        tracking: Tracking,
        epoch: Epoch,
        region: Length,
        hub: &Hub,
    ) -> Result<Self, Failed> {
        let gate = WriteGate::new();
        let mut tracked = Vec::new();
        for disk in disks {
            let header = disk.header(open, epoch, hub);
            let (intent, log) = begin_generation(header, &disk.logs, tracking, region, hub)?;
            let sink = sink(log.as_ref(), hub);
            let device: Arc<dyn BlockWrite> = Arc::clone(&disk.raw) as _;
            let first = Generation { intent, sink };
            tracked.push(Tracked {
                id: disk.id,
                device: Arc::new(TrackedDisk::new(device, gate.clone(), first)),
                raw: disk.raw,
                intents: intents(&disk.logs),
                logs: disk.logs,
                open: log,
                predecessor: disk.predecessor,
            });
        }
        Ok(Self {
            disks: tracked,
            gate,
            epoch,
            region,
            hub: hub.clone(),
            snapshots: Vec::new(),
        })
    }

    pub(crate) fn set_epoch(&mut self, epoch: Epoch) {
        self.epoch = epoch;
    }

    /// The lengths of the open logs.
    pub(crate) fn open_lengths(&self) -> Vec<Length> {
        let length = |disk: &Tracked| {
            let log = disk.open.as_ref()?.lock();
            Some(log.as_ref()?.length())
        };
        let disks = self.disks.iter();
        disks.map(|disk| length(disk).unwrap_or_default()).collect()
    }

    pub(crate) fn predecessors(&self) -> Vec<ContentDigest> {
        self.disks.iter().map(|disk| disk.predecessor).collect()
    }

    /// Whether nothing was written since the last barrier.
    pub(crate) fn is_untouched(&self) -> bool {
        let untouched = |disk: &Tracked| disk.device.doubt().is_nothing();
        self.disks.iter().all(untouched)
    }

    /// Whether nothing was written since the last barrier, and all is durable.
    pub(crate) fn close(&self) -> bool {
        let settled = |disk: &Tracked| disk.device.doubt().is_nothing() && disk.raw.flush().is_ok();
        self.disks.iter().all(settled) || self.hub.is_planted(Plant::CleanThoughWritten)
    }

    /// Makes a barrier across all disks; also what they held at it.
    pub(crate) fn barrier(&mut self, barrier: &Barrier) -> Result<(Event, Images), Failed> {
        let quiet = self.is_untouched()
            || (self.hub.is_planted(Plant::QuietThoughWritten) && self.hub.chance(100));
        if barrier.may_be_quiet && quiet {
            return Ok((Event::Quiet, Images::new()));
        }
        let mut next = Vec::new();
        for disk in &mut self.disks {
            if disk.intents.last() != Some(&barrier.next) {
                disk.intents.push(barrier.next);
            }
            let header = LogHeader {
                disk: disk.id,
                disk_size: disk.raw.size(),
                epoch: self.epoch,
                first: barrier.next,
                last: barrier.next,
                created: self.hub.wall(),
            };
            let (tracking, region) = (barrier.tracking, self.region);
            next.push(begin_generation(
                header, &disk.logs, tracking, region, &self.hub,
            )?);
        }
        let logging = next.iter().all(|(_, log)| log.is_some());
        let (images, finished) = self.exchange(barrier, next)?;
        let time = self.hub.wall();
        let hub = self.hub.clone();
        let ended = self.disks.iter_mut().zip(finished);
        let ended = ended
            .map(|(disk, (finished, log))| disk.end(&finished, log, barrier.ends, &hub))
            .collect();
        if barrier.next != barrier.ends.next() {
            // The differences of a resynchronization come in between.
            let disks = self.disks.iter_mut();
            disks.for_each(|disk| disk.predecessor = ContentDigest::NONE);
        }
        if hub.is_planted(Plant::IntentsForgottenEarly) {
            self.forget_intents_before(barrier.next);
        }
        let dropped = self
            .disks
            .iter()
            .map(|disk| disk.dropped(&barrier.dropped, &hub));
        let tracking = if logging {
            Tracking::Logging
        } else {
            Tracking::MapOnly
        };
        let reached = BarrierReached {
            time,
            disks: ended,
            dropped: dropped.collect(),
            tracking,
        };
        Ok((Event::BarrierReached(reached), images))
    }

    /// The barrier itself.
    #[expect(clippy::type_complexity, reason = "used once, by its only caller")]
    fn exchange(
        &mut self,
        barrier: &Barrier,
        next: Vec<(IntentLog, Option<SharedLog>)>,
    ) -> Result<(Images, Vec<(Finished, Option<SharedLog>)>), Failed> {
        let gate = self.gate.clone();
        let mut closed = gate.close();
        let mut snapshots = Vec::new();
        if barrier.snapshot {
            // What a copy shows must not be lost from the disks later: no doubt is kept beside it.
            for disk in &self.disks {
                disk.raw.flush()?;
            }
            for disk in &self.disks {
                let snapshot = disk.device.snapshot(&closed, &disk.logs)?;
                snapshots.push(Arc::new(snapshot));
            }
            self.snapshots = snapshots;
        }
        let images = self.disks.iter().map(|disk| disk.raw.contents()).collect();
        let mut finished = Vec::new();
        for (number, (intent, log)) in next.into_iter().enumerate() {
            if number > 0 && self.hub.is_planted(Plant::BarrierSkewed) {
                drop(closed);
                let data = self
                    .hub
                    .with_random(|random| random.next().to_le_bytes().repeat(64));
                for disk in &self.disks {
                    disk.device
                        .write_at(afterimage_block::Offset::ZERO, &data)?;
                }
                closed = gate.close();
            }
            let sink = sink(log.as_ref(), &self.hub);
            let disk = &mut self.disks[number];
            let ended = disk.device.rotate(&closed, Generation { intent, sink });
            finished.push((ended, std::mem::replace(&mut disk.open, log)));
        }
        Ok((images, finished))
    }

    /// Forgets the intents of the generations before `open`: their logs are sealed and recorded.
    pub(crate) fn forget_intents_before(&mut self, open: Sequence) {
        for disk in &mut self.disks {
            for sequence in disk.intents.extract_if(.., |sequence| *sequence < open) {
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

impl Tracked {
    /// Seals the log of a generation that a barrier ended, once the disk is durable.
    fn end(
        &mut self,
        finished: &Finished,
        log: Option<SharedLog>,
        sequence: Sequence,
        hub: &Hub,
    ) -> Ended {
        let doubt = scope_of(finished.intent.doubt());
        let flushed = hub.is_planted(Plant::BarrierWithoutFlush) || self.raw.flush().is_ok();
        let writer = log.and_then(|log| log.lock().take());
        let logged = matches!(finished.outcome, Outcome::Logged(_));
        let sealed = match writer {
            Some(_) if hub.log_fault() => {
                hub.mark(Mark::SealFailed);
                None
            }
            Some(writer) if flushed && logged => writer.seal(self.predecessor).ok(),
            _ => None,
        };
        let Some(sealed) = sealed else {
            remove(&log_path(&self.logs, sequence));
            self.predecessor = ContentDigest::NONE;
            let forgotten = hub.is_planted(Plant::LossForgotten);
            return Ended::Lost(if forgotten { Scope::NOTHING } else { doubt });
        };
        self.predecessor = sealed.summary().content;
        if hub.is_planted(Plant::LogDeletedEarly) && hub.chance(50) {
            remove(sealed.path());
        }
        Ended::Sealed(sealed.summary().file_length)
    }

    /// What the logs of these generations hold, in whole blocks of the comparison to come.
    fn dropped(&self, sequences: &[Sequence], hub: &Hub) -> Scope {
        let mut scope = Scope::NOTHING;
        if hub.is_planted(Plant::DroppedForgotten) {
            return scope;
        }
        let (block, size) = (BlockSize::default().length(), self.raw.size());
        for sequence in sequences {
            let path = log_path(&self.logs, *sequence);
            if !path.exists() {
                continue; // lost before, and in doubt since
            }
            let extents = SealedLog::open(&path).and_then(|log| log.extents());
            scope.merge(&match extents {
                Ok(extents) => {
                    let blocks = extents.iter().map(|extent| extent.aligned_out(block, size));
                    Scope::Extents(blocks.collect())
                }
                Err(_) => Scope::Everything,
            });
        }
        scope
    }
}

/// The extent of `length` bytes at `start`.
pub(crate) fn extent(start: usize, length: usize) -> Option<Extent> {
    let start = u64::try_from(start).ok()?;
    let length = u64::try_from(length).ok()?;
    let (start, length) = (afterimage_block::Offset::new(start), Length::new(length));
    Extent::new(start, length).ok()
}
