//! The first message.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use afterimage_block::{Epoch, Length, SessionId};
use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::Algorithm;
use crate::{BlockSize, Grid, Reread};

/// `\x89AIRSNC\n`: the high bit and the line feed show what a transport of text does to bytes.
const MAGIC: [u8; 8] = *b"\x89AIRSNC\n";

/// Bytes of a Hello of version 1.
const LENGTH: usize = 52;

/// In the byte of flags that may follow.
const AFRESH: u8 = 1;
const DRY: u8 = 2;
const SAMPLE: u8 = 4;
const FULL: u8 = 8;

/// Which end speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The end whose disk is right.
    Source,
    /// The end whose disk is made equal.
    Target,
}

impl Role {
    const fn code(self) -> u8 {
        match self {
            Self::Source => 1,
            Self::Target => 2,
        }
    }
}

/// Versions of the protocol from the lowest to the highest that an end speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Versions {
    lowest: u16,
    highest: u16,
}

impl Versions {
    /// What this crate speaks.
    pub const SPOKEN: Self = Self {
        lowest: 1,
        highest: 1,
    };

    /// The versions from `lowest` to `highest`; `None` if there are none or one is 0.
    pub const fn new(lowest: u16, highest: u16) -> Option<Self> {
        if lowest == 0 || lowest > highest {
            return None;
        }
        Some(Self { lowest, highest })
    }

    /// The lowest.
    pub const fn lowest(self) -> u16 {
        self.lowest
    }

    /// The highest.
    pub const fn highest(self) -> u16 {
        self.highest
    }

    /// The highest version that both ends speak.
    pub fn common(self, other: Self) -> Option<u16> {
        let highest = self.highest.min(other.highest);
        (highest >= self.lowest.max(other.lowest)).then_some(highest)
    }
}

/// Who speaks, and about what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// What the sender speaks.
    pub versions: Versions,
    /// Which end it is.
    pub role: Role,
    /// How blocks are hashed.
    pub algorithm: Algorithm,
    /// The resync.
    pub session: SessionId,
    /// The disk's size and blocks.
    pub grid: Grid,
    /// Of the source as it knows it, of the target as it accepts it.
    pub epoch: Epoch,
    /// Whether the receiver must hash all of its disk, whatever it knows from before.
    pub afresh: bool,
    /// Whether the receiver, a source, is to send nothing and tell what it would send.
    pub dry: bool,
    /// How much the receiver, a target, is to read once more before it agrees to be equal.
    pub reread: Option<Reread>,
}

impl Hello {
    pub(super) fn put(&self, body: &mut BytesMut) {
        let block_size = u32::try_from(self.grid.block_size().get()).unwrap_or_default();
        body.put_slice(&MAGIC);
        body.put_u16_le(self.versions.lowest);
        body.put_u16_le(self.versions.highest);
        body.put_u8(self.role.code());
        body.put_u8(self.algorithm.code());
        body.put_u16_le(0);
        body.put_slice(&self.session.to_bytes());
        body.put_u64_le(self.grid.size().get());
        body.put_u64_le(self.epoch.get());
        body.put_u32_le(block_size);
        let flag = |is_set, flag| if is_set { flag } else { 0 };
        let flags = flag(self.afresh, AFRESH) | flag(self.dry, DRY);
        let flags = flags
            | match self.reread {
                None => 0,
                Some(Reread::Sample) => SAMPLE,
                Some(Reread::Full) => FULL,
            };
        if flags != 0 {
            body.put_u8(flags);
        }
    }

    pub(super) fn parse(mut body: Bytes) -> Result<Self, &'static str> {
        if body.len() < LENGTH {
            return Err("it is too short");
        }
        if !body.starts_with(&MAGIC) {
            return Err("it does not start with the magic of a resync");
        }
        body.advance(MAGIC.len());
        let (lowest, highest) = (body.get_u16_le(), body.get_u16_le());
        let versions = Versions::new(lowest, highest).ok_or("its versions are no range")?;
        let role = match body.get_u8() {
            1 => Role::Source,
            2 => Role::Target,
            _ => return Err("its role is neither source nor target"),
        };
        let algorithm = Algorithm::of(body.get_u8()).ok_or("its digest is not known")?;
        if body.get_u16_le() != 0 {
            return Err("its reserved bytes are not zero");
        }
        let mut session = [0; 16];
        body.copy_to_slice(&mut session);
        let size = Length::new(body.get_u64_le());
        let epoch = Epoch::new(body.get_u64_le());
        let block_size = Length::new(body.get_u32_le().into());
        let block_size = BlockSize::try_from(block_size).map_err(|_| "its block size is none")?;
        let flags = body.first().copied().unwrap_or_default();
        Ok(Self {
            versions,
            role,
            algorithm,
            session: SessionId::from_bytes(session),
            grid: Grid::new(size, block_size),
            epoch,
            afresh: flags & AFRESH != 0,
            dry: flags & DRY != 0,
            reread: match flags & (SAMPLE | FULL) {
                0 => None,
                SAMPLE => Some(Reread::Sample),
                _ => Some(Reread::Full),
            },
        })
    }
}
