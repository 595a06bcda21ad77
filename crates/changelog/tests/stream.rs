//! Logs that are written to anything that takes bytes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::{self, Write};

use afterimage_block::{BlockWrite, Change, ContentDigest, Extent, Length, Offset, Timestamp};
use afterimage_changelog::{
    DiskStates, Error, IndexedLog, LogHeader, Packing, Provenance, Reader, Record, SealedLog,
    StateDigest, StreamReader, StreamWriter, Tail, WriterOptions, recover_with,
};
use common::{SIZE, Step, contents_after, disk, header, keys, mark, packings, steps, write};
use proptest::prelude::*;

/// Takes a few bytes of what it is given, and nothing once it is full.
struct Narrow {
    bytes: Vec<u8>,
    step: usize,
    room: usize,
}

impl Write for Narrow {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let taken = data.len().min(self.step).min(self.room);
        if taken == 0 && !data.is_empty() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.room -= taken;
        self.bytes.extend_from_slice(&data[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn append<W: Write>(log: &mut StreamWriter<W>, steps: &[Step]) -> Result<(), Error> {
    for (number, step) in steps.iter().enumerate() {
        let time = Timestamp::from_nanos(number as u64);
        match step {
            Step::Bookmark(label) => log.bookmark(label, time)?,
            Step::Barrier(label) => log.barrier(&mark(label), time)?,
            step => log.append(step.change().unwrap(), time)?,
        };
    }
    Ok(())
}

fn provenance() -> Provenance {
    let states = DiskStates {
        before: Some(StateDigest::new([1; 32])),
        after: Some(StateDigest::new([2; 32])),
    };
    Provenance::from(ContentDigest::new([5; 32])).with_states(states)
}

fn narrow(step: usize, room: usize) -> Narrow {
    let bytes = Vec::new();
    Narrow { bytes, step, room }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However little is taken of each write.
    #[test]
    fn the_bytes_are_those_of_a_file(steps in steps(), step in 1..5000_usize, resized in any::<bool>()) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut file = write(&path, header(7, 7), &steps);
        let to = narrow(step, usize::MAX);
        let mut stream = StreamWriter::new(to, header(7, 7), WriterOptions::default()).unwrap();
        append(&mut stream, &steps).unwrap();
        if resized {
            let size = Length::new(2 * SIZE);
            file.resize(size, Timestamp::default()).unwrap();
            stream.resize(size, Timestamp::default()).unwrap();
        }
        prop_assert_eq!(stream.length(), file.length());
        prop_assert_eq!(stream.records(), file.records());
        prop_assert_eq!(stream.header(), file.header());
        let sealed = file.seal(provenance()).unwrap();
        let (written, summary) = stream.seal(provenance()).unwrap();
        prop_assert_eq!(&summary, sealed.summary());
        prop_assert!(written.bytes == std::fs::read(&path).unwrap());
    }

    /// Stored in any way.
    #[test]
    fn every_reader_reads_it(steps in steps(), packing in packings()) {
        let options = WriterOptions::default().with_packing(packing.clone());
        let mut log = StreamWriter::new(Vec::new(), header(7, 7), options).unwrap();
        append(&mut log, &steps).unwrap();
        prop_assert_eq!(log.form(), packing.form());
        let (bytes, summary) = log.seal(provenance()).unwrap();

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, &bytes).unwrap();
        let sealed = SealedLog::open_with(&path, &keys()).unwrap();
        prop_assert_eq!(sealed.summary(), &summary);
        let applied = disk();
        sealed.apply(&applied).unwrap();
        prop_assert!(applied.contents() == contents_after(&steps));

        let indexed = IndexedLog::open(&path, &keys()).unwrap();
        let looked_up = disk();
        let whole = Extent::whole(Length::new(SIZE)).unwrap();
        indexed.changes(whole, |_, change| Ok(change.apply_to(&looked_up)?)).unwrap();
        prop_assert!(looked_up.contents() == applied.contents());

        let read: Vec<_> = Reader::with_keys(bytes.clone().into(), &keys()).unwrap().collect();
        let mut stream = StreamReader::with_keys(&bytes[..], &keys()).unwrap();
        let streamed = std::iter::from_fn(|| stream.next_record().unwrap());
        prop_assert!(read == streamed.collect::<Vec<_>>());
        let mut recovered: Vec<Record> = Vec::new();
        recover_with(&path, &keys(), |record| {
            recovered.push(record.clone());
            Ok(())
        }).unwrap();
        prop_assert!(read == recovered);

        // And it can be written once more, record by record.
        let options = WriterOptions::default().with_packing(Packing::default().allowing_plaintext());
        let mut again = StreamWriter::new(Vec::new(), header(7, 7), options).unwrap();
        read.iter().try_for_each(|record| again.append_record(record).map(drop)).unwrap();
        let (again, _) = again.seal(provenance()).unwrap();
        prop_assert!(Reader::new(again.into()).unwrap().map(|record| record.payload).eq(read.iter().map(|record| record.payload.clone())));
    }

    /// Wherever what is written to is full: what it took is an open log, and no more comes.
    #[test]
    fn after_a_write_that_failed_it_takes_no_more(steps in steps(), room in 0..40_000_usize) {
        let Ok(mut log) = StreamWriter::new(narrow(777, room), header(7, 7), WriterOptions::default()) else {
            prop_assert!(room < LogHeader::LEN);
            return Ok(());
        };
        let Err(error) = append(&mut log, &steps) else {
            return Ok(());
        };
        prop_assert!(matches!(error, Error::Io { .. }), "{}", error);
        prop_assert!(!error.to_string().contains("``"), "{}", error);
        let more = log.append(Change::Write { offset: Offset::ZERO, data: b"x" }, Timestamp::default());
        prop_assert!(matches!(more, Err(Error::Poisoned)));
        let whole = log.records() - 1;
        let written = log.get_ref().bytes.clone();
        prop_assert!(matches!(log.seal(provenance()), Err(Error::Poisoned)));
        let mut reader = Reader::new(written.into()).unwrap();
        prop_assert_eq!(reader.by_ref().count() as u64, whole);
    }
}

#[test]
fn a_batch_is_one_write_of_all_its_records() {
    /// Counts the calls.
    #[derive(Default)]
    struct Counting(Vec<u8>, usize);
    impl Write for Counting {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            self.1 += 1;
            self.0.write(data)
        }
        fn write_vectored(&mut self, data: &[io::IoSlice<'_>]) -> io::Result<usize> {
            self.1 += 1;
            self.0.write_vectored(data)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let to = Counting::default();
    let mut log = StreamWriter::new(to, header(7, 7), WriterOptions::default()).unwrap();
    let before = log.get_ref().1;
    let data = [7; 100];
    let change = |number: u64| {
        let offset = Offset::new(number * 100);
        let data = &data;
        (Change::Write { offset, data }, Timestamp::default())
    };
    let changes: Vec<_> = (0..500).map(change).collect();
    log.append_batch(&changes).unwrap();
    assert_eq!(log.get_ref().1 - before, 1);
    let (written, summary) = log.seal(ContentDigest::NONE).unwrap();
    assert_eq!(summary.records, 500);
    let mut reader = Reader::new(written.0.into()).unwrap();
    let disk = disk();
    for record in reader.by_ref() {
        record.change().unwrap().apply_to(&disk).unwrap();
    }
    assert_eq!(reader.tail(), Some(Tail::Whole));
    assert!(disk.contents()[..50_000].iter().all(|byte| *byte == 7));
    disk.flush().unwrap();
}

#[test]
fn limits_leave_it_as_it_was() {
    let options = WriterOptions::default().with_quota(Length::new(350));
    let mut log = StreamWriter::new(Vec::new(), header(7, 7), options).unwrap();
    let mut write = |offset, length| {
        let data = vec![1; length];
        let (offset, data) = (Offset::new(offset), &data[..]);
        log.append(Change::Write { offset, data }, Timestamp::default())
    };
    write(0, 100).unwrap();
    assert!(matches!(write(0, 100), Err(Error::OverQuota { .. })));
    assert!(matches!(write(SIZE, 1), Err(Error::OutOfRange { .. })));
    write(5, 2).unwrap();
    let (bytes, summary) = log.seal(ContentDigest::NONE).unwrap();
    assert_eq!(
        (summary.records, bytes.len() as u64),
        (2, summary.file_length.get())
    );
}
