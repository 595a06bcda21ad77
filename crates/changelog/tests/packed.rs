//! Compressed and encrypted logs: what is made of them, who can read them, and what is refused.

#![cfg(all(feature = "aead", feature = "lz4"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use afterimage_block::{Change, ContentDigest, Length, MemoryDisk, Offset, Timestamp};
use afterimage_changelog::{
    ChangeLog, Encoder, Error, FileWriter, HrlId, HrlOptions, IndexedLog, Key, Keys, LogHeader,
    PAYLOAD_MAX, Packing, Reader, RecordHeader, SealedLog, StreamReader, Tail, WriterOptions,
    apply_with_undo, merge, open_log, open_log_with, recover, recover_with, salvage, salvage_with,
    to_hrl, to_native,
};
use common::{
    SIZE, Step, all_packings, contents_after, disk, header, key, keys, packings, steps, write_as,
};
use proptest::prelude::*;

fn encrypted() -> Packing {
    Packing::default().with_key(key())
}

fn options(packing: &Packing) -> WriterOptions {
    WriterOptions::default().with_packing(packing.clone())
}

fn seal(path: &Path, generation: u64, steps: &[Step], packing: &Packing) -> SealedLog {
    let log = write_as(path, header(generation, generation), steps, packing);
    log.seal(ContentDigest::NONE).unwrap()
}

/// Bytes that compress well.
fn text(length: usize) -> Vec<u8> {
    b"after-image "
        .iter()
        .copied()
        .cycle()
        .take(length)
        .collect()
}

/// Bytes that do not compress.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(length).collect()
}

fn some_steps() -> Vec<Step> {
    let zeroed = afterimage_block::Extent::new(Offset::new(4100), Length::new(4)).unwrap();
    vec![
        Step::Write(4096, text(3000)),
        Step::Zero(zeroed),
        Step::Write(0, noise(500)),
        Step::Discard(zeroed),
        Step::Bookmark("a secret label".into()),
        Step::Barrier("a secret barrier".into()),
    ]
}

/// Where the records start, and where the last one ends.
fn starts(path: &Path) -> Vec<usize> {
    let bytes = std::fs::read(path).unwrap();
    let mut reader = Reader::with_keys(bytes.into(), &keys()).unwrap();
    let mut starts: Vec<_> = reader.by_ref().map(|record| record.at).collect();
    starts.push(reader.whole().get());
    starts
        .iter()
        .map(|at| usize::try_from(*at).unwrap())
        .collect()
}

/// CRC-32 continued from `crc`, after the specification.
fn crc32(crc: u32, bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| {
        if crc & 1 == 1 {
            crc >> 1 ^ 0xEDB8_8320
        } else {
            crc >> 1
        }
    };
    let byte = |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), step);
    !bytes.iter().fold(!crc, byte)
}

