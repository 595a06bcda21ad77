//! A disk whose every write is known afterwards, whatever happens.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::range_lock::RangeLocks;
use crate::snapshot::Kept;
use crate::{
    BlockRead, BlockWrite, Change, Doubt, Extent, IntentLog, Length, Offset, Result, Run, Snapshot,
    Zeroing, check_range,
};

/// Why a sink did not take a change.
pub type SinkError = Box<dyn std::error::Error + Send + Sync>;

/// Where a tracked disk's after-images go: a change log.
pub trait ChangeSink: Send {
    /// Takes a change that was made on the disk. Called in the order in which overlapping changes
    /// were made.
    ///
    /// # Errors
    /// Whatever keeps it from taking the change. It is not asked again: from then on the generation
    /// keeps regions only.
    fn append(&mut self, change: Change<'_>) -> Result<(), SinkError>;
}

/// The gate that the writes to all disks of one machine pass, and that a barrier closes.
#[derive(Clone, Debug, Default)]
pub struct WriteGate(Arc<RwLock<()>>);

/// A closed gate: no write is in flight, and none starts, until it is dropped.
#[derive(Debug)]
pub struct Barrier<'a>(#[expect(dead_code, reason = "held, not read")] RwLockWriteGuard<'a, ()>);

impl WriteGate {
    /// An open gate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Waits for the writes in flight to end, and lets no other start.
    pub fn close(&self) -> Barrier<'_> {
        Barrier(self.0.write().unwrap_or_else(PoisonError::into_inner))
    }

    fn pass(&self) -> RwLockReadGuard<'_, ()> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the writes between two barriers go to.
pub struct Generation {
    /// Their regions.
    pub intent: IntentLog,
    /// Their after-images; `None` keeps regions only.
    pub sink: Option<Box<dyn ChangeSink>>,
}

/// A generation that a barrier ended.
pub struct Finished {
    /// The regions that were written.
    pub intent: IntentLog,
    /// Whether the sink has every write.
    pub outcome: Outcome,
}

/// What became of a generation's after-images.
pub enum Outcome {
    /// The sink has them all, in order.
    Logged(Box<dyn ChangeSink>),
    /// The sink lacks some, or there was none: only the regions are known.
    MapOnly(MapOnly),
}

/// Why a generation keeps regions only.
#[derive(Debug)]
#[non_exhaustive]
pub enum MapOnly {
    /// It was begun so.
    Chosen,
    /// The sink refused a change.
    SinkFailed(SinkError),
    /// The disk failed a write, so that nobody knows what it left behind.
    WriteFailed,
}

enum Log {
    Sink(Box<dyn ChangeSink>),
    MapOnly(MapOnly),
}

struct Open {
    intent: IntentLog,
    log: Mutex<Log>,
}

impl Open {
    fn new(generation: Generation) -> Self {
        let log = match generation.sink {
            Some(sink) => Log::Sink(sink),
            None => Log::MapOnly(MapOnly::Chosen),
        };
        Self {
            intent: generation.intent,
            log: Mutex::new(log),
        }
    }

    fn append(&self, change: Change<'_>) {
        let mut log = lock(&self.log);
        let Log::Sink(sink) = &mut *log else {
            return;
        };
        if let Err(error) = sink.append(change) {
            tracing::warn!(%error, "the change log takes no more: only regions are kept");
            *log = Log::MapOnly(MapOnly::SinkFailed(error));
        }
    }

    /// A write failed half-way: the log does not know what the disk holds.
    fn degrade(&self) {
        let mut log = lock(&self.log);
        if matches!(*log, Log::Sink(_)) {
            *log = Log::MapOnly(MapOnly::WriteFailed);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A disk whose every write is tracked: its region durably marked before it, its after-image logged
/// after it, then acknowledged.
///
/// Neither a sink nor an intent file that fails ever fails or delays the guest's write: the
/// generation degrades to what it still knows, and says so at the next barrier.
pub struct TrackedDisk {
    disk: Arc<dyn BlockWrite>,
    gate: WriteGate,
    in_flight: RangeLocks,
    /// Swapped at a barrier only.
    open: RwLock<Open>,
    snapshot: RwLock<Option<Arc<Kept>>>,
}

impl fmt::Debug for TrackedDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrackedDisk")
            .field("size", &self.disk.size())
            .finish_non_exhaustive()
    }
}

impl TrackedDisk {
    /// Tracks `disk`, whose writes pass `gate` and go to `first` until a barrier.
    pub fn new(disk: Arc<dyn BlockWrite>, gate: WriteGate, first: Generation) -> Self {
        Self {
            disk,
            gate,
            in_flight: RangeLocks::default(),
            open: RwLock::new(Open::new(first)),
            snapshot: RwLock::default(),
        }
    }

