//! A disk's holes at the granularity of blocks, and reading what is not one.

use afterimage_block::{BlockRead, Extent, Length, Offset, Run, RunKind};

use crate::buffer::Buffer;
use crate::{Error, Grid, Result, Side};

/// How much of a disk is read at once, or one block if that is more: large enough that a call costs
/// little, small enough that two of them stay in a core's second-level cache.
const WINDOW: Length = Length::kib(256);

/// Walks the holes of a disk. A block is a hole only if all of it is; others are read as a whole.
pub(crate) struct Spans<'d> {
    disk: &'d dyn BlockRead,
    side: Side,
    grid: Grid,
    /// What the disk said last, so that a long run is asked for once.
    known: Option<Run>,
}

impl<'d> Spans<'d> {
    pub(crate) const fn new(disk: &'d dyn BlockRead, side: Side, grid: Grid) -> Self {
        Self {
            disk,
            side,
            grid,
            known: None,
        }
    }

    /// With what the disk said before of a run of data. To read one that has become a hole since is
    /// no mistake; of a hole the disk must be asked again, since it may have been written.
    pub(crate) const fn knowing(mut self, data: Option<Extent>) -> Self {
        if let Some(extent) = data {
            let kind = RunKind::Data;
            self.known = Some(Run { extent, kind });
        }
        self
    }

    /// The run of data that the disk told last, if it did.
    pub(crate) fn known_data(&self) -> Option<Extent> {
        let known = self.known.filter(|run| run.kind == RunKind::Data);
        known.map(|run| run.extent)
    }

    /// The longest run of blocks of one kind at the start of `within` (whole blocks), data held to
    /// one window.
    pub(crate) fn next(&mut self, within: Extent) -> Result<Run> {
        let start = within.start();
        let hole = self.hole_blocks(start, within)?;
        if let Some(extent) = hole {
            let kind = RunKind::Hole;
            return Ok(Run { extent, kind });
        }
        let within = window(self.grid, within);
        let mut at = start;
        while at < within.end() {
            let run = self.run_at(at)?;
            if run.kind == RunKind::Hole
                && let Some(hole) = self.hole_blocks(at, within)?
            {
                // The block that `at` lies in holds data before `at`, so the hole starts later.
                return Ok(data(Extent::between(start, hole.start()).unwrap_or(within)));
            }
            at = run.extent.end();
        }
        Ok(data(within))
    }

    /// The blocks from `at` on that lie wholly in holes, if the first whole one does.
    fn hole_blocks(&mut self, at: Offset, within: Extent) -> Result<Option<Extent>> {
        let first = self.grid.ceil(at);
        let mut end = at;
        while end < within.end() {
            let run = self.run_at(end)?;
            if run.kind == RunKind::Data {
                break;
            }
            end = run.extent.end();
        }
        let end = if end < within.end() {
            self.grid.floor(end)
        } else {
            within.end()
        };
        Ok(Extent::between(first, end))
    }

    /// The rest of the run that holds the byte at `at`.
    fn run_at(&mut self, at: Offset) -> Result<Run> {
        let rest = |run: Run| {
            let kind = run.kind;
            let holds = run.extent.start() <= at;
            let extent = Extent::between(at, run.extent.end()).filter(|_| holds)?;
            Some(Run { extent, kind })
        };
        if let Some(run) = self.known.and_then(rest) {
            return Ok(run);
        }
        let side = self.side;
        let told = self.disk.next_run(at);
        let told = told.map_err(|source| Error::Map { side, at, source })?;
        let run = told.and_then(rest).ok_or(Error::InvalidRun { side, at })?;
        self.known = Some(run);
        Ok(run)
    }
}

const fn data(extent: Extent) -> Run {
    let kind = RunKind::Data;
    Run { extent, kind }
}

/// The data that the disk tells at `at`, if it does; what it cannot tell now it is asked again.
pub(crate) fn data_at(disk: &dyn BlockRead, at: Offset) -> Option<Extent> {
    let run = disk.next_run(at).ok().flatten()?;
    let holds = run.kind == RunKind::Data && run.extent.start() <= at;
    holds.then_some(run.extent)
}

/// The start of `extent` that is read at once.
pub(crate) fn window(grid: Grid, extent: Extent) -> Extent {
    let length = WINDOW.max(grid.block_size().length()).min(extent.length());
    Extent::new(extent.start(), length).unwrap_or(extent)
}

/// Reads the blocks of `extent` into `buffer`, which grows as needed. If one cannot be read, gives
/// those before it and the error.
pub(crate) fn read_blocks<'b>(
    disk: &dyn BlockRead,
    side: Side,
    grid: Grid,
    extent: Extent,
    buffer: &'b mut Buffer,
) -> (&'b [u8], Option<Error>) {
    let length = extent.length().to_usize().unwrap_or_default();
    let bytes = buffer.first(length);
    let (good, error) = read_into(disk, side, grid, extent, bytes);
    (&bytes[..good], error)
}

/// Reads the blocks of `extent` into `bytes`, which is as long. If one cannot be read, gives how much
/// lies before it and the error.
pub(crate) fn read_into(
    disk: &dyn BlockRead,
    side: Side,
    grid: Grid,
    extent: Extent,
    bytes: &mut [u8],
) -> (usize, Option<Error>) {
    if disk.read_at(extent.start(), bytes).is_ok() {
        return (bytes.len(), None);
    }
    let mut good = 0;
    for block in extent.pieces(grid.block_size().length()) {
        let end = good + block.length().to_usize().unwrap_or_default();
        if let Err(source) = disk.read_at(block.start(), &mut bytes[good..end]) {
            let extent = block;
            let error = Error::Read {
                side,
                extent,
                source,
            };
            return (good, Some(error));
        }
        good = end;
    }
    (good, None)
}
