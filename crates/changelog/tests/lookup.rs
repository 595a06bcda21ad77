//! Extents of a sealed log, looked up through its index without reading the rest.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::cell::Cell;
use std::io;
use std::path::Path;

use afterimage_block::{Change, ContentDigest, Extent, Length, Offset, Timestamp};
use afterimage_changelog::{
    DiskStates, Encoder, Error, FileWriter, IndexedLog, Keys, LogHeader, Piece, Provenance, ReadAt,
    RecordHeader, SealedLog, StateDigest, WriterOptions,
};
use common::{SIZE, extents, header, steps};
use proptest::prelude::*;

fn extent(start: u64, length: u64) -> Extent {
    Extent::new(Offset::new(start), Length::new(length)).unwrap()
}

fn states() -> DiskStates {
    DiskStates {
        before: Some(StateDigest::new([0; 32])),
        after: Some(StateDigest::new([4; 32])),
    }
}

/// A log of `count` pieces of three kinds, 64 bytes apart, not written in order.
fn scattered(path: &Path, count: u64, provenance: impl Into<Provenance>) -> SealedLog {
    let mut log = FileWriter::create(path, header(7, 7), WriterOptions::default()).unwrap();
    for number in 0..count {
        let place = number * 7 % count;
        let start = place * 64;
        let change = match place % 3 {
            0 => Change::Write {
                offset: Offset::new(start),
                data: &place.to_le_bytes(),
            },
            1 => Change::WriteZeroes(extent(start, 16)),
            _ => Change::Discard(extent(start, 32)),
        };
        log.append(change, Timestamp::from_nanos(number)).unwrap();
    }
    log.seal(provenance).unwrap()
}

/// What the log makes of `extent` of the disk of the test.
fn made_of(log: &IndexedLog, extent: Extent) -> Vec<u8> {
    let disk = common::disk();
    log.changes(extent, |_, change| Ok(change.apply_to(&disk).map(drop)?))
        .unwrap();
    disk.contents()
}

/// The disk of the test, with `extent` as it is in `after`.
fn only(extent: Extent, after: &[u8]) -> Vec<u8> {
    let mut expected = common::disk().contents();
    let at = |offset: Offset| usize::try_from(offset.get()).unwrap();
    let range = at(extent.start())..at(extent.end());
    expected[range.clone()].copy_from_slice(&after[range]);
    expected
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// With pages and without.
    #[test]
    fn a_lookup_finds_what_the_index_has_and_nothing_else(
        few in steps(), count in 1..1024_u64, wanted in prop::collection::vec(extents(), 1..8),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let paged = scattered(&folder.path().join("1"), count, ContentDigest::NONE);
        let small = common::seal(&folder.path().join("2"), header(7, 7), &few, ContentDigest::NONE);
        for log in [paged, small] {
            let disk = common::disk();
            log.apply(&disk).unwrap();
            let index = log.index().unwrap();
            let indexed = IndexedLog::open(log.path(), &Keys::none()).unwrap();
            prop_assert_eq!(indexed.summary(), log.summary());
            prop_assert_eq!(indexed.header(), log.header());
            for extent in wanted.iter().copied().chain([extent(0, SIZE)]) {
                let expected: Vec<Piece> = index.within(extent).collect();
                prop_assert_eq!(&indexed.lookup(extent).unwrap(), &expected);
                prop_assert_eq!(&log.lookup(extent).unwrap(), &expected);
                prop_assert!(made_of(&indexed, extent) == only(extent, &disk.contents()));
            }
        }
    }

    /// Also one in a page, which only a lookup in that page can find.
    #[test]
    fn any_flipped_bit_of_a_footer_is_found(
        count in 200..800_u64, known in 0..4_u8, at in any::<prop::sample::Index>(), bit in 0..8_u8,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let provenance = Provenance::from(ContentDigest::NONE).with_states(DiskStates {
            before: states().before.filter(|_| known & 1 == 1),
            after: states().after.filter(|_| known & 2 == 2),
        });
        let log = scattered(&folder.path().join("log"), count, provenance);
        let mut bytes = std::fs::read(log.path()).unwrap();
        let footer_at = usize::try_from(footer_at(&bytes)).unwrap();
        let at = footer_at + at.index(bytes.len() - footer_at);
        bytes[at] ^= 1 << bit;
        std::fs::write(log.path(), &bytes).unwrap();
        prop_assert!(SealedLog::open(log.path()).is_err());
        let found = IndexedLog::open(log.path(), &Keys::none()).and_then(|log| log.lookup(extent(0, SIZE)));
        prop_assert!(found.is_err(), "byte {} of {}", at, bytes.len());
    }
}

