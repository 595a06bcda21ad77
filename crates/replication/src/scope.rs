//! What of a disk may differ from its replica.

use afterimage_block::{Extent, ExtentSet, Length};
use serde::{Deserialize, Serialize};

/// What of one disk may differ from its replica for a reason other than a log that waits to be
/// shipped: what a resynchronization has to compare.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// At most these extents.
    Extents(ExtentSet),
    /// Any of it: nothing proves otherwise.
    Everything,
}

impl Scope {
    /// Nothing is in doubt.
    pub const NOTHING: Self = Self::Extents(ExtentSet::new());

    /// Whether nothing is in doubt.
    pub fn is_nothing(&self) -> bool {
        matches!(self, Self::Extents(extents) if extents.is_empty())
    }

    /// Puts what `other` doubts in doubt as well.
    pub fn merge(&mut self, other: &Self) {
        match (&mut *self, other) {
            (Self::Extents(mine), Self::Extents(theirs)) => mine.union_with(theirs),
            _ => *self = Self::Everything,
        }
    }

    /// The extents to compare on a disk of `size`.
    pub fn extents(&self, size: Length) -> ExtentSet {
        match self {
            Self::Extents(extents) => extents.clone(),
            Self::Everything => Extent::whole(size).into_iter().collect(),
        }
    }
}

impl Default for Scope {
    fn default() -> Self {
        Self::NOTHING
    }
}

impl From<ExtentSet> for Scope {
    fn from(extents: ExtentSet) -> Self {
        Self::Extents(extents)
    }
}
