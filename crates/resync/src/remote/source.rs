//! The end whose disk is right.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::{BTreeMap, VecDeque};

use afterimage_block::{Extent, Length};
use bytes::Bytes;

use super::front::{Compared, Front, Knowledge, Piece};
use super::hashing::Hashing;
use super::leaves::Leaves;
use super::outbox::{Outbox, runs_max};
use super::terms::{ask_afresh, ask_reread, violation};
use super::{Cursor, Outcome, RemoteProgress, Terms, Work};
use crate::protocol::{FAN_OUT, Farewell, Message, Place, Reason, Role, data_max};
use crate::tree::{Node, Shape, Tree};
use crate::{BlockIndex, Digests, Error, Reread, Result};

/// The end whose disk is right: asks for the target's digests and sends what differs.
///
/// After an error it is of no further use. See the [module](super) for how it is driven.
#[derive(Debug)]
pub struct Source {
    terms: Terms,
    tree: Tree,
    hashing: Hashing,
    leaves: Leaves,
    phase: Phase,
    /// What the target said of its root before all was hashed here.
    told: Option<(Place, Vec<Node>)>,
    /// Whether nothing is to be sent.
    is_dry: bool,
    /// Whether the target asked what would be.
    is_told: bool,
    front: Front,
    /// What is taken off the front next.
    current: Option<(Option<u64>, VecDeque<Piece>)>,
    /// Units that are being sent.
    sending: BTreeMap<u64, Sending>,
    outbox: Outbox,
    messages: VecDeque<Message>,
    work: VecDeque<Work>,
    progress: RemoteProgress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The target has not said Hello.
    Greeting,
    Hashing,
    Comparing,
    /// Waits for the target to agree.
    Closing(Node),
    Finished,
}

/// A unit that is being sent.
#[derive(Debug)]
struct Sending {
    /// As hashed, or as sent.
    blocks: Vec<Node>,
    /// Pieces that are not read yet.
    pieces: usize,
}

impl Source {
    /// A source at the beginning, or with what `cursor` knows.
    ///
    /// # Errors
    /// [`Error::InvalidCursor`] if the cursor is not of this end, [`Error::TooLarge`].
    pub fn new(terms: Terms, cursor: Option<Cursor>) -> Result<Self> {
        let (tree, doubt) = Cursor::restore(cursor, terms, Role::Source)?;
        let shape = tree.shape();
        let grid = terms.grid;
        let block = grid.block_size();
        let piece = data_max(block).checked_div(block.get()).unwrap_or(1);
        Ok(Self {
            terms,
            hashing: Hashing::new(&doubt, shape.units()),
            leaves: Leaves::default(),
            tree,
            phase: Phase::Greeting,
            told: None,
            is_dry: false,
            is_told: false,
            front: Front::new(shape, piece),
            current: None,
            sending: BTreeMap::new(),
            outbox: Outbox::default(),
            messages: VecDeque::from([Message::Hello(terms.hello(Role::Source))]),
            work: VecDeque::new(),
            progress: RemoteProgress {
                skipped: shape.length_beside(&doubt),
                ..RemoteProgress::default()
            },
        })
    }

