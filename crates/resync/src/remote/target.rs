//! The end whose disk is made equal.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::VecDeque;
use std::ops::Range;

use afterimage_block::{Extent, Length};
use bytes::Bytes;

use super::changes::{Change, Changes};
use super::hashing::{Hashing, part};
use super::leaves::Leaves;
use super::open::OpenUnits;
use super::terms::{ask_afresh, ask_dry, violation};
use super::{Cursor, Outcome, RemoteProgress, Terms, Work};
use crate::protocol::{FAN_OUT, Message, Place, Reason, Role, UNANSWERED_MAX, data_max};
use crate::tree::{Node, Shape, Tree};
use crate::{BlockIndex, Digests, Error, Reread, Result};

/// The end whose disk is made equal: tells its digests, and writes what it is sent.
///
/// Nothing else may write to the disk meanwhile. Before it writes anywhere that its last cursor does
/// not put in doubt, it asks for a flush and for a new cursor to be stored: at most 64 times for the
/// whole disk.
///
/// After an error it is of no further use. See the [module](super) for how it is driven.
#[derive(Debug)]
pub struct Target {
    terms: Terms,
    tree: Tree,
    hashing: Hashing,
    leaves: Leaves,
    phase: Phase,
    open: OpenUnits,
    /// Questions that came before all was hashed.
    early: VecDeque<Place>,
    /// Questions whose answers were not taken.
    unanswered: usize,
    changes: Changes,
    /// The stored cursor doubts what is written before this unit.
    horizon: u64,
    is_flushing: bool,
    /// Whether nothing is to be written.
    is_dry: bool,
    /// How much is to be hashed once more at the end.
    reread: Option<Reread>,
    /// What of that is still to be.
    rereading: Hashing,
    messages: VecDeque<Message>,
    work: VecDeque<Work>,
    progress: RemoteProgress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The source has not said Hello.
    Greeting,
    /// Answers and writes, once all is hashed.
    Serving,
    /// The source has sent all, and this is its root.
    Closing(Node),
    /// The roots are the same, and the disk is read once more.
    Rereading,
    /// The source has told what it would send.
    Told,
    Finished,
}

impl Target {
    /// A target at the beginning, or with what `cursor` knows.
    ///
    /// # Errors
    /// [`Error::InvalidCursor`] if the cursor is not of this end, [`Error::TooLarge`].
    pub fn new(terms: Terms, cursor: Option<Cursor>) -> Result<Self> {
        let (tree, doubt) = Cursor::restore(cursor, terms, Role::Target)?;
        let shape = tree.shape();
        Ok(Self {
            terms,
            hashing: Hashing::new(&doubt, shape.units()),
            leaves: Leaves::default(),
            tree,
            phase: Phase::Greeting,
            open: OpenUnits::new(shape),
            early: VecDeque::new(),
            unanswered: 0,
            changes: Changes::default(),
            horizon: 0,
            is_flushing: false,
            is_dry: false,
            reread: None,
            rereading: Hashing::new(&[], shape.units()),
            messages: VecDeque::from([Message::Hello(terms.hello(Role::Target))]),
            work: VecDeque::new(),
            progress: RemoteProgress {
                skipped: shape.length_beside(&doubt),
                ..RemoteProgress::default()
            },
        })
    }

