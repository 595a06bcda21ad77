//! The first 4096 bytes of an HRL.

use super::checksum::checksum_around;
use super::{HrlId, HrlTime};
use crate::fields::{bytes_at, put, u16_at, u32_at, u64_at};
use crate::{Error, Result};

/// What an HRL begins with. The eighth byte of the cookie is a space, or nothing.
pub(crate) const COOKIE: [u8; 7] = *b"msctlog";
const CHECKSUM: usize = 40;
/// The longest metadata block that is read: 32 767 entries.
const METADATA_MAX: u32 = 1 << 20;

/// The version of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum HrlVersion {
    /// That of Windows Server 2012 and 2012 R2, for use on one host.
    V1 = 0x0001_0000,
    /// That of later releases.
    V2 = 0x0002_0000,
}

/// The header of an HRL. Specified in `HRL.md`, section Header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HrlHeader {
    /// The version of the format.
    pub version: HrlVersion,
    /// When the log was begun.
    pub created: HrlTime,
    /// What wrote it, in ASCII, filled up with spaces.
    pub creator: [u8; 4],
    /// The version of what wrote it.
    pub creator_version: u32,
    /// The file's size when it was created.
    pub original_size: u64,
    /// The file's size when the header was written.
    pub current_size: u64,
    /// Where the log ends in the file; `None` if it was not closed.
    pub end: Option<u64>,
    /// An error that its writer had.
    pub error_code: i32,
    /// The length of a metadata block.
    pub metadata_size: u32,
    /// The log's identity.
    pub id: HrlId,
    /// The identity of the log before it.
    pub previous: HrlId,
    /// When the log was last changed.
    pub modified: HrlTime,
    /// The number of entries in the whole log.
    pub entries: u64,
    /// The DataWriteGuid of the VHDX when the log was written: if the disk has another one now, it
    /// was changed while nobody tracked it. `None` in version 1.
    pub data_write_guid: Option<HrlId>,
}

impl HrlHeader {
    /// Its length in the file.
    pub const LEN: usize = 4096;

    /// The bytes of the header.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        put(&mut bytes, 0, &COOKIE);
        put(&mut bytes, 7, b" ");
        put(&mut bytes, 8, &(self.version as u32).to_le_bytes());
        put(&mut bytes, 12, &self.created.as_secs().to_le_bytes());
        put(&mut bytes, 16, &self.creator);
        put(&mut bytes, 20, &self.creator_version.to_le_bytes());
        put(&mut bytes, 24, &self.original_size.to_le_bytes());
        put(&mut bytes, 32, &self.current_size.to_le_bytes());
        put(&mut bytes, 44, &self.end.unwrap_or(0).to_le_bytes());
        put(&mut bytes, 52, &self.error_code.to_le_bytes());
        put(&mut bytes, 56, &self.metadata_size.to_le_bytes());
        put(&mut bytes, 60, &self.id.to_guid());
        put(&mut bytes, 76, &self.previous.to_guid());
        put(&mut bytes, 92, &self.modified.as_secs().to_le_bytes());
        put(&mut bytes, 96, &self.entries.to_le_bytes());
        if let (HrlVersion::V2, Some(guid)) = (self.version, self.data_write_guid) {
            put(&mut bytes, 110, &guid.to_guid());
        }
        let checksum = checksum_around(&bytes, CHECKSUM);
        put(&mut bytes, CHECKSUM, &checksum.to_le_bytes());
        bytes
    }

    /// The header in the first bytes of a file. The reserved tail is covered by the checksum, and
    /// otherwise not looked at.
    ///
    /// # Errors
    /// [`Error::UnknownFormat`] if the file is no HRL; [`Error::Damaged`];
    /// [`Error::UnknownHrlVersion`].
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if !begins_as_hrl(bytes) {
            return Err(Error::UnknownFormat);
        }
        let Some(bytes) = bytes.first_chunk::<{ Self::LEN }>() else {
            return Err(Error::damaged(
                0,
                "the file is shorter than an HRL's header",
            ));
        };
        if u32_at(bytes, CHECKSUM) != checksum_around(bytes, CHECKSUM) {
            return Err(Error::damaged(40, "the header's checksum does not match"));
        }
        let version = match u32_at(bytes, 8) {
            0x0001_0000 => HrlVersion::V1,
            0x0002_0000 => HrlVersion::V2,
            found => return Err(Error::UnknownHrlVersion { found }),
        };
        if u32_at(bytes, 104) != 0 || u16_at(bytes, 108) != 0 {
            return Err(Error::damaged(
                104,
                "the file is of another type than a log, or has unknown flags",
            ));
        }
        let metadata_size = u32_at(bytes, 56);
        let whole = metadata_size.is_multiple_of(512);
        if !whole || !(512..=METADATA_MAX).contains(&metadata_size) {
            return Err(Error::damaged(
                56,
                "metadata blocks are not of a multiple of 512 bytes up to 1 MiB",
            ));
        }
        let guid = |at| HrlId::from_guid(bytes_at(bytes, at));
        Ok(Self {
            version,
            created: HrlTime::from_secs(u32_at(bytes, 12)),
            creator: bytes_at(bytes, 16),
            creator_version: u32_at(bytes, 20),
            original_size: u64_at(bytes, 24),
            current_size: u64_at(bytes, 32),
            end: Some(u64_at(bytes, 44)).filter(|end| *end != 0),
            error_code: i32::from_le_bytes(bytes_at(bytes, 52)),
            metadata_size,
            id: guid(60),
            previous: guid(76),
            modified: HrlTime::from_secs(u32_at(bytes, 92)),
            entries: u64_at(bytes, 96),
            data_write_guid: (version == HrlVersion::V2).then(|| guid(110)),
        })
    }

    /// The length of a metadata block, as the length of a slice. At most 1 MiB once parsed.
    pub(crate) fn block_length(&self) -> usize {
        usize::try_from(self.metadata_size).unwrap_or_default()
    }
}

