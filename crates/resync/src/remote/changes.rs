//! What the target was sent and has not told the source to be written.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use crate::protocol::{UNANSWERED_MAX, UNWRITTEN_MAX};
use crate::tree::Shape;

/// Blocks to be written.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) ticket: u64,
    pub(super) first: u64,
    pub(super) end: u64,
    /// `None` for zeros.
    pub(super) bytes: Option<Bytes>,
    /// Whether an open unit counts it; otherwise it is of all its unit.
    pub(super) in_unit: bool,
}

impl Change {
    /// The unit behind it.
    pub(super) fn unit_end(&self) -> u64 {
        Shape::unit_of(self.end.saturating_sub(1)).saturating_add(1)
    }

    /// How many blocks.
    pub(super) fn count(&self) -> u64 {
        self.end.saturating_sub(self.first)
    }

    fn length(&self) -> u64 {
        self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)
    }
}

#[derive(Debug, Default)]
pub(super) struct Changes {
    /// In order, those that nobody has begun to make.
    held: VecDeque<Change>,
    /// Those that are being made, by ticket.
    running: BTreeMap<u64, Change>,
    next_ticket: u64,
    /// Those that are made, though one before them is not.
    made: BTreeSet<u64>,
    /// How many are made, from the first on.
    written: u64,
    /// Bytes of those that are not made.
    unwritten: u64,
}

impl Changes {
    /// Whether one with so many bytes may come.
    pub(super) fn has_room(&self, length: u64) -> bool {
        let messages = self.next_ticket.saturating_sub(self.written);
        let fits = self.unwritten.saturating_add(length) <= UNWRITTEN_MAX;
        messages < UNANSWERED_MAX as u64 && (fits || self.unwritten == 0)
    }

    /// Adds blocks that are to be written.
    pub(super) fn add(&mut self, first: u64, end: u64, bytes: Option<Bytes>, in_unit: bool) {
        let ticket = self.next_ticket;
        self.next_ticket = ticket.saturating_add(1);
        let change = Change {
            ticket,
            first,
            end,
            bytes,
            in_unit,
        };
        self.unwritten = self.unwritten.saturating_add(change.length());
        self.held.push_back(change);
    }

    /// The next to be begun.
    pub(super) fn next(&self) -> Option<&Change> {
        self.held.front()
    }

    /// Begins the next.
    pub(super) fn begin(&mut self) -> Option<Change> {
        let change = self.held.pop_front()?;
        self.running.insert(change.ticket, change.clone());
        Some(change)
    }

    /// Whether none is being made.
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// The one with this ticket is made; `None` if it was not being made.
    pub(super) fn end(&mut self, ticket: u64) -> Option<Change> {
        let change = self.running.remove(&ticket)?;
        self.unwritten = self.unwritten.saturating_sub(change.length());
        self.made.insert(ticket);
        while self.made.remove(&self.written) {
            self.written = self.written.saturating_add(1);
        }
        Some(change)
    }

    /// Whether there never was one.
    pub(super) const fn is_untouched(&self) -> bool {
        self.next_ticket == 0
    }

    /// How many are made, from the first on.
    pub(super) const fn written(&self) -> u64 {
        self.written
    }
}
