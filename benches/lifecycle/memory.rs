//! The memory that a machine's life takes, in processes of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use afterimage::block::{BlockWrite, Length, Offset, RawDisk};
use afterimage::{Failover, PointSelector, fail_over};
use benches::Noise;
use tokio::runtime::Runtime;

use crate::machine::{Running, replica};

const DISK: Length = Length::gib(8);
/// A piece of data in every stretch of this length.
const STRETCH: usize = 8 << 20;
const PIECE: usize = 1 << 20;
/// The most that any part of a machine's life may take.
const LIMIT_KIB: u64 = 128 << 10;
/// Says what a child is to do, and where.
const TASK: &str = "AFTERIMAGE_BENCH_MEMORY_TASK";
const PLACE: &str = "AFTERIMAGE_BENCH_MEMORY_FOLDER";

/// Whether this process is there to be measured.
pub(crate) fn is_child() -> bool {
    std::env::var_os(TASK).is_some()
}

/// Does its task and prints the most memory that it ever took, in KiB.
pub(crate) fn child(runtime: &Runtime) {
    let folder = PathBuf::from(std::env::var_os(PLACE).expect("a folder"));
    let task = std::env::var(TASK).expect("a task");
    match task.as_str() {
        "failover" => runtime.block_on(failover(&folder)),
        task => runtime.block_on(protect(&folder, task)),
    }
    println!("{}", peak_kib());
}

async fn protect(folder: &Path, task: &str) {
    let mut machine = Running::start(folder, &folder.join("root.raw")).await;
    if task == "initial" {
        machine.first_point(Instant::now()).await;
    } else {
        machine.delta(64 << 20, 4 << 10).await;
    }
    machine.stop().await;
}

async fn failover(folder: &Path) {
    let (how, point) = (Failover::Test, PointSelector::Latest);
    let out = folder.join("out");
    let done = fail_over(&replica(folder).await, how, point, &out, |_, _| ()).await;
    done.expect("a failover");
}

fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kib.and_then(|kib| kib.parse().ok()).expect("a peak")
}

/// Runs a part of the life of a machine with a disk of 8 GiB that holds 1 GiB in a process of its
/// own, one after the other, and checks what each took.
pub(crate) fn measure() {
    let folder = benches::folder();
    let image = folder.path().join("root.raw");
    make(&image);
    println!(
        "\npeak memory, disk of 8 GiB with 1 GiB of data (limit {} MiB)",
        LIMIT_KIB >> 10
    );
    for (task, what) in [
        ("initial", "first replication"),
        ("delta", "a delta of 64 MiB in writes of 4 KiB"),
        ("failover", "failover"),
    ] {
        if task == "failover" {
            // Makes room for the image that takes its place.
            fs::remove_file(&image).expect("the disk just made");
        }
        let peak = run(task, folder.path());
        println!(
            "{what:<44} {:>7.1} MiB",
            f64::from(u32::try_from(peak).unwrap_or(u32::MAX)) / 1024.0
        );
        assert!(peak < LIMIT_KIB, "{what} takes {peak} KiB");
    }
}

fn make(image: &Path) {
    let disk = RawDisk::create(image, DISK).expect("a disk");
    let mut noise = Noise::default();
    for start in (0..DISK.get()).step_by(STRETCH) {
        let data = noise.bytes(PIECE);
        disk.write_at(Offset::new(start), &data)
            .expect("room for a disk");
    }
}

fn run(task: &str, folder: &Path) -> u64 {
    let program = std::env::current_exe().expect("this program");
    let mut child = Command::new(program);
    let output = child
        .env(TASK, task)
        .env(PLACE, folder)
        .output()
        .expect("a child");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{task}: {errors}");
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().expect("a number of KiB")
}
