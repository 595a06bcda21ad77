//! The metadata blocks of an HRL, found from its end.

use super::HrlHeader;
use super::block::Block;
use crate::file::LogFile;
use crate::{Error, Result};

/// Where the metadata blocks of a log begin at the earliest.
pub(crate) const BODY: u64 = HrlHeader::LEN as u64;

/// A metadata block that proved itself, and where the data that it describes begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) at: u64,
    pub(crate) data_at: u64,
}

/// The header of a log.
pub(crate) fn read_header(file: &LogFile<'_>) -> Result<HrlHeader> {
    let mut bytes = Vec::new();
    file.read_up_to(&mut bytes, 0, HrlHeader::LEN)?;
    HrlHeader::parse(&bytes)
}

/// The metadata block at `at`.
pub(crate) fn read_block(file: &LogFile<'_>, header: &HrlHeader, at: u64) -> Result<Block> {
    let mut bytes = vec![0; header.block_length()];
    file.read(&mut bytes, at)?;
    Block::parse(&bytes, at)
}

/// The metadata blocks of a log that ends at `end`, in the order of the file, and why the oldest of
/// them is not the first one, if it is not.
///
/// Each block stands before the one found earlier, and the data of each fills exactly what is
/// between: so there are no loops, and no byte is read that is not in the file. Memory is 16 bytes a
/// block, each of which has at least 512 in the file.
pub(crate) fn walk(
    file: &LogFile<'_>,
    header: &HrlHeader,
    end: u64,
) -> (Vec<Placed>, Option<Error>) {
    let mut found = Vec::new();
    let mut next = previous_block(end, u64::from(header.metadata_size), end);
    let failed = loop {
        let placed = next.and_then(|at| {
            let block = read_block(file, header, at)?;
            Ok((place(&block, header, at)?, block.back))
        });
        match placed {
            Ok((placed, back)) => {
                found.push(placed);
                if back == 0 {
                    break None;
                }
                next = previous_block(placed.at, back, placed.at);
            }
            Err(error) => break Some(error),
        }
    };
    found.reverse();
    (found, failed)
}

/// The position `back` before `from`, if it can be that of a block.
fn previous_block(from: u64, back: u64, at: u64) -> Result<u64> {
    let block = from.checked_sub(back).filter(|block| *block >= BODY);
    block.ok_or(Error::damaged(
        at,
        "the metadata block before this would stand before the log's body",
    ))
}

/// `block`, which stands at `at`, with its data: as much as is between the block before and this.
pub(crate) fn place(block: &Block, header: &HrlHeader, at: u64) -> Result<Placed> {
    let data_at = if block.back == 0 {
        BODY
    } else {
        let before = previous_block(at, block.back, at)?;
        before + u64::from(header.metadata_size)
    };
    if at.checked_sub(data_at) != Some(block.data_length()) {
        return Err(Error::damaged(
            at,
            "the data of the metadata block's entries does not fill what is before it",
        ));
    }
    Ok(Placed { at, data_at })
}
