//! What is made of logs: a changed disk, other logs.

use std::io::Write;
use std::path::{Path, PathBuf};

use afterimage_block::{
    Access, BlockRead, BlockWrite, ContentDigest, DiskId, Epoch, Extent, Length, RawDisk, SECTOR,
    Sequence, Timestamp,
};
use afterimage_changelog::{
    AnyLog, ChangeLog, Error, FileWriter, HrlId, HrlLog, HrlOptions, LogHeader, SealedLog,
    WriterOptions, apply_with_undo, open_log, salvage as salvage_native, to_hrl, to_native,
};
use anyhow::{Context, Result, bail, ensure};

use super::Exit;
use super::arguments::{Convert, Format};
use super::show::doubt;

pub(super) fn now() -> Timestamp {
    std::time::SystemTime::now().into()
}

/// Applies logs, none of them before all are proved and seen to fit.
pub(super) fn apply(
    files: &[PathBuf],
    to: &Path,
    undo: Option<&Path>,
    out: &mut dyn Write,
) -> Result<Exit> {
    ensure!(
        undo.is_none() || files.len() == 1,
        "one log at a time can be taken back: merge them first"
    );
    let logs = open_all(files)?;
    let disk = RawDisk::open(to, Access::ReadWrite)?;
    for log in &logs {
        log.check_fits(disk.size())?;
    }
    for log in &logs {
        let applied = match undo {
            Some(undo) => {
                let options = WriterOptions::default();
                let undo = FileWriter::create_new(undo, undo_header(log, disk.size()), options)?;
                apply_with_undo(log, &disk, undo)?.applied
            }
            None => log.apply(&disk)?,
        };
        let path = log.path().display();
        let (written, zeroed) = (applied.written, applied.zeroed);
        writeln!(out, "{path}: {written} written, {zeroed} zeroed")?;
    }
    disk.flush()?;
    Ok(Exit::Good)
}

/// Proves logs, and that each follows the one before it as far as their formats say.
fn open_all(files: &[PathBuf]) -> Result<Vec<AnyLog>> {
    let logs: Vec<_> = files
        .iter()
        .map(|path| open_log(path))
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

/// Of the same disk and generations as `log`, as far as it says.
fn undo_header(log: &AnyLog, size: Length) -> LogHeader {
    match log {
        AnyLog::Native(log) => LogHeader {
            created: now(),
            ..*log.header()
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

/// Merges native logs.
pub(super) fn merge(files: &[PathBuf], to: &Path, out: &mut dyn Write) -> Result<Exit> {
    let native = |path: &PathBuf| match open_log(path)? {
        AnyLog::Native(log) => Ok(log),
        _ => bail!("{}: convert it to the native format first", path.display()),
    };
    let logs: Vec<SealedLog> = files.iter().map(native).collect::<Result<_>>()?;
    let (first, rest) = logs.split_first().context("no logs")?;
    let merged = afterimage_changelog::merge(first, rest, to, WriterOptions::default())?;
    made(out, to, merged.summary().records)
}

pub(super) fn made(out: &mut dyn Write, path: &Path, records: u64) -> Result<Exit> {
    writeln!(out, "{}: {records} records", path.display())?;
    Ok(Exit::Good)
}

/// Writes a log in a format.
pub(super) fn convert(convert: &Convert, out: &mut dyn Write) -> Result<Exit> {
    let log = open_log(&convert.file)?;
    let records = match convert.to {
        Format::Hrl => {
            let options = HrlOptions::new(HrlId::random(), now());
            to_hrl(&log, &convert.out, &options, now())?
                .summary()
                .entries
        }
        Format::Native => {
            let header = native_header(&log, convert)?;
            let options = WriterOptions::default();
            let predecessor = match &log {
                AnyLog::Native(log) => log.summary().predecessor,
                _ => ContentDigest::NONE,
            };
            let native = to_native(&log, &convert.out, header, options, predecessor)?;
            native.summary().records
        }
    };
    made(out, &convert.out, records)
}

fn native_header(log: &AnyLog, convert: &Convert) -> Result<LogHeader> {
    if let AnyLog::Native(log) = log {
        return Ok(*log.header());
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
pub(super) fn salvage(file: &Path, to: &Path, out: &mut dyn Write) -> Result<Exit> {
    let (records, unknown) = match salvage_native(file, |_| Ok(())) {
        Ok(found) => {
            let log = salvage_to(file, found.header, to)?;
            (log.summary().records, found.unknown)
        }
        Err(error @ Error::Io { .. }) => return Err(error.into()),
        Err(native) => {
            let found = HrlLog::salvage(file).map_err(|hrl| match hrl.cause() {
                Error::UnknownFormat => native,
                _ => hrl,
            })?;
            let header = found.log.header();
            let options = HrlOptions::new(header.id, header.created.into());
            let options = options.following(header.previous);
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
fn salvage_to(file: &Path, header: LogHeader, to: &Path) -> Result<SealedLog> {
    let mut log = FileWriter::create_new(to, header, WriterOptions::default())?;
    salvage_native(file, |record| log.append_record(record).map(drop))?;
    Ok(log.seal(ContentDigest::NONE)?)
}
