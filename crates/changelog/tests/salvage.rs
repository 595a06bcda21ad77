//! What is left of a native log that is damaged in the middle.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::ops::Range;
use std::path::Path;

use afterimage_block::{ContentDigest, Doubt, ExtentSet, Length};
use afterimage_changelog::{Error, Gap, Record, RecordHeader, Salvaged, salvage};
use common::{SIZE, Step, contents_after, disk, header, seal, steps};
use proptest::prelude::*;

/// Where each record of a log of these steps is in the file.
fn places(steps: &[Step]) -> Vec<Range<usize>> {
    let mut at = 128;
    let place = |step: &Step| {
        let payload = match step {
            Step::Write(_, data) => data.len(),
            Step::Bookmark(label) => label.len(),
            Step::Barrier(label) => 24 + label.len(),
            _ => 0,
        };
        let start = at;
        at += RecordHeader::LEN + payload;
        start..at
    };
    steps.iter().map(place).collect()
}

fn salvaged(path: &Path) -> (Salvaged, Vec<Record>) {
    let mut records = Vec::new();
    let result = salvage(path, |record| {
        records.push(record.clone());
        Ok(())
    });
    (result.unwrap(), records)
}

/// What the steps that are not lost leave unknown.
fn unknown(steps: &[Step], lost: impl Fn(usize) -> bool) -> ExtentSet {
    let mut unknown = ExtentSet::new();
    for (number, step) in steps.iter().enumerate() {
        let Some(extent) = step.change().and_then(|change| change.extent()) else {
            continue;
        };
        if lost(number) {
            unknown.insert(extent);
        } else {
            unknown.remove(extent);
        }
    }
    unknown
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn exactly_the_damaged_records_are_lost_and_known_to_be(
        steps in steps(), from in any::<prop::sample::Index>(), length in 1..6000_usize, value in 1..=255_u8,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let log = seal(&folder.path().join("log"), header(1, 1), &steps, ContentDigest::NONE);
        let places = places(&steps);
        let Some(end) = places.last().map(|place| place.end) else { return Ok(()) };
        let damage = 128 + from.index(end - 128);
        let damage = damage..(damage + length).min(end);
        let mut bytes = std::fs::read(log.path()).unwrap();
        bytes[damage.clone()].iter_mut().for_each(|byte| *byte ^= value);
        std::fs::write(log.path(), &bytes).unwrap();

        let lost = |number: usize| places[number].start < damage.end && damage.start < places[number].end;
        let (result, records) = salvaged(log.path());
        let kept: Vec<_> = (0..steps.len()).filter(|number| !lost(*number)).collect();
        prop_assert_eq!(result.records, kept.len() as u64);
        prop_assert_eq!(result.lost, Some((steps.len() - kept.len()) as u64));
        for (record, number) in records.iter().zip(&kept) {
            prop_assert_eq!(record.header.lsn.get(), *number as u64);
            prop_assert_eq!(record.change(), steps[*number].change());
        }
        let mut of_lost = (0..steps.len()).filter(|number| lost(*number)).map(|number| places[number].clone());
        let first = of_lost.next().unwrap();
        let last = of_lost.next_back().unwrap_or(first.clone());
        let gap = Gap { at: first.start as u64, length: (last.end - first.start) as u64 };
        prop_assert_eq!(&result.gaps, &[gap]);
        prop_assert_eq!(&result.unknown, &Doubt::Extents(unknown(&steps, lost)));

        // What is known of the disk is right.
        let replica = disk();
        for change in records.iter().filter_map(Record::change) {
            change.apply_to(&replica).unwrap();
        }
        let (found, made) = (replica.contents(), contents_after(&steps));
        let Doubt::Extents(unknown) = result.unknown else { unreachable!() };
        for known in unknown.gaps(afterimage_block::Extent::whole(Length::new(SIZE)).unwrap()) {
            let at = |offset: afterimage_block::Offset| usize::try_from(offset.get()).unwrap();
            let known = at(known.start())..at(known.end());
            prop_assert!(found[known.clone()] == made[known]);
        }
    }

    #[test]
    fn without_a_footer_all_is_unknown(steps in steps(), cut in any::<prop::sample::Index>()) {
        let folder = tempfile::tempdir().unwrap();
        let log = seal(&folder.path().join("log"), header(1, 1), &steps, ContentDigest::NONE);
        let bytes = std::fs::read(log.path()).unwrap();
        let cut = cut.index(bytes.len());
        std::fs::write(log.path(), &bytes[..cut]).unwrap();
        if cut < 128 {
            let error = salvage(log.path(), |_| Ok(())).unwrap_err();
            prop_assert!(matches!(error.cause(), Error::Damaged { .. }), "{}", error);
            return Ok(());
        }
        let (result, _) = salvaged(log.path());
        let whole = places(&steps).iter().filter(|place| place.end <= cut).count();
        prop_assert_eq!((result.records, result.lost), (whole as u64, None));
        let everything = matches!(result.unknown, Doubt::Everything { .. });
        prop_assert!(everything);
        let end = places(&steps).get(..whole).and_then(|places| places.last()).map_or(128, |place| place.end);
        prop_assert_eq!(result.gaps.len(), usize::from(cut > end));
    }

    #[test]
    fn a_log_that_is_whole_is_salvaged_whole(steps in steps()) {
        let folder = tempfile::tempdir().unwrap();
        let log = seal(&folder.path().join("log"), header(1, 1), &steps, ContentDigest::NONE);
        let (result, records) = salvaged(log.path());
        prop_assert_eq!(records.len(), steps.len());
        prop_assert!(result.unknown.is_nothing() && result.gaps.is_empty());
        prop_assert_eq!((result.lost, result.header), (Some(0), header(1, 1)));
    }
}

