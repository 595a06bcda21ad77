//! The process that is killed.

use std::path::Path;
use std::time::Duration;

use afterimage::block::Length;
use afterimage::{Clock, Error, Policy, ProtectedMachine, Protection, Schedule};
use tokio::sync::broadcast::error::RecvError;

/// The variable of the environment that makes a process this one, and names its folder.
pub(crate) const FOLDER: &str = "AFTERIMAGE_KILL_FOLDER";

/// Protects the disks in `folder` until its standard input ends, each line of which names a disk that is to
/// grow and its new size; prints every notice.
#[tokio::main]
pub(crate) async fn run(folder: &Path) {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let seconds = |n: u64| Duration::from_secs(n);
    let policy = Policy {
        interval: seconds(1),
        // A low quota, so that an outage of a moment makes a resynchronization necessary.
        resync_threshold_percent: 40,
        recovery_points_max: 5,
        retry: Schedule::fixed([seconds(1)], seconds(1)).unwrap(),
        ..Policy::default()
    };
    let disks = vec![folder.join("a.raw"), folder.join("b.raw")];
    let replica = folder.join("replica").display().to_string();
    let socket = format!("unix:{}", folder.join("nbd.sock").display());
    let protection = Protection::new("vm".parse().unwrap(), disks, replica)
        .state_folder(folder.join("state"))
        .listen(socket.parse().unwrap())
        .clock(Clock::accelerated(4))
        .policy(policy);
    let (machine, mut notices) = protection.start().await.unwrap();
    let printing = tokio::spawn(async move {
        loop {
            match notices.recv().await {
                Ok(notice) => println!("{}", serde_json::to_string(&notice).unwrap()),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    });
    let next = || std::io::stdin().lines().next();
    while let Some(line) = tokio::task::spawn_blocking(next).await.unwrap() {
        grow(&machine, &line.unwrap()).await;
    }
    machine.stop().await.unwrap();
    printing.await.unwrap();
}

async fn grow(machine: &ProtectedMachine, line: &str) {
    let (disk, size) = line.split_once(' ').unwrap();
    let size = Length::new(size.parse().unwrap());
    match machine.grow(disk.parse().unwrap(), size).await {
        // A resynchronization is under way: its file is larger already, which the next start finds.
        Ok(()) | Err(Error::Refused(_)) => {}
        Err(error) => panic!("{error}"),
    }
}
