//! What is left of an HRL that was not closed, or is damaged; and logs that follow each other.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use afterimage_block::{Change, Doubt, Extent, Length, MemoryDisk, Offset, Timestamp};
use afterimage_changelog::{Error, Gap, HrlHeader, HrlId, HrlLog, HrlOptions, HrlWriter};
use proptest::prelude::*;

const SIZE: u64 = 64 << 10;
const TIME: Timestamp = Timestamp::from_nanos(1_486_527_181_000_000_000);

/// A write, and whether the log was forced after it.
type Step = (u64, Vec<u8>, bool);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let one = (0..SIZE, 1..2000_u64, any::<u8>(), any::<bool>());
    let step = one.prop_map(|(start, length, value, forced)| {
        let length = usize::try_from(length.min(SIZE - start)).unwrap();
        (start, vec![value; length], forced)
    });
    prop_oneof![
        8 => prop::collection::vec(step.clone(), 1..10),
        1 => prop::collection::vec(step, 120..200),
    ]
}

fn options() -> HrlOptions {
    HrlOptions::new(HrlId::from_bytes(*b"log of the test."), TIME)
}

fn write(path: &Path, options: &HrlOptions, steps: &[Step]) -> HrlWriter {
    let mut log = HrlWriter::create(path, options).unwrap();
    for (offset, data, forced) in steps {
        let offset = Offset::new(*offset);
        log.append(Change::Write { offset, data }, TIME).unwrap();
        if *forced {
            log.sync().unwrap();
        }
    }
    log
}

/// Whether the log's entries are the first of these steps; how many.
fn prefix(log: &HrlLog, steps: &[Step]) -> usize {
    let bytes = std::fs::read(log.path()).unwrap();
    let mut expected = steps.iter();
    log.entries(|record| {
        let (offset, data, _) = expected.next().unwrap();
        let at = usize::try_from(record.data_at).unwrap();
        assert_eq!(record.entry.offset.get(), *offset);
        assert_eq!(&bytes[at..at + data.len()], &data[..]);
        Ok(())
    })
    .unwrap();
    steps.len() - expected.len()
}

