//! Tracked disks: what the logs hold is what the disk became, cut exactly at the barriers.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use afterimage_block::{
    BlockRead, BlockWrite, Change, ChangeSink, DiskId, Doubt, Error, Extent, ExtentSet, Finished,
    Generation, IntentLog, Length, MapOnly, MemoryDisk, Offset, Outcome, Result, Run, RunKind,
    SinkError, TrackedDisk, WriteGate, Zeroing,
};
use proptest::prelude::*;

const SIZE: Length = Length::new((1 << 20) + 512);
const REGION: Length = Length::kib(64);

/// What is read of a log afterwards.
#[derive(Clone, Default)]
struct Recorded(Arc<Mutex<Vec<Entry>>>);

/// Where, and which bytes; `None` for zeros.
type Entry = (Extent, Option<Vec<u8>>);

impl ChangeSink for Recorded {
    fn append(&mut self, change: Change<'_>) -> Result<(), SinkError> {
        let data = match change {
            Change::Write { data, .. } => Some(data.to_vec()),
            Change::WriteZeroes(_) | Change::Discard(_) => None,
        };
        self.0
            .lock()
            .unwrap()
            .push((change.extent().ok_or("an empty change")?, data));
        Ok(())
    }
}

impl Recorded {
    fn replay(&self, onto: &MemoryDisk) {
        for (extent, data) in self.0.lock().unwrap().iter() {
            match data {
                Some(data) => onto.write_at(extent.start(), data).unwrap(),
                None => onto.discard(*extent).unwrap(),
            }
        }
    }

    fn extents(&self) -> ExtentSet {
        self.0
            .lock()
            .unwrap()
            .iter()
            .map(|(extent, _)| *extent)
            .collect()
    }
}

/// A sink that is full.
struct Full;

impl ChangeSink for Full {
    fn append(&mut self, _: Change<'_>) -> Result<(), SinkError> {
        Err("no space left".into())
    }
}

/// A disk that fails writes on demand, half-way.
struct Failing {
    inner: MemoryDisk,
    fails: AtomicBool,
}

impl BlockRead for Failing {
    fn size(&self) -> Length {
        self.inner.size()
    }
    fn read_at(&self, offset: Offset, buf: &mut [u8]) -> Result<()> {
        self.inner.read_at(offset, buf)
    }
    fn next_run(&self, from: Offset) -> Result<Option<Run>> {
        self.inner.next_run(from)
    }
}

impl BlockWrite for Failing {
    fn write_at(&self, offset: Offset, data: &[u8]) -> Result<()> {
        if !self.fails.load(Ordering::Relaxed) {
            return self.inner.write_at(offset, data);
        }
        self.inner.write_at(offset, &data[..data.len() / 2])?;
        Err(Error::Io {
            operation: "write",
            device: "failing".into(),
            offset,
            length: Length::of(data),
            source: std::io::ErrorKind::StorageFull.into(),
        })
    }
    fn write_zeroes(&self, extent: Extent, zeroing: Zeroing) -> Result<()> {
        self.inner.write_zeroes(extent, zeroing)
    }
    fn discard(&self, extent: Extent) -> Result<()> {
        self.inner.discard(extent)
    }
    fn flush(&self) -> Result<()> {
        Ok(())
    }
}

fn generation(folder: &Path, number: usize, sink: Option<Box<dyn ChangeSink>>) -> Generation {
    let path = folder.join(format!("{number}.intent"));
    let disk = DiskId::from_bytes([1; 16]);
    let intent = IntentLog::create(&path, disk, SIZE, REGION).unwrap();
    Generation { intent, sink }
}

fn extent(start: u64, length: u64) -> Extent {
    Extent::new(Offset::new(start), Length::new(length)).unwrap()
}

fn regions(finished: &Finished) -> ExtentSet {
    match finished.intent.doubt() {
        Doubt::Extents(extents) => extents,
        Doubt::Everything { reason } => panic!("{reason}"),
    }
}

