//! Where the newest state of every changed byte is, and the footer that keeps it.

use afterimage_block::{ContentDigest, Extent, Length, Offset, Slice};

use crate::fields::{all_zero, bytes_at, put, u32_at, u64_at};
use crate::record::Kind;
use crate::{Error, RecordHeader, Result};

const FOOTER_MAGIC: [u8; 4] = *b"AIFT";
const TRAILER_MAGIC: [u8; 8] = *b"AITRAILR";
const FOOTER: usize = 128;
const PIECE: usize = 32;

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

/// A run of the disk and where its newest state stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The run.
    pub extent: Extent,
    /// Where its bytes start in the file; `None` if they are zeros.
    pub data_at: Option<u64>,
    /// Where the record's header is in the file.
    pub record_at: u64,
    /// Whether its storage was given back.
    pub discarded: bool,
}

impl Piece {
    fn new(extent: Extent, stored: Stored) -> Self {
        let payload = stored.record + RecordHeader::LEN as u64;
        Self {
            extent,
            data_at: (stored.kind == Kind::Write).then_some(payload + stored.skip),
            record_at: stored.record,
            discarded: stored.kind == Kind::Discard,
        }
    }
}

/// What a sealed log holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The number of records.
    pub records: u64,
    /// The sum of their payloads.
    pub payload: Length,
    /// The SHA-256 of header and records: the log's identity in the chain.
    pub content: ContentDigest,
    /// The content digest of the disk's log before this one; [`ContentDigest::NONE`] if there is none.
    pub predecessor: ContentDigest,
    /// The disk's size after the log, if it got another one.
    pub resized: Option<Length>,
    /// The length of the whole file.
    pub file_length: Length,
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
        let first = self
            .0
            .partition_point(|(run, _)| run.end() <= extent.start());
        let from = self.0.get(first..).unwrap_or_default().iter();
        from.map_while(move |(run, stored)| {
            let part = run.intersection(extent)?;
            let cut = part.start().checked_since(run.start())?;
            Some(Piece::new(part, stored.advanced(cut)))
        })
    }

    /// The number of pieces.
    pub fn pieces(&self) -> usize {
        self.0.len()
    }

    /// The bytes of the footer, for records that end at `footer_at`, and of the trailer behind it.
    pub(crate) fn encode(&self, summary: &Summary, footer_at: u64) -> Vec<u8> {
        let mut bytes = vec![0; FOOTER];
        put(&mut bytes, 0, &FOOTER_MAGIC);
        put(&mut bytes, 8, &summary.records.to_le_bytes());
        put(&mut bytes, 16, &summary.payload.get().to_le_bytes());
        put(&mut bytes, 24, &(self.pieces() as u64).to_le_bytes());
        put(&mut bytes, 32, summary.content.as_bytes());
        put(&mut bytes, 64, summary.predecessor.as_bytes());
        let resized = summary.resized.map_or(0, Length::get);
        put(&mut bytes, 96, &resized.to_le_bytes());
        for (extent, stored) in &self.0 {
            let mut piece = [0; PIECE];
            put(&mut piece, 0, &extent.start().get().to_le_bytes());
            put(&mut piece, 8, &extent.length().get().to_le_bytes());
            put(&mut piece, 16, &stored.record.to_le_bytes());
            let skip = u32::try_from(stored.skip).unwrap_or(u32::MAX);
            put(&mut piece, 24, &skip.to_le_bytes());
            put(&mut piece, 28, &[stored.kind as u8]);
            bytes.extend_from_slice(&piece);
        }
        let trailer = Trailer {
            footer_at,
            footer_length: Length::of(&bytes),
            checksum: crc32fast::hash(&bytes),
        };
        bytes.extend_from_slice(&trailer.encode());
        bytes
    }

    /// The index and summary in the bytes of a footer, as `trailer` announces them, of a log of a
    /// disk of `size`.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn parse(footer: &[u8], trailer: &Trailer, size: Length) -> Result<(Self, Summary)> {
        let damaged = |at: usize, reason| Error::damaged(trailer.footer_at + at as u64, reason);
        let announced = Length::of(footer) == trailer.footer_length;
        if !announced || crc32fast::hash(footer) != trailer.checksum {
            return Err(damaged(0, "the footer's checksum does not match"));
        }
        let Some((head, pieces)) = footer.split_at_checked(FOOTER) else {
            return Err(damaged(0, "the footer is too short"));
        };
        let reserved = all_zero(&head[4..8]) && all_zero(&head[104..]);
        let resized = Some(Length::new(u64_at(head, 96))).filter(|size| !size.is_zero());
        let count = pieces.len() / PIECE;
        let counted = u64_at(head, 24) == count as u64 && pieces.len() % PIECE == 0;
        if bytes_at::<4>(head, 0) != FOOTER_MAGIC || !reserved || !counted {
            return Err(damaged(0, "the footer contradicts itself"));
        }
        let mut index = Vec::with_capacity(count);
        let mut end = Offset::ZERO;
        for (number, bytes) in pieces.chunks_exact(PIECE).enumerate() {
            let at = FOOTER + number * PIECE;
            let (extent, stored) = parse_piece(bytes, trailer.footer_at)
                .filter(|(extent, _)| extent.start() >= end && extent.end().get() <= size.get())
                .ok_or_else(|| damaged(at, "the index contradicts itself"))?;
            end = extent.end();
            index.push((extent, stored));
        }
        let summary = Summary {
            records: u64_at(head, 8),
            payload: Length::new(u64_at(head, 16)),
            content: ContentDigest::new(bytes_at(head, 32)),
            predecessor: ContentDigest::new(bytes_at(head, 64)),
            resized,
            file_length: trailer.file_length(),
        };
        Ok((Self(index), summary))
    }
}

