//! The whole life of a machine of two disks in a temporary folder, to the other side and back, each
//! step proved by SHA-256.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use afterimage::block::Length;
use anyhow::{Context, Result};
use clap::Parser;
use examples::{Outage, Walk, log_to_stderr, make_image};

/// Protect two disks that guests write to, break things, resynchronize, fail over, replicate in reverse
/// and fail back; prove each step.
#[derive(Parser)]
struct Arguments {
    /// The image to take a copy of as the first disk; by default one is made.
    #[arg(long)]
    disk: Option<PathBuf>,
    /// The size of the disk that is made. The second has a quarter of it.
    #[arg(long, default_value = "256MiB", conflicts_with = "disk")]
    size: Length,
    /// Keep all files in this new folder.
    #[arg(long)]
    keep: Option<PathBuf>,
}

/// The percentage of each disk that is written in most steps.
const LITTLE: u64 = 3;
/// What logs may not hold.
const TOO_MUCH: u64 = 70;

#[tokio::main]
async fn main() -> Result<ExitCode> {
    log_to_stderr();
    let arguments = Arguments::parse();
    let temporary = tempfile::tempdir()?;
    let folder = arguments.keep.unwrap_or(temporary.path().join("walk"));
    fs::create_dir(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let (system, data) = (folder.join("system.raw"), folder.join("data.raw"));
    match arguments.disk {
        Some(disk) => drop(fs::copy(disk, &system)?),
        None => make_image(&system, arguments.size)?,
    }
    let sectors = fs::metadata(&system)?.len() / 4 / 512;
    make_image(&data, Length::new(sectors.max(1) * 512))?;

    let mut walk = Walk::begin(folder, vec![system, data]).await?;
    walk.step("initial replication", Outage::None, LITTLE)
        .await?;
    walk.step("first delta", Outage::None, LITTLE).await?;
    walk.step("second delta", Outage::None, LITTLE).await?;
    walk.step("outage and retries", Outage::UntilRetried, LITTLE)
        .await?;
    walk.step("log overflow and resync", Outage::UntilOverflow, TOO_MUCH)
        .await?;
    walk.step("delta after the resync", Outage::None, LITTLE)
        .await?;

    let former = walk.planned_failover(LITTLE).await?;
    walk.reverse().await?;
    walk.step("reverse, and a delta", Outage::None, LITTLE)
        .await?;
    walk.fail_back(former, LITTLE).await?;
    walk.reverse().await?;
    walk.step("a delta as at first", Outage::None, LITTLE)
        .await?;

    println!("\n{}", walk.table());
    let identical = walk.table().all_same();
    Ok(if identical {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