/// Gives header and records of an open log checksums that match, as whoever tampers can.
fn check_again(bytes: &mut [u8], starts: &[usize]) {
    let salt = crc32(0, &bytes[..124]);
    bytes[124..128].copy_from_slice(&salt.to_le_bytes());
    for pair in starts.windows(2) {
        let record = &bytes[pair[0]..pair[1]];
        let crc = crc32(crc32(salt, &record[..44]), &record[48..]);
        bytes[pair[0] + 44..pair[0] + 48].copy_from_slice(&crc.to_le_bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever each log is stored as, and the merged one and its undo log.
    #[test]
    fn merging_is_applying_in_order_and_undo_takes_it_back(
        all in prop::collection::vec((steps(), packings()), 1..4), merged in packings(), undo in packings(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let in_order = disk();
        let logs: Vec<_> = (1..).zip(&all).map(|(number, (steps, packing))| {
            let log = seal(&folder.path().join(number.to_string()), number, steps, packing);
            log.apply(&in_order).unwrap();
            log
        }).collect();
        let (first, rest) = logs.split_first().unwrap();
        let path = folder.path().join("merged");
        let options = options(&merged.clone().allowing_plaintext());
        merge(first, rest, &path, options).unwrap();
        let log = SealedLog::open_with(&path, &keys()).unwrap();
        prop_assert_eq!(log.form(), merged.form());
        let replica = disk();
        let indexed = IndexedLog::open(&path, &keys()).unwrap();
        let whole = afterimage_block::Extent::whole(Length::new(SIZE)).unwrap();
        indexed.changes(whole, |_, change| Ok(change.apply_to(&replica)?)).unwrap();
        prop_assert!(replica.contents() == in_order.contents());
        let replica = disk();
        let undo = WriterOptions::default().with_packing(undo.allowing_plaintext());
        let undo = FileWriter::create_new(&folder.path().join("undo"), *log.header(), undo).unwrap();
        let done = apply_with_undo(&[&log], &replica, undo).unwrap();
        prop_assert!(replica.contents() == in_order.contents());
        let undo = SealedLog::open_with(done.undo.path(), &keys()).unwrap();
        undo.apply(&replica).unwrap();
        prop_assert!(replica.contents() == disk().contents());
    }

    #[test]
    fn storing_in_another_way_keeps_every_change(steps in steps(), from in packings(), to in packings()) {
        let folder = tempfile::tempdir().unwrap();
        let log = seal(&folder.path().join("1"), 1, &steps, &from);
        let path = folder.path().join("2");
        let options = options(&to.clone().allowing_plaintext());
        to_native(&log, &path, *log.header(), options, ContentDigest::NONE).unwrap();
        let log = open_log_with(&path, &keys()).unwrap();
        prop_assert_eq!(log.form(), to.form());
        let replica = disk();
        log.apply(&replica).unwrap();
        prop_assert!(replica.contents() == contents_after(&steps));
    }

    /// With matching checksums, as whoever tampers can compute them: nothing of an encrypted log that
    /// was changed in any bit is believed, and everything that was not is.
    #[test]
    fn no_changed_bit_of_an_encrypted_record_is_believed(
        steps in steps(), compressed in any::<bool>(), at in any::<prop::sample::Index>(), bit in 0..8_u8,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let packing = if compressed { encrypted().with_compression() } else { encrypted() };
        drop(write_as(&path, header(1, 1), &steps, &packing));
        let starts = starts(&path);
        let mut bytes = std::fs::read(&path).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        check_again(&mut bytes, &starts);
        std::fs::write(&path, &bytes).unwrap();
        let record = starts.iter().rposition(|start| *start <= at);
        // What is computed anew is all that is not proved otherwise.
        let expected = match (at, record) {
            (124..128, _) => steps.len(),
            (_, Some(record)) if (44..48).contains(&(at - starts[record])) => steps.len(),
            (_, record) => record.unwrap_or(0),
        };
        match recover_with(&path, &keys(), |_| Ok(())) {
            Ok(found) => prop_assert_eq!(found.records, expected as u64),
            Err(error) => prop_assert!(at < LogHeader::LEN && expected == 0, "{}", error),
        }
        let salvaged = salvage_with(&path, &keys(), |record| {
            let number = usize::try_from(record.header.lsn.get()).unwrap();
            assert_eq!(record.change(), steps[number].change());
            Ok(())
        });
        prop_assert!(salvaged.is_ok() || at < LogHeader::LEN);
    }
}

/// Everything that opens a log at `path` with `keys`; what each said.
fn open_in_every_way(path: &Path, keys: &Keys) -> Vec<Error> {
    let bytes = std::fs::read(path).unwrap();
    let errors = [
        SealedLog::open_with(path, keys).err(),
        open_log_with(path, keys).err(),
        recover_with(path, keys, |_| Ok(())).err(),
        salvage_with(path, keys, |_| Ok(())).err(),
        Reader::with_keys(bytes.clone().into(), keys).err(),
        StreamReader::with_keys(&bytes[..], keys).err(),
    ];
    errors.into_iter().flatten().collect()
}

#[test]
fn without_its_key_a_log_says_which_it_needs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    seal(&path, 1, &some_steps(), &encrypted());
    let others: Keys = (0..3).map(|byte| Key::new(&[byte; 32])).collect();
    for keys in [Keys::none(), others] {
        let errors = open_in_every_way(&path, &keys);
        assert_eq!(errors.len(), 6);
        for error in errors {
            assert!(
                matches!(error.cause(), Error::NoKey { key: id } if *id == key().id()),
                "{error}"
            );
            assert!(
                error.to_string().contains(&key().id().to_string()),
                "{error}"
            );
        }
    }
    for error in [
        SealedLog::open(&path).unwrap_err(),
        open_log(&path).unwrap_err(),
        recover(&path, |_| Ok(())).unwrap_err(),
        salvage(&path, |_| Ok(())).unwrap_err(),
    ] {
        assert!(matches!(error.cause(), Error::NoKey { .. }), "{error}");
    }
    let among: Keys = [Key::new(&[9; 32]), key()].into_iter().collect();
    assert!(open_in_every_way(&path, &among).is_empty());
    let bytes = std::fs::read(&path).unwrap();
    assert!(matches!(LogHeader::parse(&bytes), Err(Error::NotPlain)));
}

#[test]
fn neither_a_key_nor_what_it_protects_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let secret: [u8; 32] = noise(32).try_into().unwrap();
    let key = Key::new(&secret);
    let (keys, packing) = (
        Keys::from(key.clone()),
        Packing::default().with_key(key.clone()),
    );
    let log = seal(&path("1"), 1, &some_steps(), &packing);
    let file = std::fs::read(log.path()).unwrap();
    let holds = |text: &[u8]| file.windows(text.len()).any(|window| window == text);
    assert!(!holds(b"after-image") && !holds(b"secret") && !holds(&noise(500)[40..56]));
    assert!(holds(&key.id().to_bytes()) && !holds(&secret[..8]));

    let open = FileWriter::create(&path("2"), header(1, 1), options(&packing)).unwrap();
    let (encoder, _) = Encoder::packed(header(1, 1), &packing).unwrap();
    let reader = Reader::with_keys(file.clone().into(), &keys).unwrap();
    let stream = StreamReader::with_keys(std::io::empty().chain(&file[..]), &keys).unwrap();
    let error = SealedLog::open(log.path()).unwrap_err();
    let part = &secret[..4];
    let forms = [
        format!("{part:?}"),
        format!("{part:x?}"),
        format!("{part:02x?}").replace(", ", ""),
        part.escape_ascii().to_string(),
    ];
    for shown in [
        format!("{key:?}"),
        format!("{keys:?}"),
        format!("{packing:?}"),
        format!("{:?}", options(&packing)),
        format!("{log:?}"),
        format!("{open:?}"),
        format!("{encoder:?}"),
        format!("{reader:?}"),
        format!("{stream:?}"),
        format!("{error:?}"),
        format!("{error}"),
    ] {
        assert!(shown.contains(&key.id().to_string()));
        for secret in &forms {
            assert!(!shown.contains(secret.trim_matches(['[', ']'])));
        }
    }
}

/// The same log written again, after a crash or at the same time, has another key and so no nonce of
/// the first.
#[test]
fn no_key_and_number_come_twice() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let mut seen = BTreeSet::new();
    let mut stored = BTreeSet::new();
    let mut note = |path: &Path| {
        let bytes = std::fs::read(path).unwrap();
        for window in starts(path).windows(2) {
            let record = &bytes[window[0]..window[1]];
            assert!(seen.insert((bytes[88..120].to_vec(), record[8..16].to_vec())));
            assert!(stored.insert(record[48..].to_vec()), "the same bytes twice");
        }
    };
    for _ in 0..8 {
        drop(write_as(&path, header(1, 1), &some_steps(), &encrypted()));
        let cut = *starts(&path).last().unwrap() - 3;
        std::fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(cut as u64)
            .unwrap();
        note(&path);
        let again = folder.path().join("again");
        let mut log = FileWriter::create(&again, header(1, 1), options(&encrypted())).unwrap();
        recover_with(&path, &keys(), |record| log.append_record(record).map(drop)).unwrap();
        log.seal(ContentDigest::NONE).unwrap();
        note(&again);
    }
    assert_eq!(seen.len(), 8 * (5 + 5));
}

