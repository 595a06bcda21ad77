//! The example `plan`, from logs to figures.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use afterimage_block::{Change, ContentDigest, DiskId, Epoch, Length, Offset, Sequence, Timestamp};
use afterimage_changelog::{
    FileWriter, HrlId, HrlOptions, HrlWriter, LogHeader, WriterOptions, open_log, to_hrl,
};
use serde_json::Value;

/// Ten minutes of a disk to which the same 4 KiB are written every 10 s, in a log.
fn record(path: &Path, disk: u8) {
    let header = LogHeader {
        disk: DiskId::from_bytes([disk; 16]),
        disk_size: Length::gib(1),
        epoch: Epoch::new(1),
        first: Sequence::new(1),
        last: Sequence::new(1),
        created: Timestamp::default(),
    };
    let mut log = FileWriter::create(path, header, WriterOptions::default()).unwrap();
    for write in 0..=60 {
        let change = Change::Write {
            offset: Offset::new(4096),
            data: &[disk; 4096],
        };
        let time = Timestamp::from_nanos(1_700_000_000_000_000_000 + write * 10_000_000_000);
        log.append(change, time).unwrap();
    }
    log.seal(ContentDigest::NONE).unwrap();
}

fn run(arguments: &[&str]) -> anyhow::Result<String> {
    let arguments = std::iter::once("plan").chain(arguments.iter().copied());
    let mut out = Vec::new();
    examples::plan::run(arguments.map(Into::into), &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

fn json(arguments: &[&str]) -> Value {
    let arguments = [&["--json"], arguments].concat();
    serde_json::from_str(&run(&arguments).unwrap()).unwrap()
}

#[test]
fn figures_are_those_of_the_logs() {
    let folder = tempfile::tempdir().unwrap();
    let logs = [1, 2].map(|disk| {
        let path = folder.path().join(disk.to_string());
        record(&path, disk);
        path.to_str().unwrap().to_owned()
    });
    let logs = [logs[0].as_str(), logs[1].as_str()];
    let found = json(&[&logs[..], &["--interval", "1m,15m"]].concat());
    assert_eq!(found["recorded"]["changes"], 122);
    assert_eq!(found["recorded"]["disks_bytes"], 2_u64 << 30);
    let plans = found["plans"].as_array().unwrap();
    assert_eq!(plans.len(), 1, "a quarter of an hour was not recorded");
    let plan = &plans[0];
    assert_eq!(
        (&plan["interval_secs"], &plan["keeps_up"]),
        (&60.0.into(), &true.into())
    );
    // Of each disk one record of 4 KiB, the file's frame aside.
    assert_eq!(
        plan["sent_bytes"]["max"],
        2.0 * (4096.0 + 48.0 + 32.0 + 288.0)
    );
    assert!(plan["logged_bytes"]["max"].as_f64() > plan["sent_bytes"]["max"].as_f64());
    let totals: Vec<_> = plan["month"]["bills"].as_array().unwrap().iter().collect();
    let total = |number: usize| totals[number]["total"].as_f64().unwrap();
    assert_eq!(totals.len(), 3);
    assert!((total(2) / total(0) - 10_000.0).abs() < 1.0);
    let free = json(
        &[
            &logs[..],
            &[
                "--price-puts",
                "0",
                "--price-gets",
                "0",
                "--price-held",
                "0",
            ],
        ]
        .concat(),
    );
    assert_eq!(free["plans"][0]["month"]["bills"][0]["total"], 0.0);
    assert!(run(&logs).unwrap().contains("10000 machines"));
}

#[test]
fn either_format_comes_to_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let (native, hrl) = (folder.path().join("native"), folder.path().join("hrl"));
    record(&native, 1);
    let options = HrlOptions::new(HrlId::random(), Timestamp::default());
    to_hrl(
        &open_log(&native).unwrap(),
        &hrl,
        &options,
        Timestamp::default(),
    )
    .unwrap();
    let native = json(&[native.to_str().unwrap()]);
    let found = json(&[hrl.to_str().unwrap(), "--disk-size", "1GiB"]);
    assert_eq!(native, found);
    let of_its_reach = json(&[hrl.to_str().unwrap()]);
    assert_eq!(of_its_reach["recorded"]["disks_bytes"], 8192);
}

#[test]
fn what_cannot_be_reckoned_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty");
    let options = HrlOptions::new(HrlId::random(), Timestamp::default());
    HrlWriter::create(&empty, &options)
        .unwrap()
        .close(Timestamp::default())
        .unwrap();
    let log = folder.path().join("log");
    record(&log, 1);
    for (arguments, said) in [
        (vec![empty.to_str().unwrap()], "no changes"),
        (
            vec![log.to_str().unwrap(), "--interval", "15m"],
            "less than an interval",
        ),
        (vec![log.to_str().unwrap(), "--interval", "0s"], "1s to 15m"),
        (vec!["/nowhere"], "/nowhere"),
    ] {
        let error = format!("{:#}", run(&arguments).unwrap_err());
        assert!(error.contains(said), "{error}");
    }
}
