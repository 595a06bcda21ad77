//! The header of a log: which disk, which history.

use afterimage_block::{DiskId, Epoch, Length, SECTOR, Sequence, Timestamp};

use crate::fields::{all_zero, bytes_at, put, u16_at, u32_at, u64_at};
use crate::{Error, Result};

const MAGIC: [u8; 8] = *b"\x89AILOG\r\n";
const VERSION: u16 = 1;

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

    /// The bytes of the header.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        put(&mut bytes, 0, &MAGIC);
        put(&mut bytes, 8, &VERSION.to_le_bytes());
        put(&mut bytes, 10, &128_u16.to_le_bytes());
        put(&mut bytes, 16, &self.disk.to_bytes());
        put(&mut bytes, 32, &self.disk_size.get().to_le_bytes());
        put(&mut bytes, 40, &self.epoch.get().to_le_bytes());
        put(&mut bytes, 48, &self.first.get().to_le_bytes());
        put(&mut bytes, 56, &self.last.get().to_le_bytes());
        put(&mut bytes, 64, &self.created.as_nanos().to_le_bytes());
        let checksum = crc32fast::hash(&bytes[..124]);
        put(&mut bytes, 124, &checksum.to_le_bytes());
        bytes
    }

    /// Whether a file that begins with `bytes` means to be a native log.
    pub(crate) fn begins(bytes: &[u8]) -> bool {
        bytes.starts_with(&MAGIC)
    }

    /// The header in the first bytes of a log, and the checksum that its records continue.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it is not one or was changed, [`Error::NewerVersion`].
    pub fn parse(bytes: &[u8]) -> Result<(Self, u32)> {
        let Some(bytes) = bytes.first_chunk::<{ Self::LEN }>() else {
            return Err(Error::damaged(0, "the file is shorter than a header"));
        };
        if bytes_at::<8>(bytes, 0) != MAGIC {
            return Err(Error::damaged(
                0,
                "the file does not begin as a change log does",
            ));
        }
        let checksum = u32_at(bytes, 124);
        if checksum != crc32fast::hash(&bytes[..124]) {
            return Err(Error::damaged(124, "the header's checksum does not match"));
        }
        let version = u16_at(bytes, 8);
        if version != VERSION {
            return Err(Error::NewerVersion { found: version });
        }
        let fixed = u16_at(bytes, 10) == 128 && u32_at(bytes, 12) == 0;
        if !fixed || !all_zero(&bytes[72..124]) {
            return Err(Error::damaged(
                8,
                "the header has flags that this release does not know",
            ));
        }
        let header = Self {
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
        Ok((header, checksum))
    }
}
