//! How it is shown.

use std::io::Write;

use afterimage_capacity::{MONTH, Plan, Prices, Requests, Spread};
use anyhow::Result;
use humantime::format_duration;
use serde_json::{Value, json};

use super::Planned;
use super::read::Recorded;

/// The width of the names of rows, and of columns.
const NAME: usize = 44;
const COLUMN: usize = 12;

/// A table of an interval a column, and one of the bills.
pub(super) fn text(
    out: &mut dyn Write,
    recorded: &Recorded,
    planned: &[Planned],
    prices: &Prices,
) -> Result<()> {
    let recording = &recorded.recording;
    writeln!(
        out,
        "recorded: {} changes in {} logs over {}, of disks of {} in all",
        recording.changes(),
        recorded.logs,
        seconds(recording.span().as_secs_f64()),
        bytes(as_f64(recording.size().get())),
    )?;
    let heads = planned
        .iter()
        .map(|planned| format_duration(planned.interval).to_string());
    writeln!(out)?;
    row(out, "one machine, a recovery point every", heads)?;
    for (name, of) in ROWS {
        row(out, name, planned.iter().map(|planned| of(&planned.plan)))?;
    }
    if planned.iter().any(|planned| !planned.plan.keeps_up) {
        writeln!(
            out,
            "* it does not keep up: the backlog grows for as long as the machine writes"
        )?;
    }
    writeln!(out)?;
    writeln!(
        out,
        "cost a month, at {} for a million puts, {} for a million gets, {} a TB held, {} a TB sent",
        prices.puts_million, prices.gets_million, prices.held_tb_month, prices.in_tb
    )?;
    let count = planned.first().map_or(0, |planned| planned.bills.len());
    for number in 0..count {
        let bills = || {
            planned
                .iter()
                .filter_map(|planned| planned.bills.get(number))
        };
        let machines = bills().next().map_or(0, |bill| bill.machines);
        let sent = planned
            .iter()
            .map(|planned| planned.plan.sent_month / MONTH.as_secs_f64() * f64::from(machines));
        let of = if machines == 1 { "machine" } else { "machines" };
        row(
            out,
            &format!("{machines} {of}"),
            bills().map(|bill| money(bill.total())),
        )?;
        row(
            out,
            "  of that requests",
            bills().map(|bill| money(bill.requests)),
        )?;
        row(out, "  held", bills().map(|bill| money(bill.held)))?;
        row(
            out,
            "  a failover of all elsewhere, each time",
            bills().map(|bill| money(bill.failover)),
        )?;
        row(out, "  sent a second, folds included", sent.map(bytes))?;
    }
    Ok(())
}

