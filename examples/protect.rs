//! Protects a machine: serves its disks over NBD and replicates them until SIGINT or SIGTERM.

use std::path::PathBuf;
use std::time::Duration;

use afterimage::{ListenAddress, MachineName, Policy, Protection};
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
    /// Where state and logs are kept; by default beside the first disk.
    #[arg(long)]
    state: Option<PathBuf>,
    /// The disks are those of a committed failover, and the primary's from now on: replicate in the
    /// other direction.
    #[arg(long)]
    reverse: bool,
    /// Print one event a line as JSON.
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    log_to_stderr();
    let arguments = Arguments::parse();
    let policy = Policy {
        interval: arguments.interval,
        ..Policy::default()
    };
    let mut protection = Protection::new(arguments.name, arguments.disk, arguments.replica)
        .key(arguments.key.read()?)
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
    tokio::select! {
        _ = interrupted.recv() => {}
        _ = terminated.recv() => {}
        ended = machine.ended() => { ended?; }
    }
    machine.stop().await?;
    showing.await?;
    Ok(())
}
