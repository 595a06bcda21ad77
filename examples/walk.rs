//! A walk through the life of a protected machine, each step proved by SHA-256.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use afterimage::block::Length;
use afterimage::{
    Clock, Failover, Follow, MachineName, Notice, PointSelector, ProtectedMachine, Protection,
    Replica, Store, TestResult, clean_up, commit, fail_over,
};
use anyhow::{Context, Result, ensure};
use tokio::task::block_in_place;

use crate::{Guest, Row, Table, Watch, sha256};

/// Half a minute of the machine is a quarter of a second.
const RATE: u32 = 120;

/// For how long the replica cannot be reached while the guests write.
#[derive(Clone, Copy, PartialEq)]
pub enum Outage {
    /// Not at all.
    None,
    /// Until two attempts to ship have failed.
    UntilRetried,
    /// Until the logs have outgrown their share of the disks.
    UntilOverflow,
}

/// A protected machine with a guest at each of its disks, and what each step came to.
pub struct Walk {
    folder: PathBuf,
    name: MachineName,
    /// The disks of the primary.
    disks: Vec<PathBuf>,
    guests: Vec<Guest>,
    machine: Option<ProtectedMachine>,
    watch: Watch,
    replica: Replica,
    table: Table,
}

impl Walk {
    /// Begins to protect `disks`, all in `folder`, which also gets the replica and what observers see.
    pub async fn begin(folder: PathBuf, disks: Vec<PathBuf>) -> Result<Self> {
        let name: MachineName = "walkthrough".parse()?;
        let (machine, notices) = protection(&folder, &name, &disks)?.start().await?;
        let mut guests = Vec::new();
        for (disk, uri) in disks.iter().zip(machine.exports()) {
            let observer = observer_of(&folder, disk);
            fs::copy(disk, &observer)?;
            guests.push(Guest::new(uri, &observer)?);
        }
        let store = Store::open(&folder.join("replica").display().to_string()).await?;
        Ok(Self {
            replica: store.replica(name.clone()),
            watch: Watch::new(notices),
            machine: Some(machine),
            table: Table::default(),
            folder,
            name,
            disks,
            guests,
        })
    }

    /// What each step came to.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The guests write `percent` of their disks while the machine replicates, or cannot. In the end a
    /// test failover to the newest recovery point must show exactly what the observers saw.
    pub async fn step(&mut self, step: &'static str, outage: Outage, percent: u64) -> Result<()> {
        let begun = announce(step);
        let (here, away) = (self.folder.join("replica"), self.folder.join("away"));
        if outage != Outage::None {
            fs::rename(&here, &away)?;
        }
        self.write(percent)?;
        match outage {
            Outage::None => {}
            Outage::UntilRetried => {
                self.watch
                    .until(|n| matches!(n, Notice::Retry { attempt: 3.., .. }))
                    .await?;
                fs::rename(&away, &here)?;
            }
            Outage::UntilOverflow => {
                self.watch
                    .until(|n| matches!(n, Notice::ResyncRequired { .. }))
                    .await?;
                fs::rename(&away, &here)?;
                self.watch
                    .until(|n| matches!(n, Notice::Resync { .. }))
                    .await?;
            }
        }
        // A recovery point of after this instant holds all that was written. An idle machine makes no
        // recovery points, so the guests write a sector once more as it is.
        let now = Clock::timestamp();
        block_in_place(|| self.guests.iter_mut().try_for_each(Guest::touch))?;
        self.watch
            .until(|n| matches!(n, Notice::RecoveryPoint { time, .. } if *time >= now))
            .await?;
        let out = self.folder.join("test-failover");
        let images = self.fail_over(Failover::Test, &out).await?;
        let sent = self.watch.take_sent();
        self.prove(step, &images, sent, begun)?;
        clean_up(&self.replica, Some(&out), TestResult::Succeeded, step).await?;
        Ok(())
    }

    /// The guests write `percent` more and stop; the machine ships the last delta, and the replica
    /// takes over for good. Returns the disks of before.
    pub async fn planned_failover(&mut self, percent: u64) -> Result<Vec<PathBuf>> {
        let step = "planned failover";
        let begun = announce(step);
        self.write(percent)?;
        self.stop().await?;
        let out = self.folder.join("failed-over");
        let images = self.fail_over(Failover::Planned, &out).await?;
        commit(&self.replica, None).await?;
        let sent = self.watch.take_sent();
        self.prove(step, &images, sent, begun)?;
        Ok(std::mem::replace(&mut self.disks, images))
    }

