//! One format into the other.

use std::path::Path;

use afterimage_block::{ContentDigest, Timestamp};

use crate::packing::check_exposed;
use crate::{
    ChangeLog, Error, FileWriter, HrlLog, HrlOptions, HrlWriter, LogHeader, Result, SealedLog,
    WriterOptions,
};

/// Writes the changes of `log` to a new HRL at `path`, in the same order, and closes it at `closed`.
///
/// An HRL knows writes only: what the log zeroed or discarded becomes written zeros, byte for byte,
/// which [`HrlOptions::quota`] keeps in bounds. Times are cut to the second; labels, barriers and a
/// resize are left out. An HRL is plain text.
///
/// # Errors
/// [`Error::WouldExpose`] within [`Error::InFile`] if the log is encrypted, unless
/// [`HrlOptions::plaintext`] allows it; as [`HrlWriter::append`] and [`ChangeLog::changes`]. No file is
/// left then.
pub fn to_hrl(
    log: &dyn ChangeLog,
    path: &Path,
    options: &HrlOptions,
    closed: Timestamp,
) -> Result<HrlLog> {
    let exposed = check_exposed(log.form().key.is_some(), options.plaintext);
    exposed.map_err(|error| error.in_file(log.path()))?;
    let mut hrl = HrlWriter::create(path, options)?;
    let written = log.changes(&mut |time, change| hrl.append(change, time));
    let result = written.and_then(|()| hrl.close(closed));
    result.inspect_err(|_| discard_file(path))
}

/// Writes the changes of `log` to a new native log at `path`, in the same order, and seals it.
/// Labels, barriers and a resize are left out. It is stored as `options` say, which is how a log is
/// compressed or encrypted later, or with another key.
///
/// # Errors
/// [`Error::WouldExpose`] within [`Error::InFile`] if the log is encrypted and the new one is not,
/// unless plain text is allowed; as [`FileWriter::append`], of which [`Error::OutOfRange`] says that the log is not of the disk that
/// `header` names, and [`ChangeLog::changes`]. No file is left then.
pub fn to_native(
    log: &dyn ChangeLog,
    path: &Path,
    header: LogHeader,
    options: WriterOptions,
    predecessor: ContentDigest,
) -> Result<SealedLog> {
    let exposed = options.packing.check_source(log.form().key.is_some());
    exposed.map_err(|error| error.in_file(log.path()))?;
    let mut native = FileWriter::create_new(path, header, options)?.digesting();
    let written = log.changes(&mut |time, change| native.append(change, time).map(drop));
    let result = written.and_then(|()| native.seal(predecessor));
    result.inspect_err(|_: &Error| discard_file(path))
}

/// Removes a file that was begun and failed. Best effort: no reader takes what was left unfinished.
pub(crate) fn discard_file(path: &Path) {
    let _ = std::fs::remove_file(path);
}
