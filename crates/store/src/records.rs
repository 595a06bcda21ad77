//! Records of sealed logs, read from their objects.

use std::ops::Range;

use afterimage_block::{Length, Sequence};
use afterimage_changelog::{Index, LogHeader, RecordHeader, Trailer};
use bytes::Bytes;
use object_store::path::Path;

use crate::cas::proved;
use crate::objects::{DiskObjects, OpenObject};
use crate::{Error, LogObject, Result};

/// A batch of records takes no more of a log than this, but for its last record.
const BATCH_BYTES_MAX: u64 = 8 << 20;
/// What lies between two records and is fetched with them costs less than a request of its own.
const GAP_MAX: u64 = 1 << 20;

/// A log whose records are read as they are asked for.
#[derive(Debug)]
pub(crate) struct OpenLog {
    pub(crate) object: OpenObject,
    pub(crate) salt: u32,
    /// The size of the disk that it was written for.
    pub(crate) disk_size: Length,
}

/// What is known of a log before its records are read.
pub(crate) struct Outline {
    pub(crate) object: OpenObject,
    pub(crate) index: Index,
    pub(crate) salt: u32,
    /// The size of the disk that it was written for.
    pub(crate) disk_size: Length,
    /// Where the header and the records end.
    pub(crate) body_end: u64,
}

/// A log that a manifest names.
pub(crate) struct NamedLog {
    /// The generation that it is of.
    pub(crate) sequence: Sequence,
    pub(crate) object: LogObject,
    /// The disk's size at its barrier.
    pub(crate) size: Length,
}

/// The outline of `log`, which is what it should be.
pub(crate) async fn outline(objects: &DiskObjects, log: &NamedLog) -> Result<Outline> {
    let path = objects.layout.log(log.sequence, &log.object);
    let held = objects.held(&path, &log.object).await?;
    let held = held.map(|bytes| OpenObject::held(path.clone(), bytes));
    proved(|| outline_once(objects, &path, held.clone(), log)).await
}

async fn outline_once(
    objects: &DiskObjects,
    path: &Path,
    held: Option<OpenObject>,
    log: &NamedLog,
) -> Result<Outline> {
    let NamedLog { object, size, .. } = log;
    let damaged = |error: afterimage_changelog::Error| Error::damaged(path, error);
    let length = object.length.get();
    let head = LogHeader::LEN as u64;
    let (opened, head) = match held {
        Some(held) => {
            let head = objects.range(&held, 0, head).await?;
            (held, head)
        }
        None => objects.open(path, length, head).await?,
    };
    let (header, salt) = LogHeader::parse(&head).map_err(damaged)?;
    let tail_at = length.saturating_sub(Trailer::LEN as u64);
    let tail = objects.range(&opened, tail_at, Trailer::LEN as u64).await?;
    let trailer = Trailer::parse(&tail, object.length).map_err(damaged)?;
    let footer = objects.range(&opened, trailer.footer_at, trailer.footer_length.get());
    let footer = footer.await?;
    let (index, summary) = Index::parse(&footer, &trailer, header.disk_size).map_err(damaged)?;
    let leaves = summary.resized.unwrap_or(header.disk_size);
    let ours = header.disk == objects.id && header.last == log.sequence;
    let fits = header.disk_size <= *size && leaves == *size;
    if !ours || !fits || summary.content != object.content {
        let reason = "it is not the log that the manifest names";
        return Err(Error::damaged(path, reason));
    }
    Ok(Outline {
        object: opened,
        index,
        salt,
        disk_size: header.disk_size,
        body_end: trailer.footer_at,
    })
}

/// Splits `ranges`, in order of logs and positions, into those that are read together.
pub(crate) fn batches(
    ranges: impl Iterator<Item = (usize, Range<u64>)>,
) -> Vec<(usize, Vec<Range<u64>>)> {
    let mut batches: Vec<(usize, Vec<Range<u64>>)> = Vec::new();
    for (log, range) in ranges {
        let joins = |(of, batch): &&mut (usize, Vec<Range<u64>>)| {
            let start = batch.first().map_or(range.start, |first| first.start);
            let end = batch.last().map_or(range.start, |last| last.end);
            *of == log
                && range.start.saturating_sub(end) <= GAP_MAX
                && range.end.saturating_sub(start) <= BATCH_BYTES_MAX
        };
        match batches.last_mut().filter(joins) {
            Some((_, batch)) => batch.push(range),
            None => batches.push((log, vec![range])),
        }
    }
    batches
}

