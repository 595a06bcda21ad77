//! Making the changes of a log on a disk.

use std::ops::AddAssign;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{Builder, scope};

use afterimage_block::{BlockWrite, Change, Length, Zeroing};

use crate::file::LogFile;
use crate::pool::RecordPool;
use crate::{Index, Piece, Result, SealedLog};

/// The most bytes that are moved at a time.
pub(crate) const CHUNK: Length = Length::mib(1);
/// The pieces that a thread takes at a time.
const SHARE: usize = 64;
/// What is written by one thread, since another costs more than it saves.
const ALONE: Length = Length::mib(4);

/// What was done to a disk by applying a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Bytes written.
    pub written: Length,
    /// Bytes zeroed or discarded.
    pub zeroed: Length,
}

impl Applied {
    /// Bytes changed.
    pub fn total(&self) -> Length {
        self.written.saturating_add(self.zeroed)
    }
}

impl AddAssign for Applied {
    fn add_assign(&mut self, more: Self) {
        self.written = self.written.saturating_add(more.written);
        self.zeroed = self.zeroed.saturating_add(more.zeroed);
    }
}

/// Makes the changes of `pieces`, whose bytes are in `file`: many of them with two threads, so that
/// one reads the log while the other writes the disk. They are disjoint, so their order is of no
/// matter; it is nearly that of the disk.
pub(crate) fn apply_pieces(
    file: &LogFile<'_>,
    pieces: &[Piece],
    disk: &(impl BlockWrite + ?Sized),
) -> Result<Applied> {
    let written = pieces.iter().filter(|piece| piece.data_at.is_some());
    let lengths = written.map(|piece| piece.extent.length());
    let written = lengths.fold(Length::ZERO, Length::saturating_add);
    let shares = Shares::of(pieces);
    if written <= ALONE {
        shares.apply(file, disk)?;
    } else {
        scope(|threads| {
            let other = Builder::new().spawn_scoped(threads, || shares.apply(file, disk));
            let ours = shares.apply(file, disk);
            // Without another thread it is only slower.
            let theirs = other.map_or(Ok(()), |other| {
                other.join().unwrap_or_else(|panic| resume_unwind(panic))
            });
            ours.and(theirs)
        })?;
    }
    let all = pieces.iter().map(|piece| piece.extent.length());
    let all = all.fold(Length::ZERO, Length::saturating_add);
    let zeroed = Length::new(all.get() - written.get());
    Ok(Applied { written, zeroed })
}

/// Makes the changes of `index`, the bytes of which are in records of `log` that are to be decoded:
/// each is proved once more.
pub(crate) fn apply_records(
    log: &SealedLog,
    index: &Index,
    disk: &(impl BlockWrite + ?Sized),
) -> Result<Applied> {
    let mut applied = Applied::default();
    let mut records = RecordPool::new(vec![log]);
    for (extent, stored) in &index.0 {
        let record = records.find(0, *extent, *stored)?;
        let Some(change) = stored.change_in(&record, *extent) else {
            continue; // found, so it is there
        };
        change.apply_to(disk)?;
        let total = match change {
            Change::Write { .. } => &mut applied.written,
            Change::WriteZeroes(_) | Change::Discard(_) => &mut applied.zeroed,
        };
        *total = total.saturating_add(extent.length());
    }
    Ok(applied)
}

/// Pieces that threads share.
struct Shares<'a> {
    pieces: &'a [Piece],
    /// How many were taken.
    taken: AtomicUsize,
}

impl<'a> Shares<'a> {
    fn of(pieces: &'a [Piece]) -> Self {
        let taken = AtomicUsize::new(0);
        Self { pieces, taken }
    }

    /// Makes changes until none is left, or one fails: then nobody takes another.
    fn apply(&self, file: &LogFile<'_>, disk: &(impl BlockWrite + ?Sized)) -> Result<()> {
        let mut buffer = Vec::new();
        loop {
            let start = self.taken.fetch_add(SHARE, Ordering::Relaxed);
            let share = self.pieces.get(start..).unwrap_or_default();
            if share.is_empty() {
                return Ok(());
            }
            for piece in share.iter().take(SHARE) {
                let applied = apply_piece(file, *piece, disk, &mut buffer);
                applied.inspect_err(|_| self.taken.store(self.pieces.len(), Ordering::Relaxed))?;
            }
        }
    }
}

fn apply_piece(
    file: &LogFile<'_>,
    piece: Piece,
    disk: &(impl BlockWrite + ?Sized),
    buffer: &mut Vec<u8>,
) -> Result<()> {
    let Some(mut at) = piece.data_at else {
        let zeroed = if piece.discarded {
            disk.discard(piece.extent)
        } else {
            disk.write_zeroes(piece.extent, Zeroing::Deallocate)
        };
        return Ok(zeroed?);
    };
    for part in piece.extent.pieces(CHUNK) {
        buffer.resize(part.length().to_usize().unwrap_or_default(), 0);
        file.read(buffer, at)?;
        disk.write_at(part.start(), buffer)?;
        at += part.length().get();
    }
    Ok(())
}
