//! Disks that wait, fail and remember.

use std::io;
use std::sync::{Arc, Condvar, Mutex};

use afterimage_block::{
    BlockRead, BlockWrite, Error, Extent, Length, MemoryDisk, Offset, Result, Run, Zeroing,
};

use crate::SIZE;

/// What a [`Probe`] does with writes.
#[derive(Clone, Copy)]
pub(crate) enum Writes {
    Work,
    /// Wait until the gate opens.
    WaitAtTheGate,
    Fail(io::ErrorKind),
    Panic,
}

/// A disk in memory whose writes do as they are told, and that remembers the rest.
pub(crate) struct Probe {
    pub(crate) disk: MemoryDisk,
    writes: Writes,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    open: bool,
    at_the_gate: usize,
    calls: Vec<&'static str>,
}

impl Probe {
    pub(crate) fn new(writes: Writes) -> Arc<Self> {
        Arc::new(Self {
            disk: MemoryDisk::new(SIZE),
            writes,
            state: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    pub(crate) fn wait_for_writes(&self, count: usize) {
        let state = self.state.lock().unwrap();
        let waits = self.changed.wait_while(state, |s| s.at_the_gate < count);
        drop(waits.unwrap());
    }

    pub(crate) fn open_the_gate(&self) {
        self.state.lock().unwrap().open = true;
        self.changed.notify_all();
    }

    /// The names of the calls since the last time.
    pub(crate) fn calls(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.state.lock().unwrap().calls)
    }

    fn note(&self, call: &'static str) {
        self.state.lock().unwrap().calls.push(call);
    }
}

impl BlockRead for Probe {
    fn size(&self) -> Length {
        self.disk.size()
    }

    fn read_at(&self, offset: Offset, buf: &mut [u8]) -> Result<()> {
        self.note("read");
        self.disk.read_at(offset, buf)
    }

    fn next_run(&self, from: Offset) -> Result<Option<Run>> {
        self.disk.next_run(from)
    }
}

impl BlockWrite for Probe {
    fn write_at(&self, offset: Offset, data: &[u8]) -> Result<()> {
        self.note("write");
        match self.writes {
            Writes::Work => {}
            Writes::WaitAtTheGate => {
                let mut state = self.state.lock().unwrap();
                state.at_the_gate += 1;
                self.changed.notify_all();
                drop(self.changed.wait_while(state, |s| !s.open).unwrap());
            }
            Writes::Panic => panic!("a test wants it so"),
            Writes::Fail(kind) => {
                return Err(Error::Io {
                    operation: "write",
                    device: "probe".into(),
                    offset,
                    length: Length::of(data),
                    source: kind.into(),
                });
            }
        }
        self.disk.write_at(offset, data)
    }

    fn write_zeroes(&self, extent: Extent, zeroing: Zeroing) -> Result<()> {
        self.note(match zeroing {
            Zeroing::Deallocate => "zero",
            Zeroing::Allocate => "zero and allocate",
        });
        self.disk.write_zeroes(extent, zeroing)
    }

    fn discard(&self, extent: Extent) -> Result<()> {
        self.note("discard");
        self.disk.discard(extent)
    }

    fn flush(&self) -> Result<()> {
        self.note("flush");
        self.disk.flush()
    }
}
