//! Writes into the bytes of an HRL, without I/O.

use afterimage_block::{Length, Offset, Timestamp};

use super::block::{Block, capacity};
use super::checksum::ByteSum;
use super::{HrlEntry, HrlHeader, HrlId, HrlTime, HrlVersion};

/// The length of the metadata blocks that are written.
pub(crate) const BLOCK: usize = 4096;

/// What an HRL says of itself, and how it is written.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct HrlOptions {
    /// The log's identity.
    pub id: HrlId,
    /// The identity of the log before it. Default [`HrlId::NIL`].
    pub previous: HrlId,
    /// The DataWriteGuid of the VHDX. Default [`HrlId::NIL`].
    pub data_write_guid: HrlId,
    /// When the log is begun.
    pub created: Timestamp,
    /// What writes it, in ASCII. Default `aimg`.
    pub creator: [u8; 4],
    /// The version of what writes it. Default 0x00010000.
    pub creator_version: u32,
    /// Whether the data's checksums are computed, too. Default yes; Hyper-V leaves them out.
    pub data_checksums: bool,
    /// The longest the file may grow before it is closed. Default none.
    pub quota: Option<Length>,
    /// Whether what comes from an encrypted log may be written, which is plain text then. Default no.
    pub plaintext: bool,
}

impl HrlOptions {
    /// A log `id`, begun at `created`, that is the first of a chain.
    pub fn new(id: HrlId, created: Timestamp) -> Self {
        Self {
            id,
            previous: HrlId::NIL,
            data_write_guid: HrlId::NIL,
            created,
            creator: *b"aimg",
            creator_version: 0x0001_0000,
            data_checksums: true,
            quota: None,
            plaintext: false,
        }
    }

    /// As the log that follows `previous`.
    pub fn following(mut self, previous: HrlId) -> Self {
        self.previous = previous;
        self
    }

    /// With the data's checksums, or without.
    pub fn with_data_checksums(mut self, computed: bool) -> Self {
        self.data_checksums = computed;
        self
    }

    /// With a quota.
    pub fn with_quota(mut self, quota: Length) -> Self {
        self.quota = Some(quota);
        self
    }

    /// Lets what comes from an encrypted log be written as plain text.
    pub fn allowing_plaintext(mut self) -> Self {
        self.plaintext = true;
        self
    }

    fn header(&self) -> HrlHeader {
        let created = HrlTime::from(self.created);
        HrlHeader {
            version: HrlVersion::V2,
            created,
            creator: self.creator,
            creator_version: self.creator_version,
            original_size: 0,
            current_size: (HrlHeader::LEN + BLOCK) as u64,
            end: None,
            error_code: 0,
            metadata_size: 4096,
            id: self.id,
            previous: self.previous,
            modified: created,
            entries: 0,
            data_write_guid: Some(self.data_write_guid),
        }
    }
}

/// Turns writes into the bytes of an HRL of version 2. It keeps the entries of one metadata block,
/// and no data.
#[derive(Debug)]
pub(crate) struct HrlEncoder {
    header: HrlHeader,
    data_checksums: bool,
    position: u64,
    last_block: u64,
    pending: Vec<HrlEntry>,
}

impl HrlEncoder {
    /// An encoder, and the bytes that the log begins with: a header without an end and an empty
    /// metadata block.
    pub(crate) fn new(options: &HrlOptions) -> (Self, Vec<u8>) {
        let header = options.header();
        let first = Block {
            back: 0,
            entries: Vec::new(),
        };
        let mut bytes = header.encode().to_vec();
        bytes.extend_from_slice(&first.encode(BLOCK));
        let encoder = Self {
            header,
            data_checksums: options.data_checksums,
            position: bytes.len() as u64,
            last_block: HrlHeader::LEN as u64,
            pending: Vec::new(),
        };
        (encoder, bytes)
    }

    /// Where the next data goes in the file.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The number of entries so far.
    pub(crate) fn entries(&self) -> u64 {
        self.header.entries
    }

