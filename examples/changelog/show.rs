//! Logs as people read them, and as JSON.

use std::borrow::Cow;
use std::io::{Result, Write};
use std::path::Path;

use afterimage_block::{ContentDigest, Doubt, Extent, Timestamp};
use afterimage_changelog::{DiskStates, Form, HrlId, HrlTime, Kind, Record, Summary};
use serde_json::{Value, json};

use super::inspect::{Head, Inspected, State};
use crate::shown_time;

/// A record as it is shown.
pub(super) struct Line<'a> {
    pub(super) number: u64,
    /// Where it is in the file.
    pub(super) at: u64,
    pub(super) time: Timestamp,
    pub(super) kind: Kind,
    pub(super) extent: Option<Extent>,
    /// How many bytes it holds, and how many of the file it takes for them.
    pub(super) held: u64,
    pub(super) stored: u64,
    pub(super) label: Option<Cow<'a, str>>,
}

impl<'a> Line<'a> {
    /// A record of a native log.
    pub(super) fn of(record: &'a Record) -> Self {
        Self {
            number: record.header.lsn.get(),
            at: record.at,
            time: record.time(),
            kind: record.header.kind,
            extent: record.header.extent,
            held: record.payload.len() as u64,
            stored: record.header.payload.get(),
            label: label_of(record),
        }
    }
}

/// What a record without an extent says.
fn label_of(record: &Record) -> Option<Cow<'_, str>> {
    if let Some(size) = record.header.resized {
        return Some(format!("to {size}").into());
    }
    if let Ok(Some(mark)) = record.barrier() {
        let (consistency, group, label) = (mark.consistency, mark.group, mark.label);
        return Some(format!("{consistency:?} {group} {label}").into());
    }
    let is_label = record.header.kind == Kind::Bookmark;
    is_label.then(|| String::from_utf8_lossy(&record.payload))
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Write => "write",
        Kind::WriteZeroes => "zero",
        Kind::Discard => "discard",
        Kind::Bookmark => "bookmark",
        Kind::Barrier => "barrier",
        Kind::Resize => "resize",
    }
}

/// One record.
pub(super) fn line(out: &mut dyn Write, line: &Line<'_>, json: bool) -> Result<()> {
    let time = shown_time(line.time);
    if json {
        let record = json!({
            "number": line.number,
            "at": line.at,
            "time": time,
            "kind": name(line.kind),
            "offset": line.extent.map(|extent| extent.start().get()),
            "length": line.extent.map(|extent| extent.length().get()),
            "label": line.label,
        });
        return writeln!(out, "{record}");
    }
    let what = match line.extent {
        Some(extent) => format!("{} at {}", extent.length(), extent.start().get()),
        None => line
            .label
            .as_deref()
            .unwrap_or_default()
            .escape_debug()
            .to_string(),
    };
    let (number, kind) = (line.number, name(line.kind));
    writeln!(out, "{number:>8}  {time}  {kind:<8}  {what}")
}

/// What a log is and comes to, as text.
pub(super) fn text(out: &mut dyn Write, path: &Path, log: &Inspected) -> Result<()> {
    let totals = &log.totals;
    writeln!(out, "{}", path.display())?;
    let mut row = |name: &str, value: String| writeln!(out, "  {name:<16} {value}");
    for (name, value) in head(&log.head) {
        row(name, value)?;
    }
    row("state", state(&log.state))?;
    row(
        "records",
        format!(
            "{}: {}, {} zeroed, {} discarded, {}",
            totals.records(),
            counted(totals.writes, "write"),
            totals.zeroed,
            totals.discarded,
            counted(totals.marks, "mark"),
        ),
    )?;
    let (distinct, runs) = (totals.extents.total(), totals.extents.runs());
    row("changes", format!("{} in all", totals.changed))?;
    let runs = counted(runs as u64, "extent");
    row("extents", format!("{distinct} in {runs}"))?;
    if let Some(reach) = totals.reach() {
        let (first, end) = (reach.start().get(), reach.end().get());
        row("reach", format!("byte {first} to {end}"))?;
    }
    if log.is_compressed() {
        let ratio = totals.compression_ratio();
        row("compression", format!("{ratio:.2} to 1"))?;
    }
    let ratio = totals.overwrite_ratio();
    row("overwrite ratio", format!("{ratio:.2}"))?;
    if let Some((oldest, newest)) = totals.span {
        let took = newest.since(oldest).as_secs_f64();
        let (oldest, newest) = (shown_time(oldest), shown_time(newest));
        row("time span", format!("{oldest} to {newest}: {took:.3} s"))?;
    }
    Ok(())
}

