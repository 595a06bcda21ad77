//! Any consecutive change logs merged into one, applied and taken back.
//!
//! Laws:
//!
//! - Merged, the logs make of a disk what they make of it one after the other, and each byte is in one
//!   record at most.
//! - What was merged can be merged with what follows, to the same file as merging all at once.
//! - Applied with one undo log and taken back, the logs leave the disk as it was, and so does the merged.
//! - As HRLs of one chain, merged, they do the same.

use std::path::Path;

use afterimage_block::{
    BlockRead, ContentDigest, DiskId, Epoch, Length, MemoryDisk, Sequence, Timestamp,
};
use afterimage_changelog::{
    ChangeLog, FileWriter, HrlId, HrlLog, HrlOptions, LogHeader, SealedLog, WriterOptions,
    apply_with_undo, merge, merge_hrl, to_hrl,
};
use arbitrary::Arbitrary;

use crate::changes::Step;
use crate::{head_and_parts, scratch};

const STEPS_MAX: usize = 48;

/// One step; one in four begins the next log.
#[derive(Arbitrary, Debug)]
struct Part {
    next: u8,
    step: Step,
}

/// Checks the laws on what `input` says.
pub fn check(input: &[u8]) {
    let Some((sectors, parts)) = head_and_parts::<u8, Part>(input, STEPS_MAX) else {
        return;
    };
    let folder = scratch();
    let size = Length::new((u64::from(sectors) + 1) * 512);
    let logs = logs(folder.path(), size, &parts);
    let all = merged(&logs, &folder.path().join("all"));

    let in_order = prepared_disk(size);
    for log in &logs {
        log.apply(&in_order).expect("it applies to its disk");
    }
    once(&all);
    if logs.len() > 2 {
        let two = merged(&logs[..2], &folder.path().join("two"));
        let rest: Vec<_> = [&[two], &logs[2..]].concat();
        let again = merged(&rest, &folder.path().join("again"));
        let bytes = |log: &SealedLog| std::fs::read(log.path()).expect("it is there");
        assert!(
            bytes(&all) == bytes(&again),
            "merged in parts it is another"
        );
    }
    taken_back(&folder.path().join("undo"), &[&all], &in_order);
    let each: Vec<_> = logs.iter().map(|log| log as &dyn ChangeLog).collect();
    taken_back(&folder.path().join("undo-each"), &each, &in_order);
    as_hrl(folder.path(), &logs, &in_order);
}

/// The same as logs of the other format.
fn as_hrl(folder: &Path, logs: &[SealedLog], after: &MemoryDisk) {
    let time = Timestamp::default();
    let chain = (1..).zip(logs).map(|(number, log)| {
        let id = |number| HrlId::from_bytes([number; 16]);
        let options = HrlOptions::new(id(number), time).following(id(number - 1));
        to_hrl(log, &folder.join(format!("{number}.hrl")), &options, time).expect("it has room")
    });
    let chain: Vec<_> = chain.collect();
    let (first, rest) = chain.split_first().expect("there is a log");
    let path = folder.join("hrl");
    merge_hrl(first, rest, &path, time).expect("they are a chain");
    let disk = prepared_disk(after.size());
    let merged = HrlLog::open(&path).expect("what is merged is sound");
    merged.apply(&disk).expect("it applies to its disk");
    assert!(
        disk.contents() == after.contents(),
        "not what they do in order"
    );
}

/// A log of each generation, each naming the one before.
fn logs(folder: &Path, size: Length, parts: &[Part]) -> Vec<SealedLog> {
    let mut logs: Vec<SealedLog> = Vec::new();
    let mut time = 0;
    for (generation, parts) in (1..).zip(parts.chunk_by(|_, next| next.next % 4 != 0)) {
        let path = folder.join(generation.to_string());
        let mut log = begin(&path, size, generation);
        for entry in parts.iter().filter_map(|part| part.step.entry(size)) {
            let Some(change) = entry.change().filter(|_| entry.fits(size)) else {
                continue;
            };
            time += 1;
            log.append(change, Timestamp::from_nanos(time))
                .expect("it lies on the disk");
        }
        let before = logs.last().map(|log| log.summary().content);
        let sealed = log.seal(before.unwrap_or(ContentDigest::NONE));
        logs.push(sealed.expect("a log can be sealed"));
    }
    if logs.is_empty() {
        let log = begin(&folder.join("1"), size, 1);
        logs.push(log.seal(ContentDigest::NONE).expect("a log can be sealed"));
    }
    logs
}

fn begin(path: &Path, disk_size: Length, generation: u64) -> FileWriter {
    let header = LogHeader {
        disk: DiskId::from_bytes([7; 16]),
        disk_size,
        epoch: Epoch::new(3),
        first: Sequence::new(generation),
        last: Sequence::new(generation),
        created: Timestamp::from_nanos(9),
    };
    FileWriter::create_new(path, header, WriterOptions::default()).expect("a log can be made")
}

/// The logs as one, found as anybody finds it who has only the file.
fn merged(logs: &[SealedLog], path: &Path) -> SealedLog {
    let (first, rest) = logs.split_first().expect("there is a log");
    let merged = merge(first, rest, path, WriterOptions::default()).expect("they are consecutive");
    let proved = SealedLog::open(path).expect("what is merged is sound");
    assert_eq!(proved.summary(), merged.summary());
    proved
}

fn once(log: &SealedLog) {
    let mut end = 0;
    log.records(|record| {
        let extent = record.header.extent.expect("only changes are merged");
        assert!(extent.start().get() >= end, "a byte is there twice");
        end = extent.end().get();
        Ok(())
    })
    .expect("it was proved");
}

fn taken_back(undo: &Path, logs: &[&dyn ChangeLog], after: &MemoryDisk) {
    let disk = prepared_disk(after.size());
    let before = disk.contents();
    let undo = begin(undo, after.size(), 1);
    let done = apply_with_undo(logs, &disk, undo).expect("it applies to its disk");
    assert!(
        disk.contents() == after.contents(),
        "not what they do in order"
    );
    done.undo.apply(&disk).expect("it applies to its disk");
    assert!(disk.contents() == before, "not taken back");
}

/// A disk on which zeros show.
fn prepared_disk(size: Length) -> MemoryDisk {
    MemoryDisk::with_contents(&vec![0xEE; size.to_usize().expect("it is small")])
}