/// How many of the steps are described by metadata blocks.
fn described(steps: &[Step]) -> usize {
    let (mut described, mut pending) = (0, 0);
    for (number, (_, _, forced)) in steps.iter().enumerate() {
        pending += 1;
        if *forced || pending == 127 {
            (described, pending) = (number + 1, 0);
        }
    }
    described
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_log_that_was_not_closed_keeps_what_was_forced(steps in steps()) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.hrl");
        let length = write(&path, &options(), &steps).length().get();
        let salvaged = HrlLog::salvage(&path).unwrap();
        let kept = prefix(&salvaged.log, &steps);
        prop_assert_eq!(kept, described(&steps));
        let rest: u64 = steps[kept..].iter().map(|(_, data, _)| data.len() as u64).sum();
        let gap = Gap { at: length - rest, length: rest };
        prop_assert_eq!(salvaged.gaps, if rest > 0 { vec![gap] } else { vec![] });
        let everything = matches!(salvaged.unknown, Doubt::Everything { .. });
        prop_assert!(everything, "what was not forced may be anything");
    }

    #[test]
    fn a_cut_keeps_whole_blocks_before_it(steps in steps(), cut in any::<prop::sample::Index>(), closed in any::<bool>()) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.hrl");
        let log = write(&path, &options(), &steps);
        if closed {
            log.close(TIME).unwrap();
        }
        let bytes = std::fs::read(&path).unwrap();
        let cut = cut.index(bytes.len());
        std::fs::write(&path, &bytes[..cut]).unwrap();
        match HrlLog::salvage(&path) {
            Err(error) => prop_assert!(cut < 4096, "{}", error),
            Ok(salvaged) => {
                let kept = prefix(&salvaged.log, &steps);
                let mut end = 0;
                salvaged.log.entries(|record| {
                    end = record.data_at + u64::from(record.entry.length);
                    Ok(())
                }).unwrap();
                prop_assert!(end <= cut as u64);
                prop_assert!(kept <= steps.len());
                let everything = matches!(salvaged.unknown, Doubt::Everything { .. });
                prop_assert!(everything);
            }
        }
    }

    /// A closed log is read from both ends, so that one damaged byte costs one block at most.
    #[test]
    fn a_damaged_byte_costs_no_more_than_its_block(
        steps in steps(), at in any::<prop::sample::Index>(), value in 1..=255_u8,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.hrl");
        let log = write(&path, &options(), &steps).close(TIME).unwrap();
        let mut all = Vec::new();
        log.entries(|record| { all.push(record); Ok(()) }).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let at = 4096 + at.index(bytes.len() - 4096);
        bytes[at] ^= value;
        std::fs::write(&path, &bytes).unwrap();
        let salvaged = HrlLog::salvage(&path).unwrap();
        let mut kept = Vec::new();
        salvaged.log.entries(|record| { kept.push(record); Ok(()) }).unwrap();
        prop_assert!(kept.iter().all(|record| all.contains(record)), "nothing is made up");
        let lost: Vec<_> = all.iter().filter(|record| !kept.contains(record)).collect();
        // An entry's block is behind the data of all its entries; the first lost entry's is the one.
        let of_one_block = lost.windows(2).all(|pair| pair[1].at == pair[0].at + 32);
        prop_assert!(of_one_block);
        match salvaged.unknown {
            Doubt::Everything { .. } => prop_assert!(!salvaged.gaps.is_empty()),
            Doubt::Extents(unknown) => {
                prop_assert!(lost.len() <= 1);
                prop_assert_eq!(lost.len(), salvaged.rejected.len());
                for record in lost {
                    let mut stale: afterimage_block::ExtentSet = record.entry.extent().into_iter().collect();
                    for later in all.iter().filter(|later| later.at > record.at) {
                        stale.remove(later.entry.extent().unwrap());
                    }
                    prop_assert_eq!(&unknown, &stale);
                }
            }
        }
    }
}

#[test]
fn a_log_that_is_whole_is_salvaged_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.hrl");
    let steps = [(0, vec![1; 10], true), (5, vec![2; 10], false)];
    write(&path, &options(), &steps).close(TIME).unwrap();
    let salvaged = HrlLog::salvage(&path).unwrap();
    assert_eq!(prefix(&salvaged.log, &steps), 2);
    assert!(salvaged.unknown.is_nothing() && salvaged.gaps.is_empty());
    let disk = MemoryDisk::new(Length::new(SIZE));
    salvaged.log.apply(&disk).unwrap();
    assert_eq!(&disk.contents()[..15], [[1; 5], [2; 5], [2; 5]].concat());
}

#[test]
fn the_first_block_may_be_lost() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.hrl");
    let steps = [(0, vec![1; 10], true), (5, vec![2; 10], true)];
    drop(write(&path, &options(), &steps));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[4100] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let salvaged = HrlLog::salvage(&path).unwrap();
    assert_eq!(prefix(&salvaged.log, &steps), 2);
    let gap = Gap {
        at: 4096,
        length: 4096,
    };
    assert_eq!(salvaged.gaps, [gap]);
}

/// Data that is itself an HRL does not pass for the log's own metadata.
#[test]
fn a_log_within_a_log_stays_data() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("inner.hrl");
    let steps = [(0, vec![1; 10], true), (5, vec![2; 10], true)];
    write(&inner, &options(), &steps).close(TIME).unwrap();
    let data = std::fs::read(&inner).unwrap();
    let outer = folder.path().join("outer.hrl");
    let steps = [(7, data, true), (5, vec![2; 10], true)];
    drop(write(&outer, &options(), &steps));
    let salvaged = HrlLog::salvage(&outer).unwrap();
    assert_eq!(prefix(&salvaged.log, &steps), 2);
    assert_eq!(salvaged.log.summary().entries, 2);
}

