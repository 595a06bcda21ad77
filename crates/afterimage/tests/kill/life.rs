//! The life of one machine whose process is killed again and again.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use afterimage::block::{Extent, Length, Offset};
use afterimage::{Failover, Notice, PointSelector, Replica, Store, fail_over};
use tokio::runtime::Runtime;

use crate::KILLS;
use crate::guest::{Guests, NAMES, ORDERED, Ordered, SIZES, Slots, WINDOW, prefixes, slots};
use crate::process::Process;

/// What a disk grows by, no whole number of blocks.
const GROWTH: u64 = (8 << 20) + 512;

/// States in which processes were killed, and how often.
pub(crate) type Kills = BTreeMap<String, usize>;

struct Life<'a> {
    folder: &'a Path,
    random: fastrand::Rng,
    runtime: Runtime,
    guest: Option<Ordered>,
    /// How far the newest recovery point was.
    reached: Vec<u64>,
    killed: &'a mut Kills,
}

/// Lives a life: kills in initial replication, in deltas, while disks grow, in resynchronizations; then a
/// planned failover that must show the disks as they are.
pub(crate) fn live(seed: u64, killed: &mut Kills) {
    let folder = tempfile::tempdir().unwrap();
    let mut life = Life {
        folder: folder.path(),
        random: fastrand::Rng::with_seed(seed),
        runtime: Runtime::new().unwrap(),
        guest: Some(Ordered::new()),
        reached: Vec::new(),
        killed,
    };
    life.make_disks();
    life.initial_replication();
    life.deltas();
    life.growth();
    life.resynchronizations();
    life.planned_failover();
}

fn is_point(notice: &Notice) -> bool {
    matches!(notice, Notice::RecoveryPoint { .. })
}

fn is_state(notice: &Notice, wanted: &str) -> bool {
    matches!(notice, Notice::State { state, .. } if state.to_string() == wanted)
}

