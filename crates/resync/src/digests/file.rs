//! The bytes of a cache file.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use bytes::{Buf, BufMut};
use sha2::{Digest, Sha256};

use super::Digests;
use crate::algorithm::Algorithm;
use crate::tree::{Node, Shape};
use crate::{BlockSize, Grid};

/// `\x89AIDGST\n`: the high bit and the line feed show what a transport of text does to bytes.
const MAGIC: [u8; 8] = *b"\x89AIDGST\n";

const VERSION: u16 = 1;

const HEADER: usize = 64;
const DIGEST: usize = 32;

/// Why a file's digests are not taken. In all cases the disk is to be hashed and a new file written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DigestsError {
    /// It is something else.
    #[error("it is no file of digests")]
    NotDigests,
    /// A later program wrote it.
    #[error("it is of version {found}, and {VERSION} is the highest that is known here")]
    UnknownVersion {
        /// Its version.
        found: u16,
    },
    /// Its checksum is wrong, or it contradicts itself.
    #[error("it is damaged: {reason}")]
    Damaged {
        /// What is wrong.
        reason: &'static str,
    },
    /// It is whole, and of another disk, or of this one as it was.
    #[error("it is of another {what}")]
    Stale {
        /// What differs.
        what: &'static str,
    },
}

type Result<T> = std::result::Result<T, DigestsError>;

impl Digests {
    /// The most bytes that the file of a disk of that size in those blocks has: one that has more is
    /// not worth reading.
    pub fn file_max(grid: Grid) -> u64 {
        let units = Shape::new(grid).units();
        let bitmap = units.div_ceil(8);
        let nodes = units.saturating_mul(DIGEST as u64);
        let fixed = (HEADER as u64).saturating_add(DIGEST as u64);
        let maps = bitmap.saturating_mul(2);
        nodes.saturating_add(maps).saturating_add(fixed)
    }

    /// The bytes of a file that holds them, to be believed for as long as the disk's `proof` is the
    /// same: bytes that are others whenever the disk may hold something else, such as a tracker's
    /// position. They are not stored, only their digest is.
    pub fn encode(&self, proof: &[u8]) -> Vec<u8> {
        let grid = self.grid();
        let mut file = Vec::new();
        file.put_slice(&MAGIC);
        file.put_u16_le(VERSION);
        file.put_u8(self.algorithm().code());
        file.put_u8(0);
        file.put_u32_le(u32::try_from(grid.block_size().get()).unwrap_or_default());
        file.put_u64_le(grid.size().get());
        file.put_u64_le(0);
        file.put_slice(&Sha256::digest(proof));
        put_bitmap(&mut file, self.units.iter().map(Option::is_some));
        let stored = |unit: &Option<Node>| unit.filter(|node| !node.is_zero());
        put_bitmap(
            &mut file,
            self.units.iter().map(|unit| stored(unit).is_some()),
        );
        for node in self.units.iter().filter_map(stored) {
            file.put_slice(node.as_bytes());
        }
        let checksum = Sha256::digest(&file);
        file.put_slice(&checksum);
        file
    }

    /// What [`encode`](Self::encode) made of the digests of a disk of this size, these blocks and this
    /// proof. Memory is that of the digests of `grid`, whatever the bytes claim.
    ///
    /// # Errors
    /// [`DigestsError`]: what is not whole and of this disk is not believed.
    pub fn decode(file: &[u8], algorithm: Algorithm, grid: Grid, proof: &[u8]) -> Result<Self> {
        let damaged = |reason| Err(DigestsError::Damaged { reason });
        if !file.starts_with(&MAGIC) {
            return Err(DigestsError::NotDigests);
        }
        let Some((body, checksum)) = file.split_last_chunk::<DIGEST>() else {
            return damaged("it is too short");
        };
        let Some((mut header, maps)) = body.split_at_checked(HEADER) else {
            return damaged("it is too short");
        };
        header.advance(MAGIC.len());
        let version = header.get_u16_le();
        if version != VERSION {
            return Err(DigestsError::UnknownVersion { found: version });
        }
        if Sha256::digest(body).as_slice() != checksum {
            return damaged("its checksum is wrong");
        }
        check(header, algorithm, grid, proof)?;
        let Ok(mut digests) = Self::unknown(algorithm, grid) else {
            return damaged("there is no memory for it");
        };
        digests.fill(maps)?;
        Ok(digests)
    }

    /// Takes the units from what follows the header.
    fn fill(&mut self, maps: &[u8]) -> Result<()> {
        let damaged = |reason| Err(DigestsError::Damaged { reason });
        let count = self.units.len();
        let length = count.div_ceil(8);
        let maps = maps.split_at_checked(length);
        let maps = maps.and_then(|(known, rest)| Some((known, rest.split_at_checked(length)?)));
        let Some((known, (stored, nodes))) = maps else {
            return damaged("it is too short");
        };
        let is_set = |map: &[u8], unit: usize| {
            let byte = map.get(unit / 8).copied().unwrap_or_default();
            byte >> (unit % 8) & 1 == 1
        };
        let past = count..length.saturating_mul(8);
        if past
            .into_iter()
            .any(|unit| is_set(known, unit) || is_set(stored, unit))
        {
            return damaged("it names units that the disk does not have");
        }
        let (nodes, rest) = nodes.as_chunks::<DIGEST>();
        let mut nodes = nodes.iter().map(|node| Node::new(*node));
        for (number, unit) in self.units.iter_mut().enumerate() {
            *unit = match (is_set(known, number), is_set(stored, number)) {
                (false, false) => None,
                (true, false) => Some(Node::ZERO),
                (true, true) => nodes.next().filter(|node| !node.is_zero()),
                (false, true) => return damaged("it holds a digest that it does not know"),
            };
            if unit.is_none() && is_set(known, number) {
                return damaged("a digest is missing or zero");
            }
        }
        if nodes.next().is_some() || !rest.is_empty() {
            return damaged("it is too long");
        }
        Ok(())
    }
}

/// Refuses the header, from behind the version on, of another disk's file.
fn check(mut header: &[u8], algorithm: Algorithm, grid: Grid, proof: &[u8]) -> Result<()> {
    let stale = |what| Err(DigestsError::Stale { what });
    if header.get_u8() != algorithm.code() {
        return stale("digest");
    }
    let reserved = header.get_u8();
    let block_size: u64 = header.get_u32_le().into();
    if block_size != BlockSize::get(grid.block_size()) {
        return stale("block size");
    }
    if header.get_u64_le() != grid.size().get() {
        return stale("disk size");
    }
    if reserved != 0 || header.get_u64_le() != 0 {
        let reason = "its reserved bytes are not zero";
        return Err(DigestsError::Damaged { reason });
    }
    if header != Sha256::digest(proof).as_slice() {
        return stale("disk, or the disk was written since");
    }
    Ok(())
}

fn put_bitmap(file: &mut Vec<u8>, mut bits: impl Iterator<Item = bool>) {
    loop {
        let eight = bits.by_ref().take(8).enumerate();
        let (byte, count) = eight.fold((0_u8, 0_usize), |(byte, count), (at, bit)| {
            (byte | u8::from(bit) << at, count.saturating_add(1))
        });
        if count > 0 {
            file.push(byte);
        }
        if count < 8 {
            return;
        }
    }
}
