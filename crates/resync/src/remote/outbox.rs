//! What the source is sending, in the order of the disk.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::VecDeque;

use bytes::Bytes;

use super::terms::violation;
use crate::protocol::{Message, UNANSWERED_MAX};
use crate::{BlockIndex, Result};

/// How many bytes are read, or sent and not yet written, at once, unless one message has more. Fills
/// 10 Gbit/s over 25 ms; the protocol allows twice as much.
const WINDOW: u64 = 32 << 20;

/// Blocks on their way out.
#[derive(Debug)]
struct Parcel {
    first: u64,
    /// Of data.
    length: u64,
    /// `None` until it is read.
    message: Option<Message>,
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
}

impl Outbox {
    /// Whether there is room for so many more bytes.
    pub(super) fn has_room(&self, length: u64) -> bool {
        let messages = self.parcels.len().saturating_add(self.unwritten.len());
        let fits = self.in_flight.saturating_add(length) <= WINDOW;
        messages < UNANSWERED_MAX && (fits || self.in_flight == 0)
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
        self.add(first, length, None)
    }

    /// Adds blocks that become zeros.
    pub(super) fn add_zeroes(&mut self, first: u64, count: u64) {
        let zeroes = Message::Zeroes {
            first: BlockIndex::new(first),
            count,
        };
        self.add(first, 0, Some(zeroes));
    }

    fn add(&mut self, first: u64, length: u64, message: Option<Message>) -> u64 {
        self.parcels.push_back(Parcel {
            first,
            length,
            message,
        });
        self.in_flight = self.in_flight.saturating_add(length);
        let ticket = self.next_ticket;
        self.next_ticket = ticket.saturating_add(1);
        ticket
    }

    /// Takes what was read, and gives its first block; `None` if it is not what was wanted.
    pub(super) fn fill(&mut self, ticket: u64, bytes: Bytes) -> Option<u64> {
        let oldest = self.next_ticket.checked_sub(self.parcels.len() as u64)?;
        let at = usize::try_from(ticket.checked_sub(oldest)?).ok()?;
        let parcel = self.parcels.get_mut(at)?;
        if parcel.message.is_some() || parcel.length != bytes.len() as u64 {
            return None;
        }
        let first = BlockIndex::new(parcel.first);
        parcel.message = Some(Message::Data { first, bytes });
        Some(parcel.first)
    }

    /// The next message, if it is read.
    pub(super) fn pop(&mut self) -> Option<Message> {
        let message = self.parcels.front_mut()?.message.take()?;
        let length = self.parcels.pop_front().map_or(0, |parcel| parcel.length);
        self.unwritten.push_back(length);
        Some(message)
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
