//! What a log is and holds, sound or not.

use std::io::Write;
use std::path::Path;

use afterimage_block::Doubt;
use afterimage_changelog::{
    AnyLog, Error, Form, HrlHeader, HrlLog, Keys, Kind, LogHeader, Summary, Tail, open_log_with,
    recover_with, salvage_with,
};
use anyhow::Result;

use super::show::{self, Line};
use super::totals::Totals;
use super::{Exit, exit_of};

/// Takes records one by one.
type Take<'a> = &'a mut dyn FnMut(Line<'_>) -> afterimage_changelog::Result<()>;

/// What a log says of itself.
pub(super) enum Head {
    /// With what its footer says, if that is proved.
    Native(LogHeader, Form, Option<Summary>),
    Hrl(HrlHeader),
}

/// Whether a log is whole.
pub(super) enum State {
    /// Ended, and every byte proved.
    Sound,
    /// Never ended; every record is whole.
    Open,
    /// Neither; why, and what of the disk is unknown because of it.
    Damaged { why: String, unknown: Doubt },
}

/// What there is to show of a log.
pub(super) struct Inspected {
    pub(super) head: Head,
    pub(super) state: State,
    pub(super) totals: Totals,
}

impl Inspected {
    /// Whether it says that it may be.
    pub(super) fn is_compressed(&self) -> bool {
        matches!(&self.head, Head::Native(_, form, _) if form.compressed)
    }
}

/// Shows the log at `path`: its records as they are read, then what it comes to.
pub(super) fn inspect(
    path: &Path,
    keys: &Keys,
    (json, records): (bool, bool),
    out: &mut dyn Write,
) -> Result<Exit> {
    let mut totals = Totals::default();
    let mut failed = Ok(());
    let mut take = |line: Line<'_>| {
        totals.add(&line);
        if records && failed.is_ok() {
            failed = show::line(out, &line, json);
        }
        Ok(())
    };
    let (head, state) = match open_log_with(path, keys) {
        Ok(log) => (read(&log, &mut take)?, State::Sound),
        Err(error) => damaged(path, keys, error, &mut take)?,
    };
    failed?;
    let exit = match &state {
        State::Sound | State::Open => Exit::Good,
        State::Damaged { .. } => Exit::Damaged,
    };
    let inspected = Inspected {
        head,
        state,
        totals,
    };
    if json {
        show::json(out, path, &inspected)?;
    } else {
        show::text(out, path, &inspected)?;
    }
    Ok(exit)
}

/// Every record of a log that proved itself.
fn read(log: &AnyLog, take: Take<'_>) -> Result<Head> {
    match log {
        AnyLog::Native(log) => {
            log.records(|record| take(Line::of(record)))?;
            Ok(Head::Native(
                *log.header(),
                log.form(),
                Some(*log.summary()),
            ))
        }
        AnyLog::Hrl(log) => {
            read_hrl(log, take)?;
            Ok(Head::Hrl(*log.header()))
        }
        _ => anyhow::bail!("the log is of a format that cannot be shown"),
    }
}

/// What can still be read of a log that `error` kept from being opened.
fn damaged(path: &Path, keys: &Keys, error: Error, take: Take<'_>) -> Result<(Head, State)> {
    let why = error.cause().to_string();
    if matches!(error.cause(), Error::NotSealed)
        && let Ok(open) = recover_with(path, keys, |_| Ok(()))
        && open.tail == Tail::Whole
    {
        recover_with(path, keys, |record| take(Line::of(record)))?;
        let head = Head::Native(open.header, open.form, None);
        return Ok((head, State::Open));
    }
    let error = anyhow::Error::from(error);
    if exit_of(&error) == Exit::Usage {
        return Err(error);
    }
    if let Ok(salvaged) = salvage_with(path, keys, |record| take(Line::of(record))) {
        let unknown = salvaged.unknown;
        // What was salvaged leads to no state that a log could name.
        let head = Head::Native(salvaged.header, salvaged.form, None);
        return Ok((head, State::Damaged { why, unknown }));
    }
    // Nothing to show of a file whose header is lost but why.
    let salvaged = HrlLog::salvage(path).map_err(|_| error)?;
    read_hrl(&salvaged.log, take)?;
    let unknown = salvaged.unknown;
    let head = Head::Hrl(*salvaged.log.header());
    Ok((head, State::Damaged { why, unknown }))
}

fn read_hrl(log: &HrlLog, take: Take<'_>) -> Result<()> {
    let mut number = 0;
    log.entries(|record| {
        take(Line {
            number,
            at: record.at,
            time: record.entry.time.into(),
            kind: Kind::Write,
            extent: record.entry.extent(),
            held: record.entry.length.into(),
            stored: record.entry.length.into(),
            label: None,
        })?;
        number += 1;
        Ok(())
    })?;
    Ok(())
}
