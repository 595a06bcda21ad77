//! Many machines in one process: what it costs to keep them, and whether they keep out of step.
//!
//! Each has a disk of 1 MiB in a folder on tmpfs, an interval of 30 s, and a guest that writes 4 KiB an
//! interval; the replicas are in memory. They are all started at once. Once each has a recovery point and
//! an interval has passed, the process is watched for two more: its CPU time, with the guests' writes and
//! the store's work; the most memory that it ever had, with the replicas; and how many recovery points
//! come in a second. If the machines were in step, all of them would come in one.
//!
//! `cargo bench -p benches --bench fleet`, or with another number of machines as its argument. Each
//! machine has 4 files open: `ulimit -n` must allow that.
//!
//! # Figures
//!
//! 2026-11-25, 2 cores, `cargo bench -p benches --bench fleet -- 4900`, which is as many as 20 000 open
//! files allow: 0.26 cores, at most 272 MiB; 163 recovery points a second, 195 in the busiest. By that,
//! 10 000 machines take half a core and 560 MiB.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use afterimage::block::{BlockWrite, Length, Offset, RawDisk};
use afterimage::{Notice, Policy, ProtectedMachine, Protection};
use benches::Noise;
use tokio::runtime::Runtime;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

const MACHINES: usize = 10_000;
const DISK: Length = Length::mib(1);
const WRITTEN: usize = 4096;
/// Machines that are started at the same time.
const STARTING: usize = 64;
const INTERVALS: u32 = 2;

/// When recovery points came, since the start.
type Points = Arc<Mutex<Vec<Duration>>>;

async fn start(folder: &Path, number: usize, points: Points, started: Instant) -> ProtectedMachine {
    let folder = folder.join(number.to_string());
    fs::create_dir(&folder).expect("a folder");
    let disk = folder.join("disk.raw");
    drop(RawDisk::create(&disk, DISK).expect("a disk"));
    let name = format!("machine-{number}").parse().expect("a name");
    let protection = Protection::new(name, vec![disk], "memory://fleet");
    let (machine, notices) = protection.start().await.expect("a protected machine");
    let first = note(notices, points, started);
    first.await.expect("a machine that lives");
    machine
}

/// Notes the recovery points of a machine from now on; ready when there is one.
fn note(mut notices: Receiver<Notice>, points: Points, started: Instant) -> oneshot::Receiver<()> {
    let (tell, told) = oneshot::channel();
    tokio::spawn(async move {
        let mut tell = Some(tell);
        loop {
            match notices.recv().await {
                Ok(Notice::RecoveryPoint { .. }) => {
                    points.lock().expect("no panic").push(started.elapsed());
                    tell.take().map(|tell| tell.send(()));
                }
                Ok(Notice::Retry { error, .. } | Notice::GaveUp { error, .. }) => {
                    panic!("replication failed: {error}")
                }
                Err(RecvError::Closed) => return,
                Ok(_) | Err(RecvError::Lagged(_)) => {}
            }
        }
    });
    told
}

async fn start_all(
    count: usize,
    folder: &Path,
    points: &Points,
    started: Instant,
) -> Vec<ProtectedMachine> {
    let (mut starting, mut machines) = (JoinSet::new(), Vec::with_capacity(count));
    for number in 0..count {
        let (folder, points) = (folder.to_owned(), Arc::clone(points));
        starting.spawn(async move { start(&folder, number, points, started).await });
        if starting.len() >= STARTING {
            machines.extend(
                starting
                    .join_next()
                    .await
                    .map(|machine| machine.expect("a start")),
            );
        }
    }
    machines.extend(starting.join_all().await);
    machines
}

/// Each guest writes once an interval, in turn.
async fn write(machines: &[ProtectedMachine], interval: Duration, intervals: u32) {
    let mut noise = Noise::default();
    let data = noise.bytes(WRITTEN);
    let started = Instant::now();
    let turn = interval / u32::try_from(machines.len()).expect("some machines");
    let all = machines
        .iter()
        .cycle()
        .take(machines.len() * intervals as usize);
    for (machine, number) in all.zip(0..) {
        let at = noise.below(DISK.get() / WRITTEN as u64) * WRITTEN as u64;
        let written = machine.disks()[0].write_at(Offset::new(at), &data);
        written.expect("a disk that takes writes");
        tokio::time::sleep_until((started + turn * number).into()).await;
    }
}

/// The CPU time that the process has used.
fn cpu_time() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace();
    let ticks: u64 = fields
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse::<u64>().expect("ticks"))
        .sum();
    Duration::from_millis(ticks * 10)
}

/// The most memory that the process has used.
fn peak_memory() -> Length {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    Length::kib(kib.expect("a peak"))
}

/// Watches machines that have settled for a while.
async fn watch(machines: &[ProtectedMachine], points: &Points, started: Instant) {
    let interval = Policy::default().interval;
    write(machines, interval, 1).await;
    points.lock().expect("no panic").clear();
    let (from, used) = (started.elapsed(), cpu_time());
    write(machines, interval, INTERVALS).await;
    let watched = started.elapsed().saturating_sub(from).as_secs_f64();
    let cores = cpu_time().saturating_sub(used).as_secs_f64() / watched;
    let mut seconds = BTreeMap::new();
    for at in points.lock().expect("no panic").iter() {
        *seconds.entry(at.as_secs()).or_insert(0) += 1;
    }
    let (all, most) = (seconds.values().sum::<u32>(), seconds.values().max());
    println!("{cores:.2} cores, at most {} of memory", peak_memory());
    println!(
        "{:.0} recovery points a second, {} in the busiest",
        f64::from(all) / watched,
        most.copied().unwrap_or_default()
    );
}

fn main() {
    let count = benches::filter().parse().unwrap_or(MACHINES);
    let folder = benches::folder();
    let runtime = Runtime::new().expect("a runtime");
    let (points, started) = (Points::default(), Instant::now());
    runtime.block_on(async {
        let machines = start_all(count, folder.path(), &points, started).await;
        let elapsed = started.elapsed();
        println!("{count} machines have a recovery point after {elapsed:.1?}");
        watch(&machines, &points, started).await;
    });
    // The machines end as in a crash: what they were is of no use.
}