/// A record in another place, of another file, or of another disk is none, whatever its checksum says.
#[test]
fn records_that_changed_places_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (folder.path().join("1"), folder.path().join("2"));
    let steps = [Step::Write(0, vec![1; 100]), Step::Write(0, vec![2; 100])];
    drop(write_as(&one, header(1, 1), &steps, &encrypted()));
    drop(write_as(&other, header(1, 1), &steps, &encrypted()));
    let starts = starts(&one);
    let length = starts[1] - starts[0];
    let read = |bytes: &mut Vec<u8>| {
        check_again(bytes, &starts);
        let mut reader = Reader::with_keys(bytes.clone().into(), &keys()).unwrap();
        (reader.by_ref().count(), reader.tail().unwrap())
    };
    let whole = std::fs::read(&one).unwrap();
    assert_eq!(read(&mut whole.clone()), (2, Tail::Whole));
    // The first number is written over, so that the sequence is right.
    let mut swapped = whole.clone();
    let (first, second) = swapped[starts[0]..].split_at_mut(length);
    first.swap_with_slice(second);
    swapped[starts[0] + 8] = 0;
    swapped[starts[1] + 8] = 1;
    let mut of_another = whole.clone();
    let theirs = std::fs::read(&other).unwrap();
    of_another[starts[0]..starts[1]].copy_from_slice(&theirs[starts[0]..starts[1]]);
    let mut of_another_disk = whole.clone();
    of_another_disk[16] ^= 1;
    for bytes in [&mut swapped, &mut of_another, &mut of_another_disk] {
        let (records, tail) = read(bytes);
        assert!(
            records == 0 && matches!(tail, Tail::Torn { at: 128, .. }),
            "{tail:?}"
        );
    }
}

