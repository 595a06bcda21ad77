//! One write as a metadata block describes it.

use std::num::NonZeroU32;

use afterimage_block::{Extent, Length, Offset};

use super::HrlTime;
use super::checksum::checksum_around;
use crate::fields::{put, u32_at, u64_at};
use crate::{Error, Result};

const CHECKSUM: usize = 8;
const WRITE: u8 = 1;

/// The description of one write. Specified in `HRL.md`, section Entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HrlEntry {
    /// Where on the disk.
    pub offset: Offset,
    /// How many bytes. 0 is allowed and changes nothing.
    pub length: u32,
    /// When.
    pub time: HrlTime,
    /// The checksum of the data; `None` if it was not computed.
    pub data_checksum: Option<NonZeroU32>,
}

impl HrlEntry {
    /// Its length in the file.
    pub const LEN: usize = 32;

    /// The bytes of the entry.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        put(&mut bytes, 0, &self.offset.get().to_le_bytes());
        put(&mut bytes, 12, &self.length.to_le_bytes());
        put(&mut bytes, 16, &self.time.as_secs().to_le_bytes());
        put(&mut bytes, 20, &[WRITE]);
        let data_checksum = self.data_checksum.map_or(0, NonZeroU32::get);
        put(&mut bytes, 21, &data_checksum.to_le_bytes());
        let checksum = checksum_around(&bytes, CHECKSUM);
        put(&mut bytes, CHECKSUM, &checksum.to_le_bytes());
        bytes
    }

    /// The entry in `bytes`, which stand at `at` in the file. Reserved bytes are not looked at.
    ///
    /// # Errors
    /// [`Error::Damaged`] if its checksum does not match, it is no write, or its end is past what an
    /// offset can say.
    pub fn parse(bytes: &[u8; Self::LEN], at: u64) -> Result<Self> {
        let damaged = |reason| Err(Error::damaged(at, reason));
        if u32_at(bytes, CHECKSUM) != checksum_around(bytes, CHECKSUM) {
            return damaged("the entry's checksum does not match");
        }
        if bytes[20] != WRITE || bytes[25] != 0 {
            return damaged("the entry is of an unknown operation or place");
        }
        let entry = Self {
            offset: Offset::new(u64_at(bytes, 0)),
            length: u32_at(bytes, 12),
            time: HrlTime::from_secs(u32_at(bytes, 16)),
            data_checksum: NonZeroU32::new(u32_at(bytes, 21)),
        };
        if entry.offset.checked_add(entry.data_length()).is_none() {
            return damaged("the entry ends past what an offset can say");
        }
        Ok(entry)
    }

    /// The bytes of the disk that it changes; `None` if it has no data.
    pub fn extent(&self) -> Option<Extent> {
        Extent::new(self.offset, self.data_length()).ok()
    }

    /// How many bytes, as a length.
    pub fn data_length(&self) -> Length {
        Length::new(self.length.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Entries of the worked example of [MS-HRL], whose checksums are as printed there.
    #[test]
    fn checksums_are_those_of_the_specification() {
        let printed = [
            (4096, 3_626_348_544, 539_842_381, 4_294_966_608),
            (512, 139_058_688, 539_842_382, 4_294_966_747),
            (31_232, 3_673_764_352, 539_842_382, 4_294_966_413),
        ];
        for (length, offset, time, checksum) in printed {
            let entry = HrlEntry {
                offset: Offset::new(offset),
                length,
                time: HrlTime::from_secs(time),
                data_checksum: None,
            };
            let bytes = entry.encode();
            assert_eq!(u32_at(&bytes, CHECKSUM), checksum);
            assert_eq!(HrlEntry::parse(&bytes, 0).unwrap(), entry);
        }
    }

    #[test]
    fn what_is_no_write_or_ends_nowhere_is_refused() {
        let entry = HrlEntry {
            offset: Offset::new(u64::MAX - 4),
            length: 5,
            time: HrlTime::default(),
            data_checksum: NonZeroU32::new(7),
        };
        let refused = |change: &dyn Fn(&mut [u8; 32])| {
            let mut bytes = HrlEntry { length: 4, ..entry }.encode();
            change(&mut bytes);
            let checksum = checksum_around(&bytes, CHECKSUM);
            put(&mut bytes, CHECKSUM, &checksum.to_le_bytes());
            HrlEntry::parse(&bytes, 77).is_err()
        };
        assert!(!refused(&|_| ()));
        assert!(refused(&|bytes| bytes[20] = 2));
        assert!(refused(&|bytes| bytes[25] = 1));
        assert!(!refused(&|bytes| bytes[31] = 1), "reserved");
        let past = HrlEntry::parse(&entry.encode(), 77);
        assert!(matches!(past, Err(Error::Damaged { at: 77, .. })));
    }
}
