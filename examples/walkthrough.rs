//! The whole life of a protected disk in a temporary folder, each step proved by SHA-256.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use afterimage::block::Length;
use afterimage::{Clock, MachineName, Protection, Store};
use anyhow::{Context, Result};
use clap::Parser;
use examples::{Guest, Outage, Walk, log_to_stderr, make_image};

/// Protect a disk that a guest writes to, break things, resynchronize, fail over; prove each step.
#[derive(Parser)]
struct Arguments {
    /// The image to take a copy of; by default one is made.
    #[arg(long)]
    disk: Option<PathBuf>,
    /// The size of the disk that is made.
    #[arg(long, default_value = "256MiB", conflicts_with = "disk")]
    size: Length,
    /// Keep all files in this new folder.
    #[arg(long)]
    keep: Option<PathBuf>,
}

/// Half a minute of the machine is a quarter of a second.
const RATE: u32 = 120;

#[tokio::main]
async fn main() -> Result<ExitCode> {
    log_to_stderr();
    let arguments = Arguments::parse();
    let temporary = tempfile::tempdir()?;
    let folder = arguments.keep.unwrap_or(temporary.path().join("walk"));
    fs::create_dir(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let (image, observer) = (folder.join("disk.raw"), folder.join("observer.raw"));
    match arguments.disk {
        Some(disk) => drop(fs::copy(disk, &image)?),
        None => make_image(&image, arguments.size)?,
    }
    fs::copy(&image, &observer)?;

    let url = folder.join("replica").display().to_string();
    let name: MachineName = "walkthrough".parse()?;
    let socket = format!("unix:{}", folder.join("nbd.sock").display());
    let protection = Protection::new(name.clone(), vec![image.clone()], &url)
        .listen(socket.parse()?)
        .clock(Clock::accelerated(RATE));
    let (machine, notices) = protection.start().await?;
    let export = machine.exports().first().context("nothing is served")?;
    let guest = Guest::new(export, &observer)?;
    let (little, too_much) = (guest.size().get() / 32, guest.size().get() / 10 * 7);
    let replica = Store::open(&url).await?.replica(name);
    let mut walk = Walk::new(folder, guest, notices, replica);

    walk.step("initial replication", Outage::None, little)
        .await?;
    walk.step("first delta", Outage::None, little).await?;
    walk.step("second delta", Outage::None, little).await?;
    walk.step("third delta", Outage::None, little).await?;
    walk.step("outage and retries", Outage::UntilRetried, little)
        .await?;
    walk.step("log overflow and resync", Outage::UntilOverflow, too_much)
        .await?;
    walk.step("delta after the resync", Outage::None, little)
        .await?;

    walk.planned_failover(machine, little).await?;

    println!("\n{}", walk.table());
    let identical = walk.table().all_same();
    Ok(if identical {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