#[test]
fn what_is_encrypted_is_not_written_as_plain_text_unless_that_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    let log = seal(&place("log"), 1, &some_steps(), &encrypted());
    let plain = WriterOptions::default();
    let undo = |name: &str, options| FileWriter::create_new(&place(name), header(1, 1), options);
    let append = |name: &str, options: WriterOptions| {
        let mut log = FileWriter::create_new(&place(name), header(1, 1), options).unwrap();
        recover_with(&place("log"), &keys(), |record| {
            log.append_record(record).map(drop)
        })
    };
    let hrl = HrlOptions::new(HrlId::NIL, Timestamp::default());
    let make = |options: &WriterOptions, hrl: &HrlOptions, to: &str| {
        let name = |what: &str| format!("{to}-{what}");
        [
            merge(&log, &[], &place(&name("merged")), options.clone()).err(),
            to_native(
                &log,
                &place(&name("native")),
                header(1, 1),
                options.clone(),
                ContentDigest::NONE,
            )
            .err(),
            to_hrl(&log, &place(&name("hrl")), hrl, Timestamp::default()).err(),
            apply_with_undo(
                &[&log],
                &disk(),
                undo(&name("undo"), options.clone()).unwrap(),
            )
            .err(),
            append(&name("copy"), options.clone()).err(),
        ]
    };
    for error in make(&plain, &hrl, "refused") {
        let error = error.unwrap();
        assert!(matches!(error.cause(), Error::WouldExpose), "{error}");
    }
    let left: Vec<PathBuf> = ["merged", "native", "hrl", "undo"]
        .map(|what| place(&format!("refused-{what}")))
        .into_iter()
        .filter(|path| path.exists())
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let allowed = options(&Packing::default().allowing_plaintext());
    assert!(
        make(&allowed, &hrl.allowing_plaintext(), "allowed")
            .iter()
            .all(Option::is_none)
    );
    open_log(&place("allowed-merged")).unwrap();
    open_log(&place("allowed-undo")).unwrap();
}

/// A log of one write of `length` bytes, compressed to `block`, with checksums that match.
fn forged(length: u64, block: &[u8]) -> Vec<u8> {
    let (mut encoder, head) = Encoder::packed(
        LogHeader {
            disk_size: Length::mib(2),
            ..header(1, 1)
        },
        &Packing::default().with_compression(),
    )
    .unwrap();
    let data = vec![0; usize::try_from(length).unwrap()];
    let change = Change::Write {
        offset: Offset::ZERO,
        data: &data,
    };
    let record = encoder
        .change(change, Timestamp::default())
        .unwrap()
        .next()
        .unwrap();
    let mut bytes = [&head[..], &record.header, block].concat();
    bytes[128 + 40..128 + 44].copy_from_slice(&u32::try_from(block.len()).unwrap().to_le_bytes());
    let end = bytes.len();
    check_again(&mut bytes, &[128, end]);
    bytes
}

/// The blocks of LZ4 begin with a token, whose upper half counts literals.
#[test]
fn a_block_is_of_exactly_the_bytes_that_its_record_says() {
    // 5 literals; then one literal and a match that repeats it, of 4 + 15 + 255 + ... bytes.
    let long = |more: usize| {
        [
            &[0x1F, b'x', 1, 0][..],
            &vec![255; more],
            &[0, 0x50],
            b"abcde",
        ]
        .concat()
    };
    let repeated = |more: u64| 1 + 19 + 255 * more + 5;
    let read = |length: u64, block: &[u8]| {
        let mut reader = Reader::new(forged(length, block).into()).unwrap();
        let records: Vec<_> = reader.by_ref().collect();
        (records, reader.tail().unwrap())
    };
    let (records, tail) = read(repeated(1), &long(1));
    assert_eq!((records.len(), tail), (1, Tail::Whole));
    assert_eq!(records[0].payload.len() as u64, repeated(1));
    assert!(records[0].payload.ends_with(b"xxabcde"));
    for (length, block) in [
        (repeated(1) - 1, long(1)),
        (repeated(1) + 1, long(1)),
        // A bomb, and memory that the block cannot fill.
        (100, long(5000)),
        (1 << 20, long(1)),
        (1 << 20, vec![0x00]),
        (100, vec![]),
        (100, vec![0xFF; 50]),
        // A match before the beginning.
        (100, vec![0x0F, 9, 0, 76, 0x50, 1, 2, 3, 4, 5]),
    ] {
        let (records, tail) = read(length, &block);
        assert!(
            records.is_empty() && matches!(tail, Tail::Torn { at: 128, .. }),
            "{length}: {tail:?}"
        );
    }
}

