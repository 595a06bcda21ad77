//! Protects a machine: serves its disks over NBD and replicates them until SIGINT or SIGTERM. At SIGHUP it
//! looks at how large the disks' files and devices are, and takes over those that were made larger. What else is
//! asked of it comes by `request`.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use afterimage::block::{Access, BlockRead, RawDisk};
use afterimage::{ListenAddress, MachineName, Policy, ProtectedMachine, Protection, QuiesceHook};
use anyhow::{Context, Result};
use clap::{Args, Parser};
use examples::{Display, KeyArguments, Requests, log_to_stderr, serve};
use tokio::net::UnixStream;
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
    /// The policy, a TOML file: the fields of `afterimage::Policy`, of which each may be left out, such as
    /// recovery_points_max = 48, rpo_alert = "5m", initial_replication = "2026-12-01T18:30:00Z".
    #[arg(long)]
    policy: Option<PathBuf>,
    /// The time between two recovery points, 1s to 15m; by default as in the policy, or 30s.
    #[arg(long, value_parser = humantime::parse_duration)]
    interval: Option<Duration>,
    /// The time after which a machine whose disks are not written tells its replica again that it is alive,
    /// 1s to 24h; by default as in the policy, or 10m.
    #[arg(long, value_parser = humantime::parse_duration)]
    heartbeat: Option<Duration>,
    /// A shell command that has the guest write what it holds in memory and hold still, such as `fsfreeze`:
    /// every hour, or as in the policy, a recovery point is application-consistent.
    #[arg(long, requires = "thaw")]
    freeze: Option<String>,
    /// The shell command that lets it go on. Both must stand being run twice.
    #[arg(long, requires = "freeze")]
    thaw: Option<String>,
    /// Where state and logs are kept; by default beside the first disk.
    #[arg(long)]
    state: Option<PathBuf>,
    #[command(flatten)]
    takes: Takes,
    /// The disks that are larger than before were only enlarged since: what their new parts hold is
    /// compared with the replica, and not all of them.
    #[arg(long)]
    only_enlarged: bool,
    /// Print one event a line as JSON.
    #[arg(long)]
    json: bool,
}

/// What it takes over, if it does not begin or go on.
#[derive(Args)]
struct Takes {
    /// The disks are those of a committed failover, and the primary's from now on: replicate in the
    /// other direction.
    #[arg(long)]
    reverse: bool,
    /// The replica was made of another copy of the disks, which was protected under this name and is stopped:
    /// take it over, and send only what differs.
    #[arg(long, conflicts_with = "reverse")]
    adopt: bool,
}

impl Arguments {
    fn policy(&self) -> Result<Policy> {
        let mut policy = match &self.policy {
            Some(path) => read_policy(path).with_context(|| path.display().to_string())?,
            None => Policy::default(),
        };
        policy.interval = self.interval.unwrap_or(policy.interval);
        policy.heartbeat = self.heartbeat.unwrap_or(policy.heartbeat);
        if self.freeze.is_some() {
            policy.application_consistent.get_or_insert_default();
        }
        Ok(policy)
    }

    fn quiesce(&self) -> Option<QuiesceHook> {
        Some(QuiesceHook {
            before: self.freeze.clone()?,
            after: self.thaw.clone()?,
        })
    }
}

fn read_policy(path: &Path) -> Result<Policy> {
    let policy: Policy = toml::from_str(&std::fs::read_to_string(path)?)?;
    policy.validate()?;
    Ok(policy)
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

async fn next(requests: Option<&Requests>) -> io::Result<UnixStream> {
    match requests {
        Some(requests) => requests.next().await,
        None => std::future::pending().await,
    }
}

/// Does what is asked for over a connection.
async fn answer(machine: &ProtectedMachine, asked: io::Result<UnixStream>) {
    let answered = match asked {
        Ok(stream) => serve(machine, stream).await,
        Err(error) => Err(error.into()),
    };
    if let Err(error) = answered {
        eprintln!("a request: {error:#}");
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    log_to_stderr();
    let arguments = Arguments::parse();
    let (policy, quiesce) = (arguments.policy()?, arguments.quiesce());
    let paths = arguments.disk.clone();
    let mut protection = Protection::new(arguments.name, arguments.disk, arguments.replica)
        .key(arguments.key.read()?)
        .exclude(arguments.exclude)
        .policy(policy);
    if let Some(hook) = quiesce {
        protection = protection.quiesce(hook);
    }
    if let Some(address) = arguments.listen {
        protection = protection.listen(address);
    }
    if let Some(folder) = arguments.state {
        protection = protection.state_folder(folder);
    }
    if arguments.takes.reverse {
        protection = protection.reverse();
    }
    if arguments.takes.adopt {
        protection = protection.adopt();
    }
    if arguments.only_enlarged {
        protection = protection.only_enlarged();
    }
    let mut enlarged = signal(SignalKind::hangup())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let (mut machine, mut notices) = protection.start().await?;
    let requests = Requests::listen(machine.state_folder());
    let requests = requests.inspect_err(|error| eprintln!("no requests are taken: {error}"));
    let requests = requests.ok();

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
            asked = next(requests.as_ref()) => answer(&machine, asked).await,
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
