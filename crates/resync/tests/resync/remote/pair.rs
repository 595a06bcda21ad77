//! Two state machines, two disks, and the bytes between them.

use afterimage_block::{BlockRead, BlockWrite, Epoch, Extent, Length, RunKind, SessionId, Zeroing};
use afterimage_resync::protocol::{Decoder, Message};
use afterimage_resync::remote::{Cursor, Outcome, Source, Target, Terms, Work};
use afterimage_resync::tree::Node;
use afterimage_resync::{Algorithm, BlockSize, Grid, Result};
use bytes::{Bytes, BytesMut};

use crate::disk::{TestDisk, extent, range};

/// xorshift64*, so that a failure is its seed.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(crate) fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(high).unwrap() % sides
    }
}

pub(crate) fn terms(size: Length, block: BlockSize) -> Terms {
    Terms {
        session: SessionId::from_bytes([7; 16]),
        epoch: Epoch::new(3),
        grid: Grid::new(size, block),
        algorithm: Algorithm::Sha256,
    }
}

/// One of the machines.
pub(crate) trait Machine {
    fn transmit(&mut self) -> Option<Message>;
    fn work(&mut self) -> Option<Work>;
    fn message(&mut self, message: Message) -> Result<()>;
    fn outcome(&mut self, outcome: Outcome) -> Result<()>;
    fn hole(&mut self, extent: Extent) -> Result<()>;
    fn finished(&self) -> bool;
}

macro_rules! machine {
    ($end:ty) => {
        impl Machine for $end {
            fn transmit(&mut self) -> Option<Message> {
                self.poll_transmit()
            }
            fn work(&mut self) -> Option<Work> {
                self.poll_work()
            }
            fn message(&mut self, message: Message) -> Result<()> {
                self.handle_message(message)
            }
            fn outcome(&mut self, outcome: Outcome) -> Result<()> {
                self.handle_outcome(outcome)
            }
            fn hole(&mut self, extent: Extent) -> Result<()> {
                self.handle_hole(extent)
            }
            fn finished(&self) -> bool {
                self.is_finished()
            }
        }
    };
}
machine!(Source);
machine!(Target);

/// A machine with its disk, its cursor, and what it is doing.
pub(crate) struct End<M> {
    pub(crate) machine: M,
    pub(crate) disk: TestDisk,
    pub(crate) cursor: Option<Cursor>,
    pub(crate) sent: u64,
    pub(crate) messages: usize,
    pub(crate) hashed: Length,
    working: Vec<Work>,
    block: BlockSize,
    incoming: BytesMut,
    decoder: Decoder,
    /// What the disk held at the last flush, and what was written since.
    durable: Vec<u8>,
    volatile: Vec<Extent>,
}

impl<M: Machine> End<M> {
    pub(crate) fn new(
        machine: M,
        disk: TestDisk,
        cursor: Option<Cursor>,
        block: BlockSize,
    ) -> Self {
        Self {
            machine,
            durable: disk.bytes(),
            disk,
            cursor,
            sent: 0,
            messages: 0,
            hashed: Length::ZERO,
            working: Vec::new(),
            block,
            incoming: BytesMut::new(),
            decoder: Decoder::new(block),
            volatile: Vec::new(),
        }
    }

    /// Takes up work, or ends some that was taken up, in any order.
    pub(crate) fn work(&mut self, dice: &mut Dice) -> Result<bool> {
        if dice.roll(2) == 0
            && let Some(work) = self.machine.work()
        {
            if let Work::Save(cursor) = work {
                let stored = serde_json::to_string(&cursor).unwrap();
                self.cursor = Some(serde_json::from_str(&stored).unwrap());
                assert_eq!(self.cursor.as_ref(), Some(&cursor));
            } else {
                self.working.push(work);
            }
            return Ok(true);
        }
        if self.working.is_empty() {
            return Ok(false);
        }
        let chosen = self.working.swap_remove(dice.roll(self.working.len()));
        // Whether it tells of holes is the caller's matter.
        let hole = self.hole_at(&chosen).filter(|_| dice.roll(2) == 0);
        let outcome = self.perform(chosen);
        self.machine.outcome(outcome)?;
        hole.map_or(Ok(()), |hole| self.machine.hole(hole))?;
        Ok(true)
    }

    fn hole_at(&self, work: &Work) -> Option<Extent> {
        let (Work::Hash { extent, .. } | Work::Read { extent, .. }) = work else {
            return None;
        };
        let run = self.disk.next_run(extent.start()).unwrap()?;
        (run.kind == RunKind::Hole).then_some(run.extent)
    }

    fn perform(&mut self, work: Work) -> Outcome {
        match work {
            Work::Hash { unit, extent } => {
                self.hashed = self.hashed.saturating_add(extent.length());
                let blocks = self.nodes(&self.read(extent));
                Outcome::Hashed { unit, blocks }
            }
            Work::Read { ticket, extent } => {
                let bytes = self.read(extent);
                let blocks = self.nodes(&bytes);
                let bytes = Bytes::from(bytes);
                Outcome::Read {
                    ticket,
                    bytes,
                    blocks,
                }
            }
            Work::Write {
                ticket,
                extent,
                bytes,
            } => {
                assert_eq!(extent.length(), Length::of(&bytes));
                self.disk.write_at(extent.start(), &bytes).unwrap();
                self.volatile.push(extent);
                let blocks = self.nodes(&bytes);
                Outcome::Written { ticket, blocks }
            }
            Work::Zero { ticket, extent } => {
                self.disk.write_zeroes(extent, Zeroing::Deallocate).unwrap();
                self.volatile.push(extent);
                Outcome::Zeroed { ticket }
            }
            Work::Flush => {
                self.disk.flush().unwrap();
                self.durable = self.disk.bytes();
                self.volatile.clear();
                Outcome::Flushed
            }
            other => panic!("{other:?}"),
        }
    }