#[test]
fn a_record_holds_a_mebibyte_whatever_is_stored_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let large = LogHeader {
        disk_size: Length::mib(4),
        ..header(1, 1)
    };
    let most = PAYLOAD_MAX.to_usize().unwrap();
    for packing in all_packings() {
        for data in [noise(most), text(most), noise(most + 1)] {
            let path = folder.path().join("log");
            let mut log = FileWriter::create(&path, large, options(&packing)).unwrap();
            let change = Change::Write {
                offset: Offset::new(512),
                data: &data,
            };
            log.append(change, Timestamp::default()).unwrap();
            assert_eq!(log.records(), data.len().div_ceil(most) as u64);
            let sealed = log.seal(ContentDigest::NONE).unwrap();
            let tag = if packing.form().key.is_some() { 16 } else { 0 };
            sealed
                .records(|record| {
                    let stored = record.header.payload.get();
                    let held = record.payload.len() as u64;
                    if record.header.compressed {
                        assert!(stored < held / 2 + tag);
                    } else {
                        assert_eq!(stored, held + tag);
                    }
                    Ok(())
                })
                .unwrap();
            let replica = MemoryDisk::new(large.disk_size);
            SealedLog::open_with(&path, &keys())
                .unwrap()
                .apply(&replica)
                .unwrap();
            assert!(replica.contents()[512..512 + data.len()] == data);
        }
    }
}

#[test]
fn what_does_not_compress_is_stored_and_read_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let steps = [
        Step::Write(0, noise(5000)),
        Step::Write(0, text(5000)),
        Step::Write(0, text(20)),
    ];
    seal(&path, 1, &steps, &Packing::default().with_compression());
    let file = bytes::Bytes::from(std::fs::read(&path).unwrap());
    let within = file.as_ptr_range();
    let found: Vec<_> = Reader::new(file.clone())
        .unwrap()
        .map(|record| {
            (
                record.header.compressed,
                within.contains(&record.payload.as_ptr()),
            )
        })
        .collect();
    assert_eq!(found, [(false, true), (true, false), (false, true)]);
}

#[test]
fn an_encrypted_log_is_salvaged_around_its_damage() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    seal(&path, 1, &some_steps(), &encrypted().with_compression());
    let starts = starts(&path);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[starts[2] + 100] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let mut labels = 0;
    let found = salvage_with(&path, &keys(), |record| {
        labels += usize::from(record.label().unwrap() == Some("a secret label"));
        Ok(())
    })
    .unwrap();
    assert_eq!((found.records, found.lost, labels), (5, Some(1), 1));
    assert_eq!(found.form, encrypted().with_compression().form());
    let afterimage_block::Doubt::Extents(unknown) = found.unknown else {
        panic!("the index is whole");
    };
    assert_eq!(unknown.total(), Length::new(500));
}

#[test]
fn a_quota_counts_what_encryption_adds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let room = (LogHeader::LEN + RecordHeader::LEN + 100 + 16) as u64;
    for (quota, fits) in [(room, true), (room - 1, false)] {
        let options = options(&encrypted()).with_quota(Length::new(quota));
        let mut log = FileWriter::create(&path, header(1, 1), options).unwrap();
        let change = Change::Write {
            offset: Offset::ZERO,
            data: &[1; 100],
        };
        let appended = log.append(change, Timestamp::default());
        assert_eq!(appended.is_ok(), fits);
        assert!(log.length().get() <= quota);
    }
}

#[test]
fn a_batch_is_stored_as_its_changes_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let (data, noise) = (text(2000), noise(2000));
    let changes: Vec<_> = (0..600_u64)
        .map(|number| {
            let data = if number % 2 == 0 { &data } else { &noise };
            let offset = Offset::new(number * 61 % (SIZE - 2000));
            (
                Change::Write { offset, data },
                Timestamp::from_nanos(number),
            )
        })
        .collect();
    for packing in all_packings() {
        let mut log = FileWriter::create(&path, header(1, 1), options(&packing)).unwrap();
        log.append_batch(&changes).unwrap();
        let length = log.length();
        let sealed = log.seal(ContentDigest::NONE).unwrap();
        assert!(sealed.summary().file_length > length);
        let mut number = 0;
        SealedLog::open_with(&path, &keys())
            .unwrap()
            .records(|record| {
                let (change, time) = changes[number];
                assert_eq!((record.change(), record.time()), (Some(change), time));
                number += 1;
                Ok(())
            })
            .unwrap();
        assert_eq!(number, changes.len());
    }
}