type Row = (&'static str, fn(&Plan) -> String);

const ROWS: [Row; 17] = [
    ("intervals, with changes", |plan| {
        format!("{}, {}", plan.intervals, plan.changed_intervals)
    }),
    ("newest point's age before the next, mean", |plan| {
        age(plan, plan.rpo_secs.mean)
    }),
    ("the same, at worst", |plan| age(plan, plan.rpo_secs.max)),
    ("logged in an interval, mean", |plan| {
        bytes(plan.logged.mean)
    }),
    ("sent in an interval, mean", |plan| bytes(plan.shipped.mean)),
    ("the same, at most", |plan| bytes(plan.shipped.max)),
    ("bandwidth to keep up on average, a second", |plan| {
        bytes(plan.rate.mean)
    }),
    ("bandwidth to keep up at any time", |plan| {
        bytes(plan.rate.max)
    }),
    ("log space", |plan| bytes(plan.log_bytes_max)),
    ("log space for the outage", |plan| {
        bytes(plan.log_bytes_after_outage)
    }),
    ("outage that ends in a resynchronization", |plan| {
        seconds(plan.outage_max_secs)
    }),
    ("puts a month", |plan| count(plan.requests_month.puts)),
    ("  of that by folds", |plan| {
        count(plan.folding_requests_month.puts)
    }),
    ("gets a month", |plan| count(plan.requests_month.gets)),
    ("sent a month", |plan| bytes(plan.sent_month)),
    ("  of that by folds", |plan| bytes(plan.folding_sent_month)),
    ("held by the store", |plan| bytes(plan.held)),
];

fn row(out: &mut dyn Write, name: &str, cells: impl Iterator<Item = String>) -> Result<()> {
    write!(out, "{name:<NAME$}")?;
    for cell in cells {
        write!(out, " {cell:>COLUMN$}")?;
    }
    writeln!(out)?;
    Ok(())
}

/// All figures, in bytes, seconds and the currency of the prices.
pub(super) fn json(out: &mut dyn Write, recorded: &Recorded, planned: &[Planned]) -> Result<()> {
    let recording = &recorded.recording;
    let value = json!({
        "recorded": {
            "changes": recording.changes(),
            "logs": recorded.logs,
            "secs": recording.span().as_secs_f64(),
            "disks_bytes": recording.size().get(),
        },
        "plans": planned.iter().map(plan_json).collect::<Vec<_>>(),
    });
    writeln!(out, "{value}")?;
    Ok(())
}

fn plan_json(planned: &Planned) -> Value {
    let plan = &planned.plan;
    let spread = |of: Spread| json!({ "mean": of.mean, "max": of.max });
    let requests =
        |of: Requests| json!({ "puts": of.puts, "gets": of.gets, "deletes": of.deletes });
    let bills = planned.bills.iter().map(|bill| {
        json!({
            "machines": bill.machines,
            "requests": bill.requests,
            "held": bill.held,
            "sent": bill.sent,
            "total": bill.total(),
            "failover": bill.failover,
        })
    });
    json!({
        "interval_secs": planned.interval.as_secs_f64(),
        "intervals": plan.intervals,
        "changed_intervals": plan.changed_intervals,
        "rpo_secs": spread(plan.rpo_secs),
        "keeps_up": plan.keeps_up,
        "logged_bytes": spread(plan.logged),
        "sent_bytes": spread(plan.shipped),
        "bytes_a_second": spread(plan.rate),
        "log_bytes_max": plan.log_bytes_max,
        "log_bytes_after_outage": plan.log_bytes_after_outage,
        // Infinite, of disks that are never written to, is null.
        "outage_max_secs": plan.outage_max_secs,
        "month": {
            "requests": requests(plan.requests_month),
            "folding_requests": requests(plan.folding_requests_month),
            "sent_bytes": plan.sent_month,
            "folding_sent_bytes": plan.folding_sent_month,
            "held_bytes": plan.held,
            "bills": bills.collect::<Vec<_>>(),
        },
        "restored_bytes": plan.restored,
    })
}

fn age(plan: &Plan, secs: f64) -> String {
    let mark = if plan.keeps_up { "" } else { "*" };
    format!("{}{mark}", seconds(secs))
}

/// With the unit that leaves few digits.
fn scaled(amount: f64, units: &[(f64, &str)]) -> String {
    let fits = units.iter().rev().find(|(unit, _)| amount >= *unit);
    let (unit, name) = fits.or(units.first()).copied().unwrap_or((1.0, ""));
    let amount = amount / unit;
    let digits = usize::from(amount < 10.0 && !name.is_empty());
    format!("{amount:.digits$} {name}").trim_end().to_owned()
}

fn bytes(amount: f64) -> String {
    scaled(
        amount,
        &[
            (1.0, "B"),
            (1e3, "kB"),
            (1e6, "MB"),
            (1e9, "GB"),
            (1e12, "TB"),
            (1e15, "PB"),
        ],
    )
}

fn count(amount: f64) -> String {
    scaled(amount, &[(1.0, ""), (1e3, "k"), (1e6, "M"), (1e9, "G")])
}

fn seconds(secs: f64) -> String {
    if secs.is_infinite() {
        return "never".into();
    }
    scaled(
        secs,
        &[(1.0, "s"), (60.0, "min"), (3600.0, "h"), (86400.0, "days")],
    )
}

fn money(amount: f64) -> String {
    if amount < 1000.0 {
        format!("{amount:.2}")
    } else {
        format!("{amount:.0}")
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with two digits")]
fn as_f64(amount: u64) -> f64 {
    amount as f64
}
