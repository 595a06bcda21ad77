//! Consecutive logs into one.

use std::mem::take;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::thread::{Builder, scope};

use afterimage_block::{ContentDigest, Extent, Length, Slice};

use crate::convert::discard_file;
use crate::index::Stored;
use crate::overlay::{Runs, newest};
use crate::pool::RecordPool;
use crate::record::Kind;
use crate::{Error, FileWriter, LogHeader, Provenance, Record, Result, SealedLog, WriterOptions};

/// The records that are held until they are written: few enough to stay in the cache.
const BATCH: u64 = 256 << 10;
/// The batches that are read before they can be written.
const AHEAD: usize = 2;
/// A thread that reads costs more than it saves if there is less than this to copy,
const ALONE: Length = Length::mib(4);
/// or if its pieces are longer on average: digesting them, for which there is a thread already, takes
/// longer than copying them then.
const LONG: u64 = 32 << 10;

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
/// The merged log is stored as `options` say, whatever the logs are stored as: of encrypted ones it is
/// to be encrypted, too, unless plain text is allowed.
///
/// What was zeroed or discarded last stays so. Labels and barriers are left out: the states that they
/// name are no longer in the log. The merged log covers the generations of all of them, and names the
/// predecessor of the first; the states of the disk are that before the first and that after the last.
///
/// Memory is bounded by the pieces of the logs' indexes and some megabytes; every record that is
/// taken over is proved once more.
///
/// # Errors
/// [`Error::NotConsecutive`] unless each log is of the same disk, size and epoch as the one before,
/// begins with the next generation, names it as its predecessor if it names any, and applies to the
/// state that it produces;
/// [`Error::Resized`] within [`Error::InFile`] if the disk got another size before the last log's end;
/// [`Error::WouldExpose`] within [`Error::InFile`];
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
    for log in &logs {
        let source = options.packing.check_source(log.form().key.is_some());
        source.map_err(|error| error.in_file(log.path()))?;
    }
    let layers = (0..).zip(&logs).map(|(number, log)| layer(number, log));
    let newest = newest(layers.collect::<Result<_>>()?);
    let last = rest.last().unwrap_or(first);
    let header = LogHeader {
        last: last.header().last,
        ..*first.header()
    };
    let states = first.summary().states.until(last.summary().states);
    let provenance = Provenance::from(first.summary().predecessor).with_states(states);
    let mut merged = FileWriter::create_new(path, header, options)?.digesting();
    let copied = copy(&newest, &logs, &mut merged);
    copied
        .and_then(|()| copy_resize(last, &mut merged))
        .and_then(|()| merged.seal(provenance))
        .inspect_err(|_| discard_file(path))
}

impl SealedLog {
    /// Refuses this log unless it goes on where `earlier` ends: of the same disk, size and epoch,
    /// with the next generation, naming it as its predecessor if it names any, and applying to the
    /// state of the disk that it produces if both are known.
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
        } else if !earlier.summary().states.lead_to(self.summary().states) {
            "it applies to another state of the disk than that one produces"
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

/// What log number `log` has of each byte that it changes.
fn layer(number: usize, log: &SealedLog) -> Result<Runs<Source>> {
    let source = |stored| Source {
        log: number,
        stored,
    };
    let pieces = log.index()?.0.into_iter();
    Ok(pieces
        .map(|(extent, stored)| (extent, source(stored)))
        .collect())
}

/// Records, each with what of it is copied.
type Batch = Vec<(Record, Extent, Stored)>;

/// Copies what is newest, many records in one write. If it is much in small pieces, a thread reads and
/// proves the next ones meanwhile.
fn copy(newest: &[(Extent, Source)], logs: &[&SealedLog], merged: &mut FileWriter) -> Result<()> {
    if !is_read_ahead(newest) {
        return read(newest, logs, |batch| append(&batch, merged));
    }
    scope(|threads| {
        let (send, batches) = sync_channel(AHEAD);
        // Nobody takes batches any more once a write has failed.
        let deliver = move |batch| send.send(batch).map_err(|_| Error::Poisoned);
        let reader = Builder::new().spawn_scoped(threads, || read(newest, logs, deliver));
        let Ok(reader) = reader else {
            return read(newest, logs, |batch| append(&batch, merged));
        };
        let written = batches.iter().try_for_each(|batch| append(&batch, merged));
        drop(batches);
        let read = reader.join().unwrap_or_else(|panic| resume_unwind(panic));
        written.and(read)
    })
}

/// Whether it takes so long to read these that a thread is to do it.
fn is_read_ahead(newest: &[(Extent, Source)]) -> bool {
    let written = newest
        .iter()
        .filter(|(_, source)| source.stored.kind == Kind::Write);
    let (pieces, bytes) = written.fold((0, Length::ZERO), |(pieces, bytes), (extent, _)| {
        (pieces + 1, bytes.saturating_add(extent.length()))
    });
    bytes > ALONE && bytes.get() / pieces < LONG
}

/// Reads what is newest, proves it, and delivers it in order.
fn read(
    newest: &[(Extent, Source)],
    logs: &[&SealedLog],
    mut deliver: impl FnMut(Batch) -> Result<()>,
) -> Result<()> {
    let mut records = RecordPool::new(logs.to_vec());
    let (mut batch, mut held) = (Batch::new(), 0);
    for (extent, source) in newest {
        let Source { log, stored } = *source;
        let record = records.find(log, *extent, stored)?;
        held += record.length();
        batch.push((record, *extent, stored));
        if held >= BATCH {
            deliver(take(&mut batch))?;
            held = 0;
        }
    }
    deliver(batch)
}

fn append(batch: &Batch, merged: &mut FileWriter) -> Result<()> {
    let changes = batch.iter().filter_map(|(record, extent, stored)| {
        let change = stored.change_in(record, *extent)?;
        Some((change, record.time(), &record.payload))
    });
    merged.append_shared(&changes.collect::<Vec<_>>())
}
