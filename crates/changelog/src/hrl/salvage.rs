//! What an HRL still proves that was not closed, or is damaged.

use std::path::Path;

use afterimage_block::{Doubt, ExtentSet};

use super::block::Block;
use super::checksum::checksum_around;
use super::walk::{BODY, Placed, place, read_header, walk};
use super::{HrlHeader, HrlLog, HrlRecord};
use crate::fields::{u32_at, u64_at};
use crate::file::LogFile;
use crate::{Gap, Result};

/// The bytes that are searched at a time.
const WINDOW: usize = 1 << 20;
/// A metadata block's header.
const HEAD: usize = 32;
/// How many times the length of the log may be read to prove what looks like a metadata block. Data
/// that was forged to look like nothing else would have to be read thousands of times.
const BUDGET: u64 = 16;

/// What was salvaged of an HRL.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HrlSalvaged {
    /// The entries that proved themselves, as a log that can be read and applied like any other.
    pub log: HrlLog,
    /// The entries whose data does not have its checksum, in order.
    pub rejected: Vec<HrlRecord>,
    /// The parts of the file that no proved metadata block describes, in order.
    pub gaps: Vec<Gap>,
    /// What of the disk may have been changed by entries that are lost. Everything, unless only data
    /// is damaged.
    pub unknown: Doubt,
}

impl HrlLog {
    /// Reads what can be proved of the log at `path`, closed or not.
    ///
    /// From the log's end back, if it was closed, and from its beginning on: a metadata block is
    /// believed if its checksums match, what is reserved in it is zero, its distance to the block
    /// before it is the one that it says, and its entries' data fills exactly what is between. The
    /// format has nothing that a disk's data could not imitate, so a guest that knows the layout can
    /// forge writes to its own disk here; do not salvage what can be replicated anew. What looks like
    /// metadata and is not is read up to 16 times the log's length; what follows then is given up.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io); [`Error::InFile`](crate::Error::InFile) if not even the
    /// header proves itself.
    pub fn salvage(path: &Path) -> Result<HrlSalvaged> {
        salvage(path).map_err(|error| error.in_file(path))
    }
}

fn salvage(path: &Path) -> Result<HrlSalvaged> {
    let file = LogFile::open(path)?;
    let header = read_header(&file)?;
    let end = header.end.filter(|end| *end <= file.length());
    let (newest, complete) = match end {
        Some(end) => {
            let (found, failed) = walk(&file, &header, end);
            (found, failed.is_none())
        }
        None => (Vec::new(), false),
    };
    let mut blocks = Vec::new();
    if !complete {
        let limit = newest.first().map(|placed| placed.data_at).or(end);
        blocks = search(&file, &header, limit.unwrap_or(file.length()))?;
    }
    blocks.extend(newest);
    let whole = header.end.unwrap_or(file.length()).max(BODY);
    let gaps = gaps(&blocks, header.metadata_size.into(), whole);
    let (log, rejected) = HrlLog::of_blocks(&file, header, blocks)?;
    let unknown = match header.end {
        None => everything("the log was not closed"),
        Some(_) if !gaps.is_empty() => everything("metadata of the log is lost"),
        Some(_) if log.summary().entries + rejected.len() as u64 != header.entries => {
            everything("the header announces another number of entries")
        }
        Some(_) => Doubt::Extents(stale(&log, &rejected)?),
    };
    Ok(HrlSalvaged {
        log,
        rejected,
        gaps,
        unknown,
    })
}

fn everything(reason: &str) -> Doubt {
    Doubt::Everything {
        reason: reason.into(),
    }
}

/// The parts of a log that ends at `end` that are none of these blocks or their data.
fn gaps(blocks: &[Placed], size: u64, end: u64) -> Vec<Gap> {
    let starts = blocks.iter().map(|placed| placed.data_at).chain([end]);
    let ends = blocks.iter().map(|placed| placed.at.saturating_add(size));
    let between = [BODY].into_iter().chain(ends).zip(starts);
    between
        .filter_map(|(start, end)| Gap::between(start, end))
        .collect()
}

/// What the rejected entries changed and no later proved one did.
fn stale(log: &HrlLog, rejected: &[HrlRecord]) -> Result<ExtentSet> {
    let mut stale = ExtentSet::new();
    if rejected.is_empty() {
        return Ok(stale);
    }
    let mut lost = rejected.iter().peekable();
    log.entries(|record| {
        while let Some(one) = lost.next_if(|one| one.at < record.at) {
            stale.extend(one.entry.extent());
        }
        if let Some(extent) = record.entry.extent() {
            stale.remove(extent);
        }
        Ok(())
    })?;
    stale.extend(lost.filter_map(|one| one.entry.extent()));
    Ok(stale)
}

/// The blocks before `limit` that follow each other from the log's beginning.
fn search(file: &LogFile<'_>, header: &HrlHeader, limit: u64) -> Result<Vec<Placed>> {
    let mut found = Vec::new();
    let mut before = None;
    let mut data_at = BODY;
    let budget = &mut file.length().saturating_mul(BUDGET);
    loop {
        let mut next = next_block(file, header, before, data_at, limit, budget)?;
        if next.is_none() && found.is_empty() {
            // Writers begin with an empty block. It may be damaged, and the next one still says
            // that it was there.
            let after = BODY + u64::from(header.metadata_size);
            next = next_block(file, header, Some(BODY), after, limit, budget)?;
        }
        let Some(placed) = next else {
            return Ok(found);
        };
        found.push(placed);
        before = Some(placed.at);
        data_at = placed.at + u64::from(header.metadata_size);
    }
}

/// The first block at `from` or behind that ends by `limit` and follows the one at `before`.
fn next_block(
    file: &LogFile<'_>,
    header: &HrlHeader,
    before: Option<u64>,
    from: u64,
    limit: u64,
    budget: &mut u64,
) -> Result<Option<Placed>> {
    let limit = limit.min(file.length());
    let last = limit.checked_sub(header.metadata_size.into());
    let (mut window, mut start) = (Vec::new(), from);
    while last.is_some_and(|last| start <= last) {
        file.read_up_to(&mut window, start, WINDOW)?;
        for (at, head) in (start..).zip(window.windows(HEAD)) {
            if last.is_none_or(|last| at > last) {
                return Ok(None);
            }
            let back = before.map_or(0, |before| at - before);
            if u64_at(head, 0) != back || u32_at(head, 12) != checksum_around(head, 12) {
                continue;
            }
            let Some(left) = budget.checked_sub(header.metadata_size.into()) else {
                return Ok(None);
            };
            *budget = left;
            if let Some(placed) = prove(file, header, at)? {
                return Ok(Some(placed));
            }
        }
        let searched = window.len().saturating_sub(HEAD - 1).max(1);
        start += searched as u64;
    }
    Ok(None)
}

/// The block at `at`, if it is one to the last byte.
fn prove(file: &LogFile<'_>, header: &HrlHeader, at: u64) -> Result<Option<Placed>> {
    let mut bytes = vec![0; header.block_length()];
    file.read(&mut bytes, at)?;
    let block = Block::parse(&bytes, at).ok();
    let exact = block.filter(|block| block.encode(bytes.len()) == bytes);
    Ok(exact.and_then(|block| place(&block, header, at).ok()))
}