/// One entry of the index, if its record and payload lie before the footer.
fn parse_piece(bytes: &[u8], footer_at: u64) -> Option<(Extent, Stored)> {
    let (offset, length) = (Offset::new(u64_at(bytes, 0)), Length::new(u64_at(bytes, 8)));
    let extent = Extent::new(offset, length).ok()?;
    let kind = Kind::parse(*bytes.get(28)?).filter(|kind| kind.changes())?;
    let stored = Stored {
        kind,
        record: u64_at(bytes, 16),
        skip: u32_at(bytes, 24).into(),
    };
    let data = if kind == Kind::Write { length.get() } else { 0 };
    let payload = stored.record.checked_add(RecordHeader::LEN as u64)?;
    let end = payload.checked_add(stored.skip)?.checked_add(data)?;
    let canonical = kind == Kind::Write || stored.skip == 0;
    let fits = canonical && end <= footer_at;
    (fits && all_zero(bytes.get(29..)?)).then_some((extent, stored))
}

/// The last bytes of a sealed log: where its footer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// Where the footer starts in the file.
    pub footer_at: u64,
    /// How long it is.
    pub footer_length: Length,
    checksum: u32,
}

impl Trailer {
    /// Its length in the file.
    pub const LEN: usize = 32;

    fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        put(&mut bytes, 0, &TRAILER_MAGIC);
        put(&mut bytes, 8, &self.footer_at.to_le_bytes());
        put(&mut bytes, 16, &self.footer_length.get().to_le_bytes());
        put(&mut bytes, 24, &self.checksum.to_le_bytes());
        let checksum = crc32fast::hash(&bytes[..28]);
        put(&mut bytes, 28, &checksum.to_le_bytes());
        bytes
    }

    /// The trailer in the last bytes of a file of `file_length`.
    ///
    /// # Errors
    /// [`Error::NotSealed`] if there is none; [`Error::Damaged`] if it does not fit the file.
    pub fn parse(bytes: &[u8], file_length: Length) -> Result<Self> {
        let Some(bytes) = bytes.last_chunk::<{ Self::LEN }>() else {
            return Err(Error::NotSealed);
        };
        if bytes_at::<8>(bytes, 0) != TRAILER_MAGIC
            || u32_at(bytes, 28) != crc32fast::hash(&bytes[..28])
        {
            return Err(Error::NotSealed);
        }
        let trailer = Self {
            footer_at: u64_at(bytes, 8),
            footer_length: Length::new(u64_at(bytes, 16)),
            checksum: u32_at(bytes, 24),
        };
        let footer_end = trailer.footer_at.checked_add(trailer.footer_length.get());
        let end = footer_end.and_then(|end| end.checked_add(Self::LEN as u64));
        if end != Some(file_length.get()) || trailer.footer_at < crate::LogHeader::LEN as u64 {
            let at = file_length.get().saturating_sub(Self::LEN as u64);
            return Err(Error::damaged(at, "the trailer does not fit the file"));
        }
        Ok(trailer)
    }

    fn file_length(&self) -> Length {
        let end = self
            .footer_length
            .saturating_add(Length::new(self.footer_at));
        end.saturating_add(Length::new(Self::LEN as u64))
    }
}
