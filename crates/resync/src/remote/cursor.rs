//! What saves an end from hashing its disk again.

use std::ops::Range;

use afterimage_block::{Extent, Offset};
use serde::{Deserialize, Serialize};

use super::Terms;
use crate::protocol::Role;
use crate::tree::{Node, Shape, Tree};
use crate::{Digests, Error, Result};

/// What an end knows of its own disk, to be stored and given to the next end of the same role,
/// session and disk. It serializes, to 64 bytes a unit of 64 blocks: 16 MiB for 1 TiB.
///
/// Units that may have changed since are in doubt and hashed again. A target's cursor must therefore
/// be stored when it says so ([`Work::Save`](super::Work::Save)): the one before it does not know
/// what is written after.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub struct Cursor {
    terms: Terms,
    role: Role,
    doubt: Vec<Range<u64>>,
    units: Vec<Node>,
}

impl std::fmt::Debug for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cursor")
            .field("terms", &self.terms)
            .field("role", &self.role)
            .field("doubt", &self.doubt)
            .finish_non_exhaustive()
    }
}

impl Cursor {
    /// Of a tree whose units are right but for those in `doubt`.
    pub(super) fn new(terms: Terms, role: Role, doubt: Vec<Range<u64>>, tree: &Tree) -> Self {
        Self {
            terms,
            role,
            doubt,
            units: tree.units().to_vec(),
        }
    }

    /// The start of what is in doubt, which is where the next end goes on; the end of the disk if nothing
    /// is.
    pub fn resumes_at(&self) -> Offset {
        let end = Offset::new(self.terms.grid.size().get());
        let first = self.doubt.first();
        let doubt = first.and_then(|run| Shape::new(self.terms.grid).extent_of(run));
        doubt.map_or(end, Extent::start)
    }

    /// With what is known of the disk from before this resync.
    ///
    /// # Errors
    /// [`Error::InvalidCursor`] if that is of a disk of another size or blocks, or hashed otherwise.
    pub fn knowing(terms: Terms, role: Role, digests: &Digests) -> Result<Self> {
        if (digests.grid(), digests.algorithm()) != (terms.grid, terms.algorithm) {
            let reason = "the digests are of another disk";
            return Err(Error::InvalidCursor { reason });
        }
        Ok(Self {
            terms,
            role,
            doubt: digests.doubt(),
            units: digests.units().collect(),
        })
    }

    /// What the ends agreed on.
    pub const fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Of which end it is.
    pub const fn role(&self) -> Role {
        self.role
    }

    /// The tree, and which of its units are in doubt.
    pub(super) fn restore(
        cursor: Option<Self>,
        terms: Terms,
        role: Role,
    ) -> Result<(Tree, Vec<Range<u64>>)> {
        let mut tree = Tree::new(terms.algorithm, terms.grid)?;
        let Some(cursor) = cursor else {
            let all = 0..tree.shape().units();
            return Ok((tree, vec![all]));
        };
        if cursor.terms != terms {
            let reason = "it is of another resync";
            return Err(Error::InvalidCursor { reason });
        }
        if cursor.role != role {
            let reason = "it is of the other end";
            return Err(Error::InvalidCursor { reason });
        }
        for (unit, node) in (0..).zip(&cursor.units) {
            tree.set_unit(unit, *node);
        }
        Ok((tree, cursor.doubt))
    }
}

/// A cursor as it is stored, not yet believed.
#[derive(Serialize, Deserialize)]
struct Stored {
    terms: Terms,
    target: bool,
    doubt: Vec<(u64, u64)>,
    units: String,
}

impl From<Cursor> for Stored {
    fn from(cursor: Cursor) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digit = |half: u8| char::from(DIGITS[usize::from(half & 15)]);
        let bytes = cursor.units.iter().flat_map(|node| *node.as_bytes());
        let runs = cursor.doubt.iter();
        Self {
            terms: cursor.terms,
            target: cursor.role == Role::Target,
            doubt: runs.map(|run| (run.start, run.end)).collect(),
            units: bytes.flat_map(|b| [digit(b >> 4), digit(b)]).collect(),
        }
    }
}

impl TryFrom<Stored> for Cursor {
    type Error = Error;

    fn try_from(stored: Stored) -> Result<Self> {
        let invalid = |reason| Err(Error::InvalidCursor { reason });
        let most = Shape::new(stored.terms.grid).units();
        let (text, rest) = stored.units.as_bytes().as_chunks::<64>();
        if text.len() as u64 != most || !rest.is_empty() {
            return invalid("it has not as many digests as the disk has units");
        }
        let units: Option<Vec<Node>> = text.iter().map(node_of).collect();
        let Some(units) = units else {
            return invalid("its digests are not hexadecimal");
        };
        let mut at = 0;
        for (start, end) in &stored.doubt {
            if *start < at || end <= start || *end > most {
                return invalid("what it doubts is not in order or not on the disk");
            }
            at = *end;
        }
        let runs = stored.doubt.into_iter();
        Ok(Self {
            terms: stored.terms,
            role: if stored.target {
                Role::Target
            } else {
                Role::Source
            },
            doubt: runs.map(|(start, end)| start..end).collect(),
            units,
        })
    }
}

fn node_of(text: &[u8; 64]) -> Option<Node> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut node = [0; 32];
    for (byte, [high, low]) in node.iter_mut().zip(text.as_chunks::<2>().0) {
        *byte = u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()?;
    }
    Some(Node::new(node))
}