/// What a log is and comes to, as a line of JSON.
pub(super) fn json(out: &mut dyn Write, path: &Path, log: &Inspected) -> Result<()> {
    let totals = &log.totals;
    let pairs = head(&log.head).into_iter();
    let head: serde_json::Map<_, _> = pairs
        .map(|(name, value)| (name.replace(' ', "_"), Value::from(value)))
        .collect();
    let span = totals.span;
    let shown = json!({
        "path": path.display().to_string(),
        "header": head,
        "sound": matches!(log.state, State::Sound),
        "state": state(&log.state),
        "records": totals.records(),
        "writes": totals.writes,
        "zeroed": totals.zeroed,
        "discarded": totals.discarded,
        "marks": totals.marks,
        "changed_bytes": totals.changed.get(),
        "distinct_bytes": totals.extents.total().get(),
        "extents": totals.extents.runs(),
        "overwrite_ratio": totals.overwrite_ratio(),
        "compression_ratio": log.is_compressed().then(|| totals.compression_ratio()),
        "oldest": span.map(|(oldest, _)| shown_time(oldest)),
        "newest": span.map(|(_, newest)| shown_time(newest)),
    });
    writeln!(out, "{shown}")
}

/// The fields of a header, by their names.
fn head(head: &Head) -> Vec<(&'static str, String)> {
    match head {
        Head::Native(header, form, summary) => {
            let mut fields = vec![
                ("format", "native, version 1".into()),
                ("stored", stored(*form)),
                ("disk", header.disk.to_string()),
                ("disk size", header.disk_size.to_string()),
                ("epoch", header.epoch.to_string()),
                (
                    "generations",
                    format!("{} to {}", header.first, header.last),
                ),
                ("created", shown_time(header.created)),
            ];
            if let Some(summary) = summary {
                fields.extend(chain(summary));
            }
            fields
        }
        Head::Hrl(header) => {
            let guid = header.data_write_guid.filter(|guid| *guid != HrlId::NIL);
            let error = Some(header.error_code).filter(|code| *code != 0);
            let mut fields = vec![
                (
                    "format",
                    format!("HRL, version {}", header.version as u32 >> 16),
                ),
                ("id", header.id.to_string()),
                ("predecessor", header.previous.to_string()),
                ("created", shown_hrl(header.created)),
                ("modified", shown_hrl(header.modified)),
                ("creator", header.creator.escape_ascii().to_string()),
                ("entries", header.entries.to_string()),
                ("metadata size", header.metadata_size.to_string()),
            ];
            fields.extend(guid.map(|guid| ("data write guid", guid.to_string())));
            fields.extend(error.map(|code| ("error code", code.to_string())));
            fields
        }
    }
}

/// What a native log is called by the one after it, and what it follows and leads to, where it says.
fn chain(summary: &Summary) -> impl Iterator<Item = (&'static str, String)> {
    let predecessor = Some(summary.predecessor).filter(|log| *log != ContentDigest::NONE);
    let DiskStates { before, after } = summary.states;
    [
        ("content", Some(summary.content.to_string())),
        ("predecessor", predecessor.map(|log| log.to_string())),
        ("applies to state", before.map(|state| state.to_string())),
        ("produces state", after.map(|state| state.to_string())),
        ("resized to", summary.resized.map(|size| size.to_string())),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
}

/// How the records of a native log are stored.
fn stored(form: Form) -> String {
    let compressed = if form.compressed {
        "compressed"
    } else {
        "plain"
    };
    match form.key {
        Some(key) => format!("{compressed}, encrypted with key {key}"),
        None => compressed.into(),
    }
}

fn shown_hrl(time: HrlTime) -> String {
    shown_time(time.into())
}

fn state(state: &State) -> String {
    match state {
        State::Sound => "sound".into(),
        State::Open => "open: never sealed, every record whole".into(),
        State::Damaged { why, unknown } => format!("{why}; {}", doubt(unknown)),
    }
}

/// How many there are of something that has an s where there are several.
pub(super) fn counted(number: u64, one: &str) -> String {
    let several = if number == 1 { "" } else { "s" };
    format!("{number} {one}{several}")
}

/// What of the disk is unknown.
pub(super) fn doubt(unknown: &Doubt) -> String {
    match unknown {
        Doubt::Extents(extents) if extents.is_empty() => "nothing is lost".into(),
        Doubt::Extents(extents) => {
            let (total, runs) = (extents.total(), extents.runs());
            let runs = counted(runs as u64, "extent");
            format!("{total} of the disk in {runs}: unknown")
        }
        Doubt::Everything { reason } => format!("all of the disk is unknown: {reason}"),
    }
}
