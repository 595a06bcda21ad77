//! Consecutive logs into one.

use std::path::Path;

use afterimage_block::{ContentDigest, Extent, Length, Slice};

use crate::convert::discard_file;
use crate::index::Stored;
use crate::pool::RecordPool;
use crate::{Error, FileWriter, LogHeader, Record, Result, SealedLog, WriterOptions};

/// The records that are held until they are written: few enough to stay in the cache.
const BATCH: u64 = 256 << 10;

/// A run of the disk and where its newest state is.
type Run = (Extent, Source);

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
    let newest = newest(&logs, 0)?;
    let header = LogHeader {
        last: rest.last().unwrap_or(first).header().last,
        ..*first.header()
    };
    let mut merged = FileWriter::create_new(path, header, options)?.digesting();
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

/// The newest state of each byte that `logs` change, in the order of the disk. The first of them is
/// number `first` of all.
///
/// Indexes are in that order already, so putting one over another is going through both at once.
fn newest(logs: &[&SealedLog], first: usize) -> Result<Vec<Run>> {
    if let [log] = logs {
        let source = |stored| Source { log: first, stored };
        let pieces = log.index()?.0.into_iter();
        return Ok(pieces
            .map(|(extent, stored)| (extent, source(stored)))
            .collect());
    }
    let (older, newer) = logs.split_at(logs.len() / 2);
    let older = newest(older, first)?;
    Ok(overlay(older, newest(newer, first + logs.len() / 2)?))
}

/// The runs of `newer`, and of `older` what they leave.
fn overlay(older: Vec<Run>, newer: Vec<Run>) -> Vec<Run> {
    let mut all = Vec::with_capacity(older.len() + newer.len());
    let mut newer = newer.into_iter().peekable();
    for (whole, source) in older {
        let mut rest = Some(whole);
        while let Some(left) = rest
            && let Some((over, _)) = newer.peek().filter(|(over, _)| over.start() < left.end())
        {
            let before = Extent::between(left.start(), over.start());
            all.extend(before.map(|part| cut(part, whole, source)));
            rest = Extent::between(left.start().max(over.end()), left.end());
            if over.end() <= left.end() {
                all.extend(newer.next());
            }
        }
        all.extend(rest.map(|part| cut(part, whole, source)));
    }
    all.extend(newer);
    all
}

/// The `part` of a run.
fn cut(part: Extent, whole: Extent, source: Source) -> Run {
    let skipped = part.start().checked_since(whole.start());
    (part, source.advanced(skipped.unwrap_or_default()))
}

/// Copies what is newest, many records in one write: each is read, proved, and written while it is in
/// the cache.
fn copy(newest: &[Run], mut records: RecordPool<'_>, merged: &mut FileWriter) -> Result<()> {
    let (mut batch, mut held) = (Vec::new(), 0);
    for (extent, source) in newest {
        let Source { log, stored } = *source;
        let record = records.record(log, stored.record, stored.payload_for(*extent))?;
        if stored.change_in(&record, *extent).is_none() {
            let reason = "the record is not the one that the index names";
            return Err(Error::damaged(record.at, reason).in_file(records.path(log)));
        }
        held += record.length();
        batch.push((record, *extent, stored));
        if held >= BATCH {
            append(&batch, merged)?;
            batch.clear();
            held = 0;
        }
    }
    append(&batch, merged)
}

fn append(batch: &[(Record, Extent, Stored)], merged: &mut FileWriter) -> Result<()> {
    let changes = batch.iter().filter_map(|(record, extent, stored)| {
        Some((stored.change_in(record, *extent)?, record.time()))
    });
    merged.append_batch(&changes.collect::<Vec<_>>()).map(drop)
}