    /// One that has the source tell what it would send, and writes nothing.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn dry_run(terms: Terms, cursor: Option<Cursor>) -> Result<Self> {
        let mut target = Self::new(terms, cursor)?;
        ask_dry(&mut target.messages);
        target.is_dry = true;
        Ok(target)
    }

    /// Has the source hash all of its disk, whatever it knows from before.
    pub fn afresh(mut self) -> Self {
        ask_afresh(&mut self.messages);
        self
    }

    /// Reads so much of the disk once more before it agrees to be equal, or as much as the source asks for
    /// if that is more.
    pub fn rereading(mut self, reread: Reread) -> Self {
        self.reread = self.reread.max(Some(reread));
        self
    }

    /// What is known of the disk, if nothing was written or all is durable.
    pub fn digests(&self) -> Option<Digests> {
        let is_settled = self.phase == Phase::Finished || self.changes.is_untouched();
        is_settled.then(|| Digests::of(&self.tree, &self.hashing.doubt()))
    }

    /// Knows nothing any more from before, since the source asked for that.
    fn forget(&mut self) -> Result<()> {
        let (tree, doubt) = Cursor::restore(None, self.terms, Role::Target)?;
        self.hashing = Hashing::new(&doubt, tree.shape().units());
        self.tree = tree;
        self.progress.skipped = Length::ZERO;
        Ok(())
    }

    /// Whether both disks are equal and this one is durable. The last message may still have to be
    /// sent.
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
        RemoteProgress {
            total: grid.size(),
            hashed: blocks(units.saturating_mul(FAN_OUT as u64)),
            settled: blocks(self.open.passed()),
            is_dry: self.is_dry,
            ..self.progress
        }
    }

    /// The next message to the source. Take no more than can be sent: what is not taken holds the
    /// source back.
    pub fn poll_transmit(&mut self) -> Option<Message> {
        let message = self.messages.pop_front()?;
        if let Message::Nodes { children, .. } = &message {
            self.unanswered = self.unanswered.saturating_sub(1);
            let digests = children.len() as u64;
            self.progress.digests = self.progress.digests.saturating_add(digests);
        }
        Some(message)
    }

    /// The next work to be done.
    pub fn poll_work(&mut self) -> Option<Work> {
        if self.work.is_empty()
            && self.phase != Phase::Greeting
            && let Some(unit) = self.hashing.next()
        {
            self.hash(unit);
        }
        if self.work.is_empty()
            && let Some(unit) = self.rereading.next()
        {
            self.hash(unit);
        }
        self.work.pop_front()
    }

    /// Takes a message of the source.
    ///
    /// # Errors
    /// [`Error::OtherTerms`], [`Error::Violation`], [`Error::RootsDiffer`], [`Error::Peer`].
    pub fn handle_message(&mut self, message: Message) -> Result<()> {
        match (self.phase, message) {
            (Phase::Told, Message::Error(farewell)) if farewell.reason == Reason::Stopped => {
                self.phase = Phase::Finished;
            }
            (_, Message::Error(farewell)) => return Err(Error::Peer { farewell }),
            (Phase::Greeting, Message::Hello(hello)) => {
                self.terms.check(&hello, Role::Source)?;
                if hello.afresh {
                    self.forget()?;
                }
                self.reread = self.reread.max(hello.reread);
                self.phase = Phase::Serving;
                self.begin()?;
            }
            (Phase::Serving, Message::Ask { of, settled }) => self.asked(of, settled)?,
            (Phase::Serving, Message::Found { sent, zeroed }) if self.is_dry => {
                self.found(sent, zeroed)?;
            }
            (Phase::Serving, message @ (Message::Data { .. } | Message::Zeroes { .. }))
                if self.is_dry =>
            {
                return violation(message.name(), "it was to send nothing");
            }
            (Phase::Serving, Message::Data { first, bytes }) => self.data(first, bytes)?,
            (Phase::Serving, Message::Zeroes { first, count }) => self.zeroes(first, count)?,
            (Phase::Serving, Message::Done { root }) => {
                self.phase = Phase::Closing(root);
                let blocks = self.terms.grid.blocks();
                self.open.pass(blocks, &mut self.tree);
            }
            (_, message) => return violation(message.name(), "it is not its turn"),
        }
        self.advance();
        Ok(())
    }

    /// Takes the outcome of work.
    ///
    /// # Errors
    /// [`Error::WrongOutcome`] if it is not of work that was asked for, [`Error::TargetChanged`] if
    /// the disk is not as it was hashed, [`Error::RootsDiffer`].
    pub fn handle_outcome(&mut self, outcome: Outcome) -> Result<()> {
        let taken = match outcome {
            Outcome::Hashed { unit, blocks } => self.hashed(unit, blocks)?,
            Outcome::Written { ticket, blocks } => self.wrote(ticket, Some(&blocks)),
            Outcome::Zeroed { ticket } => self.wrote(ticket, None),
            Outcome::Flushed if self.is_flushing => {
                self.is_flushing = false;
                self.flushed()?;
                true
            }
            _ => false,
        };
        if !taken {
            return Err(Error::WrongOutcome);
        }
        self.advance();
        Ok(())
    }

    /// Takes the caller's word that `extent` is a hole of the disk: what of it is not hashed yet need not
    /// be. An end that is never told so finds out by itself, unit by unit.
    ///
    /// # Errors
    /// As [`handle_message`](Self::handle_message).
    pub fn handle_hole(&mut self, extent: Extent) -> Result<()> {
        if self.hashing.left() == 0 {
            // Later, what is a hole may be about to be written.
            return Ok(());
        }
        for skipped in self.hashing.skip(&self.tree.shape().units_within(extent)) {
            skipped.for_each(|unit| self.tree.set_unit(unit, Node::ZERO));
        }
        if self.hashing.is_worth_saving() {
            self.save(self.hashing.doubt());
        }
        self.begin()?;
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
        let node = self.terms.algorithm.parent(1, &blocks);
        if self.phase == Phase::Rereading {
            return self.reread(unit, node);
        }
        if self.hashing.left() == 0 {
            return self.opened(unit, node, blocks);
        }
        if !self.hashing.done(unit) {
            return Ok(false);
        }
        self.tree.set_unit(unit, node);
        self.leaves.keep(unit, blocks);
        if self.hashing.is_worth_saving() {
            self.save(self.hashing.doubt());
        }
        self.begin()?;
        Ok(true)
    }

    /// Refuses a unit that is not what it was found to be before.
    fn check_unchanged(&self, unit: u64, node: Node) -> Result<()> {
        if node == self.tree.unit(unit) {
            return Ok(());
        }
        let blocks = self.tree.shape().blocks_of_unit(unit);
        let extent = self.extent(blocks.start, blocks.end);
        extent.map_or(Ok(()), |extent| Err(Error::TargetChanged { extent }))
    }

    /// Takes what was read once more at the end.
    fn reread(&mut self, unit: u64, node: Node) -> Result<bool> {
        if !self.rereading.done(unit) {
            return Ok(false);
        }
        self.check_unchanged(unit, node)?;
        let blocks = self.tree.shape().blocks_of_unit(unit);
        let extent = self.extent(blocks.start, blocks.end);
        let length = extent.map(Extent::length).unwrap_or_default();
        self.progress.reread = self.progress.reread.saturating_add(length);
        self.finish_when_reread();
        Ok(true)
    }

    /// Agrees to be equal once all is read that is to be.
    fn finish_when_reread(&mut self) {
        if self.rereading.left() == 0 {
            let root = self.tree.root();
            self.messages.push_back(Message::Done { root });
            self.phase = Phase::Finished;
        }
    }

    /// Answers with the blocks of a unit that was hashed for it.
    fn opened(&mut self, unit: u64, node: Node, blocks: Vec<Node>) -> Result<bool> {
        self.check_unchanged(unit, node)?;
        let children = blocks.clone();
        let level = 1;
        let of = Place { level, index: unit };
        let wanted = self.open.hashed(unit, blocks, &mut self.tree);
        if wanted {
            self.messages.push_back(Message::Nodes { of, children });
        }
        Ok(wanted)
    }

    /// Begins to answer once all is hashed.
    fn begin(&mut self) -> Result<()> {
        if self.hashing.left() == 0 {
            self.tree.settle();
            for of in std::mem::take(&mut self.early) {
                self.answer(of)?;
            }
        }
        Ok(())
    }

    fn asked(&mut self, of: Place, settled: BlockIndex) -> Result<()> {
        let refused = |reason| violation("Ask", reason);
        let Some(blocks) = self.tree.shape().blocks(of).filter(|_| of.level > 0) else {
            return refused("there is no such node");
        };
        if settled.get() < self.open.passed() || blocks.start < settled.get() {
            return refused("it asks for what is settled");
        }
        if self.unanswered >= UNANSWERED_MAX {
            return refused("too many are unanswered");
        }
        self.unanswered = self.unanswered.saturating_add(1);
        self.open.pass(settled.get(), &mut self.tree);
        if self.hashing.left() > 0 {
            self.early.push_back(of);
            return Ok(());
        }
        self.answer(of)
    }

    fn answer(&mut self, of: Place) -> Result<()> {
        if let Some(children) = self.tree.children(of) {
            let children = children.to_vec();
            self.messages.push_back(Message::Nodes { of, children });
            return Ok(());
        }
        if self.open.ahead() >= UNANSWERED_MAX {
            return violation("Ask", "too many blocks are asked for and not settled");
        }
        if !self.open.open(of.index) {
            return violation("Ask", "these blocks were asked for before");
        }
        if let Some(blocks) = self.leaves.take(of.index) {
            return self
                .opened(of.index, self.tree.unit(of.index), blocks)
                .map(drop);
        }
        self.hash(of.index);
        Ok(())
    }

    /// Takes note of what the source would send.
    fn found(&mut self, sent: Length, zeroed: Length) -> Result<()> {
        let differing = sent.get().checked_add(zeroed.get());
        if differing.is_none_or(|length| length > self.terms.grid.size().get()) {
            return violation("Found", "it is more than the disk has");
        }
        self.progress.sent = sent;
        self.progress.zeroed = zeroed;
        self.phase = Phase::Told;
        Ok(())
    }

    fn data(&mut self, first: BlockIndex, bytes: Bytes) -> Result<()> {
        let refused = |reason| violation("Data", reason);
        let grid = self.terms.grid;
        let length = Length::of(&bytes);
        if length.get() > data_max(grid.block_size()) {
            return refused("it is too long");
        }
        let count = length.get().div_ceil(grid.block_size().get());
        let extent = grid.run(first, count);
        if extent.is_none_or(|extent| extent.length() != length) {
            return refused("its bytes are not of whole blocks of the disk");
        }
        let end = first.get().saturating_add(count);
        let unit = Shape::unit_of(first.get());
        if unit != Shape::unit_of(end.saturating_sub(1)) {
            return refused("its blocks are not of one unit");
        }
        self.check_turn("Data", first, length)?;
        if !self.open.begin_write(unit, &self.tree) {
            return refused("nobody asked for its blocks");
        }
        self.progress.sent = self.progress.sent.saturating_add(length);
        self.changes.add(first.get(), end, Some(bytes), true);
        self.open.pass(end, &mut self.tree);
        Ok(())
    }

    fn zeroes(&mut self, first: BlockIndex, count: u64) -> Result<()> {
        let refused = |reason| violation("Zeroes", reason);
        let end = first.get().checked_add(count);
        let end = end.filter(|end| count > 0 && *end <= self.terms.grid.blocks());
        let extent = end.and_then(|end| self.extent(first.get(), end));
        let (Some(end), Some(extent)) = (end, extent) else {
            return refused("its blocks are not on the disk");
        };
        self.check_turn("Zeroes", first, Length::ZERO)?;
        let unit = Shape::unit_of(first.get());
        let blocks = self.tree.shape().blocks_of_unit(unit);
        if end > blocks.end {
            return refused("its blocks are not of one unit");
        }
        let in_unit = self.open.begin_write(unit, &self.tree);
        if !in_unit && (blocks != (first.get()..end) || self.open.is_open(unit)) {
            return refused("nobody asked for its blocks");
        }
        self.progress.zeroed = self.progress.zeroed.saturating_add(extent.length());
        self.changes.add(first.get(), end, None, in_unit);
        self.open.pass(end, &mut self.tree);
        Ok(())
    }

    /// Refuses changes that come too early, too late, or are too many.
    fn check_turn(&self, message: &'static str, first: BlockIndex, length: Length) -> Result<()> {
        if self.hashing.left() > 0 {
            return violation(message, "nothing was answered yet");
        }
        if first.get() < self.open.passed() {
            return violation(message, "its blocks are settled");
        }
        if !self.changes.has_room(length.get()) {
            return violation(message, "too much is not written yet");
        }
        Ok(())
    }

    fn wrote(&mut self, ticket: u64, blocks: Option<&[Node]>) -> bool {
        let before = self.changes.written();
        let Some(change) = self.changes.end(ticket) else {
            return false;
        };
        let matches = blocks.is_some() == change.bytes.is_some()
            && blocks.is_none_or(|blocks| blocks.len() as u64 == change.count());
        if !matches || !self.note(&change, blocks) {
            return false;
        }
        if self.changes.written() > before {
            self.tell_written();
        }
        true
    }

    /// Takes note of what blocks are now; whether that was expected.
    fn note(&mut self, change: &Change, blocks: Option<&[Node]>) -> bool {
        if change.in_unit {
            let count = usize::try_from(change.count()).unwrap_or_default();
            let zeroes = vec![Node::ZERO; if blocks.is_none() { count } else { 0 }];
            let blocks = blocks.unwrap_or(&zeroes);
            return self.open.end_write(change.first, blocks, &mut self.tree);
        }
        self.tree.set_unit(Shape::unit_of(change.first), Node::ZERO);
        true
    }

    /// Tells the source how much is written, in place of what it was not yet told.
    fn tell_written(&mut self) {
        let count = self.changes.written();
        match self.messages.back_mut() {
            Some(Message::Written { count: last }) => *last = count,
            _ => self.messages.push_back(Message::Written { count }),
        }
    }

    /// Does everything that can be done now.
    fn advance(&mut self) {
        if self.is_flushing {
            return;
        }
        while let Some(next) = self.changes.next() {
            if next.unit_end() > self.horizon {
                self.flush_when_idle();
                return;
            }
            if let Some(change) = self.changes.begin() {
                self.start(change);
            }
        }
        if matches!(self.phase, Phase::Closing(_))
            && self.hashing.left() == 0
            && !self.open.is_hashing()
        {
            self.flush_when_idle();
        }
    }

    fn flush_when_idle(&mut self) {
        if self.changes.is_idle() {
            self.is_flushing = true;
            self.work.push_back(Work::Flush);
        }
    }

    fn start(&mut self, change: Change) {
        let Some(extent) = self.extent(change.first, change.end) else {
            return;
        };
        let ticket = change.ticket;
        self.work.push_back(match change.bytes {
            Some(bytes) => Work::Write {
                ticket,
                extent,
                bytes,
            },
            None => Work::Zero { ticket, extent },
        });
    }

    /// All that was started is durable.
    fn flushed(&mut self) -> Result<()> {
        if let Some(next) = self.changes.next() {
            let from = Shape::unit_of(next.first);
            let units = self.tree.shape().units();
            let reach = from.saturating_add(part(units)).min(units);
            self.horizon = reach.max(next.unit_end());
            let doubt = std::iter::once(from..self.horizon);
            self.save(doubt.collect());
            return Ok(());
        }
        if let Phase::Closing(theirs) = self.phase {
            self.tree.settle();
            let root = self.tree.root();
            if root != theirs {
                return Err(Error::RootsDiffer);
            }
            self.phase = Phase::Rereading;
            if let Some(reread) = self.reread {
                let shape = self.tree.shape();
                let units = reread.units(shape, self.terms.session);
                self.progress.to_reread = shape.length_of(&units);
                self.rereading = Hashing::new(&units, shape.units());
            }
            self.finish_when_reread();
        }
        Ok(())
    }

    fn save(&mut self, doubt: Vec<Range<u64>>) {
        let cursor = Cursor::new(self.terms, Role::Target, doubt, &self.tree);
        self.work.push_back(Work::Save(cursor));
    }

    fn extent(&self, start: u64, end: u64) -> Option<Extent> {
        let count = end.checked_sub(start)?;
        self.terms.grid.run(BlockIndex::new(start), count)
    }
}
