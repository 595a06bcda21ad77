//! Any bytes as a Hyper-V Replica log.
//!
//! The first byte of the input says whether the rest is read as it is or given valid checksums
//! first. Laws:
//!
//! - A log that opens holds what its summary and header say, and the data of each entry lies in the
//!   file, one behind the other.
//! - Its index is disjoint, in order, and applies as the entries do in theirs; a disk that it does not
//!   fit is not touched.
//! - Converted to the native format it changes the same bytes.
//! - Salvage finds all of a log that opens, and of any other only what lies in the file, apart from
//!   the gaps that it names.

use std::path::Path;

use afterimage_block::{
    Change, ContentDigest, DiskId, Epoch, Extent, Length, MemoryDisk, Sequence, Timestamp,
};
use afterimage_changelog::{
    ChangeLog, Error, HrlLog, HrlRecord, LogHeader, WriterOptions, to_native,
};

use crate::reseal::reseal_hrl;
use crate::scratch;

/// Disks up to this size are made, and logs applied to them.
const DISK_MAX: u64 = 1 << 20;
const SECTOR: usize = 512;
/// Where the first data or metadata can be.
const BODY: u64 = 4096;

/// Checks the laws on `input`.
pub fn check(input: &[u8]) {
    let Some((mode, log)) = input.split_first() else {
        return;
    };
    let mut log = log.to_vec();
    if mode % 2 == 1 {
        reseal_hrl(&mut log);
    }
    let folder = scratch();
    let path = folder.path().join("log");
    std::fs::write(&path, &log).expect("a file can be written");
    let length = log.len() as u64;
    let opened = HrlLog::open(&path).ok();
    if let Some(log) = &opened {
        let entries = entries(log, length);
        assert_eq!(log.header().entries, entries.len() as u64);
        applied(log, &entries);
        converted(log, folder.path());
    }
    salvaged(&path, length, opened.as_ref());
}

/// The entries, which are what the summary says and lie one behind the other in `length` bytes.
fn entries(log: &HrlLog, length: u64) -> Vec<HrlRecord> {
    let mut entries: Vec<HrlRecord> = Vec::new();
    log.entries(|record| {
        entries.push(record);
        Ok(())
    })
    .expect("what was proved is there");
    let mut end = BODY;
    let mut payload = Length::ZERO;
    for record in &entries {
        assert!(record.data_at >= end, "data is read twice");
        end = record.data_at + record.entry.data_length().get();
        assert!(end <= length && record.at < length, "behind the file");
        payload = payload.saturating_add(record.entry.data_length());
    }
    let summary = log.summary();
    assert_eq!(summary.entries, entries.len() as u64);
    assert_eq!(summary.payload, payload);
    assert!(summary.checksummed <= summary.entries);
    entries
}

fn applied(log: &HrlLog, entries: &[HrlRecord]) {
    let index = log.index().expect("what was proved is there");
    let mut end = 0;
    for piece in &index {
        assert!(piece.extent.start().get() >= end, "the index overlaps");
        end = piece.extent.end().get();
    }
    let reach = entries.iter().filter_map(|record| record.entry.extent());
    let reach = reach.map(|extent| extent.end().get()).max();
    assert_eq!(end, reach.unwrap_or(0));
    if end > DISK_MAX {
        return;
    }
    let size = usize::try_from(end).expect("it is small");
    let size = size.next_multiple_of(SECTOR);
    let disk = |size| MemoryDisk::with_contents(&vec![0xEE; size]);
    let (by_index, in_order) = (disk(size), disk(size));
    log.apply(&by_index).expect("a log that fits applies");
    log.changes(&mut |_, change| Ok(change.apply_to(&in_order)?))
        .expect("it lies on the disk");
    assert!(by_index.contents() == in_order.contents());
    if let Some(short) = size.checked_sub(SECTOR) {
        let short = disk(short);
        let refused = log.apply(&short).expect_err("it ends behind the disk");
        assert!(matches!(refused.cause(), Error::OutOfRange { .. }));
        assert!(short.contents().iter().all(|byte| *byte == 0xEE));
    }
}

/// What each change leaves behind, neighbours of one entry put together.
fn changes(log: &dyn ChangeLog) -> Vec<(u64, Vec<u8>)> {
    let mut changes = Vec::new();
    log.changes(&mut |_, change| {
        if let Change::Write { offset, data } = change {
            changes.push((offset.get(), data.to_vec()));
        }
        Ok(())
    })
    .expect("what was proved is there");
    changes
}

fn converted(log: &HrlLog, folder: &Path) {
    let end = log.extents().expect("what was proved is there");
    let end = end.last().map_or(0, |extent: &Extent| extent.end().get());
    let Some(size) = end.max(1).checked_next_multiple_of(512) else {
        return;
    };
    let header = LogHeader {
        disk: DiskId::from_bytes([7; 16]),
        disk_size: Length::new(size),
        epoch: Epoch::new(1),
        first: Sequence::new(1),
        last: Sequence::new(1),
        created: Timestamp::default(),
    };
    let path = folder.join("native");
    let options = WriterOptions::default();
    let native = to_native(log, &path, header, options, ContentDigest::NONE);
    let native = native.expect("it lies on the disk");
    assert!(changes(&native) == changes(log));
}

fn salvaged(path: &Path, length: u64, opened: Option<&HrlLog>) {
    let Ok(found) = HrlLog::salvage(path) else {
        assert!(opened.is_none(), "a log that opens can be salvaged");
        return;
    };
    let kept = entries(&found.log, length);
    let mut end = BODY;
    for gap in &found.gaps {
        assert!(gap.at >= end && gap.length > 0, "gaps overlap");
        end = gap.at + gap.length;
        let apart = |record: &HrlRecord| {
            let data_end = record.data_at + record.entry.data_length().get();
            data_end <= gap.at || record.data_at >= end
        };
        assert!(kept.iter().all(apart), "what is proved is no gap");
    }
    if let Some(opened) = opened {
        assert_eq!(found.log.summary(), opened.summary());
        assert!(found.gaps.is_empty() && found.rejected.is_empty());
        assert!(found.unknown.is_nothing());
    }
}
