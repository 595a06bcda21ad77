//! How far down the source has compared: the nodes that differ and are not done with.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

use super::terms::violation;
use crate::Result;
use crate::protocol::Place;
use crate::tree::{Node, Shape, Tree};

/// How many nodes are asked for, or compared and not yet sent, at once. At the leaves that is 256
/// units, or 1 GiB of a disk in blocks of 64 KiB, in about 1 MiB of memory; the protocol allows four
/// times as many.
const SLOTS: usize = 256;

/// Blocks next to each other that differ in one way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// To be sent.
    Data(Range<u64>),
    /// To be read, and sent but for what is zero: the target has zeros there.
    Blank(Range<u64>),
    /// To be made zeros.
    Zero(Range<u64>),
}

impl Piece {
    /// The blocks.
    pub(super) const fn run(&self) -> &Range<u64> {
        let (Self::Data(run) | Self::Blank(run) | Self::Zero(run)) = self;
        run
    }
}

/// A node that differs. No two hold the same block.
#[derive(Debug)]
enum Item {
    Waiting(Differing),
    Asked(Differing),
    /// A unit, until both ends' blocks are known.
    Unit {
        differing: Differing,
        theirs: Option<Vec<Node>>,
        ours: Option<Vec<Node>>,
    },
    Compared(Compared),
}

/// A node of level 1 or above that differs.
#[derive(Clone, Copy, Debug)]
struct Differing {
    place: Place,
    /// What the target says it is; `None` of that above the root.
    told: Option<Node>,
}

impl Differing {
    /// Whether there is no need to ask for what is beneath.
    fn is_blank(self) -> bool {
        self.told.is_some_and(|node| node.is_zero())
    }
}

/// Of which it is known what differs, or that it is read to be sent but for its zeros.
#[derive(Debug)]
pub(super) struct Compared {
    /// The unit, and our blocks of it as far as they are not to be read; `None` of a unit that becomes
    /// zeros as a whole.
    pub(super) unit: Option<(u64, Vec<Node>)>,
    pub(super) pieces: VecDeque<Piece>,
}

/// What the front wants done next; if nothing, a unit can be sent that is blank on the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Step {
    /// Ask for the children of this node.
    pub(super) ask: Option<Place>,
    /// Hash this unit of our own.
    pub(super) hash: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Front {
    shape: Shape,
    /// By the first block.
    items: BTreeMap<u64, Item>,
    /// Those that wait, by the first block.
    waiting: BTreeSet<u64>,
    /// How many neither wait nor become zeros as a whole.
    open: usize,
    /// How many blocks a piece may have.
    piece: u64,
    source: Knowledge,
    /// Units that are holes, as far as that matters.
    holes: BTreeMap<u64, u64>,
}

/// What is known of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Knowledge {
    /// Its tree, and of units that are blank on the target its blocks are wanted too.
    Blocks,
    /// Its tree.
    Tree,
    /// Nothing yet.
    Nothing,
}

impl Front {
    /// All of a disk, in pieces of at most so many blocks.
    pub(super) fn new(shape: Shape, piece: u64) -> Self {
        let mut front = Self {
            shape,
            items: BTreeMap::new(),
            waiting: BTreeSet::new(),
            open: 0,
            piece,
            source: Knowledge::Tree,
            holes: BTreeMap::new(),
        };
        if shape.units() > 0 {
            let place = shape.above_root();
            front.wait(0, Differing { place, told: None });
        }
        front
    }

    /// From now on so much of the source is known, or wanted.
    pub(super) const fn know(&mut self, source: Knowledge) {
        self.source = source;
    }

    /// These units are holes of the source. What is blank on the target and known to be so on the source
    /// is not looked at.
    pub(super) fn know_hole(&mut self, units: Range<u64>) {
        if self.source == Knowledge::Nothing {
            let end = self.holes.entry(units.start).or_default();
            *end = units.end.max(*end);
        }
    }

