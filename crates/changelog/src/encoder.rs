//! Changes into bytes, without I/O.

use std::borrow::Cow;

use afterimage_block::{
    Change, ContentDigest, Extent, Length, Lsn, Offset, Timestamp, check_range,
};

use crate::codec::Codec;
use crate::header::Head;
use crate::index::Stored;
use crate::record::{Fields, Kind, PAYLOAD_MAX, is_size};
use crate::resolve::Resolver;
use crate::{Error, Form, LogHeader, Packing, Piece, Provenance, RecordHeader, Result, Summary};

/// Turns changes into the bytes of a log. It does no I/O and keeps no payload: each record is handed
/// to the caller as its header and the payload, which is borrowed where it is stored as it is, to be
/// written one behind the other.
#[derive(Debug)]
pub struct Encoder {
    codec: Codec,
    next: Lsn,
    position: u64,
    payload: Length,
    index: Resolver,
    resized: Option<Length>,
}

/// A record as it is to be appended.
#[derive(Clone, Debug)]
pub struct Encoded<'a> {
    /// Its number.
    pub lsn: Lsn,
    /// Its header.
    pub header: [u8; RecordHeader::LEN],
    /// Its payload, as it is to be stored.
    pub payload: Cow<'a, [u8]>,
}

impl Encoder {
    /// An encoder for a new log whose records are stored as they are, and the bytes that the log
    /// begins with.
    pub fn new(header: LogHeader) -> (Self, [u8; LogHeader::LEN]) {
        Self::with_codec(Codec::plain(header))
    }

    /// An encoder for a new log whose records are stored as `packing` says. The salt of an encrypted
    /// log comes from the operating system, so that it is another one each time.
    ///
    /// # Errors
    /// [`Error::NoRandomness`].
    pub fn packed(header: LogHeader, packing: &Packing) -> Result<(Self, [u8; LogHeader::LEN])> {
        Ok(Self::with_codec(packing.codec(header)?))
    }

    pub(crate) fn with_codec(codec: Codec) -> (Self, [u8; LogHeader::LEN]) {
        let bytes = codec.head().bytes;
        let encoder = Self {
            codec,
            next: Lsn::ZERO,
            position: LogHeader::LEN as u64,
            payload: Length::ZERO,
            index: Resolver::default(),
            resized: None,
        };
        (encoder, bytes)
    }

    /// Refuses a change that cannot be recorded.
    pub(crate) fn check(&self, change: Change<'_>) -> Result<()> {
        if let Some(size) = self.resized {
            return Err(Error::Resized { size });
        }
        let extent = change.extent();
        if let (None, Change::Write { offset, data }) = (extent, change) {
            // An empty write passes; one whose end no offset can say does not.
            check_range(offset, Length::of(data), self.header().disk_size)?;
        }
        match extent {
            Some(extent) if extent.end().get() > self.header().disk_size.get() => {
                Err(Error::OutOfRange {
                    extent,
                    size: self.header().disk_size,
                })
            }
            _ => Ok(()),
        }
    }

