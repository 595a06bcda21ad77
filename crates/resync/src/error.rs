//! What can go wrong with a resync.

use std::fmt;

use afterimage_block::{Error as BlockError, Extent, Length, Offset};

use crate::protocol::{Farewell, ProtocolError, Reason};
use crate::{BlockIndex, Grid};

/// The result of a step of a resync.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// One of the two disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The disk that is right.
    Source,
    /// The disk that is to be made equal to it.
    Target,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Target => "target",
        })
    }
}

/// What went wrong, on which side, and where.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The disks cannot become equal.
    #[error("the source has {} bytes and the target {}: resize one of them first", source_size.get(), target_size.get())]
    SizesDiffer {
        /// The source's size.
        source_size: Length,
        /// The target's size.
        target_size: Length,
    },
    /// The session was made for a disk of another size.
    #[error("the resync was begun on a disk of {} bytes and the {side} now has {}: begin anew", expected.get(), found.get())]
    OtherDisk {
        /// Which disk.
        side: Side,
        /// The size that the session knows.
        expected: Length,
        /// The size that the disk has.
        found: Length,
    },
    /// Bytes that the disk does not have were to be compared.
    #[error("the extent {extent} to compare ends behind the {} bytes of the disk", size.get())]
    ScopeOutOfRange {
        /// The extent.
        extent: Extent,
        /// The disk's size.
        size: Length,
    },
    /// Bytes of a disk could not be read. They were not taken for anything.
    #[error("cannot read {extent} of the {side}: {source}")]
    Read {
        /// Which disk.
        side: Side,
        /// The block.
        extent: Extent,
        /// Why.
        source: BlockError,
    },
    /// A disk could not tell its holes.
    #[error("cannot tell data from holes at {at} of the {side}: {source}")]
    Map {
        /// Which disk.
        side: Side,
        /// From where on.
        at: Offset,
        /// Why.
        source: BlockError,
    },
    /// A disk's account of its holes makes no sense.
    #[error("the {side} tells no run of data or hole that holds byte {at}")]
    InvalidRun {
        /// Which disk.
        side: Side,
        /// Where.
        at: Offset,
    },
    /// The target could not be changed. The extent may hold any mixture of old and new.
    #[error("cannot write {extent} of the target: {source}")]
    Write {
        /// Where.
        extent: Extent,
        /// Why.
        source: BlockError,
    },
    /// What was written could not be made durable.
    #[error("cannot make the target durable, what this run wrote is in doubt: {source}")]
    Flush {
        /// Why.
        source: BlockError,
    },
    /// The signatures are not those of the block that is next in doubt.
    #[error(
        "signatures of {count} blocks from {first} on do not hold block {expected}, which is next"
    )]
    WrongPage {
        /// The block that is next in doubt.
        expected: BlockIndex,
        /// The first block of the page.
        first: BlockIndex,
        /// How many blocks the page has.
        count: usize,
    },
    /// There is no memory for the hash tree of such a disk.
    #[error("no memory for the hash tree of a disk of {} bytes in blocks of {}: choose larger blocks", grid.size().get(), grid.block_size())]
    TooLarge {
        /// The disk's size and blocks.
        grid: Grid,
    },
    /// The other end's bytes are no messages.
    #[error(transparent)]
    Undecodable(#[from] ProtocolError),
    /// The two ends are not those of one resync.
    #[error("the other end has another {what}: {theirs} instead of {ours}")]
    OtherTerms {
        /// What differs.
        what: &'static str,
        /// This end's.
        ours: String,
        /// The other end's.
        theirs: String,
    },
    /// The other end said what it may not.
    #[error("the other end broke the protocol with {message}: {reason}")]
    Violation {
        /// The kind of message.
        message: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The other end gave up.
    #[error("the other end gave up ({:?}): {:?}", farewell.reason, farewell.text)]
    Peer {
        /// What it said.
        farewell: Farewell,
    },
    /// The disks are not equal after all was sent.
    #[error("the disks differ after the resync: a disk or a machine is at fault, begin anew")]
    RootsDiffer,
    /// The target does not hold what it held when it was hashed or written, as was found when that was
    /// hashed again; blocks that are hashed once only are not looked at.
    #[error(
        "{extent} of the target changed during the resync: stop what writes to it, or replace it, and begin anew"
    )]
    TargetChanged {
        /// Where.
        extent: Extent,
    },
    /// A stored cursor cannot be gone on with.
    #[error("the stored cursor of the resync cannot be used, begin anew: {reason}")]
    InvalidCursor {
        /// What is wrong.
        reason: &'static str,
    },
    /// The caller gave an outcome of work that was not asked for.
    #[error("an outcome was given of work that the resync did not ask for")]
    WrongOutcome,
    /// The stream to the other end failed.
    #[error("cannot {operation} the other end: {source}")]
    Transport {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The stream ended before the resync did.
    #[error("the other end closed the connection before the resync was complete")]
    Closed,
    /// The cursor could not be stored.
    #[error("cannot store the cursor of the resync: {source}")]
    Save {
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What the target was sent could not be put in its place.
    #[error("the disks were found equal, and the target could not be left so: {source}")]
    Conclude {
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Somebody asked for it.
    #[error("the resync was stopped")]
    Stopped,
    /// A stored session contradicts itself.
    #[error("the stored resync of a disk of {} bytes in blocks of {} is damaged, begin anew: {reason}", grid.size().get(), grid.block_size())]
    InvalidSession {
        /// What the session says of its disk.
        grid: Grid,
        /// What is wrong.
        reason: &'static str,
    },
}

impl Error {
    /// The same, of the disk of that side.
    pub(crate) fn on(mut self, which: Side) -> Self {
        if let Self::Read { side, .. }
        | Self::Map { side, .. }
        | Self::InvalidRun { side, .. }
        | Self::OtherDisk { side, .. } = &mut self
        {
            *side = which;
        }
        self
    }

    /// Whether trying again from the cursor can help without anybody doing anything, as the disk's
    /// own error says. A flush that failed leaves the run's writes in doubt and is never one.
    pub fn is_recoverable(&self) -> bool {
        match self {
            Self::Read { source, .. } | Self::Map { source, .. } | Self::Write { source, .. } => {
                source.is_recoverable()
            }
            Self::Transport { .. } | Self::Closed | Self::Undecodable(_) | Self::Stopped => true,
            Self::Peer { farewell } => farewell.reason == Reason::Stopped,
            _ => false,
        }
    }
}
