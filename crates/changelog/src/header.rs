//! The header of a log: which disk, which history.

use std::fmt;

use afterimage_block::{DiskId, Epoch, Length, SECTOR, Sequence, Timestamp};

use crate::fields::{all_zero, bytes_at, put, u16_at, u32_at, u64_at};
use crate::{Error, KeyId, Result};

const MAGIC: [u8; 8] = *b"\x89AILOG\r\n";
const VERSION: u16 = 1;
const COMPRESSED: u32 = 1;
const ENCRYPTED: u32 = 2;
/// Once the log is sealed, its footer has a tag.
const TAGGED: u32 = 4;

/// How the records of a log are stored: as they are, by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Form {
    /// Whether what was written may be compressed.
    pub compressed: bool,
    /// The key that all payloads are encrypted with.
    pub key: Option<KeyId>,
}

impl Form {
    /// Whether records stand in the file as they were logged.
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }
}

/// What a log is of. Specified in `FORMAT.md`, section Header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogHeader {
    /// The disk.
    pub disk: DiskId,
    /// The disk's size, a multiple of 512 bytes.
    pub disk_size: Length,
    /// The writer's epoch.
    pub epoch: Epoch,
    /// The oldest generation in the log.
    pub first: Sequence,
    /// The newest; equal to the oldest unless logs were merged.
    pub last: Sequence,
    /// When the log was begun.
    pub created: Timestamp,
}

impl LogHeader {
    /// Its length in the file.
    pub const LEN: usize = 128;

    /// The bytes of the header of a log whose records are stored as they are.
    pub fn encode(&self) -> [u8; Self::LEN] {
        Head::plain(*self).bytes
    }

    /// Whether a file that begins with `bytes` means to be a native log.
    pub(crate) fn begins(bytes: &[u8]) -> bool {
        bytes.starts_with(&MAGIC)
    }

    /// The header in the first bytes of a log whose records are stored as they are, and the checksum
    /// that its records continue.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it is not one or was changed, [`Error::NewerVersion`];
    /// [`Error::NotPlain`] if the records are compressed or encrypted, so that only
    /// [`Reader`](crate::Reader) and the like can read them.
    pub fn parse(bytes: &[u8]) -> Result<(Self, u32)> {
        let head = Head::parse(bytes)?;
        if !head.form.is_plain() {
            return Err(Error::NotPlain);
        }
        Ok((head.header, head.checksum()))
    }
}

/// All that the header of a log says, and its bytes.
#[derive(Clone)]
pub(crate) struct Head {
    pub(crate) header: LogHeader,
    pub(crate) form: Form,
    /// Whether the footer is to have a tag, which only the key makes. The first encrypted logs had none.
    pub(crate) tagged: bool,
    pub(crate) bytes: [u8; LogHeader::LEN],
}

impl Head {
    pub(crate) fn plain(header: LogHeader) -> Self {
        Self::new(header, Form::default(), [0; 32])
    }

    /// With what the log's own key is derived with: zeros if it has none.
    pub(crate) fn new(header: LogHeader, form: Form, salt: [u8; 32]) -> Self {
        let mut bytes = [0; LogHeader::LEN];
        put(&mut bytes, 0, &MAGIC);
        put(&mut bytes, 8, &VERSION.to_le_bytes());
        put(&mut bytes, 10, &128_u16.to_le_bytes());
        let compressed = if form.compressed { COMPRESSED } else { 0 };
        let tagged = form.key.is_some();
        let encrypted = if tagged { ENCRYPTED | TAGGED } else { 0 };
        put(&mut bytes, 12, &(compressed | encrypted).to_le_bytes());
        put(&mut bytes, 16, &header.disk.to_bytes());
        put(&mut bytes, 32, &header.disk_size.get().to_le_bytes());
        put(&mut bytes, 40, &header.epoch.get().to_le_bytes());
        put(&mut bytes, 48, &header.first.get().to_le_bytes());
        put(&mut bytes, 56, &header.last.get().to_le_bytes());
        put(&mut bytes, 64, &header.created.as_nanos().to_le_bytes());
        put(&mut bytes, 72, &form.key.map_or([0; 16], KeyId::to_bytes));
        put(&mut bytes, 88, &salt);
        let checksum = crc32fast::hash(&bytes[..124]);
        put(&mut bytes, 124, &checksum.to_le_bytes());
        Self {
            header,
            form,
            tagged,
            bytes,
        }
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let Some(bytes) = bytes.first_chunk::<{ LogHeader::LEN }>() else {
            return Err(Error::damaged(0, "the file is shorter than a header"));
        };
        if bytes_at::<8>(bytes, 0) != MAGIC {
            return Err(Error::damaged(
                0,
                "the file does not begin as a change log does",
            ));
        }
        if u32_at(bytes, 124) != crc32fast::hash(&bytes[..124]) {
            return Err(Error::damaged(124, "the header's checksum does not match"));
        }
        let version = u16_at(bytes, 8);
        if version != VERSION {
            return Err(Error::NewerVersion { found: version });
        }
        let flags = u32_at(bytes, 12);
        let encrypted = flags & ENCRYPTED != 0;
        let tagged = flags & TAGGED != 0;
        let known = flags & !(COMPRESSED | ENCRYPTED | TAGGED) == 0 && u16_at(bytes, 10) == 128;
        let reserved = &bytes[if encrypted { 120 } else { 72 }..124];
        if !known || (tagged && !encrypted) || !all_zero(reserved) {
            return Err(Error::damaged(
                8,
                "the header has flags that this release does not know",
            ));
        }
        let header = LogHeader {
            disk: DiskId::from_bytes(bytes_at(bytes, 16)),
            disk_size: Length::new(u64_at(bytes, 32)),
            epoch: Epoch::new(u64_at(bytes, 40)),
            first: Sequence::new(u64_at(bytes, 48)),
            last: Sequence::new(u64_at(bytes, 56)),
            created: Timestamp::from_nanos(u64_at(bytes, 64)),
        };
        let whole_sectors = header.disk_size.get().is_multiple_of(SECTOR.get());
        if !whole_sectors || header.first > header.last {
            return Err(Error::damaged(32, "the header contradicts itself"));
        }
        let form = Form {
            compressed: flags & COMPRESSED != 0,
            key: encrypted.then(|| KeyId::from_bytes(bytes_at(bytes, 72))),
        };
        Ok(Self {
            header,
            form,
            tagged,
            bytes: *bytes,
        })
    }

    /// The checksum that the records continue.
    pub(crate) fn checksum(&self) -> u32 {
        u32_at(&self.bytes, 124)
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Head");
        let shown = shown.field("header", &self.header);
        shown.field("form", &self.form).finish_non_exhaustive()
    }
}
