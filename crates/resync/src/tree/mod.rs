//! A hash tree over the blocks of a disk.
//!
//! [`Shape`] says which nodes there are, [`Tree`] holds those of level 1 and above: a node of level 1,
//! a *unit*, stands for [`FAN_OUT`](crate::protocol::FAN_OUT) blocks. The blocks' own digests would be
//! 512 MiB for a disk of 1 TiB in blocks of 64 KiB; the tree without them is 8 MiB. Where two trees
//! differ the unit is hashed again, 4 MiB of that disk, unless its blocks are among the few kept.

mod shape;

use std::ops::Range;

use crate::algorithm::Algorithm;
use crate::protocol::Place;
use crate::{Error, Grid, Result};

pub use shape::Shape;

/// What stands for a node: a digest of 32 bytes, or 32 zero bytes if all beneath it is zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Node([u8; 32]);

impl Node {
    /// All beneath it is zero.
    pub const ZERO: Self = Self([0; 32]);

    /// The node with these bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The node with these bytes, 32 of every digest that ends can agree on.
    pub(crate) fn of(digest: &[u8]) -> Self {
        let mut node = [0; 32];
        let length = digest.len().min(node.len());
        node[..length].copy_from_slice(&digest[..length]);
        Self(node)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether all beneath it is zero.
    pub fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.is_zero() {
            return f.write_str("Zero");
        }
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The nodes of level 1 and above of a disk's hash tree.
///
/// A new tree is that of a disk of zeros. Units are set in any order; [`settle`](Self::settle) then
/// makes the levels above agree with them.
#[derive(Clone, Debug)]
pub struct Tree {
    algorithm: Algorithm,
    shape: Shape,
    /// From level 1 to the top.
    levels: Vec<Vec<Node>>,
}

impl Tree {
    /// The tree of a disk of zeros.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if there is no memory for the units of such a disk.
    pub fn new(algorithm: Algorithm, grid: Grid) -> Result<Self> {
        let shape = Shape::new(grid);
        let mut levels = Vec::new();
        for level in 1..=shape.top() {
            let nodes = usize::try_from(shape.nodes(level)).ok();
            let mut row = Vec::new();
            let room = nodes.filter(|nodes| row.try_reserve_exact(*nodes).is_ok());
            row.resize(room.ok_or(Error::TooLarge { grid })?, Node::ZERO);
            levels.push(row);
        }
        Ok(Self {
            algorithm,
            shape,
            levels,
        })
    }

    /// Which nodes there are.
    pub const fn shape(&self) -> Shape {
        self.shape
    }

    /// How it hashes.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The nodes of level 1.
    pub fn units(&self) -> &[Node] {
        self.levels.first().map_or(&[], Vec::as_slice)
    }

    /// The node of `unit`; zero if there is no such unit.
    pub fn unit(&self, unit: u64) -> Node {
        let at = usize::try_from(unit).ok();
        let node = at.and_then(|at| self.units().get(at));
        node.copied().unwrap_or(Node::ZERO)
    }

    /// Sets the node of `unit`, if there is such a unit.
    pub fn set_unit(&mut self, unit: u64, node: Node) {
        let at = usize::try_from(unit).ok();
        let units = self.levels.first_mut();
        if let Some(place) = at.and_then(|at| units?.get_mut(at)) {
            *place = node;
        }
    }

    /// Makes the levels above the units agree with them.
    pub fn settle(&mut self) {
        for level in 1..self.levels.len() {
            let (below, above) = self.levels.split_at_mut(level);
            let (Some(below), Some(row)) = (below.last(), above.first_mut()) else {
                continue;
            };
            let place = u8::try_from(level).unwrap_or(u8::MAX).saturating_add(1);
            for (node, children) in row.iter_mut().zip(below.chunks(crate::protocol::FAN_OUT)) {
                *node = self.algorithm.parent(place, children);
            }
        }
    }

    /// The root as of the last [`settle`](Self::settle).
    pub fn root(&self) -> Node {
        let top = self.levels.last().and_then(|row| row.first());
        top.copied().unwrap_or(Node::ZERO)
    }

    /// The children of a node of level 2 and above, that above the top having the root as its only
    /// one; `None` if there is no such node, or its children are blocks.
    pub fn children(&self, of: Place) -> Option<&[Node]> {
        let Range { start, end } = self.shape.children(of)?;
        let row = usize::from(of.level).checked_sub(2)?;
        let (start, end) = (usize::try_from(start).ok()?, usize::try_from(end).ok()?);
        self.levels.get(row)?.get(start..end)
    }
}

#[cfg(test)]
mod tests;
