//! A moment that all disks of a machine have in common.

use std::fmt;

use afterimage_block::SessionId;

use crate::fields::{all_zero, bytes_at, put};
use crate::{Error, PAYLOAD_MAX, Result};

/// The bytes of a barrier's payload before its label.
pub(crate) const HEAD: usize = 24;

/// The identity of a barrier, the same in the logs of all disks of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId([u8; 16]);

impl GroupId {
    /// A new random identity.
    pub fn random() -> Self {
        Self(SessionId::random().to_bytes())
    }

    /// The identity with these 16 bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its 16 bytes.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What is known of the disks' contents at a barrier. The numbers are those of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Consistency {
    /// As if power had failed: every write before the barrier, none after it.
    Crash = 0,
    /// The applications had written out what they held, and waited.
    Application = 1,
}

/// A barrier as it stands in a log: between the writes that were acknowledged before it and those
/// issued after. Specified in `FORMAT.md`, section Record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarrierMark<'a> {
    /// Which barrier it is.
    pub group: GroupId,
    /// What is known of the contents.
    pub consistency: Consistency,
    /// What people call it; may be empty.
    pub label: &'a str,
}

impl<'a> BarrierMark<'a> {
    /// How long the payload of its record is, at most.
    pub(crate) fn length(&self) -> u64 {
        (HEAD + self.label.len()) as u64
    }

    /// The payload of its record; the label is cut to fit.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let longest = PAYLOAD_MAX.to_usize().unwrap_or(usize::MAX) - HEAD;
        let label = self.label.get(..self.label.floor_char_boundary(longest));
        let mut bytes = vec![0; HEAD];
        put(&mut bytes, 0, &self.group.0);
        put(&mut bytes, 16, &[self.consistency as u8]);
        bytes.extend_from_slice(label.unwrap_or_default().as_bytes());
        bytes
    }

    /// The barrier in the payload of the record at `at`.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it is none that this release knows.
    pub(crate) fn parse(payload: &'a [u8], at: u64) -> Result<Self> {
        let damaged = |reason| Error::damaged(at, reason);
        let (head, label) = payload
            .split_at_checked(HEAD)
            .ok_or_else(|| damaged("the barrier is cut short"))?;
        let consistency = match (head.get(16), all_zero(head.get(17..).unwrap_or_default())) {
            (Some(0), true) => Consistency::Crash,
            (Some(1), true) => Consistency::Application,
            _ => return Err(damaged("the barrier is of an unknown consistency")),
        };
        let label = std::str::from_utf8(label).map_err(|_| damaged("the label is no text"))?;
        Ok(Self {
            group: GroupId(bytes_at(head, 0)),
            consistency,
            label,
        })
    }
}
