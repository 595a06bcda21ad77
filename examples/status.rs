//! Shows how the machines of a store stand.

use afterimage::{Clock, JobState, MachineName, Status, Store, status};
use anyhow::Result;
use clap::Parser;
use examples::{log_to_stderr, shown_time};

/// Show state, health, lag, recovery points, disks and jobs of machines.
#[derive(Parser)]
struct Arguments {
    /// Where the replica is.
    #[arg(long)]
    replica: String,
    /// The machine; all of the store by default.
    #[arg(long)]
    name: Option<MachineName>,
    /// Print one machine a line as JSON.
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    log_to_stderr();
    let arguments = Arguments::parse();
    let store = Store::open_existing(&arguments.replica).await?;
    let names = match arguments.name {
        Some(name) => vec![name],
        None => store.machines().await?,
    };
    for name in names {
        let status = status(&store.replica(name), Clock::timestamp()).await?;
        if arguments.json {
            println!("{}", serde_json::to_string(&status)?);
        } else {
            print(&status);
        }
    }
    Ok(())
}

fn print(status: &Status) {
    println!(
        "{}: {}, health {}",
        status.name, status.state, status.health
    );
    let age = status
        .lag_secs
        .map_or("none".into(), |secs| format!("{secs} s old"));
    println!("  epoch {}, newest recovery point {age}", status.epoch);
    println!(
        "  {} still to be shipped at the last report",
        status.lag_bytes
    );
    for disk in &status.disks {
        println!("  disk {} of {}", disk.name, disk.size);
    }
    for point in &status.recovery_points {
        println!(
            "  recovery point {} of {}",
            point.sequence,
            shown_time(point.time)
        );
    }
    for job in status.jobs.iter().rev().take(5) {
        let end = match (job.state, &job.error) {
            (JobState::Failed, Some(error)) => format!("failed: {error}"),
            (state, _) => format!("{state:?}"),
        };
        println!("  job {:?} {}: {end}", job.kind, job.subject);
    }
}
