//! HRLs of one chain, merged into one.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;

use afterimage_block::{Change, ExtentSet, Offset, Timestamp};
use afterimage_changelog::{ChangeLog, Error, HrlId, HrlLog, HrlOptions, HrlWriter, merge_hrl};
use common::{Step, contents_after, disk, steps};
use proptest::prelude::*;

fn id(number: u8) -> HrlId {
    HrlId::from_bytes([number; 16])
}

/// In seconds of the format.
fn time(seconds: u64) -> Timestamp {
    Timestamp::from_nanos((1_486_527_181 + seconds) * 1_000_000_000)
}

fn log(folder: &Path, number: u8, steps: &[Step]) -> HrlLog {
    let mut options = HrlOptions::new(id(number), time(number.into())).following(id(number - 1));
    options.data_write_guid = id(100 + number);
    let path = folder.join(format!("{number}.hrl"));
    let mut log = HrlWriter::create(&path, &options).unwrap();
    for change in steps.iter().filter_map(Step::change) {
        log.append(change, time(number.into())).unwrap();
    }
    log.close(time(200)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn merging_is_applying_in_order(generations in prop::collection::vec(steps(), 1..6)) {
        let folder = tempfile::tempdir().unwrap();
        let logs: Vec<_> = (1..).zip(&generations).map(|(number, steps)| log(folder.path(), number, steps)).collect();
        let path = folder.path().join("merged");
        merge_hrl(&logs[0], &logs[1..], &path, time(300)).unwrap();
        // As anybody finds it, who has only the file.
        let merged = HrlLog::open(&path).unwrap();
        let disk = disk();
        merged.apply(&disk).unwrap();
        prop_assert!(disk.contents() == contents_after(generations.iter().flatten()));

        let all: ExtentSet = logs.iter().flat_map(|log| log.extents().unwrap()).collect();
        let mut end = Offset::ZERO;
        merged.entries(|record| {
            let extent = record.entry.extent().unwrap();
            assert!(extent.start() >= end, "each byte once, in order");
            assert!(record.entry.data_checksum.is_some());
            end = extent.end();
            Ok(())
        }).unwrap();
        prop_assert_eq!(merged.extents().unwrap().into_iter().collect::<ExtentSet>(), all.clone());
        prop_assert_eq!(merged.summary().payload, all.total());
    }
}

#[test]
fn the_merged_log_takes_the_place_of_the_others_in_the_chain() {
    let folder = tempfile::tempdir().unwrap();
    let write = |value: u8| [Step::Write(u64::from(value) * 10, vec![value; 15])];
    let logs: Vec<_> = (1..=4)
        .map(|number| log(folder.path(), number, &write(number)))
        .collect();
    let path = folder.path().join("merged");
    let merged = merge_hrl(&logs[1], &logs[2..3], &path, time(300)).unwrap();
    merged.check_follows(&logs[0]).unwrap();
    logs[3].check_follows(&merged).unwrap();
    let header = merged.header();
    assert_eq!(header.data_write_guid, Some(id(103)));
    assert_eq!(Timestamp::from(header.created), time(2));
    let mut times = Vec::new();
    merged
        .changes(&mut |time, change| {
            if let Change::Write { offset, data } = change {
                times.push((offset.get(), data.to_vec(), time));
            }
            Ok(())
        })
        .unwrap();
    let expected = [(20, vec![2; 10], time(2)), (30, vec![3; 15], time(3))];
    assert_eq!(times, expected);
}

#[test]
fn logs_of_no_chain_are_refused_and_no_file_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let write = [Step::Write(0, vec![1; 10])];
    let logs: Vec<_> = (1..=3)
        .map(|number| log(folder.path(), number, &write))
        .collect();
    let path = folder.path().join("merged");
    for rest in [&logs[2..], &logs[..1]] {
        let error = merge_hrl(&logs[0], rest, &path, time(300)).unwrap_err();
        assert!(matches!(error, Error::NotConsecutive { .. }), "{error}");
        assert!(!path.exists());
    }
    let before = std::fs::read(logs[2].path()).unwrap();
    merge_hrl(&logs[0], &logs[1..2], logs[2].path(), time(300)).unwrap_err();
    assert!(std::fs::read(logs[2].path()).unwrap() == before);

    // A log that lost its data meanwhile leaves nothing half done.
    std::fs::File::options()
        .write(true)
        .open(logs[1].path())
        .unwrap()
        .set_len(9000)
        .unwrap();
    let long = std::fs::metadata(logs[0].path()).unwrap().len();
    assert!(long > 9000);
    merge_hrl(&logs[0], &logs[1..2], &path, time(300)).unwrap_err();
    assert!(!path.exists());
}
