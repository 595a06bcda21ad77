//! The units of the target whose blocks are known, and may be written.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::BTreeMap;

use crate::tree::{Node, Shape, Tree};

/// A unit whose blocks were asked for, or are zeros.
#[derive(Debug)]
struct Unit {
    /// `None` while they are being hashed.
    blocks: Option<Vec<Node>>,
    /// Writes that are not done.
    writes: usize,
}

/// The open units. A unit is closed once the source has passed it and all writes are done.
#[derive(Debug)]
pub(super) struct OpenUnits {
    shape: Shape,
    units: BTreeMap<u64, Unit>,
    /// The source has passed everything before this block.
    passed: u64,
}

impl OpenUnits {
    pub(super) const fn new(shape: Shape) -> Self {
        Self {
            shape,
            units: BTreeMap::new(),
            passed: 0,
        }
    }

    /// The source has passed everything before this block.
    pub(super) const fn passed(&self) -> u64 {
        self.passed
    }

    /// How many units are open that the source has not passed.
    pub(super) fn ahead(&self) -> usize {
        let unit = Shape::unit_of(self.passed);
        self.units.range(unit..).count()
    }

    /// Whether a unit has blocks that are being hashed.
    pub(super) fn is_hashing(&self) -> bool {
        self.units.values().any(|unit| unit.blocks.is_none())
    }

    /// Whether `unit` is open.
    pub(super) fn is_open(&self, unit: u64) -> bool {
        self.units.contains_key(&unit)
    }

    /// Opens `unit`, whose blocks are to be hashed; whether it was not open.
    pub(super) fn open(&mut self, unit: u64) -> bool {
        let is_new = !self.is_open(unit);
        if is_new {
            let blocks = None;
            self.units.insert(unit, Unit { blocks, writes: 0 });
        }
        is_new
    }

    /// Takes the blocks of `unit`; whether they were wanted.
    pub(super) fn hashed(&mut self, unit: u64, blocks: Vec<Node>, tree: &mut Tree) -> bool {
        let Some(open) = self.units.get_mut(&unit).filter(|u| u.blocks.is_none()) else {
            return false;
        };
        open.blocks = Some(blocks);
        self.close(unit, tree);
        true
    }

    /// Counts a write to `unit`; whether its blocks are known, if only because they are zeros.
    pub(super) fn begin_write(&mut self, unit: u64, tree: &Tree) -> bool {
        if !self.is_open(unit) && tree.unit(unit).is_zero() {
            let count = self.shape.blocks_of_unit(unit).count();
            let blocks = Some(vec![Node::ZERO; count]);
            self.units.insert(unit, Unit { blocks, writes: 0 });
        }
        let open = self.units.get_mut(&unit);
        let Some(open) = open.filter(|open| open.blocks.is_some()) else {
            return false;
        };
        open.writes = open.writes.saturating_add(1);
        true
    }

    /// Takes what was written from `first` on, in one unit; whether it was to be written.
    pub(super) fn end_write(&mut self, first: u64, blocks: &[Node], tree: &mut Tree) -> bool {
        let unit = Shape::unit_of(first);
        let skipped = first.saturating_sub(self.shape.blocks_of_unit(unit).start);
        let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
        let end = skipped.saturating_add(blocks.len());
        let Some(open) = self.units.get_mut(&unit) else {
            return false;
        };
        let known = open.blocks.as_mut();
        let Some(known) = known.and_then(|known| known.get_mut(skipped..end)) else {
            return false;
        };
        known.copy_from_slice(blocks);
        open.writes = open.writes.saturating_sub(1);
        self.close(unit, tree);
        true
    }

    /// The source passes everything before `block`.
    pub(super) fn pass(&mut self, block: u64, tree: &mut Tree) {
        self.passed = self.passed.max(block);
        let end = if self.passed >= self.shape.grid().blocks() {
            self.shape.units()
        } else {
            Shape::unit_of(self.passed)
        };
        let passed: Vec<u64> = self.units.range(..end).map(|(unit, _)| *unit).collect();
        for unit in passed {
            self.close(unit, tree);
        }
    }

    /// Closes `unit` if the source has passed it and nothing is under way, and makes the tree agree.
    fn close(&mut self, unit: u64, tree: &mut Tree) {
        if self.shape.blocks_of_unit(unit).end > self.passed {
            return;
        }
        if let Some(Unit {
            blocks: Some(blocks),
            writes: 0,
        }) = self.units.get(&unit)
        {
            tree.set_unit(unit, tree.algorithm().parent(1, blocks));
            self.units.remove(&unit);
        }
    }
}
