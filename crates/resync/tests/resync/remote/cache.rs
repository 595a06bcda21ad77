//! What an end knows of its disk from an earlier resync.

use std::io::pipe;
use std::sync::Arc;
use std::thread;

use afterimage_block::{
    BlockRead, BlockWrite, DiskId, Doubt, Generation, IntentLog, Length, Offset, TrackedDisk,
    WriteGate, Zeroing,
};
use afterimage_resync::protocol::Role;
use afterimage_resync::remote::{Cursor, RemoteProgress};
use afterimage_resync::{Algorithm, Digests, Driver, Error, Grid};
use proptest::prelude::*;

use super::hostile::BLOCK;
use super::pair::{ALL, Pair, filled, terms};
use crate::disk::{Fault, TestDisk, extent, range};
use crate::world::{World, cases, worlds};

const PROOF: &[u8] = b"position 4";

/// A resync from what is known of either disk to what is known then.
fn resync(
    pair: Option<(Digests, Digests)>,
    disks: &World,
    seed: u64,
) -> (Pair, (Digests, Digests)) {
    let terms = terms(disks.source.size(), disks.block);
    let cursor = |role, digests: &Digests| Some(Cursor::knowing(terms, role, digests).unwrap());
    let cursors = pair.map_or((None, None), |(near, far)| {
        (cursor(Role::Source, &near), cursor(Role::Target, &far))
    });
    let (source, target) = (disks.source.clone(), disks.target.clone());
    let mut pair = Pair::resumed(source, target, disks.block, seed, cursors).unwrap();
    assert!(pair.run(ALL).unwrap());
    let known = (
        pair.source.machine.digests(),
        pair.target.machine.digests().unwrap(),
    );
    (pair, known)
}

/// As it comes back from a file.
fn stored(digests: &Digests) -> Digests {
    let file = digests.encode(PROOF);
    let (algorithm, grid) = (digests.algorithm(), digests.grid());
    let again = Digests::decode(&file, algorithm, grid, PROOF).unwrap();
    assert_eq!(again, *digests);
    again
}

proptest! {
    #![proptest_config(cases(12))]

    #[test]
    fn with_a_cache_that_forgets_what_is_written_all_is_as_without(
        mut world in worlds(), seed in any::<u64>(), rounds in prop::collection::vec(
            prop::collection::vec(
                (any::<bool>(), any::<prop::sample::Index>(), 1..200_000_usize, 0..4_u8), 0..5),
            1..4)
    ) {
        let (pair, known) = resync(None, &world, seed);
        let mut known = (stored(&known.0), stored(&known.1));
        world.target = pair.target.disk;
        for writes in rounds {
            let size = world.source.bytes().len();
            for (is_source, at, length, byte) in &writes {
                let at = at.index(size);
                let written = extent(at as u64, (*length).min(size - at) as u64);
                let (disk, digests) = if *is_source {
                    (&world.source, &mut known.0)
                } else {
                    (&world.target, &mut known.1)
                };
                if *byte == 0 {
                    disk.write_zeroes(written, Zeroing::Deallocate).unwrap();
                } else {
                    disk.write_at(written.start(), &vec![*byte; range(written).len()]).unwrap();
                }
                digests.invalidate(written);
            }
            let is_known = (known.0.known(), known.1.known());
            let (without, same) = resync(None, &world, seed);
            let (with, next) = resync(Some(known), &world, seed);
            prop_assert!(with.target.disk.bytes() == world.source.bytes());
            prop_assert!(without.target.disk.bytes() == world.source.bytes());
            prop_assert_eq!(&next, &same);
            let (near, far) = (with.source.machine.progress(), with.target.machine.progress());
            prop_assert_eq!((near.skipped, far.skipped), is_known);
            prop_assert_eq!(without.source.machine.progress().skipped, Length::ZERO);
            let found = |progress: RemoteProgress| (progress.sent, progress.zeroed);
            prop_assert_eq!(found(near), found(without.source.machine.progress()));
            if writes.is_empty() {
                prop_assert_eq!((with.source.hashed, with.target.hashed), Default::default());
                prop_assert!(with.source.sent + with.target.sent < 4096);
            }
            known = (stored(&next.0), stored(&next.1));
            world.target = with.target.disk;
        }
    }
}

/// Over a pipe, each end with what is known of its disk; what they know then.
fn driven(
    (source, target): (&TestDisk, &TestDisk),
    known: Option<&(Digests, Digests)>,
    afresh: (bool, bool),
) -> (Result<RemoteProgress, Error>, Option<(Digests, Digests)>) {
    let terms = terms(source.size(), BLOCK);
    let driver = |digests: Option<&Digests>, is_afresh| {
        let driver = Driver::new(terms);
        let driver = digests.cloned().into_iter().fold(driver, Driver::knowing);
        if is_afresh { driver.afresh() } else { driver }
    };
    let ((far_in, near_out), (near_in, far_out)) = (pipe().unwrap(), pipe().unwrap());
    thread::scope(|scope| {
        let far = scope.spawn(|| {
            let mut kept = None;
            let driver = driver(known.map(|known| &known.1), afresh.1);
            let far = driver.keep(|digests| kept = Some(digests.clone()));
            far.run_target(target, far_in, far_out).ok();
            kept
        });
        let mut kept = None;
        let driver = driver(known.map(|known| &known.0), afresh.0);
        let near = driver.keep(|digests| kept = Some(digests.clone()));
        let ended = near.run_source(source, near_in, near_out);
        (ended, kept.zip(far.join().unwrap()))
    })
}

