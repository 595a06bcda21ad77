//! The messages of a resync between two ends, and their bytes.
//!
//! `PROTOCOL.md` in the crate's folder is the specification. Nothing here does I/O: [`Decoder`]
//! takes messages off the front of a buffer that the caller fills, [`Message::encode`] gives bytes
//! that the caller sends.

mod body;
mod decoder;
mod error;
mod hello;

use afterimage_block::Length;
use bytes::{BufMut, Bytes, BytesMut};

pub use decoder::Decoder;
pub use error::ProtocolError;
pub use hello::{Hello, Role, Versions};

use crate::algorithm::Algorithm;
use crate::tree::Node;
use crate::{BlockIndex, BlockSize};

/// The bytes before each body.
const HEADER: usize = 12;

/// How many bytes of data a message holds, or one block if that is larger.
const DATA: u32 = 1 << 20;

/// The longest text of an error, in bytes.
const TEXT: usize = 512;

/// How many children a node of the tree has, but for the last of a level.
///
/// A difference costs the digests of one node's children a level: few levels mean few round trips,
/// few children few digests. With 64 a disk of 1 TiB in blocks of 64 KiB is five round trips deep,
/// a single block that differs costs at most 8 KiB of digests, an eighth of itself, and which
/// children are zeros is one word.
pub const FAN_OUT: usize = 64;

/// The most messages of one kind that may be unanswered.
pub const UNANSWERED_MAX: usize = 1024;

/// The most bytes of [`Data`](Message::Data) that may be unanswered, unless one message has more.
pub const UNWRITTEN_MAX: u64 = 64 << 20;

/// What one end tells the other.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Message {
    /// Who speaks, and about what.
    Hello(Hello),
    /// Asks for the children of a node.
    Ask {
        /// Which node.
        of: Place,
        /// The source will ask for and send nothing before this block.
        settled: BlockIndex,
    },
    /// The children of a node.
    Nodes {
        /// Which node.
        of: Place,
        /// Its children, 1 to [`FAN_OUT`].
        children: Vec<Node>,
    },
    /// What blocks hold on the source.
    Data {
        /// The first block.
        first: BlockIndex,
        /// The bytes of whole blocks, the disk's last possibly short.
        bytes: Bytes,
    },
    /// Blocks that are zeros on the source.
    Zeroes {
        /// The first block.
        first: BlockIndex,
        /// How many.
        count: u64,
    },
    /// So many messages of blocks are written.
    Written {
        /// From the first on.
        count: u64,
    },
    /// All is sent, or all is written.
    Done {
        /// What the disk of the sender amounts to.
        root: Node,
    },
    /// The sender gives up.
    Error(Farewell),
    /// What a source that was asked to send nothing would send.
    Found {
        /// Bytes of blocks.
        sent: Length,
        /// Bytes of blocks that would become zeros.
        zeroed: Length,
    },
}

/// A node of the tree: its level, blocks being level 0, and its number on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The level.
    pub level: u8,
    /// The number on its level, from 0.
    pub index: u64,
}

/// Why the other end gave up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Farewell {
    /// The kind of failure.
    pub reason: Reason,
    /// For a person to read; may hold anything, so that it is escaped when shown.
    pub text: String,
}

/// The kinds of failure that ends tell each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The two ends are not set up for the same resync.
    OtherTerms,
    /// The other end said what it may not.
    Protocol,
    /// A disk could not be read or written.
    Disk,
    /// The disks are not equal after all.
    RootsDiffer,
    /// Somebody stopped it.
    Stopped,
    /// A code of a later version.
    Other(u16),
}

impl Reason {
    const fn code(self) -> u16 {
        match self {
            Self::OtherTerms => 1,
            Self::Protocol => 2,
            Self::Disk => 3,
            Self::RootsDiffer => 4,
            Self::Stopped => 5,
            Self::Other(code) => code,
        }
    }

    const fn of(code: u16) -> Self {
        match code {
            1 => Self::OtherTerms,
            2 => Self::Protocol,
            3 => Self::Disk,
            4 => Self::RootsDiffer,
            5 => Self::Stopped,
            other => Self::Other(other),
        }
    }
}

/// The bytes of a message, in two parts so that data need not be copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The header and what of the body is not data.
    pub head: Bytes,
    /// The data; often empty.
    pub payload: Bytes,
}

impl Frame {
    /// The number of bytes.
    #[expect(clippy::len_without_is_empty, reason = "a frame is never empty")]
    pub const fn len(&self) -> usize {
        self.head.len() + self.payload.len()
    }
}

/// How many bytes of data one message may hold on a disk with blocks of this size.
pub const fn data_max(block_size: BlockSize) -> u64 {
    if block_size.get() > DATA as u64 {
        block_size.get()
    } else {
        DATA as u64
    }
}

impl Message {
    /// Its bytes. A text that is too long is cut.
    pub fn encode(&self) -> Frame {
        let mut body = BytesMut::with_capacity(64);
        let payload = self.put_body(&mut body);
        let length = u32::try_from(body.len() + payload.len()).unwrap_or(u32::MAX);
        let mut head = BytesMut::with_capacity(HEADER + body.len());
        head.put_u32_le(length);
        head.put_u8(self.kind());
        head.put_bytes(0, 3);
        let checksum = checksum(&head, &body, &payload);
        head.put_u32_le(checksum);
        head.extend_from_slice(&body);
        let head = head.freeze();
        Frame { head, payload }
    }
}

/// The CRC-32 of a header's first bytes and a body.
fn checksum(header: &[u8], body: &[u8], payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(header);
    crc.update(body);
    crc.update(payload);
    crc.finalize()
}

#[cfg(test)]
mod tests;