fn contents(disk: &dyn BlockRead) -> Vec<u8> {
    let mut bytes = vec![0; disk.size().to_usize().unwrap()];
    let mut at = Offset::ZERO;
    while let Some(run) = disk.next_run(at).unwrap() {
        at = run.extent.end();
        if run.kind == RunKind::Data {
            let range = usize::try_from(run.extent.start().get()).unwrap()
                ..usize::try_from(at.get()).unwrap();
            disk.read_at(run.extent.start(), &mut bytes[range]).unwrap();
        }
    }
    bytes
}

#[derive(Clone, Debug)]
struct Step {
    kind: u8,
    start: u64,
    length: u64,
    value: u8,
}

impl Step {
    fn run(&self, disk: &dyn BlockWrite) {
        let length = self.length.min(SIZE.get() - self.start);
        let range = extent(self.start, length);
        match self.kind {
            0..4 => {
                let data = vec![self.value; usize::try_from(length).unwrap()];
                disk.write_at(range.start(), &data).unwrap();
            }
            4 => disk.write_zeroes(range, Zeroing::Deallocate).unwrap(),
            5 => disk.write_zeroes(range, Zeroing::Allocate).unwrap(),
            _ => disk.discard(range).unwrap(),
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0..7_u8, 0..SIZE.get(), 1..200_000_u64, 1..255_u8);
    let step = step.prop_map(|(kind, start, length, value)| Step {
        kind,
        start,
        length,
        value,
    });
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Invariant I2, on one disk: each log takes the disk from one barrier to the next, while three
    /// threads write without coordination; and the regions cover the log.
    #[test]
    fn logs_lead_from_barrier_to_barrier(all in steps()) {
        let folder = tempfile::tempdir().unwrap();
        let gate = WriteGate::new();
        let inner = Arc::new(MemoryDisk::new(SIZE));
        let first = Recorded::default();
        let tracked = TrackedDisk::new(
            inner.clone(), gate.clone(), generation(folder.path(), 0, Some(Box::new(first.clone()))),
        );
        let replica = MemoryDisk::new(SIZE);
        std::thread::scope(|scope| {
            for part in all.chunks(all.len().div_ceil(3)) {
                let tracked = &tracked;
                scope.spawn(move || part.iter().for_each(|step| step.run(tracked)));
            }
            let mut recorded = first;
            for number in 1..6 {
                std::thread::yield_now();
                let next = Recorded::default();
                let next_generation =
                    generation(folder.path(), number, Some(Box::new(next.clone())));
                let barrier = gate.close();
                let finished = tracked.rotate(&barrier, next_generation);
                let image = inner.contents();
                drop(barrier);
                assert!(matches!(finished.outcome, Outcome::Logged(_)));
                recorded.replay(&replica);
                assert!(replica.contents() == image, "the log does not lead to the barrier");
                let covered = regions(&finished);
                assert!(recorded.extents().iter().all(|run| covered.contains(run)));
                recorded = next;
            }
        });
    }

    /// A snapshot is its barrier, while three threads write; and leaves nothing behind.
    #[test]
    fn snapshots_do_not_change(before in steps(), after in steps()) {
        let folder = tempfile::tempdir().unwrap();
        let gate = WriteGate::new();
        let inner = Arc::new(MemoryDisk::new(SIZE));
        let first = generation(folder.path(), 0, None);
        let tracked = Arc::new(TrackedDisk::new(inner.clone(), gate.clone(), first));
        for step in &before {
            step.run(tracked.as_ref());
        }
        let barrier = gate.close();
        let snapshot = tracked.snapshot(&barrier, folder.path()).unwrap();
        let image = inner.contents();
        drop(barrier);
        std::thread::scope(|scope| {
            for part in after.chunks(after.len().div_ceil(3)) {
                let tracked = &tracked;
                scope.spawn(move || part.iter().for_each(|step| step.run(tracked.as_ref())));
            }
            for _ in 0..3 {
                assert!(contents(&snapshot) == image, "the snapshot changed");
            }
        });
        prop_assert!(contents(&snapshot) == image, "the snapshot changed");
        drop(snapshot);
        let left = std::fs::read_dir(folder.path()).unwrap().count();
        prop_assert_eq!(left, 1, "only the intent file is left");
    }
}

#[test]
fn a_full_log_costs_the_guest_nothing_and_leaves_the_regions() {
    let folder = tempfile::tempdir().unwrap();
    let gate = WriteGate::new();
    let first = generation(folder.path(), 0, Some(Box::new(Full)));
    let tracked = TrackedDisk::new(Arc::new(MemoryDisk::new(SIZE)), gate.clone(), first);
    tracked.write_at(Offset::new(65_530), &[1; 10]).unwrap();
    let finished = tracked.rotate(&gate.close(), generation(folder.path(), 1, None));
    assert!(matches!(
        finished.outcome,
        Outcome::MapOnly(MapOnly::SinkFailed(_))
    ));
    assert_eq!(regions(&finished), extent(0, 128 << 10).into());
}

#[test]
fn a_failed_write_is_in_doubt_and_the_guest_hears_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let gate = WriteGate::new();
    let disk = Arc::new(Failing {
        inner: MemoryDisk::new(SIZE),
        fails: AtomicBool::new(true),
    });
    let first = generation(folder.path(), 0, Some(Box::new(Recorded::default())));
    let tracked = TrackedDisk::new(disk.clone(), gate.clone(), first);
    assert!(tracked.write_at(Offset::ZERO, &[1; 1024]).is_err());
    disk.fails.store(false, Ordering::Relaxed);
    tracked.write_at(Offset::new(512 << 10), &[2; 512]).unwrap();
    let finished = tracked.rotate(&gate.close(), generation(folder.path(), 1, None));
    assert!(matches!(
        finished.outcome,
        Outcome::MapOnly(MapOnly::WriteFailed)
    ));
    let covered = regions(&finished);
    assert!(covered.contains(extent(0, 1024)) && covered.contains(extent(512 << 10, 512)));
}

