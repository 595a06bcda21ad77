//! One change as it stands in a log.

use afterimage_block::{Change, Extent, Length, Lsn, Offset, SECTOR, Timestamp};

use crate::barrier::HEAD;
use crate::cipher::Cipher;
use crate::fields::{bytes_at, put, u32_at, u64_at};
use crate::{Error, Form, Result};

const MAGIC: [u8; 4] = *b"AIRC";

/// The most that one record holds; longer writes are several.
pub const PAYLOAD_MAX: Length = Length::mib(1);

/// What a record is. The numbers are those of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Bytes were written.
    Write = 1,
    /// The extent reads as zeros.
    WriteZeroes = 2,
    /// The extent's storage was given back; it reads as zeros.
    Discard = 3,
    /// A label in the history; changes nothing.
    Bookmark = 4,
    /// A moment that all disks of a machine have in common; changes nothing.
    Barrier = 5,
    /// The disk got another size; no change follows it in the log.
    Resize = 6,
}

impl Kind {
    pub(crate) fn parse(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Write),
            2 => Some(Self::WriteZeroes),
            3 => Some(Self::Discard),
            4 => Some(Self::Bookmark),
            5 => Some(Self::Barrier),
            6 => Some(Self::Resize),
            _ => None,
        }
    }

    /// Whether records of this kind change bytes of the disk.
    pub(crate) fn changes(self) -> bool {
        matches!(self, Self::Write | Self::WriteZeroes | Self::Discard)
    }
}

/// The header of a record. Specified in `FORMAT.md`, section Record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// What the record is.
    pub kind: Kind,
    /// Its number in the log, from 0.
    pub lsn: Lsn,
    /// When the change was logged.
    pub time: Timestamp,
    /// The changed bytes; `None` if it changes none.
    pub extent: Option<Extent>,
    /// The disk's new size, of a resize.
    pub resized: Option<Length>,
    /// The bytes that follow the header, as they are stored.
    pub payload: Length,
    /// Whether they are compressed.
    pub compressed: bool,
    /// Whether they are encrypted.
    pub encrypted: bool,
    checksum: u32,
}

/// What the header of a record says that is about to be appended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields {
    pub(crate) kind: Kind,
    pub(crate) lsn: Lsn,
    pub(crate) time: Timestamp,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

impl RecordHeader {
    /// Its length in the file.
    pub const LEN: usize = 48;

    /// The bytes of the header of a record whose payload will be stored in `payload` bytes. It is not
    /// [sealed](Self::seal) yet.
    pub(crate) fn encode(fields: Fields, compressed: bool, payload: usize) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        put(&mut bytes, 0, &MAGIC);
        put(&mut bytes, 4, &[fields.kind as u8, compressed.into()]);
        put(&mut bytes, 8, &fields.lsn.get().to_le_bytes());
        put(&mut bytes, 16, &fields.offset.to_le_bytes());
        put(&mut bytes, 24, &fields.length.to_le_bytes());
        put(&mut bytes, 32, &fields.time.as_nanos().to_le_bytes());
        let payload = u32::try_from(payload).unwrap_or(u32::MAX);
        put(&mut bytes, 40, &payload.to_le_bytes());
        bytes
    }

    /// The fields of a header: all of it but its checksum.
    pub(crate) fn fields(header: &[u8; Self::LEN]) -> &[u8] {
        &header[..44]
    }

    /// Gives the header its checksum, in the log whose header has the checksum `salt`.
    pub(crate) fn seal(header: &mut [u8; Self::LEN], payload: &[u8], salt: u32) {
        let checksum = checksum(salt, header, payload);
        put(header, 44, &checksum.to_le_bytes());
    }

    /// The header in `bytes`, which stand at `at` in a log of a disk of `size` whose records are
    /// stored as they are. Nothing is proved before [`verify`](Self::verify).
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn parse(bytes: &[u8; Self::LEN], at: u64, size: Length) -> Result<Self> {
        Self::parse_as(bytes, at, size, Form::default())
    }

    /// The header in `bytes` in a log of this form.
    pub(crate) fn parse_as(
        bytes: &[u8; Self::LEN],
        at: u64,
        size: Length,
        form: Form,
    ) -> Result<Self> {
        let damaged = |reason| Err(Error::damaged(at, reason));
        if bytes_at::<4>(bytes, 0) != MAGIC || bytes[6..8] != [0; 2] {
            return damaged("no record begins here");
        }
        let Some(kind) = Kind::parse(bytes[4]) else {
            return damaged("the record is of an unknown kind");
        };
        let compressed = match bytes[5] {
            0 => false,
            1 if form.compressed && kind == Kind::Write => true,
            _ => return damaged("the record is stored in an unknown way"),
        };
        let encrypted = form.key.is_some();
        let overhead = if encrypted { Cipher::TAG as u64 } else { 0 };
        let payload = u64::from(u32_at(bytes, 40));
        let Some(content) = payload.checked_sub(overhead).map(Length::new) else {
            return damaged("the record's payload is too short");
        };
        let (offset, length) = (
            Offset::new(u64_at(bytes, 16)),
            Length::new(u64_at(bytes, 24)),
        );
        if content > PAYLOAD_MAX || (kind == Kind::Write && length > PAYLOAD_MAX) {
            return damaged("the record's payload is too long");
        }
        let extent = Extent::new(offset, length)
            .ok()
            .filter(|e| e.end().get() <= size.get());
        let fits = match kind {
            Kind::Write if compressed => extent.is_some() && content < length,
            Kind::Write => extent.is_some() && length == content,
            Kind::WriteZeroes | Kind::Discard => extent.is_some() && content.is_zero(),
            Kind::Bookmark => offset == Offset::ZERO && length.is_zero(),
            Kind::Barrier => {
                let long_enough = content >= Length::new(HEAD as u64);
                offset == Offset::ZERO && length.is_zero() && long_enough
            }
            Kind::Resize => offset == Offset::ZERO && is_size(length) && content.is_zero(),
        };
        if !fits {
            return damaged("the record's extent is impossible");
        }
        Ok(Self {
            kind,
            lsn: Lsn::new(u64_at(bytes, 8)),
            time: Timestamp::from_nanos(u64_at(bytes, 32)),
            extent: extent.filter(|_| kind.changes()),
            resized: Some(length).filter(|_| kind == Kind::Resize),
            payload: Length::new(payload),
            compressed,
            encrypted,
            checksum: u32_at(bytes, 44),
        })
    }

    /// Whether the record is what was written, in a log whose header has the checksum `salt`.
    pub fn verify(&self, header: &[u8; Self::LEN], payload: &[u8], salt: u32) -> bool {
        self.checksum == checksum(salt, header, payload)
    }

    /// The change, with its payload; `None` if it changes no bytes.
    pub fn change<'a>(&self, payload: &'a [u8]) -> Option<Change<'a>> {
        let extent = self.extent?;
        match self.kind {
            Kind::Write => Some(Change::Write {
                offset: extent.start(),
                data: payload,
            }),
            Kind::WriteZeroes => Some(Change::WriteZeroes(extent)),
            Kind::Discard => Some(Change::Discard(extent)),
            Kind::Bookmark | Kind::Barrier | Kind::Resize => None,
        }
    }
}

/// Whether a disk can be of this size.
pub(crate) fn is_size(size: Length) -> bool {
    !size.is_zero() && size.get().is_multiple_of(SECTOR.get())
}

fn checksum(salt: u32, header: &[u8; RecordHeader::LEN], payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new_with_initial(salt);
    crc.update(RecordHeader::fields(header));
    crc.update(payload);
    crc.finalize()
}
