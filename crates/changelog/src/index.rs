//! Where the newest state of every changed byte is.

use afterimage_block::{Change, Extent, Length, Slice};

use crate::cipher::Cipher;
use crate::footer::Head;
use crate::pages::{Bounds, PAGE, PIECE, encode_fences, encode_pieces, parse_fences, parse_pieces};
use crate::record::Kind;
use crate::{Error, Record, RecordHeader, Result, Summary, Trailer};

/// Where a run of bytes stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) kind: Kind,
    pub(crate) record: u64,
    pub(crate) skip: u64,
}

impl Slice for Stored {
    fn advanced(&self, length: Length) -> Self {
        let skip = match self.kind {
            Kind::Write => self.skip + length.get(),
            _ => 0,
        };
        Self { skip, ..*self }
    }
}

impl Stored {
    /// What `record` does to `extent`, if it is the one that is meant.
    pub(crate) fn change_in<'a>(&self, record: &'a Record, extent: Extent) -> Option<Change<'a>> {
        let whole = record
            .header
            .extent
            .filter(|whole| whole.contains(extent))?;
        match record.header.kind {
            kind if kind != self.kind => None,
            Kind::Write => {
                let skip = extent.start().checked_since(whole.start())?;
                let (from, length) = (skip.to_usize()?, extent.length().to_usize()?);
                let data = record.payload.get(from..)?.get(..length)?;
                let offset = extent.start();
                Some(Change::Write { offset, data })
            }
            Kind::WriteZeroes => Some(Change::WriteZeroes(extent)),
            Kind::Discard => Some(Change::Discard(extent)),
            Kind::Bookmark | Kind::Barrier | Kind::Resize => None,
        }
    }

    /// How much of the record's payload it takes to have `extent`.
    pub(crate) fn payload_for(&self, extent: Extent) -> u64 {
        match self.kind {
            Kind::Write => self.skip.saturating_add(extent.length().get()),
            _ => 0,
        }
    }
}

/// A run of the disk and where its newest state stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The run.
    pub extent: Extent,
    /// Where its bytes start in the file, if its record is stored as it is, and where they would
    /// start if not; `None` if they are zeros.
    pub data_at: Option<u64>,
    /// Where the record's header is in the file.
    pub record_at: u64,
    /// Whether its storage was given back.
    pub discarded: bool,
}

impl Piece {
    pub(crate) fn new(extent: Extent, stored: Stored) -> Self {
        let payload = stored.record + RecordHeader::LEN as u64;
        Self {
            extent,
            data_at: (stored.kind == Kind::Write).then_some(payload + stored.skip),
            record_at: stored.record,
            discarded: stored.kind == Kind::Discard,
        }
    }
}

/// The resolved index of a sealed log: disjoint pieces in the order of the disk, the newest record
/// winning.
#[derive(Clone, Debug, Default)]
pub struct Index(pub(crate) Vec<(Extent, Stored)>);

impl Index {
    /// The pieces, in the order of the disk.
    pub fn iter(&self) -> impl Iterator<Item = Piece> {
        self.0
            .iter()
            .map(|(extent, stored)| Piece::new(*extent, *stored))
    }

    /// The pieces of `extent`, cut to fit, in order.
    pub fn within(&self, extent: Extent) -> impl Iterator<Item = Piece> {
        self.stored_within(extent)
            .map(|(extent, stored)| Piece::new(extent, stored))
    }

    /// Where what is in `extent` stands.
    pub(crate) fn stored_within(&self, extent: Extent) -> impl Iterator<Item = (Extent, Stored)> {
        let first = self
            .0
            .partition_point(|(run, _)| run.end() <= extent.start());
        let from = self.0.get(first..).unwrap_or_default().iter();
        from.map_while(move |(run, stored)| {
            let part = run.intersection(extent)?;
            let cut = part.start().checked_since(run.start())?;
            Some((part, stored.advanced(cut)))
        })
    }

    /// The number of pieces.
    pub fn pieces(&self) -> usize {
        self.0.len()
    }

    /// The bytes of the footer, for records that end at `footer_at`, with the tags that `cipher` makes,
    /// and of the trailer behind it.
    pub(crate) fn encode(
        &self,
        summary: &Summary,
        footer_at: u64,
        cipher: Option<&Cipher>,
    ) -> Vec<u8> {
        let head = Head::of(*summary, self.pieces(), cipher.is_some());
        let mut bytes = head.encode();
        let pieces = encode_pieces(&self.0);
        if head.paged {
            bytes.extend_from_slice(&encode_fences(&pieces, cipher));
        }
        bytes.extend_from_slice(&pieces);
        if let Some(cipher) = cipher {
            head.put_tag(&mut bytes, footer_at, cipher);
        }
        let proved = bytes.get(..head.proved_length()).unwrap_or_default();
        let trailer = Trailer {
            footer_at,
            footer_length: Length::of(&bytes),
            checksum: crc32fast::hash(proved),
        };
        bytes.extend_from_slice(&trailer.encode());
        bytes
    }

    /// The index and summary in the bytes of a footer, as `trailer` announces them, of a log of a
    /// disk of `size` that is not encrypted.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn parse(footer: &[u8], trailer: &Trailer, size: Length) -> Result<(Self, Summary)> {
        Self::parse_with(footer, trailer, size, None)
    }

    /// The same, of a log whose footer has the tags that `cipher` makes, if there is one.
    pub(crate) fn parse_with(
        footer: &[u8],
        trailer: &Trailer,
        size: Length,
        cipher: Option<&Cipher>,
    ) -> Result<(Self, Summary)> {
        let head = Head::parse(footer, trailer)?;
        let (at, bounds) = (trailer.footer_at, Bounds::new(trailer, size));
        head.prove(footer, trailer, cipher)?;
        let bytes = footer.get(head.pieces_at()..).unwrap_or_default();
        if bytes.len() != head.pieces * PIECE {
            return Err(Error::damaged(at, "the footer is not as long as announced"));
        }
        let pieces_at = at + head.pieces_at() as u64;
        if !head.paged {
            let pieces = parse_pieces(bytes, pieces_at, bounds)?;
            return Ok((Self(pieces), head.summary));
        }
        let table = footer.get(head.length()..head.pieces_at());
        let fences = parse_fences(table.unwrap_or_default(), head.pieces, head.is_tagged(), at)?;
        let mut pieces = Vec::with_capacity(head.pieces);
        let nexts = fences.iter().skip(1).map(Some).chain([None]);
        let pages = bytes.chunks(PAGE * PIECE).zip(fences.iter().zip(nexts));
        for (number, (page, (fence, next))) in pages.enumerate() {
            let at = pieces_at + (number * PAGE * PIECE) as u64;
            pieces.extend(fence.parse_page((number, page), at, (bounds, cipher), next)?);
        }
        Ok((Self(pieces), head.summary))
    }
}