    /// Ends the open generation at a barrier of this disk's gate and begins `next`: every write
    /// acknowledged before the barrier is in the one, every later one in the other.
    pub fn rotate(&self, _at: &Barrier<'_>, next: Generation) -> Finished {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        let ended = std::mem::replace(&mut *open, Open::new(next));
        Finished {
            intent: ended.intent,
            outcome: match ended
                .log
                .into_inner()
                .unwrap_or_else(PoisonError::into_inner)
            {
                Log::Sink(sink) => Outcome::Logged(sink),
                Log::MapOnly(reason) => Outcome::MapOnly(reason),
            },
        }
    }

    /// The disk as it is at a barrier of its gate. Old contents are kept in a temporary file in
    /// `folder`. An older snapshot that is still held keeps nothing more from here on.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) if the temporary file cannot be made.
    pub fn snapshot(self: &Arc<Self>, _at: &Barrier<'_>, folder: &Path) -> Result<Snapshot> {
        let kept = Arc::new(Kept::new(folder, self.disk.size())?);
        *self.keeping() = Some(Arc::clone(&kept));
        Ok(Snapshot::new(Arc::clone(self), kept))
    }

    /// What may have been written since the last barrier.
    pub fn doubt(&self) -> Doubt {
        self.open().intent.doubt()
    }

    pub(crate) fn release(&self, kept: &Arc<Kept>) {
        self.keeping().take_if(|current| Arc::ptr_eq(current, kept));
    }

    fn keeping(&self) -> RwLockWriteGuard<'_, Option<Arc<Kept>>> {
        self.snapshot
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> RwLockReadGuard<'_, Open> {
        self.open.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The path of every write.
    fn change(
        &self,
        change: Change<'_>,
        extent: Extent,
        make: impl FnOnce(&dyn BlockWrite) -> Result<()>,
    ) -> Result<()> {
        let _pass = self.gate.pass();
        // Overlapping writes are made and logged in one order.
        let _alone = self.in_flight.lock(extent);
        let open = self.open();
        open.intent.mark(extent);
        let snapshot = self.snapshot.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = &*snapshot {
            kept.preserve(extent, self.disk.as_ref());
        }
        match make(self.disk.as_ref()) {
            Ok(()) => open.append(change),
            Err(error) => {
                open.degrade();
                return Err(error);
            }
        }
        Ok(())
    }
}

impl BlockRead for TrackedDisk {
    fn size(&self) -> Length {
        self.disk.size()
    }

    fn read_at(&self, offset: Offset, buf: &mut [u8]) -> Result<()> {
        self.disk.read_at(offset, buf)
    }

    fn next_run(&self, from: Offset) -> Result<Option<Run>> {
        self.disk.next_run(from)
    }
}

impl BlockWrite for TrackedDisk {
    fn write_at(&self, offset: Offset, data: &[u8]) -> Result<()> {
        let Some(extent) = check_range(offset, Length::of(data), self.size())? else {
            return Ok(());
        };
        let change = Change::Write { offset, data };
        self.change(change, extent, |disk| disk.write_at(offset, data))
    }

    fn write_zeroes(&self, extent: Extent, zeroing: Zeroing) -> Result<()> {
        check_range(extent.start(), extent.length(), self.size())?;
        let change = Change::WriteZeroes(extent);
        self.change(change, extent, |disk| disk.write_zeroes(extent, zeroing))
    }

    fn discard(&self, extent: Extent) -> Result<()> {
        check_range(extent.start(), extent.length(), self.size())?;
        self.change(Change::Discard(extent), extent, |disk| disk.discard(extent))
    }

    fn flush(&self) -> Result<()> {
        self.disk.flush()
    }
}
