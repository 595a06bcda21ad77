//! A target without data, whole or in part, is sent what the source has in one reading.

use std::convert::identity;
use std::io::{self, PipeReader, Read, pipe};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use afterimage_block::{BlockRead, BlockWrite, Length, Offset, Run};
use afterimage_resync::protocol::Decoder;
use afterimage_resync::{BlockSize, Driver};
use bytes::BytesMut;
use proptest::prelude::*;

use super::pair::{ALL, Pair, filled, terms};
use crate::disk::{TestDisk, extent, range};
use crate::world::{World, cases, worlds};

const BLOCK: BlockSize = BlockSize::MIN;
const UNIT: u64 = 64 * BLOCK.get();

/// The bytes of the blocks that are not zeros.
fn data(disk: &TestDisk, block: BlockSize) -> u64 {
    let bytes = disk.bytes();
    let blocks = bytes.chunks(block.length().to_usize().unwrap());
    let data = blocks.filter(|block| block.iter().any(|byte| *byte != 0));
    data.map(|block| block.len() as u64).sum()
}

/// With a target of the same size without data, of which half is stored as zeros. If early, it says
/// so before the source has hashed anything.
fn blank_pair(world: &World, seed: u64, is_early: bool) -> Pair {
    let size = world.source.bytes().len();
    let target = TestDisk::new(size);
    target.put(extent(0, (size / 2) as u64), |_| 0);
    let mut pair = Pair::new(&world.source, &target, world.block, seed);
    if is_early {
        pair.target_answers_first().unwrap();
    }
    pair
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn a_blank_target_is_sent_the_blocks_that_hold_data(
        world in worlds(), seed in any::<u64>(), is_early in any::<bool>()
    ) {
        let mut pair = blank_pair(&world, seed, is_early);
        prop_assert!(pair.run(ALL).unwrap());
        prop_assert!(pair.target.disk.bytes() == world.source.bytes());
        prop_assert!(!is_early || pair.source.hashed.is_zero());
        let (near, far) = (pair.source.machine.progress(), pair.target.machine.progress());
        prop_assert_eq!(near.sent.get(), data(&world.source, world.block));
        prop_assert_eq!((near.sent, near.zeroed), (far.sent, Length::ZERO));
        prop_assert_eq!((near.hashed, near.settled), (near.total, near.total));
        let written = pair.target.disk.writes();
        prop_assert!(written.iter().all(|write| world.source.bytes()[range(*write)]
            .iter().any(|byte| *byte != 0)));
    }

    #[test]
    fn cut_and_crashed_anywhere_a_blank_target_ends_equal(
        world in worlds(), seed in any::<u64>(), is_early in any::<bool>(),
        cuts in prop::collection::vec(1..400_usize, 0..6)
    ) {
        let mut pair = blank_pair(&world, seed, is_early);
        for steps in cuts {
            if pair.run(steps).unwrap() {
                break;
            }
            pair = pair.restart(world.block);
        }
        prop_assert!(pair.run(ALL).unwrap());
        prop_assert!(pair.target.disk.bytes() == world.source.bytes());
    }

    #[test]
    fn a_source_that_is_written_while_all_is_sent_is_sent_as_it_was_or_as_it_is(
        world in worlds(), seed in any::<u64>(), is_early in any::<bool>(),
        writes in prop::collection::vec(
            (any::<prop::sample::Index>(), 0..3_u8, 1..300_usize), 1..8)
    ) {
        let before = world.source.bytes();
        let mut pair = blank_pair(&world, seed, is_early);
        let mut written = vec![false; before.len()];
        for (at, byte, steps) in writes {
            pair.run(steps).unwrap();
            let block = world.block.get();
            let at = at.index(before.len()) as u64 / block * block;
            let block = extent(at, block.min(before.len() as u64 - at));
            pair.source.disk.write_at(block.start(), &vec![byte; range(block).len()]).unwrap();
            written[range(block)].fill(true);
        }
        prop_assert!(pair.run(ALL).unwrap());
        let target = pair.target.disk.bytes();
        let kept = written.iter().zip(&before).zip(&target);
        let mut unwritten = kept.filter(|((written, _), _)| !**written);
        prop_assert!(unwritten.all(|((_, before), target)| before == target));
    }
}

fn dense(units: u64) -> TestDisk {
    let blocks = usize::try_from(units * 64).unwrap();
    filled(blocks, BLOCK, |at| (at / 4096 * 7).to_le_bytes()[0] | 1)
}

