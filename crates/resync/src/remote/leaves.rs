//! The blocks' digests of units that were hashed for the tree.

use std::collections::BTreeMap;

use crate::tree::Node;

/// How many blocks' digests are kept: 4 MiB of them, those of 8 GiB of a disk in blocks of 64 KiB.
const ROOM: usize = 128 << 10;

/// Blocks of units that were hashed, so that one that turns out to differ need not be hashed again. No
/// more than fit: of a larger disk those of some units, the first that were hashed.
#[derive(Debug, Default)]
pub(super) struct Leaves {
    units: BTreeMap<u64, Vec<Node>>,
    kept: usize,
}

impl Leaves {
    /// Keeps the blocks of `unit` if there is room. Zeros are nothing that takes hashing.
    pub(super) fn keep(&mut self, unit: u64, blocks: Vec<Node>) {
        let kept = self.kept.saturating_add(blocks.len());
        if kept <= ROOM && !blocks.iter().all(Node::is_zero) {
            self.kept = kept;
            self.units.insert(unit, blocks);
        }
    }

    /// The blocks of `unit` if they were kept, to be used once.
    pub(super) fn take(&mut self, unit: u64) -> Option<Vec<Node>> {
        let blocks = self.units.remove(&unit)?;
        self.kept = self.kept.saturating_sub(blocks.len());
        Some(blocks)
    }
}
