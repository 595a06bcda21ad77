//! What the source is sending, in the order of the disk.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::VecDeque;

use bytes::Bytes;

use super::terms::violation;
use crate::protocol::{Message, UNANSWERED_MAX};
use crate::tree::Node;
use crate::{BlockIndex, BlockSize, Result};

/// How many bytes are read, or sent and not yet written, at once, unless one message has more. Fills
/// 10 Gbit/s over 25 ms; the protocol allows twice as much.
const WINDOW: u64 = 32 << 20;

/// Blocks on their way out.
#[derive(Debug)]
struct Parcel {
    first: u64,
    /// Of data.
    length: u64,
    /// How many messages it may become.
    slots: usize,
    /// Whether zeros are left out.
    is_blank: bool,
    /// `None` until it is read.
    messages: Option<VecDeque<Message>>,
}

#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// Numbered from `next_ticket` less their number on.
    parcels: VecDeque<Parcel>,
    next_ticket: u64,
    /// The bytes of each message that was sent and is not written.
    unwritten: VecDeque<u64>,
    written: u64,
    /// Bytes in parcels and unwritten.
    in_flight: u64,
    /// Messages that parcels may become.
    slots: usize,
}

impl Outbox {
    /// Whether there is room for so many more bytes in so many messages.
    pub(super) fn has_room(&self, length: u64, slots: usize) -> bool {
        let messages = self.slots.saturating_add(self.unwritten.len());
        let fits = self.in_flight.saturating_add(length) <= WINDOW;
        messages.saturating_add(slots) <= UNANSWERED_MAX && (fits || self.in_flight == 0)
    }

    /// Whether everything was sent and written.
    pub(super) fn is_empty(&self) -> bool {
        self.parcels.is_empty() && self.unwritten.is_empty()
    }

    /// The first block that is not sent.
    pub(super) fn lowest(&self) -> Option<u64> {
        self.parcels.front().map(|parcel| parcel.first)
    }

    /// Adds blocks that are being read, and gives the ticket to read them with.
    pub(super) fn add_data(&mut self, first: u64, length: u64) -> u64 {
        self.add(Parcel {
            first,
            length,
            slots: 1,
            is_blank: false,
            messages: None,
        })
    }

    /// Adds as many blocks, of which those are sent that turn out not to be zeros.
    pub(super) fn add_blank(&mut self, first: u64, length: u64, blocks: u64) -> u64 {
        self.add(Parcel {
            first,
            length,
            slots: runs_max(blocks),
            is_blank: true,
            messages: None,
        })
    }

    /// Adds blocks that become zeros.
    pub(super) fn add_zeroes(&mut self, first: u64, count: u64) {
        let zeroes = Message::Zeroes {
            first: BlockIndex::new(first),
            count,
        };
        self.add(Parcel {
            first,
            length: 0,
            slots: 1,
            is_blank: false,
            messages: Some(VecDeque::from([zeroes])),
        });
    }

    fn add(&mut self, parcel: Parcel) -> u64 {
        self.in_flight = self.in_flight.saturating_add(parcel.length);
        self.slots = self.slots.saturating_add(parcel.slots);
        self.parcels.push_back(parcel);
        let ticket = self.next_ticket;
        self.next_ticket = ticket.saturating_add(1);
        ticket
    }

    /// Takes what was read, and gives its first block and how many bytes of it are sent; `None` if it
    /// is not what was wanted.
    pub(super) fn fill(
        &mut self,
        ticket: u64,
        bytes: Bytes,
        blocks: &[Node],
        block_size: BlockSize,
    ) -> Option<(u64, u64)> {
        let oldest = self.next_ticket.checked_sub(self.parcels.len() as u64)?;
        let at = usize::try_from(ticket.checked_sub(oldest)?).ok()?;
        let parcel = self.parcels.get_mut(at)?;
        if parcel.messages.is_some() || parcel.length != bytes.len() as u64 {
            return None;
        }
        let (length, slots) = (parcel.length, parcel.slots);
        let messages = if parcel.is_blank {
            runs(parcel.first, &bytes, blocks, block_size)
        } else {
            let first = BlockIndex::new(parcel.first);
            VecDeque::from([Message::Data { first, bytes }])
        };
        parcel.length = messages.iter().map(data_of).sum();
        parcel.slots = messages.len();
        let unsent = length.saturating_sub(parcel.length);
        self.in_flight = self.in_flight.saturating_sub(unsent);
        let unused = slots.saturating_sub(parcel.slots);
        self.slots = self.slots.saturating_sub(unused);
        parcel.messages = Some(messages);
        Some((parcel.first, parcel.length))
    }

    /// The next message, if it is read.
    pub(super) fn pop(&mut self) -> Option<Message> {
        loop {
            let messages = self.parcels.front_mut()?.messages.as_mut()?;
            if let Some(message) = messages.pop_front() {
                self.slots = self.slots.saturating_sub(1);
                self.unwritten.push_back(data_of(&message));
                return Some(message);
            }
            self.parcels.pop_front();
        }
    }

    /// Takes the target's word that the first `count` messages are written.
    pub(super) fn written(&mut self, count: u64) -> Result<()> {
        let more = count.checked_sub(self.written);
        let more = more.filter(|more| (1..=self.unwritten.len() as u64).contains(more));
        let Some(more) = more else {
            return violation("Written", "it names what was not sent or named before");
        };
        for _ in 0..more {
            let length = self.unwritten.pop_front().unwrap_or_default();
            self.in_flight = self.in_flight.saturating_sub(length);
        }
        self.written = count;
        Ok(())
    }
}

/// How many runs so many blocks can have that are not zeros.
pub(super) fn runs_max(blocks: u64) -> usize {
    usize::try_from(blocks.div_ceil(2)).unwrap_or(usize::MAX)
}

/// A message for each run of blocks that are not zeros.
fn runs(first: u64, bytes: &Bytes, blocks: &[Node], block_size: BlockSize) -> VecDeque<Message> {
    let block = usize::try_from(block_size.get()).unwrap_or(usize::MAX);
    let mut messages = VecDeque::new();
    let mut at = 0_usize;
    for run in blocks.chunk_by(|one, next| one.is_zero() == next.is_zero()) {
        let end = at.saturating_add(run.len());
        if run.first().is_some_and(|node| !node.is_zero()) {
            let from = at.saturating_mul(block).min(bytes.len());
            let to = end.saturating_mul(block).min(bytes.len());
            messages.push_back(Message::Data {
                first: BlockIndex::new(first.saturating_add(at as u64)),
                bytes: bytes.slice(from..to),
            });
        }
        at = end;
    }
    messages
}

fn data_of(message: &Message) -> u64 {
    match message {
        Message::Data { bytes, .. } => bytes.len() as u64,
        _ => 0,
    }
}
