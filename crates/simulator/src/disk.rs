//! A disk with a volatile cache.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use afterimage_block::{
    BlockRead, BlockWrite, Error, Extent, Length, Offset, Result, Zeroing, check_range,
};

use crate::coverage::Mark;
use crate::hub::Hub;
use crate::plant::Plant;

pub(crate) const SECTOR: usize = 512;

/// A disk of which a loss of power takes what was not flushed: all of it, some of it, half of a write,
/// in any order.
pub(crate) struct SimDisk {
    hub: Hub,
    state: Mutex<State>,
}

struct State {
    current: Vec<u8>,
    durable: Vec<u8>,
    /// What was written since the last flush, in order.
    volatile: Vec<(usize, Vec<u8>)>,
    /// The next write fails half-way.
    fails_next_write: bool,
    fails_next_flush: bool,
}

/// What becomes of a write that was not flushed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Kept,
    Lost,
    /// Each sector by itself.
    Torn,
}

impl SimDisk {
    pub(crate) fn new(size: usize, hub: Hub) -> Self {
        Self {
            hub,
            state: Mutex::new(State {
                current: vec![0; size],
                durable: vec![0; size],
                volatile: Vec::new(),
                fails_next_write: false,
                fails_next_flush: false,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All its bytes, as a reader sees them now.
    pub(crate) fn contents(&self) -> Vec<u8> {
        self.state().current.clone()
    }

    /// Whether these are its bytes.
    pub(crate) fn holds(&self, contents: &[u8]) -> bool {
        self.state().current == contents
    }

    /// The sectors that are not as in `contents`.
    pub(crate) fn differing(&self, contents: &[u8]) -> Vec<usize> {
        differing(&self.state().current, contents)
    }

    /// Replaces all of it, durably.
    pub(crate) fn replace(&self, contents: Vec<u8>) {
        let mut state = self.state();
        state.durable.clone_from(&contents);
        state.current = contents;
        state.volatile.clear();
    }

    pub(crate) fn fail_next_write(&self) {
        self.state().fails_next_write = true;
    }

    pub(crate) fn fail_next_flush(&self) {
        self.state().fails_next_flush = true;
    }

    /// The faults stop.
    pub(crate) fn heal(&self) {
        let mut state = self.state();
        (state.fails_next_write, state.fails_next_flush) = (false, false);
    }

    /// The power fails and comes back.
    pub(crate) fn cut_power(&self) {
        let mut state = self.state();
        let state = &mut *state;
        let (mut lost, mut reordered) = (false, false);
        let hub = &self.hub;
        hub.with_random(|random| {
            let mode = random.below(4);
            for (at, data) in std::mem::take(&mut state.volatile) {
                let fate = match mode {
                    0 => Fate::Kept,
                    1 => Fate::Lost,
                    _ => [Fate::Kept, Fate::Lost, Fate::Torn][random.below(3)],
                };
                reordered |= lost && fate == Fate::Kept;
                lost |= fate == Fate::Lost;
                for (number, sector) in data.chunks(SECTOR).enumerate() {
                    let kept = fate == Fate::Kept || (fate == Fate::Torn && random.chance(500));
                    if fate == Fate::Torn && number == 1 {
                        hub.mark(Mark::TornWrite);
                    }
                    let place = at + number * SECTOR;
                    let place = &mut state.durable[place..place + sector.len()];
                    if kept {
                        place.copy_from_slice(sector);
                    } else if fate == Fate::Torn && random.chance(50) {
                        place.fill(0xa5);
                        hub.mark(Mark::GarbageSector);
                    }
                }
            }
        });
        if reordered {
            hub.mark(Mark::ReorderedWrite);
        }
        state.current.clone_from(&state.durable);
    }

    fn put(&self, extent: Extent, data: &[u8]) -> Result<()> {
        let mut state = self.state();
        let start = to_index(extent.start());
        let fails = std::mem::take(&mut state.fails_next_write);
        let written = if fails {
            data.len() / 2 / SECTOR * SECTOR
        } else {
            data.len()
        };
        let data = &data[..written];
        state.current[start..start + written].copy_from_slice(data);
        if !data.is_empty() {
            state.volatile.push((start, data.to_vec()));
        }
        if fails {
            self.hub.mark(Mark::WriteFailed);
            return Err(failed("write", extent.start(), extent.length()));
        }
        Ok(())
    }
}

/// The sectors in which two disks differ.
pub(crate) fn differing(one: &[u8], other: &[u8]) -> Vec<usize> {
    if one == other {
        return Vec::new();
    }
    let pairs = one.chunks(SECTOR).zip(other.chunks(SECTOR)).enumerate();
    pairs
        .filter(|(_, (one, other))| one != other)
        .map(|(sector, _)| sector)
        .collect()
}

fn to_index(offset: Offset) -> usize {
    usize::try_from(offset.get()).unwrap_or(usize::MAX)
}

fn failed(operation: &'static str, offset: Offset, length: Length) -> Error {
    Error::Io {
        operation,
        device: "simulated disk".into(),
        offset,
        length,
        source: io::Error::other("simulated"),
    }
}

impl BlockRead for SimDisk {
    fn size(&self) -> Length {
        Length::of(&self.state().current)
    }

    fn read_at(&self, offset: Offset, buf: &mut [u8]) -> Result<()> {
        if check_range(offset, Length::of(buf), self.size())?.is_some() {
            let start = to_index(offset);
            buf.copy_from_slice(&self.state().current[start..start + buf.len()]);
        }
        Ok(())
    }
}

impl BlockWrite for SimDisk {
    fn write_at(&self, offset: Offset, data: &[u8]) -> Result<()> {
        match check_range(offset, Length::of(data), self.size())? {
            Some(extent) => self.put(extent, data),
            None => Ok(()),
        }
    }

    fn write_zeroes(&self, extent: Extent, _: Zeroing) -> Result<()> {
        check_range(extent.start(), extent.length(), self.size())?;
        let zeros = vec![0; extent.length().to_usize().unwrap_or_default()];
        self.put(extent, &zeros)
    }

    fn discard(&self, extent: Extent) -> Result<()> {
        self.write_zeroes(extent, Zeroing::Deallocate)
    }

    fn flush(&self) -> Result<()> {
        let mut state = self.state();
        if std::mem::take(&mut state.fails_next_flush) {
            self.hub.mark(Mark::FlushFailed);
            return Err(failed("flush", Offset::ZERO, Length::of(&state.current)));
        }
        if self.hub.is_planted(Plant::LyingFlush) {
            return Ok(());
        }
        for (at, data) in std::mem::take(&mut state.volatile) {
            state.durable[at..at + data.len()].copy_from_slice(&data);
        }
        Ok(())
    }
}
