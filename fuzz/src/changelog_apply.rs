//! Any changes through a change log and onto a disk.
//!
//! Laws:
//!
//! - The writer takes what lies on the disk and within the quota, and what it refuses leaves no trace.
//! - The file is byte for byte what the encoder says without I/O, and never longer than the quota.
//! - Sealed, opened and applied, once or twice, it makes a disk what the changes make of it in order.
//! - Cut anywhere, it gives back the whole records before the cut.

use std::path::Path;

use afterimage_block::{
    Change, ContentDigest, DiskId, Epoch, Length, Lsn, MemoryDisk, Sequence, Timestamp,
};
use afterimage_changelog::{
    Encoder, Error, FileWriter, LogHeader, Record, RecordHeader, SealedLog, WriterOptions, recover,
};
use arbitrary::Arbitrary;

use crate::changes::{Entry, Step};
use crate::{head_and_parts, scratch};

const STEPS_MAX: usize = 32;
const PREDECESSOR: ContentDigest = ContentDigest::new([5; 32]);

#[derive(Arbitrary, Debug)]
struct Setting {
    sectors: u8,
    /// One in sixteen disks has another two MiB and is long enough for a write of three records.
    large: u8,
    quota: Quota,
    cut: u32,
}

#[derive(Arbitrary, Debug)]
enum Quota {
    None,
    Units(u16),
    /// So many bytes more than the first step needs, if that is one record.
    Tight(u8),
}

/// Checks the laws on what `input` says.
pub fn check(input: &[u8]) {
    let Some((setting, steps)) = head_and_parts::<Setting, Step>(input, STEPS_MAX) else {
        return;
    };
    let folder = scratch();
    let path = folder.path().join("log");
    let size = setting.disk_size();
    let entries: Vec<_> = steps.iter().filter_map(|step| step.entry(size)).collect();
    let mut session = Session::begin(&path, size, setting.quota(entries.first()));
    for (number, entry) in entries.iter().enumerate() {
        session.take(entry, Timestamp::from_nanos(number as u64));
    }
    session.end(&path, setting.cut);
}

impl Setting {
    fn disk_size(&self) -> Length {
        let large = if self.large % 16 == 1 { 33 << 16 } else { 0 };
        Length::new(u64::from(self.sectors) * 512 + large)
    }

    fn quota(&self, first: Option<&Entry>) -> Option<Length> {
        let needs = LogHeader::LEN + RecordHeader::LEN + first.map_or(0, Entry::payload);
        match self.quota {
            Quota::None => None,
            Quota::Units(units) => Some(Length::new(u64::from(units) << 6)),
            Quota::Tight(more) => Some(Length::new(needs as u64 + u64::from(more))),
        }
    }
}

/// A log being written, and what should come of it.
struct Session {
    header: LogHeader,
    writer: FileWriter,
    encoder: Encoder,
    quota: Option<Length>,
    /// The log as the encoder says it.
    bytes: Vec<u8>,
    /// Where each record ends.
    ends: Vec<usize>,
    model: MemoryDisk,
}

impl Session {
    fn begin(path: &Path, disk_size: Length, quota: Option<Length>) -> Self {
        let header = LogHeader {
            disk: DiskId::from_bytes([7; 16]),
            disk_size,
            epoch: Epoch::new(3),
            first: Sequence::new(7),
            last: Sequence::new(8),
            created: Timestamp::from_nanos(9),
        };
        let options = WriterOptions::default();
        let options = match quota {
            Some(quota) => options.with_quota(quota),
            None => options,
        };
        let writer = FileWriter::create(path, header, options).expect("a log can be made");
        let (encoder, head) = Encoder::new(header);
        Self {
            header,
            writer,
            encoder,
            quota,
            bytes: head.to_vec(),
            ends: vec![LogHeader::LEN],
            model: prepared_disk(header.disk_size),
        }
    }

