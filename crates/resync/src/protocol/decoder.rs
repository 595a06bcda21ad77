//! Messages off the front of a growing buffer.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use bytes::{Buf, BytesMut};

use super::body::length_max;
use super::{HEADER, Message, ProtocolError, checksum};
use crate::BlockSize;

/// The bytes of a message of data that are not data.
const DATA_HEADER: u64 = HEADER as u64 + 8;

/// Takes whole messages off the front of a buffer.
///
/// It allocates nothing for what a message claims, and refuses one that is longer than its kind can
/// be as soon as its header is there: a buffer need never hold more than [`most`](Self::most) bytes.
#[derive(Debug)]
pub struct Decoder {
    block_size: BlockSize,
    /// Bytes of the stream that were taken off.
    taken: u64,
    failed: Option<ProtocolError>,
}

impl Decoder {
    /// At the start of a stream about a disk with blocks of `block_size`.
    pub const fn new(block_size: BlockSize) -> Self {
        Self {
            block_size,
            taken: 0,
            failed: None,
        }
    }

    /// The bytes of the longest message.
    pub const fn most(&self) -> u64 {
        super::data_max(self.block_size).saturating_add(DATA_HEADER)
    }

    /// How many bytes `buffer` lacks of its header or, once that is there, of its first message. Of one
    /// that is refused, none.
    pub fn missing(&self, buffer: &[u8]) -> usize {
        let Some(mut header) = buffer.get(..HEADER) else {
            return HEADER.saturating_sub(buffer.len());
        };
        let (length, kind) = (header.get_u32_le(), header.get_u8());
        let most = length_max(kind, self.block_size).unwrap_or_default();
        let length = usize::try_from(length.min(most)).unwrap_or_default();
        HEADER.saturating_add(length).saturating_sub(buffer.len())
    }

    /// The message at the front of `buffer`, which it is taken off from; `None` if it is not whole
    /// yet. Data is not copied.
    ///
    /// # Errors
    /// [`ProtocolError`]; the stream has no next message then, and each further call fails alike.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Message>, ProtocolError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.take(buffer)
            .inspect_err(|error| self.failed = Some(error.clone()))
    }

    fn take(&mut self, buffer: &mut BytesMut) -> Result<Option<Message>, ProtocolError> {
        let Some(mut header) = buffer.get(..HEADER) else {
            return Ok(None);
        };
        let checked = buffer.get(..8).unwrap_or_default();
        let length = header.get_u32_le();
        let kind = header.get_u8();
        let reserved = header.get_uint_le(3);
        let expected = header.get_u32_le();
        let at = self.taken;
        let most = length_max(kind, self.block_size);
        let most = most.ok_or(ProtocolError::UnknownKind { at, kind })?;
        if length > most {
            return Err(ProtocolError::TooLong { at, length, most });
        }
        let whole = HEADER.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
        let Some(body) = buffer.get(HEADER..whole) else {
            return Ok(None);
        };
        let found = checksum(checked, body, &[]);
        if found != expected {
            return Err(ProtocolError::Checksum {
                at,
                expected,
                found,
            });
        }
        let malformed = |reason| ProtocolError::Malformed { at, kind, reason };
        if reserved != 0 {
            return Err(malformed("its reserved bytes are not zero"));
        }
        let mut message = buffer.split_to(whole).freeze();
        message.advance(HEADER);
        self.taken = at.saturating_add(whole as u64);
        Message::parse(kind, message).map(Some).map_err(malformed)
    }
}