#[test]
fn an_end_that_knows_its_disk_reads_nothing_until_either_wants_it_hashed_afresh() {
    let source = filled(64 * 20 + 3, BLOCK, |at| (at / 4096).to_le_bytes()[0] | 1);
    let target = filled(64 * 20 + 3, BLOCK, |at| (at / 9000).to_le_bytes()[0] | 1);
    let (first, known) = driven((&source, &target), None, (false, false));
    assert!(first.unwrap().sent > Length::ZERO && target.bytes() == source.bytes());
    let known = known.unwrap();
    let all = extent(0, source.size().get());
    for disk in [&source, &target] {
        disk.fail(Fault::Read, all);
    }
    let disks = (&source, &target);
    let (again, kept) = driven(disks, Some(&known), (false, false));
    let again = again.unwrap();
    assert_eq!((again.skipped, again.sent), (source.size(), Length::ZERO));
    assert_eq!(again.digests, 1);
    assert_eq!(kept, Some(known.clone()));
    for afresh in [(true, false), (false, true)] {
        let (read, _) = driven(disks, Some(&known), afresh);
        let error = read.unwrap_err();
        let is_read = matches!(&error, Error::Read { .. } | Error::Peer { .. });
        assert!(is_read, "{error}");
    }
}

/// What a tracked disk may have been written since the cache was kept is forgotten, and nothing else read.
#[test]
fn a_tracked_disk_tells_what_is_to_be_forgotten() {
    let source = Arc::new(filled(64 * 20, BLOCK, |_| 1));
    let target = filled(64 * 20, BLOCK, |_| 2);
    let (_, known) = driven((&source, &target), None, (false, false));
    let mut known = known.unwrap();

    let folder = tempfile::tempdir().unwrap();
    let (id, region) = (DiskId::random(), Length::kib(64));
    let intent = IntentLog::create(&folder.path().join("intent"), id, source.size(), region);
    let generation = Generation {
        intent: intent.unwrap(),
        sink: None,
    };
    let device: Arc<dyn BlockWrite> = source.clone();
    let tracked = TrackedDisk::new(device, WriteGate::new(), generation);
    for at in [5, 900 * 4096, 901 * 4096 + 7] {
        tracked.write_at(Offset::new(at), &[7; 3000]).unwrap();
    }
    let Doubt::Extents(written) = tracked.doubt() else {
        panic!("it knows what was written");
    };
    written.iter().for_each(|extent| known.0.invalidate(extent));

    let (again, _) = driven((&source, &target), Some(&known), (false, false));
    let again = again.unwrap();
    assert!(target.bytes() == source.bytes());
    let units = Length::new(2 * 64 * BLOCK.length().get());
    assert_eq!(again.skipped, source.size().saturating_sub(units));
}

#[test]
fn digests_that_hide_a_difference_are_found_out_by_hashing_afresh() {
    let (source, target) = (filled(200, BLOCK, |_| 1), filled(200, BLOCK, |_| 1));
    let (_, known) = driven((&source, &target), None, (false, false));
    // Behind everybody's back.
    target.put(extent(70 * 4096, 4096), |_| 2);
    let disks = (&source, &target);
    let (blind, kept) = driven(disks, known.as_ref(), (false, false));
    assert!(blind.unwrap().sent.is_zero() && target.bytes() != source.bytes());
    assert_eq!(kept, known);
    let (found, kept) = driven(disks, known.as_ref(), (true, false));
    let found = found.unwrap();
    assert_eq!((found.sent, found.skipped), (Length::kib(4), Length::ZERO));
    assert!(target.bytes() == source.bytes());
    assert_eq!(kept, known);
}

#[test]
fn digests_of_another_disk_are_refused() {
    let grid = |blocks: u64| Grid::new(Length::new(blocks * 4096), BLOCK);
    let digests = Digests::of_zeros(Algorithm::Sha256, grid(100)).unwrap();
    let terms = terms(grid(101).size(), BLOCK);
    let error = Cursor::knowing(terms, Role::Source, &digests).unwrap_err();
    assert!(matches!(error, Error::InvalidCursor { .. }), "{error}");
}

#[test]
fn what_a_source_hashed_before_it_failed_is_kept() {
    let (source, target) = (filled(64 * 40, BLOCK, |_| 1), filled(64 * 40, BLOCK, |_| 2));
    source.fail(Fault::Read, extent(30 * 64 * 4096, 1));
    let (failed, kept) = driven((&source, &target), None, (false, false));
    assert!(failed.is_err());
    let (near, far) = kept.unwrap();
    assert!(near.known() < source.size());
    assert!(target.writes().is_empty() && far.known() <= target.size());
    source.mend();
    let (again, _) = driven(
        (&source, &target),
        Some(&(near.clone(), far)),
        (false, false),
    );
    assert_eq!(again.unwrap().skipped, near.known());
    assert!(target.bytes() == source.bytes());
}
