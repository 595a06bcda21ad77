//! The pieces of an index as bytes, and the pages and fences by which a few are found among many.

use afterimage_block::{Extent, Length, Offset};

use crate::cipher::Cipher;
use crate::fields::{all_zero, bytes_at, put, u32_at, u64_at};
use crate::footer::{Part, Tag};
use crate::index::Stored;
use crate::record::Kind;
use crate::{Error, PAYLOAD_MAX, RecordHeader, Result, Trailer};

/// The length of a piece.
pub(crate) const PIECE: usize = 32;
/// The pieces of a page; the last one can have fewer. An index of no more has no pages.
pub(crate) const PAGE: usize = 256;
/// The length of an entry of the fence table, without a tag.
const FENCE: usize = 16;

/// The length of an entry of the fence table.
pub(crate) fn fence_length(tagged: bool) -> usize {
    FENCE + if tagged { Cipher::TAG } else { 0 }
}

/// How many pages `pieces` are in.
pub(crate) fn page_count(pieces: usize) -> usize {
    pieces.div_ceil(PAGE)
}

/// An entry of the fence table: where on the disk a page begins, and what proves it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fence {
    pub(crate) first: Offset,
    pub(crate) pieces: usize,
    checksum: u32,
    tag: Option<Tag>,
}

/// Where the pieces may point to: the records before the footer, and the disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    footer_at: u64,
    disk_size: Length,
}

impl Bounds {
    pub(crate) fn new(trailer: &Trailer, disk_size: Length) -> Self {
        Self {
            footer_at: trailer.footer_at,
            disk_size,
        }
    }
}

/// The bytes of `pieces`.
pub(crate) fn encode_pieces(pieces: &[(Extent, Stored)]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(pieces.len() * PIECE);
    for (extent, stored) in pieces {
        let mut piece = [0; PIECE];
        put(&mut piece, 0, &extent.start().get().to_le_bytes());
        put(&mut piece, 8, &extent.length().get().to_le_bytes());
        put(&mut piece, 16, &stored.record.to_le_bytes());
        let skip = u32::try_from(stored.skip).unwrap_or(u32::MAX);
        put(&mut piece, 24, &skip.to_le_bytes());
        put(&mut piece, 28, &[stored.kind as u8]);
        bytes.extend_from_slice(&piece);
    }
    bytes
}

/// The fence table of pieces whose bytes are these, each page with a tag if there is a `cipher`.
pub(crate) fn encode_fences(pieces: &[u8], cipher: Option<&Cipher>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (number, page) in (0..).zip(pieces.chunks(PAGE * PIECE)) {
        let mut fence = [0; FENCE];
        put(&mut fence, 0, page.get(..8).unwrap_or_default());
        let count = u32::try_from(page.len() / PIECE).unwrap_or(u32::MAX);
        put(&mut fence, 8, &count.to_le_bytes());
        put(&mut fence, 12, &crc32fast::hash(page).to_le_bytes());
        bytes.extend_from_slice(&fence);
        let tag = cipher.map(|cipher| cipher.tag(Part::Page(number).nonce(), page));
        bytes.extend(tag.iter().flatten());
    }
    bytes
}

/// The fence table of an index of `pieces`, in `bytes` that stand at `at` and were proved, with tags or
/// without.
pub(crate) fn parse_fences(
    bytes: &[u8],
    pieces: usize,
    tagged: bool,
    at: u64,
) -> Result<Vec<Fence>> {
    let fences: Vec<_> = bytes
        .chunks_exact(fence_length(tagged))
        .map(|bytes| Fence {
            first: Offset::new(u64_at(bytes, 0)),
            pieces: usize::try_from(u32_at(bytes, 8)).unwrap_or(usize::MAX),
            checksum: u32_at(bytes, 12),
            tag: tagged.then(|| bytes_at(bytes, FENCE)),
        })
        .collect();
    let mut left = pieces;
    let counted = fences.iter().all(|fence| {
        let expected = left.min(PAGE);
        left -= expected;
        fence.pieces == expected
    });
    let ordered = fences.is_sorted_by(|one, next| one.first < next.first);
    if !counted || left != 0 || !ordered {
        return Err(Error::damaged(at, "the fence table contradicts itself"));
    }
    Ok(fences)
}

impl Fence {
    /// The pieces of page `number` in `bytes`, which stand at `at`, each of them before `next`: proved
    /// by its checksum and, if it has a tag, by `cipher`.
    pub(crate) fn parse_page(
        &self,
        (number, bytes): (usize, &[u8]),
        at: u64,
        (bounds, cipher): (Bounds, Option<&Cipher>),
        next: Option<&Self>,
    ) -> Result<Vec<(Extent, Stored)>> {
        if crc32fast::hash(bytes) != self.checksum {
            let reason = "the checksum of the index's page does not match";
            return Err(Error::damaged(at, reason));
        }
        if let (Some(tag), Some(cipher)) = (self.tag, cipher)
            && !cipher.proves(Part::Page(number as u64).nonce(), bytes, &tag)
        {
            return Err(Error::damaged(
                at,
                "the index's page is not what was sealed",
            ));
        }
        let pieces = parse_pieces(bytes, at, bounds)?;
        let first = pieces.first().map(|(extent, _)| extent.start());
        let end = pieces.last().map(|(extent, _)| extent.end());
        let before_next = next.is_none_or(|next| end <= Some(next.first));
        if first != Some(self.first) || !before_next {
            return Err(Error::damaged(at, "the fence table is of another index"));
        }
        Ok(pieces)
    }
}

/// The pieces in `bytes`, which stand at `at`: in order, disjoint, and within their bounds.
pub(crate) fn parse_pieces(bytes: &[u8], at: u64, bounds: Bounds) -> Result<Vec<(Extent, Stored)>> {
    let mut pieces = Vec::with_capacity(bytes.len() / PIECE);
    let mut end = Offset::ZERO;
    for (number, bytes) in bytes.chunks_exact(PIECE).enumerate() {
        let (extent, stored) = parse_piece(bytes, bounds.footer_at)
            .filter(|(extent, _)| {
                extent.start() >= end && extent.end().get() <= bounds.disk_size.get()
            })
            .ok_or_else(|| {
                let at = at + (number * PIECE) as u64;
                Error::damaged(at, "the index contradicts itself")
            })?;
        end = extent.end();
        pieces.push((extent, stored));
    }
    Ok(pieces)
}

/// One piece, if its record lies before the footer and can hold as much.
fn parse_piece(bytes: &[u8], footer_at: u64) -> Option<(Extent, Stored)> {
    let (offset, length) = (Offset::new(u64_at(bytes, 0)), Length::new(u64_at(bytes, 8)));
    let extent = Extent::new(offset, length).ok()?;
    let kind = Kind::parse(*bytes.get(28)?).filter(|kind| kind.changes())?;
    let stored = Stored {
        kind,
        record: u64_at(bytes, 16),
        skip: u32_at(bytes, 24).into(),
    };
    let payload = stored.record.checked_add(RecordHeader::LEN as u64)?;
    // A compressed payload is shorter than what it holds, so its end is not known here.
    let within = match kind {
        Kind::Write => stored.skip.checked_add(length.get())? <= PAYLOAD_MAX.get(),
        _ => stored.skip == 0,
    };
    let fits = within && payload <= footer_at;
    (fits && all_zero(bytes.get(29..)?)).then_some((extent, stored))
}
