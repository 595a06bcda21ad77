//! Power loss on a medium that drops, tears and reorders what was not forced: what was forced is
//! there, and nothing is read that was not written.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use afterimage_block::{Change, ContentDigest, Extent, Length, Offset, Timestamp};
use afterimage_changelog::{Encoder, LogHeader, Reader, SealedLog};
use common::{SIZE, all_packings, header, keys};
use sha2::{Digest, Sha256};

/// What a medium writes as a whole, unless it tears.
const SECTOR: usize = 512;
/// How many crashes there are.
const SEEDS: &str = "AFTERIMAGE_POWER_LOSSES";

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 20).unwrap() % limit
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// The bytes that a power loss cannot take, and the writes that it can.
struct Medium {
    durable: Vec<u8>,
    volatile: Vec<(usize, Vec<u8>)>,
    end: usize,
}

impl Medium {
    fn append(&mut self, bytes: &[u8]) {
        self.volatile.push((self.end, bytes.to_vec()));
        self.end += bytes.len();
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        let end = at + bytes.len();
        if self.durable.len() < end {
            self.durable.resize(end, 0);
        }
        self.durable[at..end].copy_from_slice(bytes);
    }

    fn force(&mut self) {
        for (at, bytes) in std::mem::take(&mut self.volatile) {
            self.put(at, &bytes);
        }
    }

    /// Of what was not forced any sectors arrive, whatever came before them, and some in part.
    fn lose_power(&mut self, random: &mut Random) {
        let arrives = 1 + random.below(8);
        for (mut at, bytes) in std::mem::take(&mut self.volatile) {
            let mut left = bytes.as_slice();
            while !left.is_empty() {
                let to_boundary = SECTOR - at % SECTOR;
                let (sector, rest) = left.split_at(to_boundary.min(left.len()));
                if random.below(8) < arrives {
                    let torn = random.one_in(10);
                    let kept = if torn {
                        random.below(sector.len())
                    } else {
                        sector.len()
                    };
                    self.put(at, &sector[..kept]);
                }
                at += sector.len();
                left = rest;
            }
        }
    }
}

/// Writes a log of random changes, stored in any way; what each record is, in order, and what of them was forced.
struct History {
    medium: Medium,
    encoder: Encoder,
    records: Vec<(Option<Extent>, Vec<u8>)>,
    forced: Option<usize>,
}

impl History {
    fn write(random: &mut Random, header: LogHeader, old: Vec<u8>) -> Self {
        let packings = all_packings();
        let packing = &packings[random.below(packings.len())];
        let (encoder, head) = Encoder::packed(header, packing).unwrap();
        let medium = Medium {
            durable: old,
            volatile: Vec::new(),
            end: 0,
        };
        let mut history = Self {
            medium,
            encoder,
            records: Vec::new(),
            forced: None,
        };
        history.medium.append(&head);
        for _ in 0..random.below(24) {
            history.step(random);
        }
        history
    }

    fn step(&mut self, random: &mut Random) {
        if random.one_in(4) {
            self.medium.force();
            self.forced = Some(self.records.len());
            return;
        }
        let offset = Offset::new(random.below(60_000) as u64);
        let value = random.below(255);
        let data = vec![u8::try_from(value).unwrap(); 1 + random.below(3000)];
        let zeroed = Extent::new(offset, Length::new(512)).unwrap();
        let change = match random.below(8) {
            0 => Change::WriteZeroes(zeroed),
            1 => Change::Discard(zeroed),
            _ => Change::Write {
                offset,
                data: &data,
            },
        };
        for record in self.encoder.change(change, Timestamp::default()).unwrap() {
            self.medium.append(&record.header);
            self.medium.append(&record.payload);
        }
        let extent = change.extent();
        let written = match change {
            Change::Write { .. } => data,
            _ => Vec::new(),
        };
        self.records.push((extent, written));
    }

    /// The law: what was forced is read, and what is read was written.
    fn check(&self, seed: u64) {
        let reader = match Reader::with_keys(self.medium.durable.clone().into(), &keys()) {
            Ok(reader) if *reader.header() == header(1, 1) => reader,
            _ => return assert_eq!(self.forced, None, "seed {seed}: the header is lost"),
        };
        let found: Vec<_> = reader
            .map(|record| (record.header.extent, record.payload.to_vec()))
            .collect();
        let kept = found.len();
        assert!(
            kept >= self.forced.unwrap_or(0),
            "seed {seed}: {kept} are left"
        );
        assert!(found == self.records[..kept], "seed {seed}: other records");
    }
}

/// What was on the medium before: nothing, zeros, rubbish or an older log of the same disk.
fn old_bytes(random: &mut Random) -> Vec<u8> {
    match random.below(4) {
        0 => Vec::new(),
        1 => vec![0; 20_000],
        2 => (0..20_000)
            .map(|_| random.below(256).to_le_bytes()[0])
            .collect(),
        _ => {
            let older = LogHeader {
                created: Timestamp::default(),
                ..header(1, 1)
            };
            let mut history = History::write(random, older, Vec::new());
            history.medium.force();
            history.medium.durable
        }
    }
}

fn seeds() -> u64 {
    std::env::var(SEEDS).map_or(4000, |seeds| seeds.parse().unwrap())
}

fn random(seed: u64) -> Random {
    Random((seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

#[test]
fn what_was_forced_outlives_a_loss_of_power() {
    assert_eq!(SIZE, 64 << 10);
    for seed in 0..seeds() {
        let mut random = random(seed);
        let old = old_bytes(&mut random);
        let mut history = History::write(&mut random, header(1, 1), old);
        history.medium.lose_power(&mut random);
        history.check(seed);
    }
}

/// Sealing forces nothing in between, so a log whose end arrived may lack its middle: then it is
/// not taken for sealed.
#[test]
fn a_loss_of_power_while_sealing_leaves_a_whole_log_or_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let (mut whole, mut refused) = (0, 0);
    for seed in 0..seeds() / 8 {
        let mut random = random(seed);
        let mut history = History::write(&mut random, header(1, 1), Vec::new());
        let mut image = Medium {
            durable: history.medium.durable.clone(),
            volatile: history.medium.volatile.clone(),
            end: 0,
        };
        image.force();
        let content = ContentDigest::new(Sha256::digest(&image.durable).into());
        let written = history.records.len() as u64;
        let (encoder, _) = Encoder::new(header(1, 1));
        let encoder = std::mem::replace(&mut history.encoder, encoder);
        let (end, _) = encoder.seal(content, ContentDigest::NONE);
        history.medium.append(&end);
        history.medium.lose_power(&mut random);
        history.check(seed);
        std::fs::write(&path, &history.medium.durable).unwrap();
        match SealedLog::open_with(&path, &keys()) {
            Ok(log) => {
                assert_eq!(log.summary().records, written, "seed {seed}");
                assert_eq!(log.summary().content, content, "seed {seed}");
                whole += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(whole > 0 && refused > 0, "{whole} whole, {refused} refused");
}