fn footer_at(log: &[u8]) -> u64 {
    u64::from_le_bytes(log[log.len() - 24..][..8].try_into().unwrap())
}

/// The log with the footer that is left of its own once it went through `change`, sound again: only
/// the first `proved` bytes are covered by the checksum.
fn resealed(log: &[u8], change: impl Fn(&mut Vec<u8>), proved: Option<usize>) -> Vec<u8> {
    let at = usize::try_from(footer_at(log)).unwrap();
    let mut footer = log[at..log.len() - 32].to_vec();
    change(&mut footer);
    let mut trailer = log[log.len() - 32..].to_vec();
    trailer[16..24].copy_from_slice(&(footer.len() as u64).to_le_bytes());
    let proved = &footer[..proved.unwrap_or(footer.len())];
    trailer[24..28].copy_from_slice(&crc32fast::hash(proved).to_le_bytes());
    let checksum = crc32fast::hash(&trailer[..28]);
    trailer[28..].copy_from_slice(&checksum.to_le_bytes());
    [&log[..at], &footer, &trailer].concat()
}

/// As releases before pages wrote it.
#[test]
fn a_long_index_without_pages_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let log = scattered(&folder.path().join("log"), 1000, ContentDigest::NONE);
    let bytes = std::fs::read(log.path()).unwrap();
    let old = resealed(
        &bytes,
        |footer| {
            assert_eq!(footer[4], 1, "it has pages");
            footer[4] = 0;
            footer.drain(128..128 + 4 * 16);
        },
        None,
    );
    std::fs::write(log.path(), old).unwrap();
    let old = SealedLog::open(log.path()).unwrap();
    assert_eq!(old.index().unwrap().pieces(), 1000);
    let indexed = IndexedLog::open(old.path(), &Keys::none()).unwrap();
    assert_eq!(indexed.lookup(extent(64 * 500, 64)).unwrap().len(), 1);
}

/// Checksums that match do not make an index of anything.
#[test]
fn footers_that_contradict_themselves_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |count, change: &dyn Fn(&mut Vec<u8>), proved| {
        let log = scattered(&folder.path().join("log"), count, ContentDigest::NONE);
        let bytes = std::fs::read(log.path()).unwrap();
        std::fs::write(log.path(), resealed(&bytes, change, proved)).unwrap();
        let damaged = |error: Error| assert!(matches!(error.cause(), Error::Damaged { .. }));
        damaged(SealedLog::open(log.path()).unwrap_err());
        let found =
            IndexedLog::open(log.path(), &Keys::none()).and_then(|log| log.lookup(extent(0, SIZE)));
        damaged(found.unwrap_err());
    };
    let fences = Some(128 + 2 * 16);
    // Flags that nobody knows.
    refused(3, &|footer| footer[4] = 8, None);
    // Pages where none are due, states that are not there.
    refused(3, &|footer| footer[4] = 1, None);
    refused(3, &|footer| footer[4] = 6, None);
    // A fence table of the wrong counts, or of another order.
    refused(300, &|footer| footer[128 + 8] = 1, fences);
    refused(300, &|footer| footer[128 + 17] = 0, fences);
    refused(300, &|footer| footer.truncate(128), None);
    // Pages that changed places.
    let swapped = |footer: &mut Vec<u8>| {
        let (one, two) = (128 + 8..128 + 16, 128 + 24..128 + 32);
        let (first, second) = (footer[one.clone()].to_vec(), footer[two.clone()].to_vec());
        footer[one].copy_from_slice(&second);
        footer[two].copy_from_slice(&first);
    };
    refused(512, &swapped, fences);
}

/// What version 1 has always written for these flags, and what every release since reads.
#[test]
fn the_golden_logs_with_flags_are_written_and_read_byte_for_byte() {
    for (name, count) in [("version-1-pages", 300), ("version-1-states", 3)] {
        let folder = tempfile::tempdir().unwrap();
        let predecessor = Provenance::from(ContentDigest::new([5; 32]));
        let provenance = match count {
            3 => predecessor.with_states(states()),
            _ => predecessor,
        };
        let log = scattered(&folder.path().join("log"), count, provenance);
        let golden = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/golden")
            .join(name)
            .with_extension("ailog");
        if std::env::var_os("AFTERIMAGE_WRITE_GOLDEN").is_some() {
            std::fs::copy(log.path(), &golden).unwrap();
        }
        assert!(std::fs::read(log.path()).unwrap() == std::fs::read(&golden).unwrap());
        let golden = SealedLog::open(&golden).unwrap();
        assert_eq!(golden.index().unwrap().pieces() as u64, count);
        assert_eq!(golden.summary().states, provenance.states);
        let last = golden.lookup(extent((count - 1) * 64, 64)).unwrap();
        assert_eq!(last.len(), 1);
    }
}

