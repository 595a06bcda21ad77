//! A machine's life beside plain copies: first replication, a delta, a failover, and the memory that
//! they take.
//!
//! *First replication* of an image of 1 GiB, half noise, a quarter written zeros and a quarter holes,
//! from the start of the protection to the first recovery point in a local folder; *failover* of its
//! latest point to an image, also after a delta of small random writes; both beside a durable
//! `cp --sparse=always` of the image. *A delta* of 64 MiB of random writes, from its barrier to its
//! recovery point, beside a durable `cp` of as much. The bare SHA-256 on all cores of what is not zeros
//! is the other limit: nothing is stored or restored here without a digest, and `cp` computes none.
//! *Memory* is the peak (VmHWM) of processes of their own, asserted: their disk has 8 GiB and holds 1.
//!
//! Cases are measured in turn, A B A B, on tmpfs unless `AFTERIMAGE_BENCH_FOLDER` names another folder.
//! `cargo bench -p benches --bench lifecycle -- failover` measures one of `initial`, `delta`, `failover`
//! and `memory`.
//!
//! # Figures
//!
//! Speed as a multiple of `cp`'s: medians of 5 rounds, median (and range) of four to eight runs on 2
//! cores that others used as well, tmpfs, 2026-11-24, `cargo bench -p benches --bench lifecycle`. `cp`
//! uses one core, so that these depend on what the other one does meanwhile.
//!
//! | | |
//! | --- | --- |
//! | first replication | 1.06 (0.67-1.24) |
//! | delta in writes of 4 KiB | 0.29 (0.24-0.38) |
//! | delta in writes of 64 KiB | 0.26 (0.15-0.56) |
//! | failover | 0.68 (0.51-1.19) |
//! | failover after a delta of 64 MiB in writes of 4 KiB | 0.30 (0.21-0.40) |
//!
//! Peak memory: 27 MiB for the first replication, 38 MiB for a delta of 64 MiB in writes of 4 KiB, 48
//! MiB for a failover; the most of two runs.

mod machine;
mod memory;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use afterimage::block::{BlockWrite, Length, Offset, RawDisk};
use afterimage::{Failover, PointSelector, TestResult, clean_up, fail_over};
use benches::{Noise, Paired};
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;

use machine::{Running, replica};

const DISK: Length = Length::gib(1);
/// The image repeats: two parts noise, one part written zeros, one part hole.
const PART: usize = 1 << 20;
/// What is digested at a time.
const BLOCK: usize = 64 << 10;
/// What the image holds that is not zeros.
const NOISE: usize = 512 << 20;
const DELTA: usize = 64 << 20;
const ROUNDS: usize = 5;

/// An image of which half is noise, a quarter written zeros and a quarter holes.
fn image(folder: &Path) -> PathBuf {
    let path = folder.join("root.raw");
    let disk = RawDisk::create(&path, DISK).expect("a disk");
    let mut noise = Noise::default();
    for start in (0..DISK.get()).step_by(4 * PART) {
        let write = |part: usize, data: &[u8]| {
            let at = Offset::new(start + (part * PART) as u64);
            disk.write_at(at, data).expect("room for a disk");
        };
        write(0, &noise.bytes(2 * PART));
        write(2, &vec![0; PART]);
    }
    path
}

fn timed(run: impl FnOnce()) -> Duration {
    let started = Instant::now();
    run();
    started.elapsed()
}

/// Copies a file durably, as a replica is.
fn copy(from: &Path, to: &Path) -> Duration {
    let elapsed = timed(|| {
        let mut copy = Command::new("cp");
        let copied = copy.arg("--sparse=always").args([from, to]).status();
        assert!(copied.expect("cp").success(), "cp failed");
        let copy = File::open(to).and_then(|copy| copy.sync_all());
        copy.expect("a durable copy");
    });
    fs::remove_file(to).expect("the copy just made");
    elapsed
}

/// Reads a file, digests what of it is not zeros and writes that plainly, on all cores, durably: what a
/// copy that can be proved must do, or one that is proved.
fn copy_proved(from: &Path, to: &Path) -> Duration {
    let elapsed = timed(|| {
        let (from, copy) = (File::open(from), File::create(to));
        let (from, copy) = (from.expect("the image"), copy.expect("room for a file"));
        copy.set_len(DISK.get()).expect("a sparse file");
        let next = AtomicU64::new(0);
        thread::scope(|scope| {
            for _ in 0..threads() {
                scope.spawn(|| copy_parts(&from, &copy, &next));
            }
        });
        copy.sync_all().expect("a durable copy");
    });
    fs::remove_file(to).expect("the copy just made");
    elapsed
}

/// Copies the parts from `next` on until none is left.
fn copy_parts(from: &File, to: &File, next: &AtomicU64) {
    let mut part = vec![0; PART];
    loop {
        let at = next.fetch_add(PART as u64, Ordering::Relaxed);
        if at >= DISK.get() {
            return;
        }
        from.read_exact_at(&mut part, at).expect("a readable image");
        for (block, at) in part.chunks(BLOCK).zip((at..).step_by(BLOCK)) {
            if block.iter().any(|byte| *byte != 0) {
                std::hint::black_box(Sha256::digest(block));
                to.write_all_at(block, at).expect("room for a block");
            }
        }
    }
}

