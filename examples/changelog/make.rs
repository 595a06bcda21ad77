//! What is made of logs: a changed disk, other logs.

use std::io::Write;
use std::path::{Path, PathBuf};

use afterimage_block::{
    Access, BlockRead, BlockWrite, ContentDigest, DiskId, Epoch, Extent, Length, RawDisk, SECTOR,
    Sequence, Timestamp,
};
use afterimage_changelog::{
    AnyLog, ChangeLog, Error, FileWriter, HrlHeader, HrlId, HrlLog, HrlOptions, LogHeader,
    Salvaged, SealedLog, apply_with_undo, merge_hrl, open_log_with, salvage_with, to_hrl,
    to_native,
};
use anyhow::{Context, Result, bail};

use super::Exit;
use super::arguments::{Convert, Format};
use super::keys::{KeyRing, plaintext};
use super::show::{counted, doubt};
use super::states::{check_produced, state_of};

pub(super) fn now() -> Timestamp {
    std::time::SystemTime::now().into()
}

/// Applies logs, none of them before all are proved and seen to fit.
pub(super) fn apply(
    files: &[PathBuf],
    to: &Path,
    undo: Option<&Path>,
    check: bool,
    keys: &KeyRing,
    out: &mut dyn Write,
) -> Result<Exit> {
    let opened = open_all(files, keys)?;
    let logs: Vec<_> = opened.iter().map(|log| log as &dyn ChangeLog).collect();
    let disk = RawDisk::open(to, Access::ReadWrite)?;
    for log in &logs {
        let refused = || {
            let (log, disk) = (log.path().display(), to.display());
            format!("cannot apply `{log}` to `{disk}`")
        };
        log.check_fits(disk.size()).with_context(refused)?;
    }
    let (first, last) = (logs.first(), logs.last());
    if let Some(log) = first.filter(|log| check && log.states().before.is_some()) {
        log.check_state(state_of(&disk)?)?;
    }
    let applied = match undo {
        Some(undo) => {
            let options = keys.options_like(logs.iter().map(|log| log.form()));
            let undo = FileWriter::create_new(undo, undo_header(&opened, disk.size()), options)?;
            apply_with_undo(&logs, &disk, undo)?.applied
        }
        None => logs
            .iter()
            .map(|log| log.apply(&disk))
            .collect::<Result<_, _>>()?,
    };
    disk.flush()?;
    for (log, applied) in logs.iter().zip(applied) {
        let path = log.path().display();
        let (written, zeroed) = (applied.written, applied.zeroed);
        writeln!(out, "{path}: {written} written, {zeroed} zeroed")?;
    }
    if let Some(log) = last.filter(|_| check) {
        check_produced(*log, &disk)?;
    }
    Ok(Exit::Good)
}

/// Proves logs, and that each follows the one before it as far as their formats say.
fn open_all(files: &[PathBuf], keys: &KeyRing) -> Result<Vec<AnyLog>> {
    let logs: Vec<_> = files
        .iter()
        .map(|path| open_log_with(path, keys.all()))
        .collect::<Result<_, _>>()?;
    for pair in logs.windows(2) {
        match pair {
            [AnyLog::Native(earlier), AnyLog::Native(later)] => later.check_follows(earlier)?,
            [AnyLog::Hrl(earlier), AnyLog::Hrl(later)] => later.check_follows(earlier)?,
            _ => bail!("logs of both formats do not follow each other"),
        }
    }
    Ok(logs)
}

/// Of the same disk and generations as `logs`, as far as they say.
fn undo_header(logs: &[AnyLog], size: Length) -> LogHeader {
    match (logs.first(), logs.last()) {
        (Some(AnyLog::Native(first)), Some(AnyLog::Native(last))) => LogHeader {
            last: last.header().last,
            created: now(),
            ..*first.header()
        },
        _ => new_header(DiskId::random(), size),
    }
}

/// That of the first log of a disk.
pub(super) fn new_header(disk: DiskId, disk_size: Length) -> LogHeader {
    LogHeader {
        disk,
        disk_size,
        epoch: Epoch::new(1),
        first: Sequence::new(1),
        last: Sequence::new(1),
        created: now(),
    }
}

/// Merges logs of one format.
pub(super) fn merge(
    files: &[PathBuf],
    to: &Path,
    keys: &KeyRing,
    out: &mut dyn Write,
) -> Result<Exit> {
    let logs = open_all(files, keys)?;
    let native = logs.iter().map(|log| match log {
        AnyLog::Native(log) => Some(log.clone()),
        _ => None,
    });
    let hrl = logs.iter().map(|log| match log {
        AnyLog::Hrl(log) => Some(log.clone()),
        _ => None,
    });
    // All are of the format of the first, which opening them has seen to.
    let native: Option<Vec<SealedLog>> = native.collect();
    let hrl: Option<Vec<HrlLog>> = hrl.collect();
    let records = match (native.as_deref(), hrl.as_deref()) {
        (Some([first, rest @ ..]), _) => {
            let options = keys.options_like(logs.iter().map(ChangeLog::form));
            let merged = afterimage_changelog::merge(first, rest, to, options)?;
            merged.summary().records
        }
        (_, Some([first, rest @ ..])) => merge_hrl(first, rest, to, now())?.summary().entries,
        _ => bail!("logs of both formats are not merged"),
    };
    made(out, to, records)
}

