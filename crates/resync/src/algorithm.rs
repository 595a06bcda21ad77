//! The digests that two ends can agree on.

use digest::Digest;
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::is_zero;
use crate::tree::Node;

/// How two ends hash blocks. Both must choose the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Algorithm {
    /// SHA-256, which machines of today have instructions for.
    #[default]
    Sha256,
    /// BLAKE3, the faster one on machines that have wide vectors and no such instructions.
    #[cfg(feature = "blake3")]
    Blake3,
}

impl Algorithm {
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Sha256 => 1,
            #[cfg(feature = "blake3")]
            Self::Blake3 => 2,
        }
    }

    pub(crate) const fn of(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Sha256),
            #[cfg(feature = "blake3")]
            2 => Some(Self::Blake3),
            _ => None,
        }
    }

    /// The node of level 0 that stands for a block with these bytes.
    pub fn block(self, bytes: &[u8]) -> Node {
        if is_zero(bytes) {
            return Node::ZERO;
        }
        self.digest(bytes, &[])
    }

    /// The node of `level` that stands for these children.
    pub fn parent(self, level: u8, children: &[Node]) -> Node {
        if children.iter().all(Node::is_zero) {
            return Node::ZERO;
        }
        let mut head = *b"AIRSNODE\0\0\0\0\0\0\0\0";
        head[8] = level;
        head[9] = u8::try_from(children.len()).unwrap_or(u8::MAX);
        self.digest(&head, children)
    }

    fn digest(self, head: &[u8], children: &[Node]) -> Node {
        match self {
            Self::Sha256 => digest::<Sha256>(head, children),
            #[cfg(feature = "blake3")]
            Self::Blake3 => digest::<blake3::Hasher>(head, children),
        }
    }
}

fn digest<D: Digest>(head: &[u8], children: &[Node]) -> Node {
    let mut hasher = D::new_with_prefix(head);
    for child in children {
        hasher.update(child.as_bytes());
    }
    Node::of(&hasher.finalize())
}