const RECORD: usize = 4096;
const RECORDS: u64 = (1 << 30) / RECORD as u64;

/// A sealed log of 1 GiB of writes of 4 KiB to random places, of which all payloads are alike, so that
/// it is made up where it is read. Counts what is read.
struct Large {
    head: Vec<u8>,
    records: Vec<[u8; RecordHeader::LEN]>,
    footer: Vec<u8>,
    read: Cell<u64>,
}

const PAYLOAD: [u8; RECORD] = [0x5A; RECORD];
const STEP: u64 = (RecordHeader::LEN + RECORD) as u64;

impl Large {
    fn new() -> Self {
        let header = LogHeader {
            disk_size: Length::gib(4),
            ..header(1, 1)
        };
        let (mut encoder, head) = Encoder::new(header);
        let mut records = Vec::new();
        for number in 0..RECORDS {
            // Each place once, with a hole behind it.
            let place = number * 98_765_431 % RECORDS;
            let change = Change::Write {
                offset: Offset::new(place * 8192),
                data: &PAYLOAD,
            };
            let encoded = encoder.change(change, Timestamp::from_nanos(number));
            records.extend(encoded.unwrap().map(|record| record.header));
        }
        let (footer, _) = encoder.seal(ContentDigest::new([9; 32]), ContentDigest::NONE);
        Self {
            head: head.to_vec(),
            records,
            footer,
            read: Cell::new(0),
        }
    }

    /// The run of bytes that is at `at`.
    fn run(&self, at: u64) -> &[u8] {
        let head = self.head.len() as u64;
        let index = |at: u64| usize::try_from(at).unwrap();
        let Some(behind) = at.checked_sub(head) else {
            return &self.head[index(at)..];
        };
        match self.records.get(index(behind / STEP)) {
            Some(record) => match index(behind % STEP) {
                skip if skip < record.len() => &record[skip..],
                skip => &PAYLOAD[skip - record.len()..],
            },
            None => &self.footer[index(behind - RECORDS * STEP)..],
        }
    }
}

impl ReadAt for Large {
    fn length(&self) -> io::Result<u64> {
        Ok((self.head.len() + self.footer.len()) as u64 + RECORDS * STEP)
    }

    fn fill_at(&self, into: &mut [u8], at: u64) -> io::Result<()> {
        self.read.set(self.read.get() + into.len() as u64);
        let mut filled = 0;
        while filled < into.len() {
            let run = self.run(at + filled as u64);
            let length = run.len().min(into.len() - filled);
            into[filled..filled + length].copy_from_slice(&run[..length]);
            filled += length;
        }
        Ok(())
    }
}

/// Of a log of more than 1 GiB whose index has 8 MiB.
#[test]
fn one_extent_of_a_gibibyte_is_found_by_reading_less_than_64_kib() {
    let large = Large::new();
    assert!(large.footer.len() > 8 << 20);
    let mut most = 0;
    for place in [0, 1, 255, 256, 131_071, 200_000, RECORDS - 1] {
        large.read.set(0);
        let log = IndexedLog::over(&large, Path::new("large"), &Keys::none()).unwrap();
        let wanted = extent(place * 8192 + 100, 512);
        let found = log.lookup(wanted).unwrap();
        assert_eq!(found.len(), 1, "{place}");
        assert_eq!((found[0].extent, found[0].discarded), (wanted, false));
        let mut bytes = Vec::new();
        let read = log.changes(wanted, |time, change| {
            let number = (found[0].record_at - 128) / STEP;
            assert_eq!(time, Timestamp::from_nanos(number));
            if let Change::Write { offset, data } = change {
                assert_eq!(offset, wanted.start());
                bytes.extend_from_slice(data);
            }
            Ok(())
        });
        read.unwrap();
        assert_eq!(bytes, &PAYLOAD[..512]);
        // Opened, looked up, and looked up again to be read.
        most = most.max(large.read.get());
        let hole = extent(place * 8192 + 4096, 4096);
        assert!(log.lookup(hole).unwrap().is_empty());
    }
    assert!(most < 64 << 10, "{most} bytes were read");
    println!("{most} bytes were read at the most");
}