/// The records of a log that is stored on the disk do not pass for the log's own, whatever is lost.
#[test]
fn a_log_within_a_log_stays_data() {
    let folder = tempfile::tempdir().unwrap();
    let inner = [Step::Write(0, vec![1; 100]), Step::Write(50, vec![2; 100])];
    let other = afterimage_changelog::LogHeader {
        epoch: afterimage_block::Epoch::new(9),
        ..header(1, 1)
    };
    let inner = seal(
        &folder.path().join("inner"),
        other,
        &inner,
        ContentDigest::NONE,
    );
    let data = std::fs::read(inner.path()).unwrap();
    let steps = [Step::Write(7, data), Step::Write(9, vec![3; 10])];
    let log = seal(
        &folder.path().join("log"),
        header(1, 1),
        &steps,
        ContentDigest::NONE,
    );
    let mut bytes = std::fs::read(log.path()).unwrap();
    bytes[128] ^= 1;
    std::fs::write(log.path(), &bytes).unwrap();
    let (result, records) = salvaged(log.path());
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].change(), steps[1].change());
    assert_eq!(result.lost, Some(1));
}

/// A record that proves itself is still not believed twice, nor behind a later one.
#[test]
fn an_earlier_record_in_a_gap_is_not_played_again() {
    let folder = tempfile::tempdir().unwrap();
    let steps = [1, 2, 3].map(|value| Step::Write(0, vec![value; 100]));
    let log = seal(
        &folder.path().join("log"),
        header(1, 1),
        &steps,
        ContentDigest::NONE,
    );
    let mut bytes = std::fs::read(log.path()).unwrap();
    let places = places(&steps);
    bytes.copy_within(places[0].clone(), places[2].start);
    std::fs::write(log.path(), &bytes).unwrap();
    let (result, records) = salvaged(log.path());
    assert_eq!(records.len(), 2);
    assert_eq!(records[1].change(), steps[1].change());
    let extent = steps[2].change().unwrap().extent().unwrap();
    assert_eq!(result.unknown, Doubt::Extents(extent.into()));
}

#[test]
fn zeros_behind_an_open_log_are_no_gap() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let log = common::write(&path, header(1, 1), &[Step::Write(0, vec![1; 10])]);
    let end = log.length().get();
    drop(log);
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(end + 5_000_000).unwrap();
    let (result, records) = salvaged(&path);
    assert_eq!((records.len(), result.gaps.len()), (1, 0));
    std::os::unix::fs::FileExt::write_all_at(&file, b"x", end + 4_999_999).unwrap();
    let (result, _) = salvaged(&path);
    let gap = Gap {
        at: end,
        length: 5_000_000,
    };
    assert_eq!(result.gaps, [gap]);
}

/// Data full of what looks like the beginning of long records.
#[test]
fn data_that_looks_like_records_does_not_take_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let size = Length::mib(16);
    let large = afterimage_changelog::LogHeader {
        disk_size: size,
        ..header(1, 1)
    };
    let first = Step::Write(0, vec![1; 1 << 20]);
    let one = seal(
        &folder.path().join("one"),
        large,
        &[Step::Bookmark("0".into()), first],
        ContentDigest::NONE,
    );
    let decoy = std::fs::read(one.path()).unwrap()[177..177 + 48].to_vec();
    assert!(decoy.starts_with(b"AIRC"));
    let data = decoy.repeat((1 << 20) / 48);
    let small = |value| Step::Write(9, vec![value; 10]);
    let steps = [Step::Write(0, data), small(3), small(4)];
    let log = seal(
        &folder.path().join("log"),
        large,
        &steps,
        ContentDigest::NONE,
    );
    let mut bytes = std::fs::read(log.path()).unwrap();
    bytes[128] ^= 1;
    std::fs::write(log.path(), &bytes).unwrap();
    let (result, records) = salvaged(log.path());
    // 21 000 of them, each of a MiB, would be 21 GB to read. The search gives up, and what the index
    // names is found all the same: the last record, which is all that is left of the one before it.
    assert_eq!((result.lost, result.records), (Some(2), 1));
    assert_eq!(records[0].change(), steps[2].change());
    let first = steps[0].change().unwrap().extent().unwrap();
    let mut lost = ExtentSet::from(first);
    lost.remove(steps[2].change().unwrap().extent().unwrap());
    assert_eq!(result.unknown, Doubt::Extents(lost));
}
