//! Protects a machine: serves its disks over NBD and replicates them until SIGINT or SIGTERM. At SIGHUP it
//! looks at how large the disks' files and devices are, and takes over those that were made larger.

use std::path::{Path, PathBuf};
use std::time::Duration;

use afterimage::block::{Access, BlockRead, RawDisk};
use afterimage::{ListenAddress, MachineName, Policy, ProtectedMachine, Protection};
use anyhow::Result;
use clap::Parser;
use examples::{Display, KeyArguments, log_to_stderr};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::broadcast::error::RecvError;

/// Serve disks over NBD and replicate them continuously.
#[derive(Parser)]
struct Arguments {
    /// The machine's name at the replica.
    #[arg(long)]
    name: MachineName,
    /// The disks: raw image files or block devices.
    #[arg(long, required = true, num_args = 1..)]
    disk: Vec<PathBuf>,
    /// Disks of the machine that are not replicated, such as one for swap: who fails over is told.
    #[arg(long, num_args = 1..)]
    exclude: Vec<PathBuf>,
    /// Where the replica is: a path, or a URL as file://, afterimage:// or a cloud's.
    #[arg(long)]
    replica: String,
    #[command(flatten)]
    key: KeyArguments,
    /// Where to serve: unix:PATH or tcp:127.0.0.1:PORT. Each disk under the stem of its file's name,
    /// the first also as the default export.
    #[arg(long)]
    listen: Option<ListenAddress>,
    /// The time between two recovery points, 1s to 15m.
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    interval: Duration,
    /// The time after which a machine whose disks are not written tells its replica again that it is alive,
    /// 1s to 24h.
    #[arg(long, default_value = "10m", value_parser = humantime::parse_duration)]
    heartbeat: Duration,
    /// Where state and logs are kept; by default beside the first disk.
    #[arg(long)]
    state: Option<PathBuf>,
    /// The disks are those of a committed failover, and the primary's from now on: replicate in the
    /// other direction.
    #[arg(long)]
    reverse: bool,
    /// The disks that are larger than before were only enlarged since: what their new parts hold is
    /// compared with the replica, and not all of them.
    #[arg(long)]
    only_enlarged: bool,
    /// Print one event a line as JSON.
    #[arg(long)]
    json: bool,
}

/// Makes the disks as large as their files or devices are by now.
async fn take_over_sizes(machine: &ProtectedMachine, paths: &[PathBuf]) {
    for (disk, path) in paths.iter().enumerate() {
        if let Err(error) = take_over_size(machine, disk, path).await {
            eprintln!("{error:#}");
        }
    }
}

async fn take_over_size(machine: &ProtectedMachine, disk: usize, path: &Path) -> Result<()> {
    let size = RawDisk::open(path, Access::ReadOnly)?.size();
    Ok(machine.grow(disk, size).await?)
}

#[tokio::main]
async fn main() -> Result<()> {
    log_to_stderr();
    let arguments = Arguments::parse();
    let policy = Policy {
        interval: arguments.interval,
        heartbeat: arguments.heartbeat,
        ..Policy::default()
    };
    let paths = arguments.disk.clone();
    let mut protection = Protection::new(arguments.name, arguments.disk, arguments.replica)
        .key(arguments.key.read()?)
        .exclude(arguments.exclude)
        .policy(policy);
    if let Some(address) = arguments.listen {
        protection = protection.listen(address);
    }
    if let Some(folder) = arguments.state {
        protection = protection.state_folder(folder);
    }
    if arguments.reverse {
        protection = protection.reverse();
    }
    if arguments.only_enlarged {
        protection = protection.only_enlarged();
    }
    let mut enlarged = signal(SignalKind::hangup())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let (mut machine, mut notices) = protection.start().await?;

    let mut display = Display::new(arguments.json);
    let showing = tokio::spawn(async move {
        loop {
            match notices.recv().await {
                Ok(notice) => display.show(&notice),
                Err(RecvError::Lagged(missed)) => eprintln!("{missed} events were missed"),
                Err(RecvError::Closed) => return,
            }
        }
    });
    loop {
        tokio::select! {
            _ = enlarged.recv() => take_over_sizes(&machine, &paths).await,
            _ = interrupted.recv() => break,
            _ = terminated.recv() => break,
            ended = machine.ended() => { ended?; break; }
        }
    }
    machine.stop().await?;
    showing.await?;
    Ok(())
}