    /// How long the file can be at most once `pieces` writes of `bytes` in all are in it and it is
    /// closed.
    pub(crate) fn length_with(&self, bytes: u64, pieces: u64) -> u64 {
        let blocks = (self.pending.len() as u64 + pieces).div_ceil(capacity(BLOCK) as u64);
        let metadata = blocks.saturating_mul(BLOCK as u64);
        self.position.saturating_add(bytes).saturating_add(metadata)
    }

    /// Takes the description of `data`, at most `u32::MAX` bytes, which is to be appended. Returns
    /// the metadata block to append behind it once the block is full.
    pub(crate) fn write(&mut self, offset: Offset, data: &[u8], time: HrlTime) -> Option<Vec<u8>> {
        let mut sum = ByteSum::default();
        if self.data_checksums {
            sum.add(data);
        }
        self.pending.push(HrlEntry {
            offset,
            length: u32::try_from(data.len()).unwrap_or(u32::MAX),
            time,
            data_checksum: sum.of_data().filter(|_| self.data_checksums),
        });
        self.position += data.len() as u64;
        self.header.entries += 1;
        (self.pending.len() == capacity(BLOCK)).then(|| self.take_block())
    }

    /// The metadata block of the entries that have none yet, to be appended.
    pub(crate) fn block(&mut self) -> Option<Vec<u8>> {
        (!self.pending.is_empty()).then(|| self.take_block())
    }

    fn take_block(&mut self) -> Vec<u8> {
        let block = Block {
            back: self.position - self.last_block,
            entries: std::mem::take(&mut self.pending),
        };
        self.last_block = self.position;
        self.position += BLOCK as u64;
        block.encode(BLOCK)
    }

    /// The header of the log as it is now, closed at `time`. Every block has been taken.
    pub(crate) fn closed(&self, time: HrlTime) -> HrlHeader {
        debug_assert!(self.pending.is_empty(), "every entry is in a block");
        HrlHeader {
            current_size: self.position,
            end: Some(self.position),
            modified: time,
            ..self.header
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::{u32_at, u64_at};

    /// The layout of the worked example of [MS-HRL]: 58 writes of 320 000 bytes in all.
    #[test]
    fn the_worked_example_of_the_specification_is_reproduced() {
        let id = HrlId::from_bytes([1; 16]);
        let options = HrlOptions::new(id, Timestamp::default()).with_data_checksums(false);
        let (mut encoder, head) = HrlEncoder::new(&options);
        assert_eq!(head.len(), 8192);
        assert_eq!(
            &head[4096..4112],
            b"\0\0\0\0\0\0\0\0\0\0\0\0\xFF\xFF\xFF\xFF"
        );
        assert!(head[4112..].iter().all(|byte| *byte == 0));
        assert_eq!(u64_at(&head, 44), 0, "no end before it is closed");

        let time = HrlTime::from_secs(539_842_381);
        let writes = [
            (4096, 3_626_348_544),
            (512, 139_058_688),
            (31_232, 3_673_764_352),
        ];
        let rest = 320_000 - 4096 - 512 - 31_232 - 54 * 512;
        let fill = std::iter::repeat_n((512, 1 << 20), 54).chain([(rest, 0)]);
        for (length, offset) in writes.into_iter().chain(fill) {
            let full = encoder.write(Offset::new(offset), &vec![0xA5; length], time);
            assert_eq!(full, None);
        }
        assert_eq!(encoder.position(), 328_192);
        let block = encoder.block().unwrap();
        assert_eq!(u64_at(&block, 0), 324_096);
        assert_eq!(u32_at(&block, 8), 58);
        assert_eq!(u32_at(&block, 12), 4_294_966_991);
        assert_eq!(
            u32_at(&block, 40),
            4_294_966_608,
            "the first entry, as printed"
        );
        let header = encoder.closed(time);
        assert_eq!((header.end, header.current_size), (Some(332_288), 332_288));
        assert_eq!(header.entries, 58);
    }
}