    /// Whether all of a node that is blank on the target is known to be a hole.
    fn is_hole(&self, place: Place) -> bool {
        let blocks = self.shape.blocks(place).unwrap_or_default();
        let first = Shape::unit_of(blocks.start);
        let last = Shape::unit_of(blocks.end.saturating_sub(1));
        let before = self.holes.range(..=first).next_back();
        before.is_some_and(|(_, end)| last < *end)
    }

    /// The first block that is not done with.
    pub(super) fn lowest(&self) -> Option<u64> {
        self.items.keys().next().copied()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// What to do next, `sending` units of what was compared being held elsewhere.
    ///
    /// The lowest node goes ahead even if the others took all slots, since what is above can be sent
    /// only after it.
    pub(super) fn step(&mut self, tree: &Tree, sending: usize) -> Option<Step> {
        loop {
            let start = self.waiting.first().copied()?;
            let is_next = sending == 0 && self.lowest() == Some(start);
            if self.open.saturating_add(sending) >= SLOTS && !is_next {
                return None;
            }
            let Some(Item::Waiting(differing)) = self.items.remove(&start) else {
                self.waiting.remove(&start);
                continue;
            };
            self.waiting.remove(&start);
            let Differing { place, .. } = differing;
            if differing.is_blank() && self.is_hole(place) {
                continue;
            }
            if place.level > 1 && differing.is_blank() {
                let ours = tree.children(place).unwrap_or_default();
                self.descend(place, ours, &vec![Node::ZERO; ours.len()]);
                continue;
            }
            self.open = self.open.saturating_add(1);
            let ask = (!differing.is_blank()).then_some(place);
            if place.level > 1 {
                self.items.insert(start, Item::Asked(differing));
                return Some(Step { ask, hash: None });
            }
            if differing.is_blank() && self.source != Knowledge::Blocks {
                let compared = self.blank(place.index);
                self.items.insert(start, Item::Compared(compared));
                return Some(Step::default());
            }
            let blocks = self.shape.blocks_of_unit(place.index).count();
            let unit = Item::Unit {
                differing,
                theirs: differing.is_blank().then(|| vec![Node::ZERO; blocks]),
                ours: None,
            };
            self.items.insert(start, unit);
            let hash = Some(place.index);
            return Some(Step { ask, hash });
        }
    }

    /// Takes the target's answer.
    pub(super) fn answered(&mut self, of: Place, children: Vec<Node>, tree: &Tree) -> Result<()> {
        let refused = |reason| violation("Nodes", reason);
        let (Some(numbers), Some(blocks)) = (self.shape.children(of), self.shape.blocks(of)) else {
            return refused("there is no such node");
        };
        let fits = |item: &Item| match item {
            Item::Asked(differing) => differing.place == of,
            Item::Unit {
                differing, theirs, ..
            } => differing.place == of && theirs.is_none(),
            _ => false,
        };
        let item = self.items.get_mut(&blocks.start).filter(|item| fits(item));
        let Some(item) = item else {
            return refused("it was not asked for");
        };
        if numbers.end.saturating_sub(numbers.start) != children.len() as u64 {
            return refused("the node has another number of children");
        }
        if let Item::Asked(Differing { told, .. })
        | Item::Unit {
            differing: Differing { told, .. },
            ..
        } = item
            && told.is_some_and(|told| tree.algorithm().parent(of.level, &children) != told)
        {
            return refused("the children do not amount to their parent");
        }
        if let Item::Unit { theirs, .. } = item {
            *theirs = Some(children);
            self.compare(of.index);
            return Ok(());
        }
        self.items.remove(&blocks.start);
        self.open = self.open.saturating_sub(1);
        self.descend(of, tree.children(of).unwrap_or_default(), &children);
        Ok(())
    }

    /// Takes our own blocks of `unit`; whether they were wanted.
    pub(super) fn hashed(&mut self, unit: u64, blocks: Vec<Node>) -> bool {
        let start = self.shape.blocks_of_unit(unit).start;
        if let Some(Item::Unit { ours, .. }) = self.items.get_mut(&start)
            && ours.is_none()
        {
            *ours = Some(blocks);
            self.compare(unit);
            return true;
        }
        false
    }

    /// Takes off the lowest node if it is compared.
    pub(super) fn pop(&mut self) -> Option<Compared> {
        let lowest = self.items.first_entry()?;
        if !matches!(lowest.get(), Item::Compared(_)) {
            return None;
        }
        let Item::Compared(compared) = lowest.remove() else {
            return None;
        };
        self.open = self.open.saturating_sub(compared.unit.is_some().into());
        Some(compared)
    }

    /// Puts the children that differ in the place of a node of level 2 or above.
    fn descend(&mut self, of: Place, ours: &[Node], theirs: &[Node]) {
        let numbers = self.shape.children(of).unwrap_or_default();
        let level = of.level.saturating_sub(1);
        for ((index, ours), theirs) in numbers.zip(ours).zip(theirs) {
            let place = Place { level, index };
            let is_known = self.source != Knowledge::Nothing;
            let is_equal = is_known && ours == theirs;
            let Some(blocks) = self.shape.blocks(place).filter(|_| !is_equal) else {
                continue;
            };
            if level == 1 && is_known && ours.is_zero() {
                let compared = Compared {
                    unit: None,
                    pieces: VecDeque::from([Piece::Zero(blocks.clone())]),
                };
                self.items.insert(blocks.start, Item::Compared(compared));
            } else {
                let told = Some(*theirs);
                self.wait(blocks.start, Differing { place, told });
            }
        }
    }

    /// A unit of which the target has zeros. That it differs, if at all, is found as it is sent.
    fn blank(&self, unit: u64) -> Compared {
        let blocks = self.shape.blocks_of_unit(unit);
        let starts = blocks
            .clone()
            .step_by(usize::try_from(self.piece).unwrap_or(1));
        let end = blocks.end;
        let run = |start: u64| start..start.saturating_add(self.piece).min(end);
        let pieces = starts.map(|start| Piece::Blank(run(start))).collect();
        let unit = Some((unit, vec![Node::ZERO; blocks.count()]));
        Compared { unit, pieces }
    }

    fn wait(&mut self, start: u64, differing: Differing) {
        self.items.insert(start, Item::Waiting(differing));
        self.waiting.insert(start);
    }

    /// Compares the blocks of `unit` if both ends' are known.
    fn compare(&mut self, unit: u64) {
        let start = self.shape.blocks_of_unit(unit).start;
        let Some(item) = self.items.get_mut(&start) else {
            return;
        };
        let Item::Unit {
            theirs: Some(theirs),
            ours: Some(ours),
            ..
        } = item
        else {
            return;
        };
        let pieces = pieces(start, ours, theirs, self.piece);
        let unit = Some((unit, std::mem::take(ours)));
        *item = Item::Compared(Compared { unit, pieces });
    }
}

/// What differs between the blocks from `start` on, in pieces of at most `most` blocks of data.
fn pieces(start: u64, ours: &[Node], theirs: &[Node], most: u64) -> VecDeque<Piece> {
    let mut pieces: VecDeque<Piece> = VecDeque::new();
    for ((ours, theirs), block) in ours.iter().zip(theirs).zip(start..) {
        if ours == theirs {
            continue;
        }
        let next = block.saturating_add(1);
        match pieces.back_mut() {
            Some(Piece::Zero(run)) if ours.is_zero() && run.end == block => run.end = next,
            Some(Piece::Data(run))
                if !ours.is_zero()
                    && run.end == block
                    && block.saturating_sub(run.start) < most =>
            {
                run.end = next;
            }
            _ if ours.is_zero() => pieces.push_back(Piece::Zero(block..next)),
            _ => pieces.push_back(Piece::Data(block..next)),
        }
    }
    pieces
}
