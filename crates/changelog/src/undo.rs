//! Applying logs such that they can be taken back.

use afterimage_block::{
    BlockRead, BlockWrite, Change, ContentDigest, Extent, ExtentSet, RunKind, Timestamp,
};

use crate::apply::CHUNK;
use crate::convert::discard_file;
use crate::{Applied, ChangeLog, Error, FileWriter, Provenance, Result, SealedLog};

/// What [`apply_with_undo`] did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Undoable {
    /// What each of the logs did to the disk.
    pub applied: Vec<Applied>,
    /// The log that takes all of it back.
    pub undo: SealedLog,
}

/// Applies `logs` to `disk`, oldest first, having written what they overwrite to the log `undo` begins,
/// which is sealed. Applying that one to the disk later makes it what it was, byte for byte and holes
/// where there were holes; several are taken back newest first.
///
/// The undo log is durable before the first byte of the disk is written, so whatever interrupts this
/// can be taken back. After an interruption, apply the undo log or `logs` themselves, and not this
/// again: the disk is no longer what the before-images are to be taken of. That is why `undo` should
/// have been made by [`FileWriter::create_new`].
///
/// If the last log resizes the disk that is the caller's to do, afterwards, and to take back
/// beforehand.
///
/// The undo log is stored as its options say: if `log` is encrypted, so must it be, unless plain text
/// is allowed.
///
/// The undo log's records have the time at which it was begun, its predecessor is
/// [`ChangeLog::content`] of the newest log, and its states of the disk are those of `logs`, exchanged.
/// Its length is at most that of the data that `logs` change, plus 48 bytes for each run of it.
///
/// # Errors
/// As [`record_undo`], the disk is then as it was; as [`ChangeLog::apply`], the undo log then stays.
pub fn apply_with_undo(
    logs: &[&dyn ChangeLog],
    disk: &dyn BlockWrite,
    undo: FileWriter,
) -> Result<Undoable> {
    let undo = record_undo(logs, disk, undo)?;
    let applied = logs.iter().map(|log| log.apply(disk));
    Ok(Undoable {
        applied: applied.collect::<Result<_>>()?,
        undo,
    })
}

/// Writes what `logs`, oldest first, would overwrite on `disk` to the log that `undo` begins, and seals
/// it.
///
/// # Errors
/// [`Error::WouldExpose`] within [`Error::InFile`]; [`Error::WrongDisk`] if `undo` is of another disk than one of `logs`, or of another size than
/// `disk`; as [`ChangeLog::check_fits`] and [`FileWriter::append`]; [`Error::Disk`] if the disk cannot
/// be read. No undo log is left then.
pub fn record_undo(
    logs: &[&dyn ChangeLog],
    disk: &(impl BlockRead + ?Sized),
    mut undo: FileWriter,
) -> Result<SealedLog> {
    let path = undo.path().to_path_buf();
    let provenance = provenance(logs);
    let recorded = record(logs, disk, &mut undo);
    recorded
        .and_then(|()| undo.seal(provenance))
        .inspect_err(|_| discard_file(&path))
}

/// What the log that takes `logs` back follows and leads to.
fn provenance(logs: &[&dyn ChangeLog]) -> Provenance {
    let states = |log: Option<&&dyn ChangeLog>| log.map(|log| log.states()).unwrap_or_default();
    let states = states(logs.first()).until(states(logs.last())).reversed();
    let newest = logs.last().map(|log| log.content());
    Provenance::from(newest.unwrap_or(ContentDigest::NONE)).with_states(states)
}

fn record(
    logs: &[&dyn ChangeLog],
    disk: &(impl BlockRead + ?Sized),
    undo: &mut FileWriter,
) -> Result<()> {
    let header = *undo.header();
    let mut disks = logs.iter().filter_map(|log| log.disk());
    let other_disk = disks.any(|disk| disk != header.disk);
    if other_disk || header.disk_size != disk.size() {
        return Err(Error::WrongDisk {
            found: header.disk,
            found_size: header.disk_size,
            size: disk.size(),
        });
    }
    let mut changed = ExtentSet::new();
    for log in logs {
        log.check_fits(disk.size())?;
        let exposed = undo.check_source(log.form().key.is_some());
        exposed.map_err(|error| error.in_file(log.path()))?;
        changed.extend(log.extents()?);
    }
    let mut buffer = Vec::new();
    let mut extents = changed.iter();
    extents.try_for_each(|extent| record_extent(extent, disk, undo, header.created, &mut buffer))
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