fn threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Digests `length` bytes in blocks of 64 KiB on all cores: no replica that can be proved is cheaper.
fn digest(length: usize) -> Duration {
    let data = Noise::default().bytes(16 << 20);
    timed(|| {
        thread::scope(|scope| {
            for _ in 0..threads() {
                scope.spawn(|| {
                    let blocks = data.chunks(BLOCK).cycle();
                    for block in blocks.take(length / threads() / BLOCK) {
                        std::hint::black_box(Sha256::digest(block));
                    }
                });
            }
        });
    })
}

/// Protects the machine until its first recovery point is there.
fn replicate(runtime: &Runtime, folder: &Path, image: &Path) -> Duration {
    let (elapsed, machine) = runtime.block_on(async {
        let started = Instant::now();
        let mut machine = Running::start(folder, image).await;
        (machine.first_point(started).await, machine)
    });
    runtime.block_on(machine.stop());
    machine::forget(folder);
    elapsed
}

fn initial_replication(runtime: &Runtime) {
    let folder = benches::folder();
    let image = image(folder.path());
    let to = folder.path().join("copy");
    Paired::new("first replication of 1 GiB, half of it zeros", DISK.get())
        .case("limit: cp --sparse=always", || copy(&image, &to))
        .case("limit: and its SHA-256, all cores", || {
            copy_proved(&image, &to)
        })
        .case("limit: bare SHA-256, all cores", || digest(NOISE))
        .case("Protection::start to recovery point", || {
            replicate(runtime, folder.path(), &image)
        })
        .run(ROUNDS);
}

fn delta(runtime: &Runtime) {
    let folder = benches::folder();
    let image = image(folder.path());
    let written = folder.path().join("written");
    fs::write(&written, Noise::default().bytes(DELTA)).expect("room for a file");
    let to = folder.path().join("copy");
    let mut machine = runtime.block_on(async {
        let mut machine = Running::start(folder.path(), &image).await;
        machine.first_point(Instant::now()).await;
        machine
    });
    for length in [4 << 10, 64 << 10] {
        let title = format!("a delta of 64 MiB in writes of {} KiB", length >> 10);
        Paired::new(title, DELTA as u64)
            .case("limit: cp", || copy(&written, &to))
            .case("limit: bare SHA-256, all cores", || digest(DELTA))
            .case("barrier to recovery point", || {
                runtime.block_on(machine.delta(DELTA, length))
            })
            .run(ROUNDS);
    }
    runtime.block_on(machine.stop());
}

/// Fails over to the latest point and removes the images again.
fn fail_over_to_test(runtime: &Runtime, folder: &Path) -> Duration {
    let out = folder.join("out");
    let elapsed = timed(|| {
        runtime.block_on(async {
            let (how, point) = (Failover::Test, PointSelector::Latest);
            let replica = replica(folder).await;
            let done = fail_over(&replica, how, point, &out, |_, _| ()).await;
            done.expect("a failover");
        });
    });
    runtime.block_on(async {
        let replica = replica(folder).await;
        let cleaned = clean_up(&replica, Some(&out), TestResult::Succeeded, "").await;
        cleaned.expect("the images just made");
    });
    elapsed
}

fn failover(runtime: &Runtime) {
    let folder = benches::folder();
    let image = image(folder.path());
    let to = folder.path().join("copy");
    let compare = |title: &str| {
        Paired::new(title, DISK.get())
            .case("limit: cp --sparse=always", || copy(&image, &to))
            .case("limit: and its SHA-256, all cores", || {
                copy_proved(&image, &to)
            })
            .case("limit: bare SHA-256, all cores", || digest(NOISE))
            .case("fail_over", || fail_over_to_test(runtime, folder.path()))
            .run(ROUNDS);
    };
    let mut machine = runtime.block_on(async {
        let mut machine = Running::start(folder.path(), &image).await;
        machine.first_point(Instant::now()).await;
        machine
    });
    compare("failover of 1 GiB, half of it zeros");
    runtime.block_on(machine.delta(DELTA, 4 << 10));
    compare("failover of 1 GiB after a delta of 64 MiB in writes of 4 KiB");
    runtime.block_on(machine.stop());
}

fn main() {
    let runtime = Runtime::new().expect("a runtime");
    if memory::is_child() {
        return memory::child(&runtime);
    }
    let filter = benches::filter();
    let benches: [(&str, &dyn Fn()); 4] = [
        ("initial", &|| initial_replication(&runtime)),
        ("delta", &|| delta(&runtime)),
        ("failover", &|| failover(&runtime)),
        ("memory", &memory::measure),
    ];
    for (name, bench) in benches {
        if name.contains(&filter) {
            bench();
        }
    }
}
