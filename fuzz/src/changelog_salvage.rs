//! Damaged bytes as a change log to be salvaged.
//!
//! The first byte of the input says whether the rest is given valid checksums, and in how many places
//! it is damaged then: each takes three bytes of the input. Laws:
//!
//! - What is salvaged begins with what recovery finds; records and gaps lie one behind the other and
//!   leave nothing out but a footer and zeros.
//! - A sealed log that opens is salvaged whole, and nothing of it is unknown.
//! - Of such a log that was damaged afterwards no record is salvaged that it did not have, and those
//!   that are make of a disk what the whole log makes of it, but for what is said to be unknown.

use std::path::Path;

use afterimage_block::{Doubt, Length, MemoryDisk};
use afterimage_changelog::{
    Error, LogHeader, Record, Result, Salvaged, SealedLog, recover_with, salvage_with,
};

use crate::reseal::reseal;
use crate::{keys, scratch};

/// Disks up to this size are made, and logs applied to them.
const DISK_MAX: u64 = 1 << 20;

/// Checks the laws on `input`.
pub fn check(input: &[u8]) {
    let Some((mode, rest)) = input.split_first() else {
        return;
    };
    let places = usize::from(mode >> 1) % 4;
    let Some((damage, log)) = rest.split_at_checked(3 * places) else {
        return;
    };
    let mut log = log.to_vec();
    if mode % 2 == 1 {
        reseal(&mut log);
    }
    let folder = scratch();
    let path = folder.path().join("log");
    std::fs::write(&path, &log).expect("a file can be written");
    let before = sound(&path);
    if before.is_some() && places == 0 {
        let (found, records) = salvaged(&path).expect("a sound log has a header");
        assert!(found.gaps.is_empty() && found.unknown.is_nothing());
        assert_eq!((found.lost, before.as_ref()), (Some(0), Some(&records)));
    }
    for place in damage.chunks_exact(3) {
        flip(&mut log, place);
    }
    std::fs::write(&path, &log).expect("a file can be written");
    let Some((found, records)) = salvaged(&path) else {
        assert!(recover_with(&path, &keys(), |_| Ok(())).is_err());
        return;
    };
    in_order(&found, &records, log.len() as u64);
    begins_with_recovered(&path, &records);
    if let Some(before) = &before {
        assert!(records.iter().all(|record| before.contains(record)));
        agrees(&found, &records, before);
    }
}

/// The records of the log at `path`, if it is sealed and sound.
fn sound(path: &Path) -> Option<Vec<Record>> {
    let log = SealedLog::open_with(path, &keys()).ok()?;
    let mut records = Vec::new();
    log.records(keep(&mut records)).expect("it was proved");
    Some(records)
}

fn keep(records: &mut Vec<Record>) -> impl FnMut(&Record) -> Result<()> {
    |record| {
        records.push(record.clone());
        Ok(())
    }
}

/// Flips some bits of one byte.
fn flip(log: &mut [u8], place: &[u8]) {
    let length = log.len().max(1);
    let [low, high, bits] = *place else { return };
    let at = usize::from(u16::from_le_bytes([low, high])) % length;
    if let Some(byte) = log.get_mut(at) {
        *byte ^= bits;
    }
}

fn salvaged(path: &Path) -> Option<(Salvaged, Vec<Record>)> {
    let mut records = Vec::new();
    match salvage_with(path, &keys(), keep(&mut records)) {
        Ok(found) => Some((found, records)),
        Err(error) => {
            assert!(!matches!(error.cause(), Error::Io { .. }), "{error}");
            None
        }
    }
}

fn in_order(found: &Salvaged, records: &[Record], length: u64) {
    assert_eq!(found.records, records.len() as u64);
    let runs = records.iter().map(|record| (record.at, record.length()));
    let gaps = found.gaps.iter().map(|gap| (gap.at, gap.length));
    let mut runs: Vec<_> = runs.chain(gaps).collect();
    runs.sort_unstable();
    let mut end = LogHeader::LEN as u64;
    for (at, length) in runs {
        assert!(at == end && length > 0, "something is left out, or twice");
        end += length;
    }
    assert!(end <= length, "more than there is");
    let lsns = records.iter().map(|record| record.header.lsn);
    assert!(lsns.is_sorted_by(|one, next| one < next));
}

fn begins_with_recovered(path: &Path, records: &[Record]) {
    let mut whole = Vec::new();
    recover_with(path, &keys(), keep(&mut whole)).expect("the header is whole");
    assert!(records.starts_with(&whole));
}

/// Outside of what is unknown the disk is as if nothing had been lost.
fn agrees(found: &Salvaged, records: &[Record], before: &[Record]) {
    let size = found.header.disk_size;
    let Doubt::Extents(unknown) = &found.unknown else {
        return;
    };
    if size.get() > DISK_MAX {
        return;
    }
    let disk = |records: &[Record]| {
        let disk = MemoryDisk::with_contents(&vec![0xEE; size.to_usize().expect("it is small")]);
        for change in records.iter().filter_map(Record::change) {
            change.apply_to(&disk).expect("it lies on the disk");
        }
        for extent in unknown.iter() {
            let length = extent.length().to_usize().expect("it is small");
            let zeros = afterimage_block::Change::Write {
                offset: extent.start(),
                data: &vec![0; length],
            };
            zeros.apply_to(&disk).expect("it lies on the disk");
        }
        disk.contents()
    };
    assert!(disk(records) == disk(before), "what is lost is unknown");
    assert!(Length::new(found.lost.unwrap_or(0)) <= Length::new(before.len() as u64));
}