/// How much of the source is read over a pipe, in hundredths of a disk.
fn readings<R: Read + Send + 'static>(
    source: &TestDisk,
    seen: &dyn BlockRead,
    target: &TestDisk,
    tap: impl FnOnce(PipeReader) -> R,
) -> u64 {
    let terms = terms(source.size(), BLOCK);
    let ((far_in, near_out), (near_in, far_out)) = (pipe().unwrap(), pipe().unwrap());
    thread::scope(|scope| {
        scope.spawn(|| Driver::new(terms).run_target(target, far_in, far_out));
        Driver::new(terms).run_source(seen, tap(near_in), near_out)
    })
    .unwrap();
    assert!(target.bytes() == source.bytes());
    let read: u64 = source.reads().iter().map(|read| read.length().get()).sum();
    read * 100 / source.size().get()
}

/// A disk that gives nothing before its gate is open.
struct Gated<'d>(&'d TestDisk, &'d Gate);

#[derive(Default)]
struct Gate(Mutex<bool>, Condvar);

impl Gate {
    fn open(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }

    fn pass(&self) {
        let shut = self.0.lock().unwrap();
        drop(self.1.wait_while(shut, |open| !*open).unwrap());
    }
}

impl BlockRead for Gated<'_> {
    fn size(&self) -> Length {
        self.0.size()
    }

    fn read_at(&self, offset: Offset, buf: &mut [u8]) -> afterimage_block::Result<()> {
        self.1.pass();
        self.0.read_at(offset, buf)
    }

    fn next_run(&self, from: Offset) -> afterimage_block::Result<Option<Run>> {
        self.0.next_run(from)
    }
}

/// Opens the gate when so many messages came through and were taken, for which the next is asked.
struct Counted<R> {
    stream: R,
    decoder: Decoder,
    buffer: BytesMut,
    left: usize,
    gate: Arc<Gate>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.left > 0 && self.decoder.decode(&mut self.buffer).unwrap().is_some() {
            self.left -= 1;
        }
        if self.left == 0 {
            self.gate.open();
        }
        let read = self.stream.read(buf)?;
        self.buffer.extend_from_slice(&buf[..read]);
        Ok(read)
    }
}

#[test]
fn a_blank_disk_is_sent_in_one_reading() {
    let source = dense(200);
    let target = TestDisk::new(source.bytes().len());
    let gate = Arc::new(Gate::default());
    let gated = Gated(&source, &gate);
    // The target says hello and that it is blank.
    let read = readings(&source, &gated, &target, |stream| Counted {
        stream,
        decoder: Decoder::new(BLOCK),
        buffer: BytesMut::new(),
        left: 2,
        gate: gate.clone(),
    });
    // What was begun to be hashed before the target said that it is blank is read again.
    assert!((100..=102).contains(&read), "{read} %");
}

#[test]
fn blank_units_of_another_disk_are_hashed_once_and_sent_in_one_more_reading() {
    let source = dense(100);
    let target = dense(100);
    target.punch(extent(10 * UNIT, 60 * UNIT));
    let read = readings(&source, &source, &target, identity);
    assert_eq!(read, 160);
}

fn blank_readings(source: &TestDisk) -> u64 {
    readings(source, source, &TestDisk::new(1 << 20), identity)
}

#[test]
fn a_disk_that_is_blank_on_both_ends_is_not_read_and_holes_never_are() {
    let source = TestDisk::new(1 << 20);
    assert_eq!(blank_readings(&source), 0);
    source.put(extent(70 * 4096, 4096), |_| 3);
    assert_eq!(blank_readings(&source), 0);
    let read = source.reads();
    assert!(
        read.iter().all(|read| *read == extent(70 * 4096, 4096)),
        "{read:?}"
    );
}

#[test]
fn a_source_that_sent_a_part_of_itself_to_a_blank_target_does_not_hash_it_again() {
    let source = dense(200);
    let mut pair = Pair::new(&source, &TestDisk::new(source.bytes().len()), BLOCK, 3);
    pair.target_answers_first().unwrap();
    while pair.source.machine.progress().sent < Length::mib(30) {
        pair.step().unwrap();
    }
    let pair = pair.restart(BLOCK);
    let known = pair.source.machine.progress().hashed;
    assert!(
        known >= Length::new(60 * UNIT) && known < source.size(),
        "{known}"
    );
    let mut pair = pair;
    assert!(pair.run(ALL).unwrap());
    assert!(pair.target.disk.bytes() == source.bytes());
    let hashed = pair.source.hashed;
    assert!(hashed <= source.size(), "{hashed}");
}