pub(super) fn made(out: &mut dyn Write, path: &Path, records: u64) -> Result<Exit> {
    writeln!(out, "{}: {}", path.display(), counted(records, "record"))?;
    Ok(Exit::Good)
}

/// Writes a log in a format.
pub(super) fn convert(convert: &Convert, keys: &KeyRing, out: &mut dyn Write) -> Result<Exit> {
    let log = open_log_with(&convert.file, keys.all())?;
    let records = match convert.to {
        Format::Hrl => {
            let mut options = hrl_options(&log);
            options.plaintext = convert.plaintext;
            to_hrl(&log, &convert.out, &options, now())?
                .summary()
                .entries
        }
        Format::Native => {
            let after = convert.after.as_ref();
            let after = after.map(|path| open_native(path, keys)).transpose()?;
            let header = native_header(&log, after.as_ref(), convert)?;
            let compress = convert.compress || log.form().compressed;
            let options = if convert.plaintext {
                plaintext(compress)
            } else {
                keys.options(compress)
            };
            let predecessor = match (&log, &after) {
                (_, Some(earlier)) => earlier.content(),
                (AnyLog::Native(log), None) => log.summary().predecessor,
                _ => ContentDigest::NONE,
            };
            let native = to_native(&log, &convert.out, header, options, predecessor)?;
            native.summary().records
        }
    };
    made(out, &convert.out, records)
}

/// What an HRL made of `log` says: of another HRL, what that says.
fn hrl_options(log: &AnyLog) -> HrlOptions {
    match log {
        AnyLog::Native(log) => {
            let (summary, id) = (log.summary(), |log| HrlId::from_bytes(first_half(log)));
            HrlOptions::new(id(summary.content), log.header().created)
                .following(id(summary.predecessor))
        }
        AnyLog::Hrl(log) => like(log.header()),
        _ => HrlOptions::new(HrlId::random(), now()),
    }
}

/// That of no log is the identity of no HRL.
fn first_half(log: ContentDigest) -> [u8; 16] {
    std::array::from_fn(|at| log.as_bytes()[at])
}

/// What an HRL says that takes the place of one with this header.
fn like(header: &HrlHeader) -> HrlOptions {
    let mut options = HrlOptions::new(header.id, header.created.into()).following(header.previous);
    options.data_write_guid = header.data_write_guid.unwrap_or(HrlId::NIL);
    options
}

fn open_native(path: &Path, keys: &KeyRing) -> Result<SealedLog> {
    match open_log_with(path, keys.all())? {
        AnyLog::Native(log) => Ok(log),
        _ => bail!("`{}` is no native log", path.display()),
    }
}

fn native_header(log: &AnyLog, after: Option<&SealedLog>, convert: &Convert) -> Result<LogHeader> {
    if let AnyLog::Native(log) = log {
        return Ok(*log.header());
    }
    if let Some(earlier) = after {
        let generation = earlier.header().last.next();
        return Ok(LogHeader {
            disk_size: earlier
                .summary()
                .resized
                .unwrap_or(earlier.header().disk_size),
            first: generation,
            last: generation,
            created: now(),
            ..*earlier.header()
        });
    }
    let size = match convert.disk_size {
        Some(size) => size,
        None => whole_sectors(&log.extents()?),
    };
    let disk = convert.disk.unwrap_or_else(DiskId::random);
    Ok(new_header(disk, size))
}

/// The size of the smallest disk that has `extents`, which are in order.
fn whole_sectors(extents: &[Extent]) -> Length {
    let end = extents.last().map_or(0, |extent| extent.end().get());
    let sectors = end.div_ceil(SECTOR.get()).max(1);
    Length::new(sectors.saturating_mul(SECTOR.get()))
}

/// Makes a log of what `file` still proves.
pub(super) fn salvage(file: &Path, to: &Path, keys: &KeyRing, out: &mut dyn Write) -> Result<Exit> {
    let (records, unknown) = match salvage_with(file, keys.all(), |_| Ok(())) {
        Ok(found) => {
            let log = salvage_to(file, &found, to, keys)?;
            (log.summary().records, found.unknown)
        }
        Err(error @ Error::Io { .. }) => return Err(error.into()),
        Err(native) => {
            let found = HrlLog::salvage(file).map_err(|hrl| match hrl.cause() {
                Error::UnknownFormat => native,
                _ => hrl,
            })?;
            let options = like(found.log.header());
            let log = to_hrl(&found.log, to, &options, now())?;
            (log.summary().entries, found.unknown)
        }
    };
    made(out, to, records)?;
    writeln!(out, "{}", doubt(&unknown))?;
    Ok(if unknown.is_nothing() {
        Exit::Good
    } else {
        Exit::Damaged
    })
}

/// Writes every record of `file` that proves itself to a log at `to`.
fn salvage_to(file: &Path, found: &Salvaged, to: &Path, keys: &KeyRing) -> Result<SealedLog> {
    let options = keys.options_like([found.form]);
    let mut log = FileWriter::create_new(to, found.header, options)?;
    salvage_with(file, keys.all(), |record| {
        log.append_record(record).map(drop)
    })?;
    Ok(log.seal(ContentDigest::NONE)?)
}
