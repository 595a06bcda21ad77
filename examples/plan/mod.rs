//! The example `plan`, from its arguments to what it prints.

mod arguments;
mod read;
mod show;

use std::ffi::OsString;
use std::io::Write;

use afterimage_capacity::{Bill, Plan};
use anyhow::{Result, ensure};
use clap::Parser;

use arguments::Arguments;
use read::Recorded;

/// What was reckoned for one interval. Those that are longer than the recording are left out.
struct Planned {
    interval: std::time::Duration,
    plan: Plan,
    bills: Vec<Bill>,
}

/// Does what `arguments` say, the first of which is the program's name.
pub fn run(arguments: impl IntoIterator<Item = OsString>, out: &mut dyn Write) -> Result<()> {
    let arguments = match Arguments::try_parse_from(arguments) {
        Err(help) if !help.use_stderr() => return Ok(write!(out, "{help}")?),
        parsed => parsed?,
    };
    let recorded = Recorded::read(&arguments)?;
    ensure!(recorded.recording.changes() > 0, "the logs have no changes");
    let prices = arguments.prices.prices();
    let span = recorded.recording.span();
    let planned: Vec<_> = arguments
        .interval
        .iter()
        .filter(|interval| **interval <= span)
        .map(|interval| {
            let plan = Plan::of(&recorded.recording, &arguments.assumptions(*interval));
            let bills = arguments.machines.iter();
            Planned {
                interval: *interval,
                bills: bills
                    .map(|machines| prices.bill(&plan, *machines))
                    .collect(),
                plan,
            }
        })
        .collect();
    let recorded_for = humantime::format_duration(span);
    ensure!(
        !planned.is_empty(),
        "{recorded_for} were recorded, which is less than an interval"
    );
    if arguments.json {
        return show::json(out, &recorded, &planned);
    }
    show::text(out, &recorded, &planned, &prices)
}
