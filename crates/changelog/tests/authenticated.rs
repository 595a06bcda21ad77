//! The footer of an encrypted log: nobody without the key makes one that is believed.

#![cfg(feature = "aead")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::ops::Range;
use std::path::Path;

use afterimage_block::{Change, ContentDigest, Doubt, Extent, Length, Offset, Timestamp};
use afterimage_changelog::{
    DiskStates, Error, IndexedLog, Key, Keys, Packing, Piece, Provenance, Reader, SealedLog,
    StateDigest, StreamWriter, WriterOptions, recover_with, salvage_with,
};
use common::{SIZE, header, key, keys};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

const PIECE: usize = 32;
const PAGE: usize = 256 * PIECE;
const TRAILER: usize = 32;

/// A sealed log of `records` writes that do not overlap, and of one that has the others' place in part.
fn log(records: u64, salted: u8) -> Vec<u8> {
    let packing = Packing::default().with_key(key());
    let options = WriterOptions::default().with_packing(packing);
    let mut log = StreamWriter::new(Vec::new(), header(7, 7), options).unwrap();
    let time = Timestamp::default();
    for number in 0..records {
        let (offset, data) = (Offset::new(number * 100), &[salted; 60]);
        log.append(Change::Write { offset, data }, time).unwrap();
    }
    let states = DiskStates {
        before: Some(StateDigest::new([3; 32])),
        after: Some(StateDigest::new([4; 32])),
    };
    let provenance = Provenance::from(ContentDigest::new([5; 32])).with_states(states);
    log.seal(provenance).unwrap().0
}

/// Where the footer stands, after the trailer.
fn footer(log: &[u8]) -> Range<usize> {
    let end = log.len() - TRAILER;
    let at = u64::from_le_bytes(log[end + 8..end + 16].try_into().unwrap());
    usize::try_from(at).unwrap()..end
}

/// Gives header, records, pages, footer and trailer the checksums that match, and the footer the digest
/// of the content: all that somebody without the key can.
fn check_again(log: &mut [u8], records: &[Range<usize>]) {
    let salt = crc32fast::hash(&log[..124]);
    log[124..128].copy_from_slice(&salt.to_le_bytes());
    for record in records {
        let mut crc = crc32fast::Hasher::new_with_initial(salt);
        crc.update(&log[record.start..record.start + 44]);
        crc.update(&log[record.start + 48..record.end]);
        let crc = crc.finalize().to_le_bytes();
        log[record.start + 44..record.start + 48].copy_from_slice(&crc);
    }
    let footer = footer(log);
    let content = Sha256::digest(&log[..footer.start]);
    log[footer.start + 32..footer.start + 64].copy_from_slice(&content);
    let flags = log[footer.start + 4];
    let mut proved = footer.len();
    let pieces = &log[footer.start + 24..footer.start + 32];
    let pieces = usize::try_from(u64::from_le_bytes(pieces.try_into().unwrap())).unwrap();
    let fence = if flags & 8 == 0 { 16 } else { 32 };
    let table = 128 + 32 * (flags & 6).count_ones() as usize;
    let pages_at = table
        + pieces
            .saturating_mul(PIECE)
            .div_ceil(PAGE)
            .saturating_mul(fence);
    if flags & 1 == 1 && pages_at < footer.len() {
        proved = pages_at;
        let (head, pages) = log[footer.clone()].split_at_mut(pages_at);
        for (fence, page) in head[table..].chunks_mut(fence).zip(pages.chunks(PAGE)) {
            fence[12..16].copy_from_slice(&crc32fast::hash(page).to_le_bytes());
        }
    }
    let checksum = crc32fast::hash(&log[footer.start..footer.start + proved]);
    let trailer = &mut log[footer.end..];
    trailer[24..28].copy_from_slice(&checksum.to_le_bytes());
    let checksum = crc32fast::hash(&trailer[..28]);
    trailer[28..].copy_from_slice(&checksum.to_le_bytes());
}

fn whole() -> Extent {
    Extent::whole(Length::new(SIZE)).unwrap()
}

/// What whoever reads only what it needs is told.
fn looked_up(path: &Path) -> Result<Vec<Piece>, Error> {
    IndexedLog::open(path, &keys())?.lookup(whole())
}

/// Refused by those who read all of it, and by those who read only what they need.
fn is_refused(log: &[u8]) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    std::fs::write(&path, log).unwrap();
    let opened = SealedLog::open_with(&path, &keys());
    let looked_up = looked_up(&path);
    assert_eq!(
        opened.is_err(),
        looked_up.is_err(),
        "{opened:?} {looked_up:?}"
    );
    if opened.is_ok() {
        return false;
    }
    // Nor does salvage believe what its index says is lost and what is not.
    let salvaged = salvage_with(&path, &keys(), |_| Ok(())).unwrap();
    assert!(matches!(salvaged.unknown, Doubt::Everything { .. }));
    true
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_changed_bit_of_a_footer_is_believed(
        records in prop::sample::select(vec![0_u64, 3, 256, 257, 513]),
        at in any::<prop::sample::Index>(), in_head in any::<bool>(), bit in 0..8_u8,
    ) {
        let sound = log(records, 7);
        let mut changed = sound.clone();
        let footer = footer(&sound);
        let length = if in_head { 192 } else { footer.len() };
        changed[footer.start + at.index(length)] ^= 1 << bit;
        check_again(&mut changed, &[]);
        // What is computed anew is all that is not proved otherwise.
        prop_assert_eq!(is_refused(&changed), changed != sound);
    }
}

