//! Replicates a replica on to a third site.

use std::path::PathBuf;
use std::time::Duration;

use afterimage::block::Length;
use afterimage::{Extension, Key, Policy, Store};
use anyhow::Result;
use clap::Parser;
use examples::{MachineArguments, log_to_stderr, shown_time};
use indicatif::ProgressBar;
use tokio::signal::ctrl_c;

/// Bring the recovery points of a replica to a further one, until SIGINT. The primary knows nothing of
/// it. The further replica is failed over, tested and scrubbed as any other.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    machine: MachineArguments,
    /// Where the further replica is, or is to be.
    #[arg(long)]
    to: String,
    /// The further replica is encrypted by the key in this file.
    #[arg(long)]
    to_key_file: Option<PathBuf>,
    /// The folder of temporary logs.
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    scratch: PathBuf,
    /// The time between two rounds, 1 s to 15 min.
    #[arg(long, default_value = "5min", value_parser = humantime::parse_duration)]
    interval: Duration,
    /// How many recovery points the further replica keeps.
    #[arg(long, default_value_t = 24)]
    points: u32,
    /// Compare everything in the first round.
    #[arg(long)]
    compare: bool,
    /// Make one round and end.
    #[arg(long)]
    once: bool,
    /// Print a line of JSON for each recovery point.
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    log_to_stderr();
    let arguments = Arguments::parse();
    let mut extension = begin(&arguments).await?;
    if arguments.compare {
        extension.resynchronize().await?;
    }
    if arguments.once {
        return Ok(round(&mut extension, arguments.json).await?);
    }
    loop {
        tokio::select! {
            done = round(&mut extension, arguments.json) => match done {
                Err(error) if error.is_recoverable() => eprintln!("cannot extend: {error}"),
                done => done?,
            },
            interrupted = ctrl_c() => return Ok(interrupted?),
        }
        tokio::select! {
            () = tokio::time::sleep(arguments.interval) => {}
            interrupted = ctrl_c() => return Ok(interrupted?),
        }
    }
}

async fn begin(arguments: &Arguments) -> Result<Extension> {
    let far_key = arguments.to_key_file.as_deref().map(Key::from_file);
    let far = Store::open(&arguments.to).await?;
    let far = far.with_key(far_key.transpose()?);
    let policy = Policy {
        interval: arguments.interval,
        recovery_points_max: arguments.points,
        ..Policy::default()
    };
    let near = arguments.machine.open().await?;
    let far = far.replica(near.name().clone());
    Ok(Extension::begin(near, &far, policy, &arguments.scratch).await?)
}

async fn round(extension: &mut Extension, json: bool) -> afterimage::Result<()> {
    let bar = ProgressBar::new(0);
    let progress = |done: Length, total: Length| {
        bar.set_length(total.get());
        bar.set_position(done.get());
    };
    let advanced = extension.round(progress).await?;
    bar.finish_and_clear();
    match advanced {
        Some(advanced) if json => {
            println!("{}", serde_json::to_string(&advanced).unwrap_or_default());
        }
        Some(advanced) => println!(
            "at recovery point {} of {}: {} compared, {} sent",
            advanced.point.sequence,
            shown_time(advanced.point.time),
            advanced.compared,
            advanced.sent
        ),
        None => {}
    }
    Ok(())
}