#[test]
fn a_snapshot_that_cannot_keep_is_lost_and_the_write_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let gate = WriteGate::new();
    let inner = Arc::new(Unreadable(MemoryDisk::with_contents(&vec![5; 1 << 20])));
    let first = generation(folder.path(), 0, None);
    let tracked = Arc::new(TrackedDisk::new(inner.clone(), gate.clone(), first));
    let snapshot = tracked.snapshot(&gate.close(), folder.path()).unwrap();
    tracked.write_at(Offset::ZERO, &[6; 512]).unwrap();
    let error = snapshot
        .read_at(Offset::new(700_000), &mut [0; 512])
        .unwrap_err();
    assert!(matches!(error, Error::SnapshotLost { .. }), "{error}");
    assert!(snapshot.next_run(Offset::ZERO).is_err());
    assert_eq!(inner.0.contents()[..512], [6; 512]);
}

/// A disk whose data cannot be read.
struct Unreadable(MemoryDisk);

impl BlockRead for Unreadable {
    fn size(&self) -> Length {
        self.0.size()
    }
    fn read_at(&self, offset: Offset, buf: &mut [u8]) -> Result<()> {
        Err(Error::Io {
            operation: "read",
            device: "unreadable".into(),
            offset,
            length: Length::of(buf),
            source: std::io::ErrorKind::Other.into(),
        })
    }
}

impl BlockWrite for Unreadable {
    fn write_at(&self, offset: Offset, data: &[u8]) -> Result<()> {
        self.0.write_at(offset, data)
    }
    fn write_zeroes(&self, extent: Extent, zeroing: Zeroing) -> Result<()> {
        self.0.write_zeroes(extent, zeroing)
    }
    fn discard(&self, extent: Extent) -> Result<()> {
        self.0.discard(extent)
    }
    fn flush(&self) -> Result<()> {
        Ok(())
    }
}