impl Life<'_> {
    fn disk(&self, number: usize) -> PathBuf {
        self.folder.join(format!("{}.raw", NAMES[number]))
    }

    /// Disks that are two thirds random data, but for the slots.
    fn make_disks(&mut self) {
        for (number, size) in SIZES.into_iter().enumerate() {
            let file = File::create_new(self.disk(number)).unwrap();
            file.set_len(size).unwrap();
            let mut data = vec![0; 1 << 20];
            for at in (ORDERED..size).step_by(data.len()) {
                if self.random.u8(0..3) > 0 {
                    self.random.fill(&mut data);
                    file.write_all_at(&data, at).unwrap();
                }
            }
        }
    }

    fn start(&mut self) -> (Process, Guests) {
        let mut process = Process::start(self.folder);
        process.until(|notice| matches!(notice, Notice::Ready { .. }));
        let socket = self.folder.join("nbd.sock");
        let guests = Guests::start(
            socket,
            self.guest.take().unwrap(),
            self.random.u64(..1 << 40),
        );
        (process, guests)
    }

    /// Kills the process and checks what it leaves behind; whether a recovery point was there.
    fn kill(&mut self, process: Process, guests: Guests) -> Option<Vec<u64>> {
        let told = process.kill();
        let guest = guests.stop();
        println!(
            "  killed in {}, {} read again at its start",
            told.state, told.recovered
        );
        let windows = 2 * (WINDOW + ORDERED + (2 << 20));
        assert!(
            told.recovered <= windows,
            "recovery read {} bytes",
            told.recovered
        );
        for compared in told.compared {
            let largest = SIZES[0] + KILLS as u64 * GROWTH;
            assert!(compared <= largest, "{compared} bytes compared");
        }
        *self.killed.entry(told.state).or_default() += 1;
        // Acknowledged writes are on the primary's disks.
        let found = [0, 1].map(|number| {
            let mut content = vec![0; usize::try_from(ORDERED).unwrap()];
            File::open(self.disk(number))
                .unwrap()
                .read_exact_at(&mut content, 0)
                .unwrap();
            slots(&content)
        });
        let (held, acknowledged) = (prefixes(&found), guest.acknowledged());
        let in_flight = acknowledged + 1;
        assert!(
            held.contains(&acknowledged) || held.contains(&in_flight),
            "{acknowledged} writes acknowledged, {held:?} there"
        );
        self.guest = Some(guest);
        self.check_newest_point()
    }

    fn replica(&self) -> Option<Replica> {
        let url = self.folder.join("replica").display().to_string();
        let store = self.runtime.block_on(Store::open_existing(&url)).ok()?;
        Some(store.replica("vm".parse().unwrap()))
    }

    /// The newest recovery point holds a first part of the writes, and never less than before.
    fn check_newest_point(&mut self) -> Option<Vec<u64>> {
        let replica = self.replica()?;
        let found = self.runtime.block_on(async {
            let manifest = replica.manifest().await.unwrap()?;
            let newest = manifest.select(PointSelector::Latest).ok()?;
            let point = replica.open_point(newest.sequence).await.unwrap();
            let mut found = Slots::default();
            for (disk, found) in point.disks.iter().zip(&mut found) {
                let ordered = Extent::new(Offset::ZERO, Length::new(ORDERED)).unwrap();
                *found = slots(&disk.read(ordered).await.unwrap());
            }
            Some(found)
        })?;
        let held = prefixes(&found);
        println!("  the newest recovery point has {held:?} writes");
        assert!(
            held.last() >= self.reached.first(),
            "{held:?} after {:?}",
            self.reached
        );
        self.reached.clone_from(&held);
        Some(held)
    }

    fn moment(&mut self, millis: u64) -> Duration {
        Duration::from_millis(self.random.u64(0..millis))
    }

    fn initial_replication(&mut self) {
        let mut done = [0, 0];
        for kill in 0..KILLS {
            let (mut process, guests) = self.start();
            process.until(|notice| {
                is_state(notice, "InitialReplicationInProgress") || is_point(notice)
            });
            // Each run gets a little further.
            let moment = self.moment(60 + 60 * kill as u64);
            process.within(moment, is_point);
            for (number, name) in NAMES.into_iter().enumerate() {
                if let Some((first, last)) = process.copied.get(name) {
                    assert!(
                        *first >= done[number],
                        "copied again from {first}, after {}",
                        done[number]
                    );
                    done[number] = *last;
                }
            }
            if self.kill(process, guests).is_some() {
                return;
            }
        }
    }

    fn deltas(&mut self) {
        for kill in 0..KILLS {
            let (mut process, guests) = self.start();
            if kill % 2 == 0 {
                process.until(is_point);
            }
            let moment = self.moment(800);
            process.within(moment, |_| false);
            self.kill(process, guests);
        }
    }

    /// Killed while a disk grows: it has its former size afterwards, or the new one, and goes on.
    fn growth(&mut self) {
        for kill in 0..KILLS {
            let (mut process, guests) = self.start();
            process.until(is_point);
            let disk = kill % NAMES.len();
            let was = fs::metadata(self.disk(disk)).unwrap().len();
            process.grow(disk, was + GROWTH);
            let told = |notice: &Notice| matches!(notice, Notice::Grown { .. });
            let grown = kill % 2 == 1;
            if grown {
                process.until(told);
            }
            let moment = self.moment(60);
            let grown = process.within(moment, told) || grown;
            self.kill(process, guests);
            let is = fs::metadata(self.disk(disk)).unwrap().len();
            assert!(is == was + GROWTH || (is == was && !grown), "{was}, {is}");
        }
    }

    fn resynchronizations(&mut self) {
        for _ in 0..KILLS {
            let (here, away) = (self.folder.join("replica"), self.folder.join("away"));
            fs::rename(&here, &away).unwrap();
            let (mut process, guests) = self.start();
            let started = |notice: &Notice| is_state(notice, "Resynchronizing");
            let required = |notice: &Notice| is_state(notice, "WaitingForStartResynchronize");
            // It may have been killed in the middle of the last one, and have told so before it was ready.
            let told = ["Resynchronizing", "WaitingForStartResynchronize"];
            if !told.contains(&process.state.as_str()) {
                process.until(|notice| required(notice) || started(notice));
            }
            fs::rename(&away, &here).unwrap();
            if process.state != "Resynchronizing" && self.random.bool() {
                process.until(started);
            }
            let moment = self.moment(60);
            process.within(moment, |_| false);
            self.kill(process, guests);
        }
    }

    fn planned_failover(&mut self) {
        let (mut process, guests) = self.start();
        process.until(is_point);
        let guest = guests.stop();
        // A resynchronization is not waited for, and goes on at the next start.
        while !process.stop() {
            process = Process::start(self.folder);
            process.until(is_point);
        }
        let reached = self.check_newest_point();
        assert!(reached.unwrap().contains(&guest.acknowledged()));
        let out = self.folder.join("out");
        let replica = self.replica().unwrap();
        let failed_over = fail_over(
            &replica,
            Failover::Planned,
            PointSelector::Latest,
            &out,
            |_, _| (),
        );
        let images = self.runtime.block_on(failed_over).unwrap().images;
        for (number, image) in images.iter().enumerate() {
            let (disk, image) = (
                fs::read(self.disk(number)).unwrap(),
                fs::read(image).unwrap(),
            );
            assert!(disk == image, "disk {number} and its replica differ");
        }
    }
}