impl OpenLog {
    /// The payloads of the records that start where `ranges` do, verified. The ranges reach as far as
    /// the records are known to.
    pub(crate) async fn records(
        &self,
        objects: &DiskObjects,
        ranges: &[Range<u64>],
    ) -> Result<Vec<(u64, Bytes)>> {
        proved(|| self.records_once(objects, ranges)).await
    }

    async fn records_once(
        &self,
        objects: &DiskObjects,
        ranges: &[Range<u64>],
    ) -> Result<Vec<(u64, Bytes)>> {
        let path = &self.object.path;
        let read = if objects.store.is_folder() && self.object.is_plain() {
            let read = objects.store.objects.get_ranges(path, ranges).await;
            read.map_err(|source| Error::store("read", path, source))?
        } else {
            self.together(objects, ranges).await?
        };
        let mut found = Vec::with_capacity(ranges.len());
        for (range, bytes) in ranges.iter().zip(read) {
            let payload = self.verified(objects, range.start, bytes).await?;
            found.push((range.start, payload));
        }
        Ok(found)
    }

    /// The bytes of `ranges`, in one request. `object_store` would do the same, but panics if the
    /// answer is cut.
    async fn together(&self, objects: &DiskObjects, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let start = ranges.first().map_or(0, |first| first.start);
        let end = ranges.iter().map(|range| range.end).max().unwrap_or(start);
        let whole = objects
            .range(&self.object, start, end.saturating_sub(start))
            .await?;
        let at = |place: u64| usize::try_from(place.saturating_sub(start)).unwrap_or(usize::MAX);
        Ok(ranges
            .iter()
            .map(|range| {
                whole.slice(at(range.start).min(whole.len())..at(range.end).min(whole.len()))
            })
            .collect())
    }

    /// The payload of the record at `at`, whose first bytes are `bytes`.
    async fn verified(&self, objects: &DiskObjects, at: u64, bytes: Bytes) -> Result<Bytes> {
        let damaged =
            |reason: &str| Error::damaged(&self.object.path, format!("record at {at}: {reason}"));
        let frame = bytes.first_chunk();
        let frame = frame.ok_or_else(|| damaged("it is cut short"))?;
        let header = RecordHeader::parse(frame, at, self.disk_size)
            .map_err(|error| damaged(&error.to_string()))?;
        let known = bytes.slice(RecordHeader::LEN..);
        let length = header.payload.get();
        let payload = if known.len() as u64 >= length {
            known.slice(..header.payload.to_usize().unwrap_or_default())
        } else {
            // A later write covers the record's end, and its checksum needs all of it.
            let from = at.saturating_add(RecordHeader::LEN as u64);
            objects.range(&self.object, from, length).await?
        };
        if !header.verify(frame, &payload, self.salt) {
            return Err(damaged("its checksum does not match"));
        }
        Ok(payload)
    }

    pub(crate) fn does_not_fit(&self) -> Error {
        Error::damaged(&self.object.path, "its index does not fit its records")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_of_one_log_and_bounded() {
        let ranges = [
            (0, 0..10),
            (0, 100..BATCH_BYTES_MAX),
            (0, 200..BATCH_BYTES_MAX + 1),
            (
                0,
                BATCH_BYTES_MAX + GAP_MAX + 2..BATCH_BYTES_MAX + GAP_MAX + 3,
            ),
        ];
        let more = [
            (1, 0..BATCH_BYTES_MAX * 2),
            (1, BATCH_BYTES_MAX * 3..BATCH_BYTES_MAX * 4),
        ];
        let found = batches(ranges.into_iter().chain(more));
        let counts: Vec<_> = found
            .iter()
            .map(|(log, batch)| (*log, batch.len()))
            .collect();
        assert_eq!(counts, [(0, 2), (0, 1), (0, 1), (1, 1), (1, 1)]);
    }
}
