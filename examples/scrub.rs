//! Reads a replica again and proves every object of it.

use std::process::ExitCode;

use afterimage::block::Length;
use afterimage::{Damage, MachineName, Replica, Store};
use anyhow::Result;
use clap::Parser;
use examples::{KeyArguments, log_to_stderr};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

/// Prove every object of the machines of a store. Exit code 1 if one is damaged.
///
/// With --repair what is damaged is recorded with the machine: it is not offered to be failed over to,
/// and its primary puts it there anew at its next round. What it no longer holds as it was is sent with
/// the next recovery points, and older ones that need it are lost.
#[derive(Parser)]
struct Arguments {
    /// Where the replica is.
    #[arg(long)]
    replica: String,
    #[command(flatten)]
    key: KeyArguments,
    /// The machine; all of the store by default.
    #[arg(long)]
    name: Option<MachineName>,
    /// Have the primary mend what is damaged.
    #[arg(long)]
    repair: bool,
    /// Print damage and a summary of each machine as lines of JSON.
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    log_to_stderr();
    let arguments = Arguments::parse();
    let store = Store::open_existing(&arguments.replica).await?;
    let store = store.with_key(arguments.key.read()?);
    let names = match arguments.name {
        Some(name) => vec![name],
        None => store.machines().await?,
    };
    let mut is_whole = true;
    for name in names {
        let replica = store.replica(name);
        is_whole &= scrub(&replica, arguments.repair, arguments.json).await?;
    }
    Ok(if is_whole {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Whether nothing is damaged.
async fn scrub(replica: &Replica, repair: bool, json: bool) -> Result<bool> {
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::with_template(
        "{msg} {bytes} {bytes_per_sec}",
    )?);
    bar.set_message(replica.name().to_string());
    let (mut objects, mut proved, mut damaged, mut recorded) = (0, Length::ZERO, 0, 0);
    let mut scrub = replica.scrub();
    while let Some(step) = scrub.step().await? {
        objects += step.objects;
        proved = proved.saturating_add(step.proved);
        damaged += step.damage.len();
        bar.set_position(proved.get());
        bar.suspend(|| step.damage.iter().for_each(|damage| show(damage, json)));
        if repair && !step.damage.is_empty() {
            recorded += replica.record(&step.damage).await?;
        }
    }
    bar.finish_and_clear();
    let name = replica.name();
    if json {
        let proved = proved.get();
        println!(
            "{}",
            json!({ "machine": name, "objects": objects, "proved": proved, "damaged": damaged, "recorded": recorded })
        );
    } else {
        println!("{name}: {objects} objects of {proved} proved, {damaged} damaged");
        if recorded > 0 {
            println!("{name}: the primary mends {recorded} of them at its next round");
        }
    }
    Ok(damaged == 0)
}

fn show(damage: &Damage, json: bool) {
    let Damage {
        object,
        reason,
        disk,
        extent,
        ..
    } = damage;
    if json {
        let (offset, length) = (extent.start().get(), extent.length().get());
        println!(
            "{}",
            json!({ "damaged": object, "reason": reason, "disk": disk, "offset": offset, "length": length })
        );
    } else {
        println!("{object} is damaged: {reason}; disk {disk} cannot be read at {extent}");
    }
}
