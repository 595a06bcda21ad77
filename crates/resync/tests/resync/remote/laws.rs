//! What holds for any two disks with a wire between them.

use afterimage_block::{BlockRead, BlockWrite, Length};
use afterimage_resync::{BlockIndex, BlockSize, Grid};
use proptest::prelude::*;

use super::pair::{ALL, Pair, filled};
use crate::disk::{extent, range};
use crate::world::{World, cases, worlds};

/// The bytes of the blocks that differ: those that hold data on the source, and how many blocks.
fn differing(world: &World) -> (u64, u64) {
    let (source, target) = (world.source.bytes(), world.target.bytes());
    let grid = Grid::new(world.source.size(), world.block);
    let blocks = (0..grid.blocks()).map(|block| grid.block(BlockIndex::new(block)).unwrap());
    let differing = blocks.filter(|block| source[range(*block)] != target[range(*block)]);
    differing.fold((0, 0), |(bytes, count), block| {
        let is_data = source[range(block)].iter().any(|byte| *byte != 0);
        let more = if is_data { block.length().get() } else { 0 };
        (bytes + more, count + 1)
    })
}

/// What a resync that finds `count` blocks may put on the wire beside their bytes.
fn overhead(world: &World, count: u64) -> u64 {
    let blocks = Grid::new(world.source.size(), world.block).blocks();
    let levels = u64::from(64 - blocks.leading_zeros()).div_ceil(6).max(1);
    let asked = 12 + 24 + 12 + 24 + 64 * 32;
    // Two Hellos, two Dones, the root; for each block a path of nodes, its message and an answer.
    2 * 64 + 2 * 44 + 36 + 68 + count * (levels * asked + 12 + 16 + 20)
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn disks_become_equal_and_only_what_differs_is_sent(world in worlds(), seed in any::<u64>()) {
        let (bytes, count) = differing(&world);
        let mut pair = Pair::new(&world.source, &world.target, world.block, seed);
        prop_assert!(pair.run(ALL).unwrap());
        prop_assert!(pair.target.disk.bytes() == world.source.bytes());
        prop_assert!(pair.target.disk.is_flushed());
        let (near, far) = (pair.source.machine.progress(), pair.target.machine.progress());
        prop_assert_eq!(near.sent.get(), bytes);
        prop_assert_eq!((near.sent, near.zeroed, near.digests), (far.sent, far.zeroed, far.digests));
        prop_assert_eq!((near.hashed, near.settled), (near.total, near.total));
        let wire = pair.source.sent + pair.target.sent;
        prop_assert!(wire <= bytes + overhead(&world, count), "{} bytes for {}", wire, bytes);
        if count == 0 {
            // Hello, one question or answer, Done.
            prop_assert_eq!((pair.source.messages, pair.target.messages), (3, 3));
            prop_assert_eq!(near.digests, 1);
            prop_assert!(pair.target.disk.writes().is_empty());
        }
    }

    #[test]
    fn cut_and_crashed_anywhere_it_ends_equal(
        world in worlds(), seed in any::<u64>(), cuts in prop::collection::vec(1..600_usize, 0..8)
    ) {
        let mut pair = Pair::new(&world.source, &world.target, world.block, seed);
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
    fn a_source_that_is_written_meanwhile_is_sent_as_it_was_or_as_it_is(
        world in worlds(), seed in any::<u64>(), writes in prop::collection::vec(
            (any::<prop::sample::Index>(), any::<u8>(), 1..400_usize), 1..12)
    ) {
        let before = world.source.bytes();
        let mut pair = Pair::new(&world.source, &world.target, world.block, seed);
        let mut written = Vec::new();
        for (at, byte, steps) in writes {
            pair.run(steps).unwrap();
            let block = world.block.get();
            let at = at.index(before.len()) as u64 / block * block;
            let block = extent(at, block.min(before.len() as u64 - at));
            let bytes = vec![byte; range(block).len()];
            pair.source.disk.write_at(block.start(), &bytes).unwrap();
            written.push(block);
        }
        prop_assert!(pair.run(ALL).unwrap());
        let (after, target) = (pair.source.disk.bytes(), pair.target.disk.bytes());
        let grid = Grid::new(world.source.size(), world.block);
        for block in (0..grid.blocks()).map(|block| grid.block(BlockIndex::new(block)).unwrap()) {
            if !written.contains(&block) {
                prop_assert!(target[range(block)] == after[range(block)]);
            }
        }
        // What was written since is the caller's to send; then the disks are equal.
        for block in written {
            pair.target.disk.write_at(block.start(), &after[range(block)]).unwrap();
        }
        prop_assert!(pair.target.disk.bytes() == after);
    }
}

#[test]
fn many_units_and_levels_become_equal() {
    let block = BlockSize::MIN;
    // Three levels; a run of zeros that is a whole node of level 2, and ends that are cut.
    let source = filled(4096 * 2 + 70, block, |at| match at / 4096 {
        4096..8192 => 0,
        index => (index % 251).to_le_bytes()[0] | 1,
    });
    let target = filled(4096 * 2 + 70, block, |at| match at / 4096 {
        0..640 => 0,
        index if index % 997 == 3 => 77,
        index => (index % 251).to_le_bytes()[0] | 1,
    });
    let mut pair = Pair::new(&source, &target, block, 5);
    assert!(pair.run(ALL).unwrap());
    assert!(pair.target.disk.bytes() == source.bytes());
    let progress = pair.source.machine.progress();
    assert_eq!(progress.zeroed, Length::mib(16));
    // Ten units that were zeros, and those of two nodes of level 2 whose blocks were named.
    assert!(
        progress.digests < 1 + 3 + 64 * 3 + 8 * 64,
        "{}",
        progress.digests
    );
}

#[test]
fn a_resumed_target_hashes_a_part_of_its_disk_again_and_not_all() {
    let block = BlockSize::MIN;
    let source = filled(64 * 200, block, |at| (at / 4096).to_le_bytes()[0] | 1);
    let target = filled(64 * 200, block, |at| (at / 4096).to_le_bytes()[1] | 128);
    let mut pair = Pair::new(&source, &target, block, 11);
    while pair.target.machine.progress().sent < Length::mib(20) {
        pair.step().unwrap();
    }
    let sent = pair.source.machine.progress().sent;
    let mut pair = pair.restart(block);
    assert_eq!(pair.source.machine.progress().hashed, source.size());
    let known = pair.target.machine.progress().hashed;
    let part = Length::new(16 * 64 * 4096);
    assert!(known >= source.size().saturating_sub(part), "{known}");
    assert!(pair.run(ALL).unwrap());
    assert!(pair.target.disk.bytes() == source.bytes());
    let again = pair.source.machine.progress().sent;
    let all = source.size().get();
    assert!(sent.get() + again.get() < all + part.get() + (32 << 20));
    assert!(again.get() < all);
}

#[test]
fn crashes_between_flushes_are_in_doubt_and_found() {
    let block = BlockSize::MIN;
    for seed in 1..6_u64 {
        let byte = |at: usize| (at / 4096 * 7).to_le_bytes()[0] | 1;
        let mut source = filled(64 * 70, block, byte);
        let target = filled(64 * 70, block, |at| {
            if at / 4096 % 3 == 0 { 2 } else { byte(at) }
        });
        // Whole units that become zeros, before and behind what a cursor puts in doubt.
        for unit in [3, 17, 40, 41] {
            source.punch(extent(unit * 64 * 4096, 64 * 4096));
        }
        let mut pair = Pair::new(
            &source,
            &target,
            block,
            seed.wrapping_mul(0x9E37_79B9_7F4A_7C15),
        );
        let mut restarts = 0;
        let mut steps = 3000 + 977 * usize::try_from(seed).unwrap();
        while !pair.run(steps).unwrap() {
            source = pair.source.disk.clone();
            pair = pair.restart(block);
            restarts += 1;
            steps += 2000;
        }
        assert!(restarts > 0);
        assert!(pair.target.disk.bytes() == source.bytes(), "seed {seed}");
    }
}
