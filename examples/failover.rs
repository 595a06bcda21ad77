//! Fails a machine over to a recovery point, and commits or cancels the failover.

use std::path::PathBuf;

use afterimage::block::{Sequence, Timestamp};
use afterimage::{
    Failover, ListenAddress, MachineName, PointSelector, Replica, Store, cancel, commit, fail_over,
    open_point,
};
use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use examples::{log_to_stderr, shown_time};
use indicatif::ProgressBar;

/// Write a machine's disks at a recovery point as raw images.
#[derive(Parser)]
struct Arguments {
    /// Where the replica is.
    #[arg(long)]
    replica: String,
    /// The machine's name.
    #[arg(long)]
    name: MachineName,
    /// A test changes nothing; planned needs a stopped primary; unplanned fences it off.
    #[arg(long, value_enum, default_value_t = Kind::Unplanned)]
    kind: Kind,
    /// The recovery point: latest, its number, or a time (RFC 3339) that it must not be newer than.
    #[arg(long, default_value = "latest", value_parser = parse_point)]
    point: PointSelector,
    /// The folder for the images, NAME.raw each.
    #[arg(long, required_unless_present_any = ["commit", "cancel", "listen"])]
    out: Option<PathBuf>,
    /// Serve the point over NBD at once instead, until SIGINT: unix:PATH or tcp:127.0.0.1:PORT. What
    /// clients write is thrown away, so this is a test failover.
    #[arg(long, conflicts_with_all = ["out", "commit", "cancel", "kind"])]
    listen: Option<ListenAddress>,
    /// Make the failover final.
    #[arg(long, conflicts_with_all = ["cancel", "out"])]
    commit: bool,
    /// Take the failover back.
    #[arg(long, conflicts_with = "out")]
    cancel: bool,
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
    let replica = Store::open_existing(&arguments.replica)
        .await?
        .replica(arguments.name);
    if arguments.commit {
        commit(&replica).await?;
        println!("the failover is final");
        return Ok(());
    }
    if arguments.cancel {
        cancel(&replica).await?;
        println!("the failover is taken back; the primary may go on");
        return Ok(());
    }
    if let Some(address) = arguments.listen {
        return serve(&replica, arguments.point, &address).await;
    }
    let Some(out) = arguments.out else {
        bail!("--out is missing");
    };
    let how = match arguments.kind {
        Kind::Test => Failover::Test,
        Kind::Planned => Failover::Planned,
        Kind::Unplanned => Failover::Unplanned,
    };
    let bar = ProgressBar::new(0);
    let progress = |done: afterimage::block::Length, total: afterimage::block::Length| {
        bar.set_length(total.get());
        bar.set_position(done.get());
    };
    let done = fail_over(&replica, how, arguments.point, &out, progress).await?;
    bar.finish_and_clear();
    println!(
        "recovery point {} of {}",
        done.sequence,
        shown_time(done.time)
    );
    for image in done.images {
        println!("{}", image.display());
    }
    Ok(())
}

async fn serve(replica: &Replica, point: PointSelector, address: &ListenAddress) -> Result<()> {
    let opened = open_point(replica, point, address, &std::env::temp_dir()).await?;
    let point = opened.point();
    println!(
        "recovery point {} of {}",
        point.sequence,
        shown_time(point.time)
    );
    for export in opened.exports() {
        println!("{export}");
    }
    tokio::signal::ctrl_c().await?;
    Ok(opened.close().await?)
}
