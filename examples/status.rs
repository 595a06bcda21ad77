//! Shows how the machines of a store stand.

use std::path::PathBuf;

use afterimage::{
    Clock, JobState, Liveness, MachineName, SideStatus, Standing, Status, Store, side_status,
    status,
};
use anyhow::Result;
use clap::Parser;
use examples::{KeyArguments, log_to_stderr, print_operation, shown_progress, shown_time};

/// Show state, health, lag, recovery points, disks and jobs of machines.
#[derive(Parser)]
struct Arguments {
    /// Where the replica is.
    #[arg(long, required_unless_present = "state")]
    replica: Option<String>,
    /// Show the side of a machine that this state folder is of.
    #[arg(long)]
    state: Option<PathBuf>,
    #[command(flatten)]
    key: KeyArguments,
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
    if let Some(folder) = &arguments.state {
        let side = side_status(folder)?;
        if arguments.json {
            println!("{}", serde_json::to_string(&side)?);
        } else {
            print_side(&side);
        }
    }
    let Some(replica) = arguments.replica else {
        return Ok(());
    };
    let store = Store::open_existing(&replica).await?;
    let store = store.with_key(arguments.key.read()?);
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
    println!("  {}", shown_liveness(status.liveness));
    if status.extended {
        println!("  fed by another replica, not by the primary");
    }
    println!(
        "  {} still to be shipped at the last report",
        status.lag_bytes
    );
    if let Some(seen) = &status.statistics {
        println!(
            "  cycles: {} succeeded, {} missed, {} attempts failed; {} shipped, mean latency {}",
            seen.succeeded,
            seen.missed,
            seen.failed,
            seen.bytes,
            seen.latency_mean_ms
                .map_or("none".into(), |mean| format!("{mean} ms"))
        );
    }
    for disk in &status.disks {
        println!("  disk {} of {}", disk.name, disk.size);
    }
    for disk in &status.excluded {
        println!("  disk {} of {}: NOT REPLICATED", disk.name, disk.size);
    }
    for point in &status.recovery_points {
        println!(
            "  recovery point {} of {}",
            point.sequence,
            shown_time(point.time)
        );
    }
    for point in &status.damaged_points {
        println!(
            "  NOT OFFERED: recovery point {} of {} cannot be read whole",
            point.sequence,
            shown_time(point.time)
        );
    }
    for loss in &status.losses {
        let fate = match loss.until {
            Some(until) => format!("point {until} and later ones do not need it"),
            None => "its primary has not made up for it yet".into(),
        };
        println!("  damaged: {}; {fate}", loss.object);
    }
    if let Some(test) = &status.test {
        let begun = shown_time(test.begun);
        let (point, place) = (test.sequence, &test.place);
        println!(
            "  test failover of {begun} to recovery point {point} at {place}, to be cleaned up"
        );
    }
    if let Some(test) = &status.tested {
        let (point, time) = (test.sequence, shown_time(test.time));
        let result = format!("{:?}", test.result).to_lowercase();
        let notes = if test.notes.is_empty() { "" } else { ": " };
        println!(
            "  last test failover, to recovery point {point}, {result}, cleaned up {time}{notes}{}",
            test.notes
        );
    }
    for former in &status.diverged {
        let (epoch, time) = (former.epoch, shown_time(former.time));
        println!(
            "  SHUT OUT: the primary of epoch {epoch} came back at {time} and alone holds {} at most",
            former.bytes
        );
    }
    for job in status.jobs.iter().rev().take(5) {
        let end = match (job.state, &job.error) {
            (JobState::Failed, Some(error)) => format!("failed: {error}"),
            (JobState::InProgress, _) => shown_progress(job),
            (state, _) => format!("{state:?}"),
        };
        println!("  job {:?} {}: {end}", job.kind, job.subject);
    }
    for operation in status.operations.iter().rev().take(5) {
        print_operation(operation);
    }
}

fn shown_liveness(liveness: Liveness) -> String {
    match liveness {
        Liveness::Alive { until } => format!(
            "the primary is alive: taken for lost unless it reports by {}",
            shown_time(until)
        ),
        Liveness::Idle { until } => format!(
            "the primary is alive, and publishes nothing now: taken for lost unless it reports by {}",
            shown_time(until)
        ),
        Liveness::Silent { since } => format!(
            "SILENT: the primary has not reported since {}; whether it lives is not known here",
            shown_time(since)
        ),
        Liveness::Stopped => "the primary is stopped, or fenced off".into(),
        _ => "the primary has never reported".into(),
    }
}

fn print_side(side: &SideStatus) {
    match &side.standing {
        Standing::Primary {
            state,
            health,
            problem,
            ..
        } => {
            println!("{}: {state}, health {health}", side.name);
            if let Some(problem) = problem {
                println!("  {problem}");
            }
        }
        Standing::FailedOver { point, complete } => {
            let how = if *complete { "" } else { ", not complete" };
            println!("{}: failed over to recovery point {point}{how}", side.name);
        }
        Standing::Following { at: Some(at) } => {
            println!("{}: follows the replica, at recovery point {at}", side.name);
        }
        Standing::Following { at: None } => {
            println!(
                "{}: follows the replica, of no state until pulled",
                side.name
            );
        }
        _ => println!("{}: {:?}", side.name, side.standing),
    }
    for disk in &side.disks {
        println!("  disk {}", disk.display());
    }
    if !side.alone.is_nothing() {
        println!("  {}", side.alone);
    }
}