    fn take(&mut self, entry: &Entry, time: Timestamp) {
        let before = (self.writer.length(), self.writer.records());
        let appended = match (entry.change(), entry) {
            (Some(change), _) => self.writer.append(change, time),
            (None, Entry::Bookmark(label)) => self.writer.bookmark(label, time),
            (None, _) => unreachable!("only a bookmark changes nothing"),
        };
        match appended {
            Ok(first) => {
                assert_eq!(first, Lsn::new(before.1));
                assert!(entry.fits(self.header.disk_size), "behind the disk");
                self.mirror(entry, time);
            }
            Err(error) => {
                self.refused(entry, &error);
                assert_eq!((self.writer.length(), self.writer.records()), before);
            }
        }
        assert_eq!(self.writer.length(), Length::of(&self.bytes));
        assert_eq!(self.writer.records(), self.ends.len() as u64 - 1);
        if let Some(quota) = self.quota
            && self.ends.len() > 1
        {
            assert!(self.writer.length() <= quota, "longer than its quota");
        }
    }

    fn refused(&self, entry: &Entry, error: &Error) {
        match error {
            Error::OutOfRange { .. } => assert!(!entry.fits(self.header.disk_size)),
            Error::OverQuota { quota } => {
                assert_eq!(Some(*quota), self.quota);
                // At most a header a MiB, and one more.
                let headers = 48 * (2 + entry.payload() / (1 << 20));
                let needs = self.bytes.len() + entry.payload() + headers;
                assert!(needs as u64 > quota.get(), "there was room");
            }
            other => panic!("refused without a reason: {other}"),
        }
    }

    /// Does with the encoder and the model what the writer did.
    fn mirror(&mut self, entry: &Entry, time: Timestamp) {
        if let Entry::Bookmark(label) = entry {
            let record = self.encoder.bookmark(label, time);
            self.bytes.extend_from_slice(&record.header);
            self.bytes.extend_from_slice(&record.payload);
            self.ends.push(self.bytes.len());
        }
        let Some(change) = entry.change() else {
            return;
        };
        change.apply_to(&self.model).expect("it lies on the disk");
        let encoded = self.encoder.change(change, time);
        for record in encoded.expect("it lies on the disk") {
            self.bytes.extend_from_slice(&record.header);
            self.bytes.extend_from_slice(&record.payload);
            self.ends.push(self.bytes.len());
        }
    }

    fn end(self, path: &Path, cut: u32) {
        let sealed = self.writer.seal(PREDECESSOR).expect("a log can be sealed");
        let (footer, summary) = self.encoder.seal(sealed.summary().content, PREDECESSOR);
        assert_eq!(sealed.summary(), &summary);
        let mut bytes = self.bytes;
        let records_end = bytes.len();
        bytes.extend_from_slice(&footer);
        let file = std::fs::read(path).expect("the log is there");
        assert!(file == bytes, "the file is not what the encoder says");

        let proved = SealedLog::open(path).expect("what is sealed opens");
        assert_eq!(proved.summary(), &summary);
        let disk = prepared_disk(self.header.disk_size);
        for _ in 0..2 {
            proved.apply(&disk).expect("it applies to its disk");
            assert!(disk.contents() == self.model.contents());
        }
        cut_short(path, &file, cut as usize % (file.len() + 1), &self.ends);
        assert!(self.ends.last() == Some(&records_end));
    }
}

/// A disk on which zeros show.
fn prepared_disk(size: Length) -> MemoryDisk {
    MemoryDisk::with_contents(&vec![0xEE; size.to_usize().expect("it is small")])
}

fn cut_short(path: &Path, file: &[u8], cut: usize, ends: &[usize]) {
    std::fs::write(path, &file[..cut]).expect("a file can be written");
    let whole = ends.iter().filter(|end| **end <= cut).count();
    let mut found = Vec::new();
    let recovered = recover(path, |record| {
        found.push(record_end(record));
        Ok(())
    });
    assert_eq!(recovered.is_ok(), cut >= LogHeader::LEN);
    if let Ok(recovered) = recovered {
        assert_eq!(recovered.records, whole as u64 - 1);
        assert_eq!(found, ends[1..whole]);
    }
    assert_eq!(SealedLog::open(path).is_ok(), cut == file.len());
}

fn record_end(record: &Record) -> usize {
    let empty = matches!(record.change(), Some(Change::Write { data: [], .. }));
    assert!(!empty, "an empty write is no record");
    usize::try_from(record.at + record.length()).expect("the file is small")
}