#[test]
fn what_a_rejected_entry_changed_is_unknown_until_written_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.hrl");
    let steps = [(0, vec![1; 100], false), (50, vec![2; 10], false)];
    write(&path, &options(), &steps).close(TIME).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[8192] = 9;
    std::fs::write(&path, &bytes).unwrap();
    let salvaged = HrlLog::salvage(&path).unwrap();
    let extent = |start, length| Extent::new(Offset::new(start), Length::new(length)).unwrap();
    let unknown = vec![extent(0, 50), extent(60, 40)];
    assert_eq!(salvaged.unknown, Doubt::Extents(unknown.into()));
    assert_eq!(salvaged.log.summary().entries, 1);
    assert_eq!(salvaged.log.extents().unwrap(), [extent(50, 10)]);
}

fn linked(folder: &Path, name: u8, previous: u8) -> HrlLog {
    let path: PathBuf = folder.join(format!("{name}-{previous}.hrl"));
    let id = |number| HrlId::from_bytes([number; 16]);
    let options = HrlOptions::new(id(name), TIME).following(id(previous));
    write(&path, &options, &[]).close(TIME).unwrap()
}

#[test]
fn a_chain_is_put_in_order_and_anything_else_refused() {
    let folder = tempfile::tempdir().unwrap();
    let [a, b, c] =
        [(1, 0), (2, 1), (3, 2)].map(|(id, previous)| linked(folder.path(), id, previous));
    let fork = linked(folder.path(), 9, 1);
    let order = |logs: &[&HrlLog]| {
        let chain = HrlLog::chain(logs.iter().copied().cloned().collect())?;
        Ok::<_, Error>(
            chain
                .iter()
                .map(|log| log.header().id.to_bytes()[0])
                .collect::<Vec<_>>(),
        )
    };
    assert_eq!(order(&[&c, &a, &b]).unwrap(), [1, 2, 3]);
    assert_eq!(order(&[&c, &b]).unwrap(), [2, 3]);
    assert_eq!(order(&[]).unwrap(), [0; 0]);
    let circle = linked(folder.path(), 5, 5);
    let twice = linked(folder.path(), 2, 7);
    for refused in [
        &[&a, &c][..],
        &[&a, &b, &fork],
        &[&a, &a],
        &[&circle],
        &[&a, &circle],
        &[&b, &twice],
    ] {
        let error = order(refused).unwrap_err();
        assert!(matches!(error, Error::NotConsecutive { .. }), "{error}");
    }
    b.check_follows(&a).unwrap();
    assert!(a.check_follows(&b).is_err());
}

/// A header of a metadata block at `at`, whose predecessor is the log's first.
fn forged_head(at: usize) -> [u8; 32] {
    let mut head = [0; 32];
    head[..8].copy_from_slice(&(at as u64 - HrlHeader::LEN as u64).to_le_bytes());
    head[20] = 1; // reserved, so that it proves nothing
    let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
    head[12..16].copy_from_slice(&(!sum).to_le_bytes());
    head
}

/// Each 32 bytes of a write look like the header of a metadata block. What would take too long to
/// prove is given up, and said to be unknown.
#[test]
fn forged_data_is_not_proved_again_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let first = HrlHeader::LEN + 4096;
    for (heads, entries) in [(8, 1), (2000, 0)] {
        let path = folder.path().join(heads.to_string());
        let data: Vec<u8> = (0..heads)
            .flat_map(|n| forged_head(first + n * 32))
            .collect();
        drop(write(&path, &options(), &[(0, data, true)]));
        let salvaged = HrlLog::salvage(&path).unwrap();
        assert_eq!(salvaged.log.summary().entries, entries, "{heads}");
        assert!(matches!(salvaged.unknown, Doubt::Everything { .. }));
    }
}
