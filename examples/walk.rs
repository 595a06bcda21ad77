//! A walk through the life of a protected disk, each step proved by SHA-256.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use afterimage::block::Length;
use afterimage::{
    Clock, Failover, Notice, PointSelector, ProtectedMachine, Replica, commit, fail_over,
};
use anyhow::{Context, Result, ensure};
use tokio::sync::broadcast::Receiver;
use tokio::task::block_in_place;

use crate::{Guest, Row, Table, Watch, sha256};

/// For how long the replica cannot be reached while the guest writes.
#[derive(Clone, Copy, PartialEq)]
pub enum Outage {
    /// Not at all.
    None,
    /// Until two attempts to ship have failed.
    UntilRetried,
    /// Until the logs have outgrown their share of the disk.
    UntilOverflow,
}

/// A protected machine with a guest that writes to it, and what each step came to.
pub struct Walk {
    guest: Guest,
    replica: Replica,
    folder: PathBuf,
    watch: Watch,
    table: Table,
}

impl Walk {
    /// Begins in `folder`, which holds the replica and what the observer saw.
    pub fn new(folder: PathBuf, guest: Guest, notices: Receiver<Notice>, replica: Replica) -> Self {
        Self {
            guest,
            replica,
            folder,
            watch: Watch::new(notices),
            table: Table::default(),
        }
    }

    /// What each step came to.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The guest writes `bytes` while the machine replicates, or cannot. In the end a test failover
    /// to the newest recovery point must show exactly what the observer saw.
    pub async fn step(&mut self, step: &'static str, outage: Outage, bytes: u64) -> Result<()> {
        println!("\n# {step}");
        let begun = Instant::now();
        let (here, away) = (self.folder.join("replica"), self.folder.join("away"));
        if outage != Outage::None {
            fs::rename(&here, &away)?;
        }
        block_in_place(|| self.guest.write(bytes))?;
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
        // A recovery point of after this instant holds all that was written. An idle disk makes no
        // recovery points, so the guest writes a sector once more as it is.
        let now = Clock::timestamp();
        self.guest.touch()?;
        self.watch
            .until(|n| matches!(n, Notice::RecoveryPoint { time, .. } if *time >= now))
            .await?;
        let out = self.folder.join("test-failover");
        self.prove(step, Failover::Test, &out, begun).await?;
        Ok(fs::remove_dir_all(out)?)
    }

    /// The guest writes `bytes` more and stops; the machine ships the last delta, and the replica
    /// takes over for good.
    pub async fn planned_failover(&mut self, machine: ProtectedMachine, bytes: u64) -> Result<()> {
        let step = "planned failover";
        println!("\n# {step}");
        let begun = Instant::now();
        block_in_place(|| self.guest.write(bytes))?;
        ensure!(machine.stop().await?, "the last delta did not arrive");
        self.watch
            .until(|n| matches!(n, Notice::Stopped { .. }))
            .await?;
        let out = self.folder.join("failed-over");
        self.prove(step, Failover::Planned, &out, begun).await?;
        Ok(commit(&self.replica).await?)
    }

    /// Fails over to the newest recovery point and compares its digest with the observer's.
    async fn prove(
        &mut self,
        step: &'static str,
        how: Failover,
        out: &Path,
        begun: Instant,
    ) -> Result<()> {
        let took = begun.elapsed();
        let done = fail_over(&self.replica, how, PointSelector::Latest, out, |_, _| ()).await?;
        let image = done.images.first().context("no image was made")?;
        let (found, expected) = (sha256(image)?, sha256(&self.folder.join("observer.raw"))?);
        println!("sha256 of the recovery point {found}\nsha256 of the observer       {expected}");
        let stored = Length::new(fs::metadata(self.folder.join("disk.raw"))?.blocks() * 512);
        let (sent, same) = (self.watch.take_sent(), found == expected);
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
