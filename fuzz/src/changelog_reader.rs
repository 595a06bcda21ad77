//! Any bytes as a change log, stored in any way: encrypted ones with the key of the golden files.
//!
//! The first byte of the input says whether the rest is read as it is or given valid checksums
//! first. Laws:
//!
//! - The reader over memory, the one over a stream, and recovery from a file see the same header, the
//!   same records and the same tail, or fail alike.
//! - Records lie on the disk and one behind the other; together they are no longer than the input.
//! - What verified is a log by itself: cut there, it reads the same and ends whole.
//! - A sealed log that opens says of itself what its records say, applies as they do in their order,
//!   and is byte for byte what the writer makes of them if it is stored plain; looked up, its index is
//!   the same.

use std::io::Read;
use std::path::Path;

use afterimage_block::{Extent, Length, MemoryDisk, Timestamp};
use afterimage_changelog::{
    Encoded, Encoder, Index, IndexedLog, Kind, LogHeader, Provenance, Reader, Record, RecordHeader,
    SealedLog, StreamReader, Summary, Tail, recover_with,
};
use bytes::Bytes;

use crate::reseal::reseal;
use crate::{keys, scratch};

/// Disks up to this size are made, and logs applied to them.
const DISK_MAX: u64 = 1 << 20;
/// An index with more pieces than this has pages.
const PAGE: usize = 256;

/// Checks the laws on `input`.
pub fn check(input: &[u8]) {
    let Some((mode, log)) = input.split_first() else {
        return;
    };
    let mut log = log.to_vec();
    if mode % 2 == 1 {
        reseal(&mut log);
    }
    let folder = scratch();
    let path = folder.path().join("log");
    std::fs::write(&path, &log).expect("a file can be written");
    let records = read(&log);
    recovered(&path, records.as_ref());
    sealed(&path, &log, records);
}

/// What there is in a log.
struct Contents {
    header: LogHeader,
    records: Vec<Record>,
    tail: Tail,
}

/// Reads `log` from memory and from a stream.
fn read(log: &[u8]) -> Option<Contents> {
    let whole = Reader::with_keys(Bytes::copy_from_slice(log), &keys());
    let stream = StreamReader::with_keys(Trickle(log), &keys());
    let (mut whole, mut stream) = match (whole, stream) {
        (Ok(whole), Ok(stream)) => (whole, stream),
        (Err(ours), Err(theirs)) => {
            assert_eq!(ours.to_string(), theirs.to_string());
            return None;
        }
        (ours, theirs) => panic!("only one reader refuses it: {ours:?} {theirs:?}"),
    };
    assert_eq!(
        (whole.header(), whole.form()),
        (stream.header(), stream.form())
    );
    let header = *whole.header();
    let mut at = LogHeader::LEN as u64;
    let mut records = Vec::new();
    while let Some(record) = stream.next_record().expect("a slice does not fail") {
        assert_eq!(whole.next().as_ref(), Some(&record));
        assert_eq!(record.at, at, "records follow each other");
        assert_eq!(record.header.lsn.get(), records.len() as u64);
        on_the_disk(&record, header.disk_size);
        at += record.length();
        records.push(record);
    }
    assert_eq!(whole.next(), None);
    assert_eq!(whole.next(), None, "a reader that ended stays so");
    assert_eq!(whole.tail(), stream.tail());
    assert_eq!((whole.whole().get(), stream.position()), (at, at));
    assert!(at <= log.len() as u64, "more records than bytes");
    let tail = whole.tail().expect("it ended");
    if let Tail::Torn { at: torn, .. } = tail {
        assert_eq!(torn, at);
    }
    let cut = usize::try_from(at).expect("it is a position in memory");
    let mut cut = Reader::with_keys(Bytes::copy_from_slice(&log[..cut]), &keys())
        .expect("the header is whole");
    assert!(cut.by_ref().eq(records.iter().cloned()));
    assert_eq!(cut.tail(), Some(Tail::Whole));
    Some(Contents {
        header,
        records,
        tail,
    })
}

fn on_the_disk(record: &Record, size: Length) {
    let length = Length::of(&record.payload);
    let tag = if record.header.encrypted { 16 } else { 0 };
    let stored = record.header.payload.get() - tag;
    if record.header.compressed {
        assert!(stored < length.get(), "nothing was saved");
    } else {
        assert_eq!(stored, length.get());
    }
    match (record.header.kind, record.header.extent) {
        (Kind::Bookmark | Kind::Barrier | Kind::Resize, None) => assert_eq!(record.change(), None),
        (Kind::Bookmark | Kind::Barrier | Kind::Resize, Some(_)) | (_, None) => {
            panic!("a change has an extent, a mark none");
        }
        (kind, Some(extent)) => {
            assert!(extent.end().get() <= size.get(), "behind the disk");
            assert_eq!(kind == Kind::Write, !length.is_zero());
            assert!(kind != Kind::Write || extent.length() == length);
            let change = record.change().expect("it is no mark");
            assert_eq!(change.extent(), Some(extent));
        }
    }
}

