//! Fails a machine over to a recovery point, and commits or cancels the failover.

use std::path::{Path, PathBuf};

use afterimage::block::{Epoch, Length, Sequence, Timestamp};
use afterimage::{
    ExcludedDisk, Failover, ListenAddress, PointSelector, Replica, Rpo, TestResult, cancel,
    clean_up, commit, fail_over, open_point, serve_failover,
};
use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use examples::{MachineArguments, log_to_stderr, shown_missing, shown_rpo, shown_time};
use indicatif::ProgressBar;

/// Write a machine's disks at a recovery point as raw images.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    machine: MachineArguments,
    /// A test changes nothing; planned needs a stopped primary; unplanned, the default for images,
    /// fences it off.
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    /// The recovery point: latest, its number, or a time (RFC 3339) that it must not be newer than.
    #[arg(long, default_value = "latest", value_parser = parse_point)]
    point: PointSelector,
    /// The folder for the images, NAME.raw each.
    #[arg(long, conflicts_with_all = ["commit", "cancel"])]
    out: Option<PathBuf>,
    /// Serve the point over NBD at once, until SIGINT: unix:PATH or tcp:127.0.0.1:PORT. With --out
    /// the images are filled meanwhile, and hold what clients write; without, that is thrown away, so
    /// it is a test.
    #[arg(long, conflicts_with_all = ["commit", "cancel"])]
    listen: Option<ListenAddress>,
    /// Fail over unplanned though the primary has just reported, and may be alive: it is fenced off.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    end: End,
    #[command(flatten)]
    clean: TestEnd,
}

/// How a failover ends.
#[derive(clap::Args)]
struct End {
    /// Make the failover final.
    #[arg(long, conflicts_with = "cancel")]
    commit: bool,
    /// Take the failover back.
    #[arg(long)]
    cancel: bool,
    /// Commit or cancel only the failover that began this epoch, as it was shown then; by default the one
    /// that the replica is in.
    #[arg(long)]
    epoch: Option<u64>,
}

/// How a test failover ends.
#[derive(clap::Args)]
struct TestEnd {
    /// Clean up the test failover, also one that was cut short: its images, in --out, are removed, and what
    /// came of it is recorded. Until then there is no other one.
    #[arg(long, conflicts_with_all = ["commit", "cancel", "kind", "listen"])]
    clean_up: bool,
    /// Record that the test failed.
    #[arg(long, requires = "clean_up")]
    failed: bool,
    /// What else is to be remembered of the test.
    #[arg(long, requires = "clean_up", default_value = "")]
    notes: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    Test,
    Planned,
    Unplanned,
}

fn parse_point(text: &str) -> Result<PointSelector> {
    if text == "latest" {
        return Ok(PointSelector::Latest);
    }
    if let Ok(number) = text.parse() {
        return Ok(PointSelector::Sequence(Sequence::new(number)));
    }
    let time: jiff::Timestamp = text
        .parse()
        .context("neither `latest`, a number nor a time")?;
    let nanos = u64::try_from(time.as_nanosecond()).context("a time before 1970")?;
    Ok(PointSelector::AtOrBefore(Timestamp::from_nanos(nanos)))
}

