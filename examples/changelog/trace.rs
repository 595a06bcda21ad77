//! Traces: changes as lines of text.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use afterimage_block::{
    Access, BlockRead, BlockWrite, Change, ContentDigest, DiskId, Extent, Length, Offset, RawDisk,
};
use afterimage_changelog::{DiskStates, FileWriter, Provenance, WriterOptions};
use anyhow::{Context, Result, bail, ensure};

use super::Exit;
use super::make::{made, new_header, now};
use super::states::state_of;

/// The longest `fill`, which is held in memory.
const FILL_MAX: Length = Length::mib(64);

/// Makes the changes of the trace at `from` on the disk at `disk`, and records them.
pub(super) fn record(
    disk: &Path,
    from: &Path,
    to: Option<PathBuf>,
    states: bool,
    options: WriterOptions,
    out: &mut dyn Write,
) -> Result<Exit> {
    let to = to.unwrap_or_else(|| {
        let mut name = disk.as_os_str().to_owned();
        name.push(".ailog");
        name.into()
    });
    let trace = File::open(from).with_context(|| format!("cannot open `{}`", from.display()))?;
    let disk = RawDisk::open(disk, Access::ReadWrite)?;
    let state = || states.then(|| state_of(&disk)).transpose();
    let before = state()?;
    let header = new_header(DiskId::random(), disk.size());
    let mut log = FileWriter::create_new(&to, header, options)?;
    for (number, line) in BufReader::new(trace).lines().enumerate() {
        let place = || format!("line {} of `{}`", number + 1, from.display());
        let step = Step::parse(&line?).with_context(place)?;
        step.make(&disk, &mut log).with_context(place)?;
    }
    disk.flush()?;
    let after = state()?;
    let provenance = Provenance::from(ContentDigest::NONE);
    let sealed = log.seal(provenance.with_states(DiskStates { before, after }))?;
    made(out, &to, sealed.summary().records)
}

/// A line of a trace.
enum Step {
    Write(Offset, Vec<u8>),
    Zero(Extent),
    Discard(Extent),
    Bookmark(String),
    Nothing,
}

impl Step {
    fn parse(line: &str) -> Result<Self> {
        let line = line.trim();
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let rest = rest.trim();
        match verb {
            "write" => {
                let (offset, text) = rest.split_once(' ').context("write OFFSET TEXT")?;
                Ok(Self::Write(offset_of(offset)?, text.into()))
            }
            "fill" => {
                let (extent, byte) = rest.rsplit_once(' ').context("fill OFFSET LENGTH BYTE")?;
                let (extent, byte) = (extent_of(extent)?, byte.parse()?);
                ensure!(extent.length() <= FILL_MAX, "at most {FILL_MAX} at a time");
                let length = extent.length().to_usize().unwrap_or_default();
                Ok(Self::Write(extent.start(), vec![byte; length]))
            }
            "zero" => Ok(Self::Zero(extent_of(rest)?)),
            "discard" => Ok(Self::Discard(extent_of(rest)?)),
            "bookmark" => Ok(Self::Bookmark(rest.into())),
            empty if empty.is_empty() || empty.starts_with('#') => Ok(Self::Nothing),
            other => bail!("`{other}` is no change: write, fill, zero, discard or bookmark"),
        }
    }

    /// Changes the disk and then records it, as a backend does.
    fn make(&self, disk: &RawDisk, log: &mut FileWriter) -> Result<()> {
        let change = match self {
            Self::Write(offset, data) => Change::Write {
                offset: *offset,
                data,
            },
            Self::Zero(extent) => Change::WriteZeroes(*extent),
            Self::Discard(extent) => Change::Discard(*extent),
            Self::Bookmark(label) => {
                log.bookmark(label, now())?;
                return Ok(());
            }
            Self::Nothing => return Ok(()),
        };
        change.apply_to(disk)?;
        log.append(change, now())?;
        Ok(())
    }
}

fn offset_of(text: &str) -> Result<Offset> {
    Ok(Offset::new(text.parse::<Length>()?.get()))
}

/// An offset and a length with a space between.
fn extent_of(text: &str) -> Result<Extent> {
    let (offset, length) = text.split_once(' ').context("OFFSET LENGTH")?;
    Ok(Extent::new(offset_of(offset)?, length.trim().parse()?)?)
}