/// Whether a file that begins with `bytes` means to be an HRL.
pub(crate) fn begins_as_hrl(bytes: &[u8]) -> bool {
    bytes.starts_with(&COOKIE) && matches!(bytes.get(7), Some(b' ' | 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(version: HrlVersion) -> HrlHeader {
        HrlHeader {
            version,
            created: HrlTime::from_secs(539_842_379),
            creator: *b"ct  ",
            creator_version: 0x000A_0000,
            original_size: 0,
            current_size: 332_288,
            end: Some(332_288),
            error_code: -5,
            metadata_size: 4096,
            id: HrlId::from_bytes(*b"0123456789ABCDEF"),
            previous: HrlId::from_bytes(*b"GHIJKLMNOPQRSTUV"),
            modified: HrlTime::from_secs(539_842_383),
            entries: 58,
            data_write_guid: (version == HrlVersion::V2).then_some(HrlId::from_bytes([9; 16])),
        }
    }

    /// As [MS-HRL] lays the fields out, by hand.
    #[test]
    fn the_fields_are_where_the_specification_has_them() {
        let bytes = header(HrlVersion::V2).encode();
        assert_eq!(
            &bytes[..24],
            b"msctlog \x00\x00\x02\x00\x4B\x57\x2D\x20ct  \x00\x00\x0A\x00"
        );
        assert_eq!(&bytes[24..40], b"\0\0\0\0\0\0\0\0\x00\x12\x05\0\0\0\0\0");
        assert_eq!(
            &bytes[44..60],
            b"\x00\x12\x05\0\0\0\0\0\xFB\xFF\xFF\xFF\x00\x10\0\0"
        );
        assert_eq!(&bytes[60..92], b"3210547689ABCDEFJIHGLKNMOPQRSTUV");
        assert_eq!(
            &bytes[92..110],
            b"\x4F\x57\x2D\x20\x3A\0\0\0\0\0\0\0\0\0\0\0\0\0"
        );
        assert_eq!(&bytes[110..126], &[9; 16]);
        assert!(bytes[126..].iter().all(|byte| *byte == 0));
        let sum: u32 = bytes
            .iter()
            .enumerate()
            .filter(|(at, _)| !(40..44).contains(at))
            .map(|(_, byte)| u32::from(*byte))
            .sum();
        assert_eq!(u32_at(&bytes, 40), !sum);
    }

    #[test]
    fn parsing_is_the_inverse_of_encoding_in_both_versions() {
        for version in [HrlVersion::V1, HrlVersion::V2] {
            for end in [None, Some(8192)] {
                let header = HrlHeader {
                    end,
                    ..header(version)
                };
                assert_eq!(HrlHeader::parse(&header.encode()).unwrap(), header);
            }
        }
    }

    fn changed(change: impl Fn(&mut [u8; 4096])) -> Result<HrlHeader> {
        let mut bytes = header(HrlVersion::V2).encode();
        change(&mut bytes);
        let checksum = checksum_around(&bytes, CHECKSUM);
        put(&mut bytes, CHECKSUM, &checksum.to_le_bytes());
        HrlHeader::parse(&bytes)
    }

    #[test]
    fn what_would_be_misread_is_refused() {
        let format = changed(|bytes| bytes[0] = b'M');
        assert!(matches!(format, Err(Error::UnknownFormat)));
        let version = changed(|bytes| bytes[10] = 3);
        assert!(matches!(
            version,
            Err(Error::UnknownHrlVersion { found: 0x0003_0000 })
        ));
        for at in [104, 108] {
            let flagged = changed(|bytes| bytes[at] = 1);
            assert!(matches!(flagged, Err(Error::Damaged { at: 104, .. })));
        }
        for size in [0, 256, 513, 4097, METADATA_MAX + 512, u32::MAX] {
            let sized = changed(|bytes| put(bytes, 56, &size.to_le_bytes()));
            assert!(
                matches!(sized, Err(Error::Damaged { at: 56, .. })),
                "{size}"
            );
        }
        assert!(changed(|bytes| bytes[7] = 0).is_ok());
        assert!(
            changed(|bytes| bytes[4000] = 1).is_ok(),
            "the reserved tail"
        );
        assert!(HrlHeader::parse(&header(HrlVersion::V2).encode()[..4095]).is_err());
    }
}
