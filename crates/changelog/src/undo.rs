//! Applying a log such that it can be taken back.

use afterimage_block::{BlockRead, BlockWrite, Change, Extent, RunKind, Timestamp};

use crate::apply::CHUNK;
use crate::convert::discard_file;
use crate::{Applied, ChangeLog, Error, FileWriter, Result, SealedLog};

/// What [`apply_with_undo`] did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Undoable {
    /// What was done to the disk.
    pub applied: Applied,
    /// The log that takes it back.
    pub undo: SealedLog,
}

/// Applies `log` to `disk`, having written what it overwrites to the log `undo` begins, which is
/// sealed. Applying that one to the disk later makes it what it was, byte for byte and holes where
/// there were holes; several are taken back newest first.
///
/// The undo log is durable before the first byte of the disk is written, so whatever interrupts this
/// can be taken back. After an interruption, apply the undo log or `log` itself, and not this again:
/// the disk is no longer what the before-images are to be taken of. That is why `undo` should have
/// been made by [`FileWriter::create_new`].
///
/// If `log` resizes the disk that is the caller's to do, afterwards, and to take back beforehand.
///
/// The undo log's records have the time at which it was begun, its predecessor is
/// [`ChangeLog::content`] of `log`. Its length is at most that of the data that `log` changes, plus 48
/// bytes a record.
///
/// # Errors
/// As [`record_undo`], the disk is then as it was; as [`ChangeLog::apply`], the undo log then stays.
pub fn apply_with_undo(
    log: &dyn ChangeLog,
    disk: &dyn BlockWrite,
    undo: FileWriter,
) -> Result<Undoable> {
    let undo = record_undo(log, disk, undo)?;
    let applied = log.apply(disk)?;
    Ok(Undoable { applied, undo })
}

/// Writes what `log` would overwrite on `disk` to the log that `undo` begins, and seals it.
///
/// # Errors
/// [`Error::WrongDisk`] if `undo` is of another disk than `log`, or of another size than `disk`; as
/// [`ChangeLog::check_fits`] and [`FileWriter::append`]; [`Error::Disk`] if the disk cannot be read.
/// No undo log is left then.
pub fn record_undo(
    log: &dyn ChangeLog,
    disk: &(impl BlockRead + ?Sized),
    mut undo: FileWriter,
) -> Result<SealedLog> {
    let path = undo.path().to_path_buf();
    let recorded = record(log, disk, &mut undo);
    recorded
        .and_then(|()| undo.seal(log.content()))
        .inspect_err(|_| discard_file(&path))
}

fn record(
    log: &dyn ChangeLog,
    disk: &(impl BlockRead + ?Sized),
    undo: &mut FileWriter,
) -> Result<()> {
    let header = *undo.header();
    let other_disk = log.disk().is_some_and(|disk| disk != header.disk);
    if other_disk || header.disk_size != disk.size() {
        return Err(Error::WrongDisk {
            found: header.disk,
            found_size: header.disk_size,
            size: disk.size(),
        });
    }
    log.check_fits(disk.size())?;
    let mut buffer = Vec::new();
    for piece in log.pieces()? {
        record_extent(piece.extent, disk, undo, header.created, &mut buffer)?;
    }
    Ok(())
}

/// Records what is in `extent`: holes as zeros, data as it is.
fn record_extent(
    extent: Extent,
    disk: &(impl BlockRead + ?Sized),
    undo: &mut FileWriter,
    time: Timestamp,
    buffer: &mut Vec<u8>,
) -> Result<()> {
    let mut at = extent.start();
    while let Some(run) = disk.next_run(at)?
        && let Some(part) = run.extent.intersection(extent)
    {
        at = part.end();
        if run.kind == RunKind::Hole {
            undo.append(Change::WriteZeroes(part), time)?;
            continue;
        }
        for piece in part.pieces(CHUNK) {
            buffer.resize(piece.length().to_usize().unwrap_or_default(), 0);
            disk.read_at(piece.start(), buffer)?;
            let offset = piece.start();
            undo.append(
                Change::Write {
                    offset,
                    data: buffer,
                },
                time,
            )?;
        }
    }
    Ok(())
}