    /// The disks that the replica is failed over to are the primary's from now on, and have the guests.
    pub async fn reverse(&mut self) -> Result<()> {
        let protection = protection(&self.folder, &self.name, &self.disks)?;
        let (machine, notices) = protection.reverse().start().await?;
        self.watch = Watch::new(notices);
        for (guest, uri) in self.guests.iter_mut().zip(machine.exports()) {
            block_in_place(|| guest.move_to(uri))?;
        }
        self.machine = Some(machine);
        Ok(())
    }

    /// The way back: the disks `former` follow the replica while the guests write `percent` more, then
    /// the machine is stopped and failed back to them.
    pub async fn fail_back(&mut self, former: Vec<PathBuf>, percent: u64) -> Result<()> {
        let step = "former disks resynchronized";
        let begun = announce(step);
        let follow = Follow::new(self.name.clone(), former, self.url());
        let mut follower = follow.start().await?;
        let pulled = follower.pull(|_, _| ()).await?;
        println!("{} compared, {} written", pulled.compared, pulled.written);
        let out = self.folder.join("at-the-point");
        let disks = self.fail_over(Failover::Test, &out).await?;
        self.prove(step, &disks, pulled.written, begun)?;
        clean_up(&self.replica, Some(&out), TestResult::Succeeded, step).await?;

        let step = "failback";
        let begun = announce(step);
        self.write(percent)?;
        self.stop().await?;
        let pulled = follower.pull(|_, _| ()).await?;
        println!("{} compared, {} written", pulled.compared, pulled.written);
        self.disks = follower.fail_back().await?.images;
        commit(&self.replica, None).await?;
        let disks = self.disks.clone();
        self.prove(step, &disks, pulled.written, begun)
    }

    fn url(&self) -> String {
        self.folder.join("replica").display().to_string()
    }

    fn write(&mut self, percent: u64) -> Result<()> {
        let bytes = |guest: &Guest| guest.size().get() / 100 * percent;
        let mut guests = self.guests.iter_mut();
        block_in_place(|| guests.try_for_each(|guest| guest.write(bytes(guest))))
    }

    async fn stop(&mut self) -> Result<()> {
        let machine = self.machine.take().context("no machine runs")?;
        ensure!(machine.stop().await?, "the last delta did not arrive");
        self.watch
            .until(|n| matches!(n, Notice::Stopped { .. }))
            .await
    }

    async fn fail_over(&self, how: Failover, out: &Path) -> Result<Vec<PathBuf>> {
        let latest = PointSelector::Latest;
        let done = fail_over(&self.replica, how, latest, out, |_, _| ()).await?;
        Ok(done.images)
    }

    /// Compares the digests of `disks` with the observers'.
    fn prove(
        &mut self,
        step: &'static str,
        disks: &[PathBuf],
        sent: Length,
        begun: Instant,
    ) -> Result<()> {
        let took = begun.elapsed();
        let (mut stored, mut same) = (0, true);
        for disk in disks {
            let (found, expected) = (sha256(disk)?, sha256(&observer_of(&self.folder, disk))?);
            let name = disk.file_stem().unwrap_or_default().display();
            println!("sha256 of {name:<6}       {found}\nsha256 of its observer {expected}");
            stored += fs::metadata(disk)?.blocks() * 512;
            same &= found == expected;
        }
        let stored = Length::new(stored);
        self.table.add(Row {
            step,
            stored,
            sent,
            took,
            same,
        });
        Ok(())
    }
}

fn announce(step: &str) -> Instant {
    println!("\n# {step}");
    Instant::now()
}

fn protection(folder: &Path, name: &MachineName, disks: &[PathBuf]) -> Result<Protection> {
    let url = folder.join("replica").display().to_string();
    let socket = format!("unix:{}", folder.join("nbd.sock").display());
    Ok(Protection::new(name.clone(), disks.to_vec(), url)
        .listen(socket.parse()?)
        .clock(Clock::accelerated(RATE)))
}

/// The file that shows what was written to `disk`, wherever that is at present.
fn observer_of(folder: &Path, disk: &Path) -> PathBuf {
    let name = disk.file_stem().unwrap_or_default().display();
    folder.join(format!("observer-{name}.raw"))
}
