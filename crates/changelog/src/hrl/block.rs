//! A metadata block: what the data before it is.

use super::HrlEntry;
use super::checksum::checksum_around;
use crate::fields::{put, u32_at, u64_at};
use crate::{Error, Result};

const HEAD: usize = 32;
const CHECKSUM: usize = 12;

/// A metadata block. Specified in `HRL.md`, section Metadata block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// How far back the block before this one starts; 0 in the first.
    pub(crate) back: u64,
    /// Its valid entries, in the order of their data.
    pub(crate) entries: Vec<HrlEntry>,
}

/// How many entries fit into a block of `size` bytes.
pub(crate) fn capacity(size: usize) -> usize {
    size.saturating_sub(HEAD) / HrlEntry::LEN
}

/// Where entry `number` stands in a block that starts at `at`.
pub(crate) fn entry_at(at: u64, number: usize) -> u64 {
    at + (HEAD + number * HrlEntry::LEN) as u64
}

impl Block {
    /// The `size` bytes of a block whose entries fit.
    pub(crate) fn encode(&self, size: usize) -> Vec<u8> {
        debug_assert!(self.entries.len() <= capacity(size), "the entries fit");
        let mut bytes = vec![0; size];
        put(&mut bytes, 0, &self.back.to_le_bytes());
        let count = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        put(&mut bytes, 8, &count.to_le_bytes());
        let checksum = checksum_around(bytes.get(..HEAD).unwrap_or_default(), CHECKSUM);
        put(&mut bytes, CHECKSUM, &checksum.to_le_bytes());
        for (number, entry) in self.entries.iter().enumerate() {
            put(&mut bytes, HEAD + number * HrlEntry::LEN, &entry.encode());
        }
        bytes
    }

    /// The block in `bytes`, which stand at `at` in the file and are as many as the log's
    /// MetadataSize. Reserved bytes and unused entries are not looked at.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub(crate) fn parse(bytes: &[u8], at: u64) -> Result<Self> {
        let damaged = |reason| Err(Error::damaged(at, reason));
        let Some((head, slots)) = bytes.split_at_checked(HEAD) else {
            return damaged("the metadata block is cut short");
        };
        if u32_at(head, CHECKSUM) != checksum_around(head, CHECKSUM) {
            return damaged("the metadata block's checksum does not match");
        }
        let count = usize::try_from(u32_at(head, 8)).unwrap_or(usize::MAX);
        if count > capacity(bytes.len()) {
            return damaged("the metadata block announces more entries than fit into it");
        }
        let (slots, _) = slots.as_chunks::<{ HrlEntry::LEN }>();
        let slots = slots.iter().take(count).enumerate();
        let entries = slots.map(|(number, slot)| HrlEntry::parse(slot, entry_at(at, number)));
        Ok(Self {
            back: u64_at(head, 0),
            entries: entries.collect::<Result<_>>()?,
        })
    }

    /// How many bytes of data its entries describe.
    pub(crate) fn data_length(&self) -> u64 {
        let lengths = self.entries.iter().map(|entry| u64::from(entry.length));
        // At most 2^15 entries of less than 2^32 bytes.
        lengths.sum()
    }
}

#[cfg(test)]
mod tests {
    use afterimage_block::Offset;

    use super::*;
    use crate::hrl::HrlTime;

    fn block(count: u32) -> Block {
        let entry = |number| HrlEntry {
            offset: Offset::new(u64::from(number) * 7),
            length: 1000 + number,
            time: HrlTime::from_secs(number),
            data_checksum: None,
        };
        Block {
            back: 324_096,
            entries: (0..count).map(entry).collect(),
        }
    }

    #[test]
    fn the_header_is_that_of_the_specification() {
        let bytes = block(58).encode(4096);
        assert_eq!(u32_at(&bytes, CHECKSUM), 4_294_966_991);
        let empty = Block {
            back: 0,
            entries: Vec::new(),
        };
        assert_eq!(u32_at(&empty.encode(4096), CHECKSUM), u32::MAX);
    }

    #[test]
    fn parsing_is_the_inverse_of_encoding_in_every_size() {
        for (size, most) in [(512, 15), (1024, 31), (4096, 127), (1 << 20, 32_767)] {
            assert_eq!(u32::try_from(capacity(size)).unwrap(), most);
            for count in [0, 1, most] {
                let block = block(count);
                assert_eq!(Block::parse(&block.encode(size), 5).unwrap(), block);
            }
        }
        assert!(Block::parse(&block(15).encode(512)[..480], 0).is_err());
    }
}
