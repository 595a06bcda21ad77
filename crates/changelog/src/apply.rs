//! Making the changes of a log on a disk.

use afterimage_block::{BlockWrite, Change, Length, Zeroing};

use crate::file::LogFile;
use crate::pool::RecordPool;
use crate::{Index, Piece, Result, SealedLog};

/// The most bytes that are moved at a time.
pub(crate) const CHUNK: Length = Length::mib(1);

/// What was done to a disk by applying a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Bytes written.
    pub written: Length,
    /// Bytes zeroed or discarded.
    pub zeroed: Length,
}

/// Makes the changes of `pieces`, whose bytes are in `file`.
pub(crate) fn apply_pieces(
    file: &LogFile<'_>,
    pieces: impl IntoIterator<Item = Piece>,
    disk: &(impl BlockWrite + ?Sized),
) -> Result<Applied> {
    let mut applied = Applied::default();
    let mut buffer = Vec::new();
    for piece in pieces {
        let length = piece.extent.length();
        if piece.data_at.is_some() {
            write_piece(file, piece, disk, &mut buffer)?;
            applied.written = applied.written.saturating_add(length);
        } else {
            if piece.discarded {
                disk.discard(piece.extent)?;
            } else {
                disk.write_zeroes(piece.extent, Zeroing::Deallocate)?;
            }
            applied.zeroed = applied.zeroed.saturating_add(length);
        }
    }
    Ok(applied)
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

fn write_piece(
    file: &LogFile<'_>,
    piece: Piece,
    disk: &(impl BlockWrite + ?Sized),
    buffer: &mut Vec<u8>,
) -> Result<()> {
    let Some(mut at) = piece.data_at else {
        return Ok(());
    };
    for part in piece.extent.pieces(CHUNK) {
        buffer.resize(part.length().to_usize().unwrap_or_default(), 0);
        file.read(buffer, at)?;
        disk.write_at(part.start(), buffer)?;
        at += part.length().get();
    }
    Ok(())
}
