//! Consecutive logs into one.

use std::path::Path;

use afterimage_block::{Change, ContentDigest, Extent, ExtentMap, Length, Slice};

use crate::convert::discard_file;
use crate::index::Stored;
use crate::pool::RecordPool;
use crate::record::Kind;
use crate::{Error, FileWriter, LogHeader, Record, Result, SealedLog, WriterOptions};

/// A run of a record of one of several logs.
#[derive(Clone, Copy, Debug)]
struct Source {
    log: usize,
    stored: Stored,
}

impl Slice for Source {
    fn advanced(&self, length: Length) -> Self {
        let stored = self.stored.advanced(length);
        Self { stored, ..*self }
    }
}

/// Merges logs that follow each other, oldest first, into a new log at `path` that does to a disk
/// what they do one after the other, and holds each byte at most once: in its newest state, with the
/// time at which that was logged, and in the order of the disk.
///
/// What was zeroed or discarded last stays so. Labels and barriers are left out: the states that they
/// name are no longer in the log. The merged log covers the generations of all of them, and names the
/// predecessor of the first.
///
/// Memory is bounded by the pieces of the logs' indexes and some megabytes; every record that is
/// taken over is proved once more.
///
/// # Errors
/// [`Error::NotConsecutive`] unless each log is of the same disk, size and epoch as the one before,
/// begins with the next generation, and names it as its predecessor if it names any;
/// [`Error::Resized`] within [`Error::InFile`] if the disk got another size before the last log's end;
/// [`Error::InFile`] if a log was changed since it was proved; [`Error::IndexFull`],
/// [`Error::OverQuota`], [`Error::Io`]. No file is left then, and none is replaced.
pub fn merge(
    first: &SealedLog,
    rest: &[SealedLog],
    path: &Path,
    options: WriterOptions,
) -> Result<SealedLog> {
    let logs: Vec<_> = std::iter::once(first).chain(rest).collect();
    for (earlier, later) in logs.iter().zip(rest) {
        later.check_follows(earlier)?;
    }
    for log in logs.iter().take(rest.len()) {
        check_keeps_size(log)?;
    }
    let mut newest = ExtentMap::new();
    for (log, sealed) in logs.iter().enumerate() {
        for (extent, stored) in sealed.index()?.0.iter() {
            let stored = *stored;
            newest.insert(extent, Source { log, stored });
        }
    }
    let header = LogHeader {
        last: rest.last().unwrap_or(first).header().last,
        ..*first.header()
    };
    let mut merged = FileWriter::create_new(path, header, options)?;
    let copied = copy(&newest, RecordPool::new(logs), &mut merged);
    let last = rest.last().unwrap_or(first);
    copied
        .and_then(|()| copy_resize(last, &mut merged))
        .and_then(|()| merged.seal(first.summary().predecessor))
        .inspect_err(|_| discard_file(path))
}

impl SealedLog {
    /// Refuses this log unless it goes on where `earlier` ends: of the same disk, size and epoch,
    /// with the next generation, and naming it as its predecessor if it names any.
    ///
    /// # Errors
    /// [`Error::NotConsecutive`].
    pub fn check_follows(&self, earlier: &Self) -> Result<()> {
        let (before, after) = (earlier.header(), self.header());
        let next = before.last.get().checked_add(1);
        let named = self.summary().predecessor;
        // A merged log's digest is not the one that the next log was told.
        let original = before.first == before.last;
        let size = earlier.summary().resized.unwrap_or(before.disk_size);
        let reason = if before.disk != after.disk || size != after.disk_size {
            "it is of another disk, or the disk had another size"
        } else if before.epoch != after.epoch {
            "it is of another epoch"
        } else if next != Some(after.first.get()) {
            "it does not begin with the next generation"
        } else if original && named != ContentDigest::NONE && named != earlier.summary().content {
            "it names another predecessor"
        } else {
            return Ok(());
        };
        Err(Error::NotConsecutive {
            earlier: earlier.path().into(),
            later: self.path().into(),
            reason,
        })
    }
}

/// Refuses a log that is to be followed by others if the disk had another size behind it: a log is of
/// one size.
fn check_keeps_size(log: &SealedLog) -> Result<()> {
    match log.summary().resized {
        Some(size) => Err(Error::Resized { size }.in_file(log.path())),
        None => Ok(()),
    }
}

/// Ends `merged` with the new size that the last log ends with, if it does.
fn copy_resize(last: &SealedLog, merged: &mut FileWriter) -> Result<()> {
    if last.summary().resized.is_none() {
        return Ok(());
    }
    last.records(|record| match record.header.resized {
        Some(_) => merged.append_record(record).map(drop),
        None => Ok(()),
    })
}

fn copy(
    newest: &ExtentMap<Source>,
    mut records: RecordPool<'_>,
    merged: &mut FileWriter,
) -> Result<()> {
    for (extent, source) in newest.iter() {
        let record = records.record(source.log, source.stored.record)?;
        let change = newest_of(&record, extent, source.stored).ok_or_else(|| {
            let reason = "the record is not the one that the index names";
            Error::damaged(record.at, reason).in_file(records.path(source.log))
        })?;
        merged.append(change, record.time())?;
    }
    Ok(())
}

/// What `record` does to `extent`, if that is what the index says.
fn newest_of(record: &Record, extent: Extent, stored: Stored) -> Option<Change<'_>> {
    let whole = record
        .header
        .extent
        .filter(|whole| whole.contains(extent))?;
    match record.header.kind {
        kind if kind != stored.kind => None,
        Kind::Write => {
            let skip = extent.start().checked_since(whole.start())?;
            let (from, length) = (skip.to_usize()?, extent.length().to_usize()?);
            let data = record.payload.get(from..)?.get(..length)?;
            let offset = extent.start();
            Some(Change::Write { offset, data })
        }
        Kind::WriteZeroes => Some(Change::WriteZeroes(extent)),
        Kind::Discard => Some(Change::Discard(extent)),
        Kind::Bookmark | Kind::Barrier | Kind::Resize => None,
    }
}
