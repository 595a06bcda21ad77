//! Work on a disk.

use std::iter;
use std::mem;
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;

use afterimage_block::{BlockRead, BlockWrite, Extent, ExtentSet, Offset, RunKind, Zeroing};
use bytes::Bytes;
use digest::Digest;
use sha2::Sha256;

use super::Event;
use crate::buffer::Buffer;
use crate::control::Member;
use crate::remote::{Outcome, Terms, Work};
use crate::spans::{Spans, data_at, read_into};
use crate::tree::Node;
use crate::{Algorithm, Error, Result, Scope, Side, Signature, Signer};

/// The disk of one end.
pub(super) struct Disk<'d> {
    side: Side,
    reader: &'d dyn BlockRead,
    /// The disk once more, if it is to be written.
    writer: Option<&'d dyn BlockWrite>,
    terms: Terms,
    /// A run of data that the disk told of. Filesystems may take long to find the next hole, so that
    /// to ask for each unit, or at first on each thread, would cost more than the unit.
    known_data: OnceLock<Mutex<Option<Extent>>>,
}

/// As many as most pieces have that are read at once.
static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// Does work until there is no more to come.
pub(super) fn serve(
    disk: &Disk<'_>,
    queue: &Mutex<Receiver<Work>>,
    events: &SyncSender<Event>,
    member: &Member,
) {
    let _tell = TellOfPanic(events);
    let mut buffer = Buffer::default();
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(work) = next else {
            return;
        };
        if member.wait().is_break() {
            return;
        }
        let looked_at = match &work {
            Work::Hash { extent, .. } | Work::Read { extent, .. } => Some(*extent),
            _ => None,
        };
        let outcome = disk.perform(work, &mut buffer);
        let is_zero = outcome.as_ref().is_ok_and(is_zero);
        let hole = looked_at.filter(|_| is_zero);
        let hole = hole.and_then(|extent| disk.hole_behind(extent));
        let told = hole.map(Event::Hole);
        for event in iter::once(Event::Outcome(outcome)).chain(told) {
            if events.send(event).is_err() {
                return;
            }
        }
    }
}

/// Sends everybody home when a disk panics, so that the panic surfaces instead of a wait for an
/// outcome that never comes.
struct TellOfPanic<'e>(&'e SyncSender<Event>);

impl Drop for TellOfPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let _ = self.0.send(Event::Panicked);
        }
    }
}

impl<'d> Disk<'d> {
    pub(super) fn source(disk: &'d dyn BlockRead, terms: Terms) -> Result<Self> {
        Self::of(Side::Source, disk, terms)
    }

    /// A target that is not written.
    pub(super) fn read_target(disk: &'d dyn BlockRead, terms: Terms) -> Result<Self> {
        Self::of(Side::Target, disk, terms)
    }

    pub(super) fn target(disk: &'d dyn BlockWrite, terms: Terms) -> Result<Self> {
        let target = Self::of(Side::Target, disk, terms)?;
        let writer = Some(disk);
        Ok(Self { writer, ..target })
    }

    fn of(side: Side, reader: &'d dyn BlockRead, terms: Terms) -> Result<Self> {
        let (expected, found) = (terms.grid.size(), reader.size());
        if expected != found {
            return Err(Error::OtherDisk {
                side,
                expected,
                found,
            });
        }
        Ok(Self {
            side,
            reader,
            writer: None,
            terms,
            known_data: OnceLock::new(),
        })
    }

    /// Does it; what is hashed only is read into `buffer`.
    fn perform(&self, work: Work, buffer: &mut Buffer) -> Result<Outcome> {
        Ok(match work {
            Work::Hash { unit, extent } => {
                let blocks = self.hash(extent, buffer)?;
                Outcome::Hashed { unit, blocks }
            }
            Work::Read { ticket, extent } => {
                let (bytes, blocks) = self.read(extent)?;
                Outcome::Read {
                    ticket,
                    bytes,
                    blocks,
                }
            }
            Work::Write {
                ticket,
                extent,
                bytes,
            } => {
                let write = |disk: &dyn BlockWrite| disk.write_at(extent.start(), &bytes);
                self.write(extent, write)?;
                let blocks = self.nodes(&bytes);
                Outcome::Written { ticket, blocks }
            }
            Work::Zero { ticket, extent } => {
                let zero = |disk: &dyn BlockWrite| disk.write_zeroes(extent, Zeroing::Deallocate);
                self.write(extent, zero)?;
                Outcome::Zeroed { ticket }
            }
            Work::Flush => {
                let flushed = self.writer.map_or(Ok(()), BlockWrite::flush);
                flushed.map_err(|source| Error::Flush { source })?;
                Outcome::Flushed
            }
            // The driver itself saves.
            Work::Save(_) => return Err(Error::WrongOutcome),
        })
    }