#[tokio::main]
async fn main() -> Result<()> {
    log_to_stderr();
    let arguments = Arguments::parse();
    let replica = arguments.machine.open().await?;
    let failover = arguments.end.epoch.map(Epoch::new);
    if arguments.end.commit {
        commit(&replica, failover).await?;
        println!("the failover is final");
        return Ok(());
    }
    if arguments.end.cancel {
        cancel(&replica, failover).await?;
        println!("the failover is taken back; the primary may go on");
        return Ok(());
    }
    if arguments.clean.clean_up {
        let (out, result) = (arguments.out.as_deref(), result(arguments.clean.failed));
        let tested = clean_up(&replica, out, result, &arguments.clean.notes).await?;
        println!(
            "the test of recovery point {} is cleaned up",
            tested.sequence
        );
        return Ok(());
    }
    let how = match (arguments.kind, arguments.listen.is_some()) {
        (Some(Kind::Test), _) | (None, true) => Failover::Test,
        (Some(Kind::Planned), _) => Failover::Planned,
        (Some(Kind::Unplanned) | None, _) if arguments.force => Failover::Forced,
        (Some(Kind::Unplanned) | None, _) => Failover::Unplanned,
    };
    let (point, out) = (arguments.point, arguments.out);
    match (arguments.listen, how, out) {
        (Some(address), Failover::Test, None) => test(&replica, point, &address).await,
        (Some(_), Failover::Test, Some(_)) => {
            bail!("a test that is served leaves no images: name another --kind, or leave --out out")
        }
        (Some(address), how, Some(out)) => serve(&replica, how, point, &address, &out).await,
        (None, how, Some(out)) => copy(&replica, how, point, &out).await,
        (_, _, None) => bail!("--out is missing: the folder for the images"),
    }
}

fn result(failed: bool) -> TestResult {
    if failed {
        TestResult::Failed
    } else {
        TestResult::Succeeded
    }
}

/// Writes the images, and ends.
async fn copy(replica: &Replica, how: Failover, point: PointSelector, out: &Path) -> Result<()> {
    let bar = ProgressBar::new(0);
    let progress = |done: Length, total: Length| {
        bar.set_length(total.get());
        bar.set_position(done.get());
    };
    let done = fail_over(replica, how, point, out, progress).await?;
    bar.finish_and_clear();
    show_point(done.sequence, done.time);
    show_rpo(done.rpo);
    if let Some(epoch) = done.epoch {
        show_epoch(epoch);
    }
    show_images(&done.images);
    show_missing(&done.missing);
    Ok(())
}

/// Serves the disks, and fills the images meanwhile.
async fn serve(
    replica: &Replica,
    how: Failover,
    point: PointSelector,
    address: &ListenAddress,
    out: &Path,
) -> Result<()> {
    let mut served = serve_failover(replica, how, point, address, out).await?;
    let point = served.point();
    show_point(point.sequence, point.time);
    show_rpo(served.rpo());
    show_epoch(served.epoch());
    for export in served.exports() {
        println!("{export}");
    }
    show_missing(served.missing());
    let stopped = tokio::signal::ctrl_c();
    tokio::pin!(stopped);
    tokio::select! {
        result = served.hydrated() => {
            result?;
            show_images(served.images());
            stopped.await?;
        }
        result = &mut stopped => result?,
    }
    let (local, total) = served.progress();
    served.close().await?;
    if local < total {
        println!("{local} of {total} are local: the same command goes on");
    }
    Ok(())
}

/// Serves the disks, and throws away what is written to them.
async fn test(replica: &Replica, point: PointSelector, address: &ListenAddress) -> Result<()> {
    let opened = open_point(replica, point, address, &std::env::temp_dir()).await?;
    let point = opened.point();
    show_point(point.sequence, point.time);
    for export in opened.exports() {
        println!("{export}");
    }
    show_missing(opened.missing());
    tokio::select! {
        stopped = tokio::signal::ctrl_c() => {
            stopped?;
            println!("nothing of it is left; --clean-up records what came of it");
        }
        () = opened.cleaned_up() => println!("somebody has cleaned it up"),
    }
    opened.close().await?;
    Ok(())
}

fn show_point(sequence: Sequence, time: Timestamp) {
    println!("recovery point {sequence} of {}", shown_time(time));
}

fn show_rpo(rpo: Rpo) {
    println!("RPO {}", shown_rpo(rpo));
}

fn show_epoch(epoch: Epoch) {
    println!("to be committed or cancelled as the failover of epoch {epoch}");
}

fn show_missing(missing: &[ExcludedDisk]) {
    for disk in missing {
        println!("{}", shown_missing(disk));
    }
}

fn show_images(images: &[PathBuf]) {
    for image in images {
        println!("{}", image.display());
    }
}
