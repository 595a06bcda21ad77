//! A writer that is killed: what it said was durable is there.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use afterimage_block::{Change, DiskId, Epoch, Length, Offset, Sequence, Timestamp};
use afterimage_changelog::{FileWriter, LogHeader, WriterOptions, recover};

/// Names the log that the child is to write.
const LOG: &str = "AFTERIMAGE_KILL_LOG";
/// How many children are killed.
const KILLS: &str = "AFTERIMAGE_KILLS";
const SIZE: u64 = 1 << 20;

/// What record `number` is: to where, and which bytes.
fn write(number: u64) -> (Offset, Vec<u8>) {
    let length = 1 + number * 7919 % 6000;
    let bytes = (0..length).map(|at| (number * 31 + at).to_le_bytes()[0]);
    (Offset::new(number * 4099 % (SIZE - 6000)), bytes.collect())
}

/// The child: appends batches until it is killed, and says how many records are durable.
#[test]
#[ignore = "started and killed by the other test"]
fn appends_until_it_is_killed() {
    let Some(path) = std::env::var_os(LOG).map(PathBuf::from) else {
        // Somebody asked for all that is ignored.
        return;
    };
    let header = LogHeader {
        disk: DiskId::from_bytes(*b"disk of the test"),
        disk_size: Length::new(SIZE),
        epoch: Epoch::new(1),
        first: Sequence::new(1),
        last: Sequence::new(1),
        created: Timestamp::default(),
    };
    let options = WriterOptions::default().with_reserve(Length::kib(256));
    let mut log = FileWriter::create(&path, header, options).unwrap();
    let mut out = std::io::stdout();
    for round in 0.. {
        let first = log.records();
        let writes: Vec<_> = (first..first + 1 + round % 9).map(write).collect();
        let changes = writes.iter().map(|(offset, data)| {
            let offset = *offset;
            (Change::Write { offset, data }, Timestamp::default())
        });
        let changes: Vec<_> = changes.collect();
        if round % 3 == 0 {
            log.append_batch(&changes).unwrap();
        } else {
            for (change, time) in &changes {
                log.append(*change, *time).unwrap();
            }
        }
        log.sync().unwrap();
        // Over the quota of patience: the other test has died.
        assert!(log.length() < Length::mib(256), "nobody kills this");
        writeln!(out, "\ndurable {}", log.records()).unwrap();
    }
}

/// Starts a child, kills it after `acknowledgements` and `pause`; how many records it said are
/// durable.
fn kill_one(path: &Path, acknowledgements: usize, pause: Duration) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "appends_until_it_is_killed",
            "--ignored",
            "--nocapture",
        ])
        .env(LOG, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut said = lines.filter_map(|line| line.ok()?.strip_prefix("durable ")?.parse().ok());
    let early = said.by_ref().take(acknowledgements).last();
    std::thread::sleep(pause);
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(9)
    );
    // What it said before it was killed is still in the pipe.
    said.last().or(early).expect("the child said something")
}

#[test]
fn what_was_durable_is_there_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let kills = std::env::var(KILLS).map_or(20, |kills| kills.parse().unwrap());
    let mut random = 0x2545_F491_4F6C_DD1D_u64;
    for _ in 0..kills {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let acknowledgements = usize::try_from(1 + random % 20).unwrap();
        let pause = Duration::from_micros(random % 3000);
        let durable = kill_one(&path, acknowledgements, pause);
        let mut number = 0;
        let recovered = recover(&path, |record| {
            let (offset, data) = write(number);
            let expected = Change::Write {
                offset,
                data: &data,
            };
            assert_eq!(record.change(), Some(expected), "record {number}");
            number += 1;
            Ok(())
        });
        assert!(
            recovered.unwrap().records >= durable,
            "{durable} were durable"
        );
    }
}