    /// The records of `change`: one, or several for a write longer than
    /// [`PAYLOAD_MAX`](crate::PAYLOAD_MAX).
    ///
    /// # Errors
    /// [`Error::Resized`] behind a resize; [`Error::OutOfRange`] if it lies outside the disk, [`Error::Disk`] if its end is past what an
    /// offset can say; nothing is encoded.
    pub fn change<'a>(
        &mut self,
        change: Change<'a>,
        time: Timestamp,
    ) -> Result<impl Iterator<Item = Encoded<'a>>> {
        self.check(change)?;
        let extent = change.extent();
        let (kind, data): (_, &[u8]) = match change {
            Change::Write { data, .. } => (Kind::Write, data),
            Change::WriteZeroes(_) => (Kind::WriteZeroes, &[]),
            Change::Discard(_) => (Kind::Discard, &[]),
        };
        let step = PAYLOAD_MAX.to_usize().unwrap_or(usize::MAX);
        let parts = if kind == Kind::Write {
            data.len().div_ceil(step)
        } else {
            1
        };
        Ok((0..parts).filter_map(move |part| {
            let from = part * step;
            let payload = data
                .get(from..data.len().min(from + step))
                .unwrap_or_default();
            let extent = match kind {
                Kind::Write => {
                    let start = extent?.start().get() + from as u64;
                    Extent::new(Offset::new(start), Length::of(payload)).ok()?
                }
                _ => extent?,
            };
            Some(self.record(kind, Some(extent), payload, time))
        }))
    }

    /// The record of a label in the history, cut to [`PAYLOAD_MAX`](crate::PAYLOAD_MAX).
    pub fn bookmark<'a>(&mut self, label: &'a str, time: Timestamp) -> Encoded<'a> {
        let longest = PAYLOAD_MAX.to_usize().unwrap_or(usize::MAX);
        let label = label
            .get(..label.floor_char_boundary(longest))
            .unwrap_or_default();
        self.record(Kind::Bookmark, None, label.as_bytes(), time)
    }

    /// The record of a barrier whose payload is `mark`, encoded.
    pub(crate) fn barrier<'a>(&mut self, mark: &'a [u8], time: Timestamp) -> Encoded<'a> {
        self.record(Kind::Barrier, None, mark, time)
    }

    /// The record of the disk's new size, behind which the log takes no more changes.
    ///
    /// # Errors
    /// [`Error::NotASize`]; [`Error::Resized`] if it got one before.
    pub fn resize(&mut self, size: Length, time: Timestamp) -> Result<Encoded<'static>> {
        if let Some(size) = self.resized {
            return Err(Error::Resized { size });
        }
        if !is_size(size) {
            return Err(Error::NotASize { size });
        }
        self.resized = Some(size);
        Ok(self.append(Kind::Resize, (0, size.get()), &[], time))
    }

    fn record<'a>(
        &mut self,
        kind: Kind,
        extent: Option<Extent>,
        payload: &'a [u8],
        time: Timestamp,
    ) -> Encoded<'a> {
        if let Some(extent) = extent {
            let stored = Stored {
                kind,
                record: self.position,
                skip: 0,
            };
            self.index.add(extent, stored);
        }
        let fields = extent.map_or((0, 0), |e| (e.start().get(), e.length().get()));
        self.append(kind, fields, payload, time)
    }

    fn append<'a>(
        &mut self,
        kind: Kind,
        fields: (u64, u64),
        payload: &'a [u8],
        time: Timestamp,
    ) -> Encoded<'a> {
        let (lsn, (offset, length)) = (self.next, fields);
        let fields = Fields {
            kind,
            lsn,
            time,
            offset,
            length,
        };
        let (header, payload) = self.codec.encode(fields, payload);
        self.next = lsn.next();
        self.payload = self.payload.saturating_add(Length::of(&payload));
        self.position += (RecordHeader::LEN + payload.len()) as u64;
        Encoded {
            lsn,
            header,
            payload,
        }
    }

    /// The log's header.
    pub fn header(&self) -> &LogHeader {
        self.codec.header()
    }

    /// How the records are stored.
    pub fn form(&self) -> Form {
        self.codec.form()
    }

    pub(crate) fn head(&self) -> &Head {
        self.codec.head()
    }

    /// The bytes that a record may have more than its header and what it holds.
    pub(crate) fn overhead(&self) -> usize {
        self.codec.overhead()
    }

    /// Where the next record goes in the file.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The number of records so far.
    pub fn records(&self) -> u64 {
        self.next.get()
    }

    /// The number of pieces in the index so far, those counted apart that a record not long ago has
    /// overwritten.
    pub fn pieces(&self) -> usize {
        self.index.pieces()
    }

    /// Whether the index has fewer than `limit` pieces.
    pub fn has_room(&mut self, limit: usize) -> bool {
        self.index.has_room(limit)
    }

    /// The newest state of the bytes of `extent` that were changed, in order.
    pub(crate) fn newest_within(&mut self, extent: Extent) -> impl Iterator<Item = Piece> {
        let newest = self.index.within(extent);
        newest.map(|(extent, stored)| Piece::new(extent, stored))
    }

    /// The bytes that seal the log, given the SHA-256 of everything before them and what it follows.
    pub fn seal(
        self,
        content: ContentDigest,
        provenance: impl Into<Provenance>,
    ) -> (Vec<u8>, Summary) {
        let provenance = provenance.into();
        let index = self.index.finish();
        let mut summary = Summary {
            records: self.next.get(),
            payload: self.payload,
            content,
            predecessor: provenance.predecessor,
            states: provenance.states,
            resized: self.resized,
            file_length: Length::ZERO,
        };
        let bytes = index.encode(&summary, self.position, self.codec.footer_cipher());
        summary.file_length = Length::new(self.position + bytes.len() as u64);
        (bytes, summary)
    }
}
