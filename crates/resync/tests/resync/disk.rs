//! A small disk with holes of single sectors, which counts what is asked of it and fails on request.

use std::io;
use std::sync::Mutex;

use afterimage_block::{
    BlockRead, BlockWrite, Error, Extent, ExtentSet, Length, Offset, Result, Run, RunKind, Zeroing,
    check_range,
};

pub(crate) const SECTOR: usize = 512;

#[derive(Default)]
pub(crate) struct TestDisk {
    state: Mutex<State>,
}

#[derive(Default, Clone)]
struct State {
    bytes: Vec<u8>,
    /// Bytes that are stored; the rest are holes.
    stored: ExtentSet,
    faults: Vec<(Fault, Extent)>,
    reads: Vec<Extent>,
    writes: Vec<Extent>,
    maps: usize,
    flushed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    Read,
    /// Only reads of more than one sector-aligned 4 KiB fail, as a busy device may.
    LargeRead,
    Write,
    Flush,
    Map,
    /// The disk denies having the run.
    NoRun,
    Panic,
}

pub(crate) fn extent(start: u64, length: u64) -> Extent {
    Extent::new(Offset::new(start), Length::new(length)).unwrap()
}

pub(crate) fn range(extent: Extent) -> std::ops::Range<usize> {
    let at = |offset: Offset| usize::try_from(offset.get()).unwrap();
    at(extent.start())..at(extent.end())
}

impl Clone for TestDisk {
    fn clone(&self) -> Self {
        let state = Mutex::new(self.state.lock().unwrap().clone());
        Self { state }
    }
}

impl TestDisk {
    /// All holes.
    pub(crate) fn new(size: usize) -> Self {
        let disk = Self::default();
        disk.state.lock().unwrap().bytes = vec![0; size];
        disk
    }

    /// No holes.
    pub(crate) fn dense(bytes: &[u8]) -> Self {
        let disk = Self::new(bytes.len());
        disk.put(extent(0, bytes.len() as u64), |at| bytes[at]);
        disk
    }

    /// Stores bytes behind the counters' back.
    pub(crate) fn put(&self, extent: Extent, byte: impl Fn(usize) -> u8) {
        let mut state = self.state.lock().unwrap();
        state.stored.insert(extent);
        for at in range(extent) {
            state.bytes[at] = byte(at);
        }
    }

    /// Makes a hole behind the counters' back.
    pub(crate) fn punch(&self, extent: Extent) {
        let mut state = self.state.lock().unwrap();
        state.stored.remove(extent);
        state.bytes[range(extent)].fill(0);
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.state.lock().unwrap().bytes.clone()
    }

    pub(crate) fn is_stored(&self, extent: Extent) -> bool {
        self.state.lock().unwrap().stored.overlaps(extent)
    }

    pub(crate) fn reads(&self) -> Vec<Extent> {
        self.state.lock().unwrap().reads.clone()
    }

    pub(crate) fn writes(&self) -> Vec<Extent> {
        self.state.lock().unwrap().writes.clone()
    }

    /// How often the disk was asked for a run.
    pub(crate) fn maps(&self) -> usize {
        self.state.lock().unwrap().maps
    }

    /// Whether nothing was written since the last flush.
    pub(crate) fn is_flushed(&self) -> bool {
        self.state.lock().unwrap().flushed
    }

    pub(crate) fn fail(&self, fault: Fault, extent: Extent) {
        self.state.lock().unwrap().faults.push((fault, extent));
    }

    pub(crate) fn mend(&self) {
        self.state.lock().unwrap().faults.clear();
    }
}

impl State {
    fn check(&self, fault: Fault, operation: &'static str, extent: Extent) -> Result<()> {
        let mut faults = self.faults.iter();
        if !faults.any(|(kind, bad)| *kind == fault && bad.overlaps(extent)) {
            return Ok(());
        }
        Err(Error::Io {
            operation,
            device: "test".into(),
            offset: extent.start(),
            length: extent.length(),
            source: io::Error::from(io::ErrorKind::TimedOut),
        })
    }

    fn check_write(&mut self, extent: Extent) -> Result<()> {
        self.check(Fault::Write, "write", extent)?;
        self.writes.push(extent);
        self.flushed = false;
        Ok(())
    }
}

impl BlockRead for TestDisk {
    fn size(&self) -> Length {
        Length::of(&self.state.lock().unwrap().bytes)
    }

    fn read_at(&self, offset: Offset, buf: &mut [u8]) -> Result<()> {
        let Some(extent) = check_range(offset, Length::of(buf), self.size())? else {
            return Ok(());
        };
        let panics = {
            let mut state = self.state.lock().unwrap();
            state.check(Fault::Read, "read", extent)?;
            if extent.length() > Length::kib(4) {
                state.check(Fault::LargeRead, "read", extent)?;
            }
            state.reads.push(extent);
            buf.copy_from_slice(&state.bytes[range(extent)]);
            state.check(Fault::Panic, "read", extent).is_err()
        };
        assert!(!panics, "a disk that panics");
        Ok(())
    }

    fn next_run(&self, from: Offset) -> Result<Option<Run>> {
        let mut state = self.state.lock().unwrap();
        state.maps += 1;
        let Some(rest) = Extent::between(from, Offset::new(state.bytes.len() as u64)) else {
            return Ok(None);
        };
        let here = extent(from.get(), 1);
        state.check(Fault::Map, "map", here)?;
        if state.check(Fault::NoRun, "map", here).is_err() {
            return Ok(None);
        }
        let stored = state.stored.within(rest).next();
        let (kind, end) = match stored {
            Some(run) if run.start() == from => (RunKind::Data, run.end()),
            Some(run) => (RunKind::Hole, run.start()),
            None => (RunKind::Hole, rest.end()),
        };
        // Runs of one kind may follow each other: cut them now and then.
        let cut = Offset::new((from.get() / 20_480 + 1) * 20_480);
        let end = if from.get().is_multiple_of(3) {
            end.min(cut)
        } else {
            end
        };
        Ok(Extent::between(from, end).map(|extent| Run { extent, kind }))
    }
}

impl BlockWrite for TestDisk {
    fn write_at(&self, offset: Offset, data: &[u8]) -> Result<()> {
        let Some(extent) = check_range(offset, Length::of(data), self.size())? else {
            return Ok(());
        };
        let mut state = self.state.lock().unwrap();
        state.check_write(extent)?;
        state.stored.insert(extent);
        state.bytes[range(extent)].copy_from_slice(data);
        Ok(())
    }

    fn write_zeroes(&self, extent: Extent, _: Zeroing) -> Result<()> {
        self.discard(extent)
    }

    fn discard(&self, extent: Extent) -> Result<()> {
        check_range(extent.start(), extent.length(), self.size())?;
        let mut state = self.state.lock().unwrap();
        state.check_write(extent)?;
        state.stored.remove(extent);
        state.bytes[range(extent)].fill(0);
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        let mut state = self.state.lock().unwrap();
        let whole = extent(0, state.bytes.len().max(1) as u64);
        state.check(Fault::Flush, "flush", whole)?;
        state.flushed = true;
        Ok(())
    }
}
