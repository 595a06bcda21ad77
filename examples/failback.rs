//! Follows a replica with the disks of the former primary, or of another machine, and fails back to
//! them.

use std::path::PathBuf;
use std::time::Duration;

use afterimage::block::Length;
use afterimage::{DivergenceToken, Follow, Follower};
use anyhow::Result;
use clap::Parser;
use examples::{MachineArguments, log_to_stderr, shown_time};
use indicatif::ProgressBar;
use tokio::signal::ctrl_c;

/// Pull what the replica has of a machine to disks that were its primary's, until SIGINT; the machine
/// runs at the other side meanwhile. Once it is stopped there, --complete fails back.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    machine: MachineArguments,
    /// The disks, in the machine's order. Those of another machine are made where they do not exist.
    #[arg(long, required = true, num_args = 1..)]
    disk: Vec<PathBuf>,
    /// The state folder that the disks had when they were protected; by default beside the first.
    #[arg(long)]
    state: Option<PathBuf>,
    /// Destroy what only these disks hold. What that is, and the token, is shown without it.
    #[arg(long)]
    token: Option<DivergenceToken>,
    /// The time between two pulls.
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    every: Duration,
    /// Pull once and end.
    #[arg(long)]
    once: bool,
    /// Pull once more and fail back, where the primary is stopped with its last delta shipped. Then
    /// `failover --commit`, and `protect --reverse` with these disks.
    #[arg(long, conflicts_with = "once")]
    complete: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    log_to_stderr();
    let arguments = Arguments::parse();
    let machine = arguments.machine;
    let follow = Follow::new(machine.name, arguments.disk, machine.replica);
    let mut follow = follow.key(machine.key.read()?);
    if let Some(folder) = arguments.state {
        follow = follow.state_folder(folder);
    }
    if let Some(token) = arguments.token {
        follow = follow.token(token);
    }
    let mut follower = follow.start().await?;
    if arguments.once || arguments.complete {
        pull(&mut follower).await?;
    }
    if arguments.complete {
        let done = follower.fail_back().await?;
        println!(
            "failed back to recovery point {}, to be committed",
            done.sequence
        );
    }
    if arguments.once || arguments.complete {
        return Ok(());
    }
    loop {
        tokio::select! {
            pulled = pull(&mut follower) => match pulled {
                Err(error) if error.is_recoverable() => eprintln!("cannot pull: {error}"),
                pulled => pulled?,
            },
            interrupted = ctrl_c() => return Ok(interrupted?),
        }
        tokio::select! {
            () = tokio::time::sleep(arguments.every) => {}
            interrupted = ctrl_c() => return Ok(interrupted?),
        }
    }
}

async fn pull(follower: &mut Follower) -> afterimage::Result<()> {
    let bar = ProgressBar::new(0);
    let progress = |done: Length, total: Length| {
        bar.set_length(total.get());
        bar.set_position(done.get());
    };
    let pulled = follower.pull(progress).await?;
    bar.finish_and_clear();
    println!(
        "at recovery point {} of {}: {} compared, {} written",
        pulled.sequence,
        shown_time(pulled.time),
        pulled.compared,
        pulled.written
    );
    Ok(())
}