    /// One that finds out what it would send and sends nothing. Instead of agreeing that the disks are
    /// equal it then tells the target that it stops.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn dry_run(terms: Terms, cursor: Option<Cursor>) -> Result<Self> {
        let mut source = Self::new(terms, cursor)?;
        source.only_compare();
        Ok(source)
    }

    fn only_compare(&mut self) {
        self.is_dry = true;
        self.front.know(Knowledge::Blocks);
    }

    /// Has the target hash all of its disk, whatever it knows from before.
    pub fn afresh(mut self) -> Self {
        ask_afresh(&mut self.messages);
        self
    }

    /// Has the target read so much of its disk once more before it agrees to be equal. One of a release
    /// that does not know of this does not.
    pub fn rereading(mut self, reread: Reread) -> Self {
        ask_reread(&mut self.messages, reread);
        self
    }

    /// What is known of the disk: as it was, block by block, at some instant since this end began, or
    /// since what it began with was true.
    pub fn digests(&self) -> Digests {
        Digests::of(&self.tree, &self.hashing.doubt())
    }

    /// Whether both ends agree that their disks are equal, or a dry run is at its end. The last message
    /// may still have to be sent.
    pub fn is_finished(&self) -> bool {
        self.phase == Phase::Finished
    }

    /// How far it is.
    pub fn progress(&self) -> RemoteProgress {
        let grid = self.terms.grid;
        let blocks = |count: u64| {
            let length = count.saturating_mul(grid.block_size().get());
            Length::new(length.min(grid.size().get()))
        };
        let units = self
            .tree
            .shape()
            .units()
            .saturating_sub(self.hashing.left());
        let settled = match self.phase {
            Phase::Greeting | Phase::Hashing => 0,
            _ => self.settled(),
        };
        RemoteProgress {
            total: grid.size(),
            hashed: blocks(units.saturating_mul(FAN_OUT as u64)).max(self.progress.hashed),
            is_dry: self.is_dry,
            settled: blocks(settled),
            ..self.progress
        }
    }

    /// The next message to the target.
    pub fn poll_transmit(&mut self) -> Option<Message> {
        self.messages.pop_front()
    }

    /// The next work to be done.
    pub fn poll_work(&mut self) -> Option<Work> {
        if self.work.is_empty() && self.phase == Phase::Hashing {
            let unit = self.hashing.next()?;
            self.hash(unit);
        }
        self.work.pop_front()
    }

    /// Takes a message of the target.
    ///
    /// # Errors
    /// [`Error::OtherTerms`], [`Error::Violation`], [`Error::RootsDiffer`], [`Error::Peer`].
    pub fn handle_message(&mut self, message: Message) -> Result<()> {
        match (self.phase, message) {
            (_, Message::Error(farewell)) => return Err(Error::Peer { farewell }),
            (Phase::Greeting, Message::Hello(hello)) => {
                self.terms.check(&hello, Role::Target)?;
                if hello.afresh {
                    self.forget()?;
                }
                if hello.dry {
                    self.is_told = true;
                    self.only_compare();
                }
                self.phase = Phase::Hashing;
                self.step();
                self.begin()?;
            }
            (Phase::Hashing, Message::Nodes { of, children }) => self.told(of, children)?,
            (Phase::Comparing, Message::Nodes { of, children }) => {
                self.front.answered(of, children, &self.tree)?;
            }
            (Phase::Comparing, Message::Written { count }) => self.outbox.written(count)?,
            (Phase::Closing(root), Message::Done { root: theirs }) => {
                if theirs != root {
                    return Err(Error::RootsDiffer);
                }
                self.phase = Phase::Finished;
            }
            (_, message) => return violation(message.name(), "it is not its turn"),
        }
        self.advance();
        Ok(())
    }

    /// Takes the outcome of work.
    ///
    /// # Errors
    /// [`Error::WrongOutcome`] if it is not of work that was asked for.
    pub fn handle_outcome(&mut self, outcome: Outcome) -> Result<()> {
        let taken = match outcome {
            Outcome::Hashed { unit, blocks } => self.hashed(unit, blocks)?,
            Outcome::Read {
                ticket,
                bytes,
                blocks,
            } => self.read(ticket, bytes, &blocks),
            _ => false,
        };
        if !taken {
            return Err(Error::WrongOutcome);
        }
        self.advance();
        Ok(())
    }

    /// Takes the caller's word that `extent` is a hole of the disk: what of it is not hashed or read yet
    /// need not be. An end that is never told so finds out by itself, unit by unit.
    ///
    /// # Errors
    /// As [`handle_message`](Self::handle_message).
    pub fn handle_hole(&mut self, extent: Extent) -> Result<()> {
        let units = self.tree.shape().units_within(extent);
        for skipped in self.hashing.skip(&units) {
            skipped.for_each(|unit| self.tree.set_unit(unit, Node::ZERO));
        }
        self.front.know_hole(units);
        self.save_if_worth();
        if self.phase == Phase::Hashing {
            self.begin()?;
        }
        self.advance();
        Ok(())
    }

    fn hash(&mut self, unit: u64) {
        let blocks = self.tree.shape().blocks_of_unit(unit);
        if let Some(extent) = self.extent(blocks.start, blocks.end) {
            self.work.push_back(Work::Hash { unit, extent });
        }
    }

    fn hashed(&mut self, unit: u64, blocks: Vec<Node>) -> Result<bool> {
        if blocks.len() != self.tree.shape().blocks_of_unit(unit).count() {
            return Ok(false);
        }
        if self.phase != Phase::Hashing {
            return Ok(self.hashing.forget(unit) || self.front.hashed(unit, blocks));
        }
        let node = self.terms.algorithm.parent(1, &blocks);
        if !self.done(unit, node) {
            return Ok(false);
        }
        self.leaves.keep(unit, blocks);
        self.begin()?;
        Ok(true)
    }

    /// Takes note of what a unit is that was not known; whether it was not.
    fn done(&mut self, unit: u64, node: Node) -> bool {
        let was_unknown = self.hashing.done(unit);
        if was_unknown {
            self.tree.set_unit(unit, node);
        }
        self.save_if_worth();
        was_unknown
    }

    fn save_if_worth(&mut self) {
        if self.hashing.is_worth_saving() {
            let doubt = self.hashing.doubt();
            let cursor = Cursor::new(self.terms, Role::Source, doubt, &self.tree);
            self.work.push_back(Work::Save(cursor));
        }
    }

    /// Knows nothing any more from before, since the target asked for that.
    fn forget(&mut self) -> Result<()> {
        let (tree, doubt) = Cursor::restore(None, self.terms, Role::Source)?;
        self.hashing = Hashing::new(&doubt, tree.shape().units());
        self.tree = tree;
        self.progress.skipped = Length::ZERO;
        Ok(())
    }

    /// Begins to compare once all is hashed.
    fn begin(&mut self) -> Result<()> {
        if self.hashing.left() > 0 {
            return Ok(());
        }
        self.tree.settle();
        self.phase = Phase::Comparing;
        let told = self.told.take();
        told.map_or(Ok(()), |(of, children)| {
            self.front.answered(of, children, &self.tree)
        })
    }

    /// Takes what the target says of its root before all is hashed here. If that is zero nothing need
    /// be: all is read once, hashed, and sent but for zeros.
    fn told(&mut self, of: Place, children: Vec<Node>) -> Result<()> {
        if self.told.is_some() {
            return violation("Nodes", "it was not asked for");
        }
        let is_blank = of == self.tree.shape().above_root() && children == [Node::ZERO];
        if !is_blank || self.is_dry {
            self.told = Some((of, children));
            return Ok(());
        }
        // Progress does not go back.
        self.progress.hashed = self.progress().hashed;
        self.hashing.start_over(self.tree.shape().units());
        self.leaves = Leaves::default();
        self.front.know(Knowledge::Nothing);
        self.phase = Phase::Comparing;
        self.front.answered(of, children, &self.tree)
    }

    fn read(&mut self, ticket: u64, bytes: Bytes, blocks: &[Node]) -> bool {
        let block_size = self.terms.grid.block_size();
        let Some((first, sent)) = self.outbox.fill(ticket, bytes, blocks, block_size) else {
            return false;
        };
        let unit = Shape::unit_of(first);
        let start = self.tree.shape().blocks_of_unit(unit).start;
        let Some(sending) = self.sending.get_mut(&unit) else {
            return false;
        };
        let skipped = usize::try_from(first.saturating_sub(start)).unwrap_or(usize::MAX);
        let end = skipped.saturating_add(blocks.len());
        let Some(known) = sending.blocks.get_mut(skipped..end) else {
            return false;
        };
        known.copy_from_slice(blocks);
        sending.pieces = sending.pieces.saturating_sub(1);
        self.progress.sent = self.progress.sent.saturating_add(Length::new(sent));
        self.close(unit);
        true
    }

    /// Does everything that can be done now.
    fn advance(&mut self) {
        if self.phase != Phase::Comparing {
            return;
        }
        self.load();
        self.step();
        while let Some(message) = self.outbox.pop() {
            self.messages.push_back(message);
        }
        if self.current.is_none() && self.front.is_empty() && self.outbox.is_empty() {
            self.close_down();
        }
    }

    /// Asks for and hashes what is to be compared next.
    fn step(&mut self) {
        while let Some(step) = self.front.step(&self.tree, self.sending.len()) {
            if let Some(of) = step.ask {
                let settled = BlockIndex::new(self.settled());
                let children = self.tree.shape().children(of).unwrap_or_default();
                let digests = children.count() as u64;
                self.progress.digests = self.progress.digests.saturating_add(digests);
                self.messages.push_back(Message::Ask { of, settled });
            }
            match step.hash.map(|unit| (unit, self.leaves.take(unit))) {
                Some((unit, Some(blocks))) => {
                    self.front.hashed(unit, blocks);
                    self.load();
                }
                Some((unit, None)) => self.hash(unit),
                None if step.ask.is_none() => self.load(),
                None => {}
            }
        }
    }

    /// All is compared, and sent if it was to be.
    fn close_down(&mut self) {
        if self.is_dry {
            if self.is_told {
                let RemoteProgress { sent, zeroed, .. } = self.progress;
                self.messages.push_back(Message::Found { sent, zeroed });
            }
            let farewell = Farewell {
                reason: Reason::Stopped,
                text: "the disks were only compared".into(),
            };
            self.messages.push_back(Message::Error(farewell));
            self.phase = Phase::Finished;
            return;
        }
        self.tree.settle();
        let root = self.tree.root();
        self.messages.push_back(Message::Done { root });
        self.phase = Phase::Closing(root);
    }

    /// Everything before this block is sent or equal.
    fn settled(&self) -> u64 {
        let current = self
            .current
            .as_ref()
            .and_then(|(_, pieces)| pieces.front().map(|piece| piece.run().start));
        let lowest = self.outbox.lowest().or(current).or(self.front.lowest());
        lowest.unwrap_or(self.terms.grid.blocks())
    }

    /// Moves what is compared into the outbox, as far as that has room.
    fn load(&mut self) {
        loop {
            let Some((unit, pieces)) = &mut self.current else {
                let Some(compared) = self.front.pop() else {
                    return;
                };
                self.take(compared);
                continue;
            };
            let unit = *unit;
            let Some(piece) = pieces.front().cloned() else {
                self.current = None;
                continue;
            };
            let run = piece.run().clone();
            let count = run.end.saturating_sub(run.start);
            let Some(extent) = self.extent(run.start, run.end) else {
                return;
            };
            let length = extent.length().get();
            let (data, messages) = match piece {
                Piece::Data(_) => (length, 1),
                Piece::Blank(_) => (length, runs_max(count)),
                Piece::Zero(_) => (0, 1),
            };
            if !self.outbox.has_room(data, messages) {
                return;
            }
            if let Some((_, pieces)) = &mut self.current {
                pieces.pop_front();
            }
            match piece {
                Piece::Data(_) => {
                    let ticket = self.outbox.add_data(run.start, length);
                    self.work.push_back(Work::Read { ticket, extent });
                }
                Piece::Blank(_) => {
                    let ticket = self.outbox.add_blank(run.start, length, count);
                    self.work.push_back(Work::Read { ticket, extent });
                }
                Piece::Zero(_) => {
                    self.outbox.add_zeroes(run.start, count);
                    let zeroed = &mut self.progress.zeroed;
                    *zeroed = zeroed.saturating_add(extent.length());
                    self.zeroed(unit);
                }
            }
        }
    }

    /// Takes what was compared as what is sent next.
    fn take(&mut self, compared: Compared) {
        let Compared { unit, pieces } = compared;
        if self.is_dry {
            self.count(&pieces);
            return;
        }
        let number = unit.as_ref().map(|(unit, _)| *unit);
        if let Some((unit, blocks)) = unit {
            if self.hashing.left() > 0 {
                // Units are sent in order where none is known.
                self.hashing.begin();
            }
            let pieces = pieces.len();
            self.sending.insert(unit, Sending { blocks, pieces });
            self.close(unit);
        }
        self.current = Some((number, pieces));
    }

    /// Counts what would be sent.
    fn count(&mut self, pieces: &VecDeque<Piece>) {
        for piece in pieces {
            let run = piece.run();
            let length = self.extent(run.start, run.end).map(Extent::length);
            let counted = match piece {
                Piece::Data(_) | Piece::Blank(_) => &mut self.progress.sent,
                Piece::Zero(_) => &mut self.progress.zeroed,
            };
            *counted = counted.saturating_add(length.unwrap_or_default());
        }
    }

    fn zeroed(&mut self, unit: Option<u64>) {
        let sending = unit.and_then(|unit| self.sending.get_mut(&unit));
        if let (Some(unit), Some(sending)) = (unit, sending) {
            sending.pieces = sending.pieces.saturating_sub(1);
            self.close(unit);
        }
    }

    /// Makes the tree agree with what was sent of `unit`, once all is read.
    fn close(&mut self, unit: u64) {
        if self.sending.get(&unit).is_some_and(|s| s.pieces == 0)
            && let Some(Sending { blocks, .. }) = self.sending.remove(&unit)
        {
            let node = self.terms.algorithm.parent(1, &blocks);
            if !self.done(unit, node) {
                self.tree.set_unit(unit, node);
            }
        }
    }

    fn extent(&self, start: u64, end: u64) -> Option<Extent> {
        let count = end.checked_sub(start)?;
        self.terms.grid.run(BlockIndex::new(start), count)
    }
}