    /// The digests of a unit's blocks. Holes are not read.
    fn hash(&self, extent: Extent, buffer: &mut Buffer) -> Result<Vec<Node>> {
        let hashed = match self.terms.algorithm {
            Algorithm::Sha256 => self.hash_by::<Sha256>(extent, buffer),
            #[cfg(feature = "blake3")]
            Algorithm::Blake3 => self.hash_by::<blake3::Hasher>(extent, buffer),
        };
        hashed.map_err(|error| error.on(self.side))
    }

    fn hash_by<D: Digest>(&self, extent: Extent, buffer: &mut Buffer) -> Result<Vec<Node>> {
        let grid = self.terms.grid;
        let scope = Scope::new(grid.size(), grid.block_size(), &ExtentSet::from(extent))?;
        let known = *self.known_data(extent.start());
        let signer = Signer::<D>::new(self.reader, scope, extent.start())?.knowing(known);
        let mut signer = signer.with_buffer(mem::take(buffer));
        let blocks = signer
            .by_ref()
            .map(|signed| signed.map(|(_, signature)| node_of(&signature)))
            .collect();
        self.know(extent.start(), signer.known_data());
        *buffer = signer.into_buffer();
        blocks
    }

    /// What is known of the data at `at` or elsewhere.
    fn known_data(&self, at: Offset) -> MutexGuard<'_, Option<Extent>> {
        let first = || Mutex::new(data_at(self.reader, at));
        let known = self.known_data.get_or_init(first).lock();
        known.unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of what the disk told of at `at` or behind it. A thread that was slow knows less than
    /// the others.
    fn know(&self, at: Offset, told: Option<Extent>) {
        let mut known = self.known_data(at);
        if told.map(Extent::end) > known.map(Extent::end) {
            *known = told;
        }
    }

    /// What behind `extent`, all of which is zero, is of the hole that it lies in.
    fn hole_behind(&self, extent: Extent) -> Option<Extent> {
        // Zeros that are stored: to find where they end may take long.
        let is_data = |known: Extent| known.intersection(extent).is_some();
        if self.known_data(extent.start()).is_some_and(is_data) {
            return None;
        }
        // A disk that cannot tell now is asked again when it is read.
        let run = self.reader.next_run(extent.start()).ok().flatten()?;
        let is_hole = run.kind == RunKind::Hole;
        Extent::between(extent.end(), run.extent.end()).filter(|_| is_hole)
    }

    /// The bytes of `extent` and its blocks' digests. Holes are not read, and one that is all of it
    /// takes no memory.
    fn read(&self, extent: Extent) -> Result<(Bytes, Vec<Node>)> {
        let (side, grid) = (self.side, self.terms.grid);
        let length = extent.length().to_usize().unwrap_or_default();
        let known = *self.known_data(extent.start());
        let mut spans = Spans::new(self.reader, side, grid).knowing(known);
        let first = spans.next(extent)?;
        if first.kind == RunKind::Hole
            && first.extent == extent
            && let Some(zeros) = ZEROS.get(..length)
        {
            let blocks = vec![Node::ZERO; length.div_ceil(grid.block_len())];
            return Ok((Bytes::from_static(zeros), blocks));
        }
        let mut bytes = vec![0; length];
        let (mut rest, mut unread) = (Some(extent), bytes.as_mut_slice());
        while let Some(within) = rest {
            let run = spans.next(within)?;
            let length = run.extent.length().to_usize().unwrap_or_default();
            let (now, later) = unread.split_at_mut(length.min(unread.len()));
            if run.kind == RunKind::Data {
                let (_, error) = read_into(self.reader, side, grid, run.extent, now);
                error.map_or(Ok(()), Err)?;
            }
            unread = later;
            rest = Extent::between(run.extent.end(), extent.end());
        }
        self.know(extent.start(), spans.known_data());
        let blocks = self.nodes(&bytes);
        Ok((Bytes::from(bytes), blocks))
    }

    fn write(
        &self,
        extent: Extent,
        write: impl FnOnce(&dyn BlockWrite) -> afterimage_block::Result<()>,
    ) -> Result<()> {
        // A source asks for no writes.
        let disk = self.writer.ok_or(Error::WrongOutcome)?;
        write(disk).map_err(|source| Error::Write { extent, source })
    }

    fn nodes(&self, bytes: &[u8]) -> Vec<Node> {
        let blocks = bytes.chunks(self.terms.grid.block_len());
        blocks
            .map(|block| self.terms.algorithm.block(block))
            .collect()
    }
}

/// Whether all that was hashed or read is zero.
fn is_zero(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Hashed { blocks, .. } | Outcome::Read { blocks, .. } => {
            blocks.iter().all(Node::is_zero)
        }
        _ => false,
    }
}

fn node_of<D: Digest>(signature: &Signature<D>) -> Node {
    match signature {
        Signature::Zero => Node::ZERO,
        Signature::Digest(bytes) => Node::of(bytes),
    }
}
