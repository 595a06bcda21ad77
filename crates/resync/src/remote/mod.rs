//! Two disks far apart: the state machines of both ends.
//!
//! [`Source`] and [`Target`] know no socket, no clock, no thread and no disk. The caller feeds them
//! the other end's messages and the outcomes of the work that they ask for:
//!
//! ```text
//!                 +--> poll_transmit() --> Message --> the other end
//! Source, Target -+
//!    ^   ^        +--> poll_work() ------> Work: hash, read, write, zero, flush, save
//!    |   |                                  |
//!    |   +-- handle_outcome(Outcome) <------+
//!    +------ handle_message(Message) <----------- the other end
//! ```
//!
//! *First both hash.* Each end makes the [`Tree`](crate::tree::Tree) of its disk, once. Equal disks
//! agree after one question. The blocks' digests of a disk that is not too large are kept meanwhile, so
//! that what differs is not hashed twice. Otherwise the source descends to the blocks that differ, breadth first
//! as far as its window of questions allows and in the order of the disk beyond, and sends them in
//! the order of the disk. What is blank on the target is not compared by block: the source reads it,
//! hashes it and sends it but for its zeros, and if all is blank it does not hash its disk before.
//!
//! *At the end the roots agree.* Each end's root is that of what it hashed, sent or wrote, block by
//! block. A source that is written meanwhile is sent as it was, block by block, at some instant
//! since the resync began; what was written since is for the caller to remember and to send.
//!
//! *A broken connection* is resumed with a new one, on which the source finds only what is still
//! different. A [`Cursor`] saves each end from hashing its disk again.
//!
//! *Nothing that the other end says is believed.* What does not follow from the protocol is an error
//! that ends the session; blocks are written only where the disk has them, and only by a target.
//! What the other end can make an end hold is bounded.

mod changes;
mod cursor;
mod front;
mod hashing;
mod leaves;
mod open;
mod outbox;
mod source;
mod target;
mod terms;

use afterimage_block::{Extent, Length};
use bytes::Bytes;

pub use cursor::Cursor;
pub use source::Source;
pub use target::Target;
pub use terms::Terms;

use crate::tree::Node;

/// What an end wants done to its disk. Several may be worked on at once, and finished in any order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Work {
    /// Hash the blocks of `extent`.
    Hash {
        /// To be handed back.
        unit: u64,
        /// Whole blocks.
        extent: Extent,
    },
    /// Read `extent`, and hash its blocks as read.
    Read {
        /// To be handed back.
        ticket: u64,
        /// Whole blocks.
        extent: Extent,
    },
    /// Write `bytes` to `extent`, and hash its blocks as written.
    Write {
        /// To be handed back.
        ticket: u64,
        /// Whole blocks.
        extent: Extent,
        /// As many bytes.
        bytes: Bytes,
    },
    /// Make `extent` zeros.
    Zero {
        /// To be handed back.
        ticket: u64,
        /// Whole blocks.
        extent: Extent,
    },
    /// Make everything that was written durable.
    Flush,
    /// Store the cursor durably in place of the last one, before asking for any more work. It has no
    /// outcome. An end that is never to be resumed without hashing all again may drop it.
    Save(Cursor),
}

/// How a piece of [`Work`] that succeeded came out. If one failed the end is of no further use.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// Of [`Work::Hash`].
    Hashed {
        /// As in the work.
        unit: u64,
        /// Of each block, in order.
        blocks: Vec<Node>,
    },
    /// Of [`Work::Read`].
    Read {
        /// As in the work.
        ticket: u64,
        /// What was read.
        bytes: Bytes,
        /// Of each block of it, in order.
        blocks: Vec<Node>,
    },
    /// Of [`Work::Write`].
    Written {
        /// As in the work.
        ticket: u64,
        /// Of each block of it, in order.
        blocks: Vec<Node>,
    },
    /// Of [`Work::Zero`].
    Zeroed {
        /// As in the work.
        ticket: u64,
    },
    /// Of [`Work::Flush`].
    Flushed,
}

/// How far an end is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemoteProgress {
    /// The disk's size.
    pub total: Length,
    /// So much of the disk needs no hashing any more for the tree.
    pub hashed: Length,
    /// So much of it was known from before and not hashed: of a cursor, or of a cache.
    pub skipped: Length,
    /// So much from the start of the disk on is known to be equal, or on its way.
    pub settled: Length,
    /// Bytes of blocks sent or received.
    pub sent: Length,
    /// Bytes of blocks made zeros without being sent.
    pub zeroed: Length,
    /// Digests that were asked for.
    pub digests: u64,
    /// So much of a target was read once more at the end.
    pub reread: Length,
    /// So much of it is to be.
    pub to_reread: Length,
    /// Whether it only compares, and nothing is sent or made zeros.
    pub is_dry: bool,
}