    fn read(&self, extent: Extent) -> Vec<u8> {
        let mut bytes = vec![0; extent.length().to_usize().unwrap()];
        self.disk.read_at(extent.start(), &mut bytes).unwrap();
        bytes
    }

    fn nodes(&self, bytes: &[u8]) -> Vec<Node> {
        let block = self.block.length().to_usize().unwrap();
        let blocks = bytes.chunks(block);
        blocks.map(|block| Algorithm::Sha256.block(block)).collect()
    }

    /// Takes bytes off the wire, and a message if one is whole.
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> Result<()> {
        self.incoming.extend_from_slice(bytes);
        while let Some(message) = self.decoder.decode(&mut self.incoming)? {
            self.machine.message(message)?;
        }
        Ok(())
    }

    fn send(&mut self, wire: &mut BytesMut) -> bool {
        let Some(message) = self.machine.transmit() else {
            return false;
        };
        let frame = message.encode();
        self.sent += frame.len() as u64;
        self.messages += 1;
        wire.extend_from_slice(&frame.head);
        wire.extend_from_slice(&frame.payload);
        true
    }

    /// Loses some of what was written and not flushed, sector by sector.
    pub(crate) fn crash(&mut self, dice: &mut Dice) {
        for lost in std::mem::take(&mut self.volatile) {
            for sector in lost.pieces(Length::new(512)) {
                if dice.roll(2) == 0 {
                    let old = self.durable[range(sector)].to_vec();
                    self.disk.put(sector, |at| old[at % 512]);
                }
            }
        }
    }
}

/// Both ends and the wires between them.
pub(crate) struct Pair {
    pub(crate) source: End<Source>,
    pub(crate) target: End<Target>,
    to_source: BytesMut,
    to_target: BytesMut,
    pub(crate) dice: Dice,
}

impl Pair {
    pub(crate) fn new(source: &TestDisk, target: &TestDisk, block: BlockSize, seed: u64) -> Self {
        let cursors = (None, None);
        Self::resumed(source.clone(), target.clone(), block, seed, cursors).unwrap()
    }

    pub(crate) fn resumed(
        source: TestDisk,
        target: TestDisk,
        block: BlockSize,
        seed: u64,
        cursors: (Option<Cursor>, Option<Cursor>),
    ) -> Result<Self> {
        let near = Source::new(terms(source.size(), block), cursors.0.clone())?;
        let far = Target::new(terms(target.size(), block), cursors.1.clone())?;
        Ok(Self {
            source: End::new(near, source, cursors.0, block),
            target: End::new(far, target, cursors.1, block),
            to_source: BytesMut::new(),
            to_target: BytesMut::new(),
            dice: Dice::new(seed),
        })
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.source.machine.finished() && self.target.machine.finished()
    }

    /// One step of whatever the dice choose; whether there was anything to do.
    pub(crate) fn step(&mut self) -> Result<bool> {
        Ok(match self.dice.roll(6) {
            0 => self.source.send(&mut self.to_target),
            1 => self.target.send(&mut self.to_source),
            2 => self.source.work(&mut self.dice)?,
            3 => self.target.work(&mut self.dice)?,
            4 => {
                let bytes = part(&mut self.to_source, &mut self.dice);
                self.source.receive(&bytes)?;
                !bytes.is_empty()
            }
            _ => {
                let bytes = part(&mut self.to_target, &mut self.dice);
                self.target.receive(&bytes)?;
                !bytes.is_empty()
            }
        })
    }

    /// Steps until the source knows what the target said first, without any other work on the source.
    pub(crate) fn target_answers_first(&mut self) -> Result<()> {
        while self.target.messages < 2 {
            self.source.send(&mut self.to_target);
            let asked = self.to_target.split();
            self.target.receive(&asked)?;
            self.target.work(&mut self.dice)?;
            self.target.send(&mut self.to_source);
            let answered = self.to_source.split();
            self.source.receive(&answered)?;
        }
        Ok(())
    }

    /// Steps to the end, or so many, or until nothing is left to do; whether it ended.
    pub(crate) fn run(&mut self, steps: usize) -> Result<bool> {
        let mut idle = 0;
        for _ in 0..steps {
            if self.is_finished() || idle == 300 {
                break;
            }
            idle = if self.step()? { 0 } else { idle + 1 };
        }
        Ok(self.is_finished())
    }

    /// Both ends stop at once, the target losing some of what it did not flush, and go on with what
    /// they stored.
    pub(crate) fn restart(mut self, block: BlockSize) -> Self {
        self.target.crash(&mut self.dice);
        let seed = self.dice.roll(usize::MAX) as u64;
        let cursors = (self.source.cursor, self.target.cursor);
        Self::resumed(self.source.disk, self.target.disk, block, seed, cursors).unwrap()
    }
}

/// Some of what is on a wire.
fn part(wire: &mut BytesMut, dice: &mut Dice) -> BytesMut {
    let most = wire.len().min(70_000);
    let least = most.min(1);
    wire.split_to(least + dice.roll(most - least + 1))
}

/// More steps than any test takes.
pub(crate) const ALL: usize = 3_000_000;

/// A disk of so many blocks with these bytes in each sector.
pub(crate) fn filled(blocks: usize, block: BlockSize, byte: impl Fn(usize) -> u8) -> TestDisk {
    let size = blocks * block.length().to_usize().unwrap();
    let disk = TestDisk::new(size);
    disk.put(extent(0, size as u64), byte);
    disk
}