fn recovered(path: &Path, contents: Option<&Contents>) {
    let mut records = Vec::new();
    let found = recover_with(path, &keys(), |record| {
        records.push(record.clone());
        Ok(())
    });
    let (Ok(found), Some(contents)) = (&found, contents) else {
        assert_eq!(found.is_ok(), contents.is_some());
        return;
    };
    assert_eq!(records, contents.records);
    assert_eq!(found.records, records.len() as u64);
    assert_eq!((found.header, found.tail), (contents.header, contents.tail));
}

fn sealed(path: &Path, log: &[u8], contents: Option<Contents>) {
    let Ok(sealed) = SealedLog::open_with(path, &keys()) else {
        return;
    };
    let contents = contents.expect("a log that opens reads");
    assert_eq!(contents.tail, Tail::Whole);
    let summary = *sealed.summary();
    assert_eq!(sealed.header(), &contents.header);
    assert_eq!(summary.records, contents.records.len() as u64);
    assert_eq!(summary.file_length, Length::of(log));
    let index = sealed.index().expect("it was read before");
    assert_eq!(index.pieces(), index.iter().count());
    looked_up(&sealed, &index, path);
    applied(&sealed, &contents);
    if !sealed.form().is_plain() {
        return;
    }
    if let Some(again) = encoded(&contents, &summary, index.pieces()) {
        assert!(again == log, "a sealed log has one form only");
    }
}

/// Every second piece by itself, and all at once.
fn looked_up(sealed: &SealedLog, index: &Index, path: &Path) {
    let log = IndexedLog::open(path, &keys()).expect("what opens has an index");
    assert_eq!(log.summary(), sealed.summary());
    for piece in index.iter().step_by(2) {
        let found = log.lookup(piece.extent).expect("the index is sound");
        assert_eq!(found, [piece]);
    }
    if let Some(whole) = Extent::whole(sealed.header().disk_size) {
        let found = log.lookup(whole).expect("the index is sound");
        assert!(found.into_iter().eq(index.iter()));
    }
}

fn applied(sealed: &SealedLog, contents: &Contents) {
    let size = contents.header.disk_size;
    if size.get() > DISK_MAX {
        return;
    }
    let before = vec![0xEE; size.to_usize().expect("it is small")];
    let (by_index, in_order) = (
        MemoryDisk::with_contents(&before),
        MemoryDisk::with_contents(&before),
    );
    sealed.apply(&by_index).expect("a log that opens applies");
    for change in contents.records.iter().filter_map(Record::change) {
        change.apply_to(&in_order).expect("it lies on the disk");
    }
    assert!(by_index.contents() == in_order.contents());
}

/// What the encoder makes of the records; `None` if a label is no text, so that it cannot be said, or
/// if the index has no pages where it would have today.
fn encoded(contents: &Contents, summary: &Summary, pieces: usize) -> Option<Vec<u8>> {
    let (mut encoder, head) = Encoder::new(contents.header);
    let mut log = head.to_vec();
    for record in &contents.records {
        let time: Timestamp = record.time();
        if let Some(change) = record.change() {
            let mut encoded = encoder.change(change, time).expect("it lies on the disk");
            append(&mut log, encoded.next().expect("a change is a record"));
            assert!(encoded.next().is_none(), "a record is one record");
        } else {
            let label = std::str::from_utf8(&record.payload).ok()?;
            append(&mut log, encoder.bookmark(label, time));
        }
    }
    assert_eq!(encoder.position(), log.len() as u64);
    let provenance = Provenance::from(summary.predecessor).with_states(summary.states);
    let (footer, ours) = encoder.seal(summary.content, provenance);
    if pieces > PAGE && ours.file_length != summary.file_length {
        return None;
    }
    assert_eq!(ours, *summary);
    log.extend_from_slice(&footer);
    Some(log)
}

fn append(log: &mut Vec<u8>, record: Encoded<'_>) {
    let header: [u8; RecordHeader::LEN] = record.header;
    log.extend_from_slice(&header);
    log.extend_from_slice(&record.payload);
}

/// A reader that gives a few bytes at a time, as a pipe may.
#[derive(Debug)]
struct Trickle<'a>(&'a [u8]);

impl Read for Trickle<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let few = buf.len().min(1 + self.0.len() % 61);
        self.0.read(&mut buf[..few])
    }
}