#[test]
fn no_field_of_another_footer_is_believed() {
    for records in [3, 300] {
        let (one, other) = (log(records, 7), log(records, 8));
        assert!(!is_refused(&one));
        let footer = footer(&one);
        for field in [
            0..footer.len(),
            32..64,
            64..96,
            104..120,
            128..160,
            160..192,
            192..footer.len(),
        ] {
            let mut mixed = one.clone();
            let place = footer.start + field.start..footer.start + field.end;
            mixed[place.clone()].copy_from_slice(&other[place]);
            check_again(&mut mixed, &[]);
            assert_eq!(is_refused(&mixed), mixed != one, "{field:?}");
        }
        // The two states, exchanged.
        let mut exchanged = one.clone();
        let states = &mut exchanged[footer.start + 128..footer.start + 192];
        states.rotate_left(32);
        check_again(&mut exchanged, &[]);
        assert!(is_refused(&exchanged));
    }
    // The tags of two pages say which page they are of.
    let mut exchanged = log(512, 7);
    let footer = footer(&exchanged);
    let tags = footer.start + 192 + 16..footer.start + 192 + 64;
    let (first, second) = exchanged[tags].split_at_mut(32);
    first[..16].swap_with_slice(&mut second[..16]);
    check_again(&mut exchanged, &[]);
    assert!(is_refused(&exchanged));
}

/// The ranges of a log's records.
fn records(log: &[u8], keys: &Keys) -> Vec<Range<usize>> {
    let reader = Reader::with_keys(log.to_vec().into(), keys).unwrap();
    let range = |at: u64, length: u64| {
        let start = usize::try_from(at).unwrap();
        start..start + usize::try_from(length).unwrap()
    };
    reader
        .map(|record| range(record.at, record.length()))
        .collect()
}

/// The log without its last record, which has so many `pieces`, with a footer that fits.
fn cut(log: &[u8], last: &Range<usize>, pieces: u64) -> Vec<u8> {
    let mut cut = [&log[..last.start], &log[footer(log)]].concat();
    let (start, end) = (
        last.start,
        cut.len() - usize::try_from(pieces).unwrap() * PIECE,
    );
    cut.truncate(end);
    for (field, less) in [(8, 1), (16, last.len() as u64 - 48), (24, pieces)] {
        let place = start + field..start + field + 8;
        let value = u64::from_le_bytes(cut[place.clone()].try_into().unwrap());
        cut[place].copy_from_slice(&(value - less).to_le_bytes());
    }
    let mut trailer = *b"AITRAILR________________________";
    trailer[8..16].copy_from_slice(&(start as u64).to_le_bytes());
    trailer[16..24].copy_from_slice(&((end - start) as u64).to_le_bytes());
    cut.extend_from_slice(&trailer);
    check_again(&mut cut, &[]);
    cut
}

#[test]
fn what_was_cut_off_is_missed() {
    let sound = log(3, 7);
    let last = records(&sound, &keys()).pop().unwrap();
    assert!(is_refused(&cut(&sound, &last, 1)));

    // It is the tag that tells: what was cut off a log of the first releases is not missed.
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let old = std::fs::read(golden.join("version-1-encrypted.ailog")).unwrap();
    let keys = Keys::from(Key::new(&std::array::from_fn(|at| at.to_le_bytes()[0])));
    let last = records(&old, &keys).pop().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    std::fs::write(&path, cut(&old, &last, 0)).unwrap();
    let believed = SealedLog::open_with(&path, &keys).unwrap();
    assert_eq!(believed.summary().records, 3);
}

#[test]
fn a_tag_is_not_taken_off() {
    for log in [log(3, 7), log(300, 7)] {
        let (footer, records) = (footer(&log), records(&log, &keys()));
        // Off the footer alone, and off the header that announces it, too: then no record is one.
        let mut bare = log.clone();
        bare[footer.start + 4] &= !8;
        bare[footer.start + 104..footer.start + 120].fill(0);
        check_again(&mut bare, &[]);
        assert!(is_refused(&bare));
        bare[12] &= !4;
        check_again(&mut bare, &records);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, &bare).unwrap();
        assert!(SealedLog::open_with(&path, &keys()).is_err());
        assert_eq!(recover_with(&path, &keys(), |_| Ok(())).unwrap().records, 0);
    }
}
