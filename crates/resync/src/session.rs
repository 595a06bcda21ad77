//! A resync as a value: what is in doubt, how far it is, what it found.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use afterimage_block::{Extent, ExtentSet, Length, Offset};
use serde::{Deserialize, Serialize};

use crate::verdict::Verdict;
use crate::{BlockSize, Error, Grid, Result, Scope, Side};

/// What a resync found, in exact bytes: `compared` is always `equal` + `sent` + `zeroed`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Summary {
    /// Blocks that are no more in doubt.
    pub compared: Length,
    /// Blocks that were equal on both sides.
    pub equal: Length,
    /// Blocks that differed and were handed on with their data.
    pub sent: Length,
    /// Blocks that differed and are zeros on the source: handed on without data.
    pub zeroed: Length,
    /// What was read of the disks for it. Blocks in holes are not.
    pub read: Length,
}

impl Summary {
    /// Adds `length` bytes of blocks on which this is the verdict.
    fn add(&mut self, verdict: Verdict, length: Length) {
        let kind = match verdict {
            Verdict::Equal => &mut self.equal,
            Verdict::Send => &mut self.sent,
            Verdict::Zero => &mut self.zeroed,
        };
        *kind = kind.saturating_add(length);
        self.compared = self.compared.saturating_add(length);
    }
}

/// How far a resync is. Never goes backwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Everything in doubt before this offset is done.
    pub cursor: Offset,
    /// The bytes that were in doubt at first; `summary.compared` of them are done.
    pub total: Length,
    /// What was found so far.
    pub summary: Summary,
}

/// A resync of one disk as a value: which blocks are in doubt, how far it is, what it found. It does
/// no I/O; drivers ([`Comparer`](crate::Comparer), [`LocalResync`](crate::LocalResync)) move it on.
///
/// It serializes, and one that was stored goes on at its cursor after a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub struct Session {
    scope: Scope,
    cursor: Offset,
    summary: Summary,
}

impl Session {
    /// A resync of the blocks in `scope`, at its beginning.
    pub const fn new(scope: Scope) -> Self {
        Self {
            scope,
            cursor: Offset::ZERO,
            summary: Summary {
                compared: Length::ZERO,
                equal: Length::ZERO,
                sent: Length::ZERO,
                zeroed: Length::ZERO,
                read: Length::ZERO,
            },
        }
    }

    /// A resync of every block of a disk of `size` bytes.
    pub fn whole(size: Length, block_size: BlockSize) -> Self {
        Self::new(Scope::whole(size, block_size))
    }

    /// A resync of the blocks that `doubtful` touches on a disk of `size` bytes.
    ///
    /// # Errors
    /// [`Error::ScopeOutOfRange`] if an extent ends behind the disk.
    pub fn of(size: Length, block_size: BlockSize, doubtful: &ExtentSet) -> Result<Self> {
        Scope::new(size, block_size, doubtful).map(Self::new)
    }

    /// The blocks that were in doubt at first.
    pub const fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The disk's size and blocks.
    pub const fn grid(&self) -> Grid {
        self.scope.grid()
    }

    /// Everything in doubt before this offset is done.
    pub const fn cursor(&self) -> Offset {
        self.cursor
    }

    /// The run of blocks that is in doubt next; `None` when all is done.
    pub fn next_in_doubt(&self) -> Option<Extent> {
        self.scope.next_from(self.cursor)
    }

    /// Whether nothing is in doubt any more.
    pub fn is_complete(&self) -> bool {
        self.next_in_doubt().is_none()
    }

    /// What was found so far.
    pub const fn summary(&self) -> Summary {
        self.summary
    }

    /// How far it is.
    pub const fn progress(&self) -> Progress {
        Progress {
            cursor: self.cursor,
            total: self.scope.total(),
            summary: self.summary,
        }
    }

    /// Refuses a disk that is not of the session's size.
    pub(crate) fn check_size(&self, side: Side, found: Length) -> Result<()> {
        let expected = self.grid().size();
        if found == expected {
            Ok(())
        } else {
            Err(Error::OtherDisk {
                side,
                expected,
                found,
            })
        }
    }

    /// Adds bytes that were read of the disks.
    pub(crate) fn add_read(&mut self, read: Length) {
        self.summary.read = self.summary.read.saturating_add(read);
    }

    /// Moves past the blocks of `extent`, which are next in doubt and on which this is the verdict.
    pub(crate) fn advance(&mut self, extent: Extent, verdict: Verdict) {
        debug_assert!(extent.start() >= self.cursor && self.grid().is_boundary(extent.end()));
        self.cursor = extent.end();
        self.summary.add(verdict, extent.length());
    }

    /// Goes back to where it was, since what was done from there on is in doubt again.
    pub(crate) fn rewind(&mut self, to: Progress) {
        self.cursor = to.cursor;
        self.summary = to.summary;
    }
}

/// A session as it is stored, not yet believed.
#[derive(Serialize, Deserialize)]
struct Stored {
    scope: Scope,
    cursor: Offset,
    summary: Summary,
}

impl From<Session> for Stored {
    fn from(session: Session) -> Self {
        Self {
            scope: session.scope,
            cursor: session.cursor,
            summary: session.summary,
        }
    }
}

impl TryFrom<Stored> for Session {
    type Error = Error;

    fn try_from(stored: Stored) -> Result<Self> {
        let grid = stored.scope.grid();
        let invalid = |reason| Err(Error::InvalidSession { grid, reason });
        let Summary {
            compared,
            equal,
            sent,
            zeroed,
            ..
        } = stored.summary;
        if stored.cursor.get() > grid.size().get() || !grid.is_boundary(stored.cursor) {
            return invalid("its cursor is not on a block of the disk");
        }
        if compared != equal.saturating_add(sent).saturating_add(zeroed) {
            return invalid("what it found does not add up");
        }
        if compared != stored.scope.total_before(stored.cursor) {
            return invalid("what it compared does not reach its cursor");
        }
        Ok(Self {
            scope: stored.scope,
            cursor: stored.cursor,
            summary: stored.summary,
        })
    }
}
