//! Disks that fail, lie, or are not the right ones.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use afterimage_block::{BlockRead, Extent, ExtentSet, Length, Offset};
use afterimage_resync::{
    BlockIndex, BlockSize, Comparer, Error, LocalResync, Result, Scope, Session, Side, Signature,
    SignaturePage, Signer, Summary,
};
use sha2::Sha256;

use crate::disk::{Fault, TestDisk, extent, range};
use crate::world::feed;

const SIZE: usize = 3 << 20;
/// A block that is neither the first of its window nor the last.
const BAD: u64 = 1_572_864 + 3 * 4096;

fn block() -> BlockSize {
    "4KiB".parse().unwrap()
}

fn bad_block() -> Extent {
    extent(BAD, 4096)
}

/// A source full of data and a target full of other data.
fn disks() -> (TestDisk, TestDisk) {
    let bytes = |seed: usize| (0..SIZE).map(move |at| (at / 512 + seed).to_le_bytes()[0] | 1);
    let (source, target): (Vec<_>, Vec<_>) = (bytes(0).collect(), bytes(2).collect());
    (TestDisk::dense(&source), TestDisk::dense(&target))
}

fn session() -> Session {
    Session::whole(Length::new(SIZE as u64), block())
}

fn resync(
    source: &TestDisk,
    target: &TestDisk,
    session: &mut Session,
    threads: usize,
) -> Result<()> {
    LocalResync::new(source, target)?
        .threads(NonZeroUsize::new(threads).unwrap())
        .run(session, |_| ControlFlow::Continue(()))
}

/// Everything before `at` is equal, the block there is as it was, and the session knows it.
fn stands_at(session: &Session, source: &TestDisk, target: &TestDisk, was: &[u8]) {
    let end = range(bad_block()).start;
    assert_eq!(session.cursor(), bad_block().start());
    assert_eq!(session.summary().compared.get(), BAD);
    assert!(source.bytes()[..end] == target.bytes()[..end]);
    let bad = range(bad_block());
    assert!(target.bytes()[bad.clone()] == was[bad]);
}

#[test]
fn a_read_error_is_reported_at_its_block_and_never_taken_for_zeros() {
    for (threads, side) in [
        (1, Side::Source),
        (3, Side::Source),
        (1, Side::Target),
        (3, Side::Target),
    ] {
        let (source, target) = disks();
        let was = target.bytes();
        let failing = if side == Side::Source {
            &source
        } else {
            &target
        };
        failing.fail(Fault::Read, extent(BAD + 512, 512));
        let mut session = session();
        let error = resync(&source, &target, &mut session, threads).unwrap_err();
        assert!(
            matches!(error, Error::Read { side: at, extent, .. } if at == side && extent == bad_block()),
            "{error}"
        );
        assert!(error.is_recoverable());
        stands_at(&session, &source, &target, &was);

        failing.mend();
        resync(&source, &target, &mut session, threads).unwrap();
        assert!(source.bytes() == target.bytes());
        assert_eq!(session.summary().compared.get(), SIZE as u64);
    }
}

#[test]
fn the_first_of_two_bad_blocks_is_reported_whichever_disk_it_is_on() {
    for (source_at, target_at, first) in [
        (BAD, BAD + 8192, Side::Source),
        (BAD + 8192, BAD, Side::Target),
    ] {
        let (source, target) = disks();
        source.fail(Fault::Read, extent(source_at, 1));
        target.fail(Fault::Read, extent(target_at, 1));
        let error = resync(&source, &target, &mut session(), 2).unwrap_err();
        assert!(
            matches!(error, Error::Read { side, extent, .. } if side == first && extent == bad_block())
        );
    }
}

#[test]
fn a_window_that_cannot_be_read_at_once_is_read_block_by_block() {
    let (source, target) = disks();
    source.fail(Fault::LargeRead, extent(BAD, 512));
    let mut session = session();
    resync(&source, &target, &mut session, 2).unwrap();
    assert!(source.bytes() == target.bytes());
}

#[test]
fn a_comparer_stops_at_the_block_that_cannot_be_read() {
    for threads in [1, 3] {
        let (source, target) = disks();
        let was = target.bytes();
        source.fail(Fault::Read, extent(BAD + 512, 512));
        let whole = Scope::whole(target.size(), block());
        let signer = Signer::<Sha256>::new(&target, whole, Offset::ZERO).unwrap();
        let signatures: Vec<_> = signer.map(|signed| signed.unwrap().1).collect();
        let mut comparer = Comparer::new(session()).threads(NonZeroUsize::new(threads).unwrap());
        let compare = |comparer: &mut Comparer| {
            feed::<Error>(comparer, &source, &signatures, 700, |change| {
                change.apply_to(&target).unwrap();
                Ok(())
            })
        };
        let error = compare(&mut comparer).unwrap_err();
        assert!(
            matches!(error, Error::Read { side: Side::Source, extent, .. } if extent == bad_block())
        );
        stands_at(comparer.session(), &source, &target, &was);
        source.mend();
        compare(&mut comparer).unwrap();
        assert!(source.bytes() == target.bytes());
    }
}

#[test]
fn a_signer_signs_up_to_the_block_that_cannot_be_read_and_ends() {
    let (source, _) = disks();
    source.fail(Fault::Read, extent(BAD, 1));
    let whole = Scope::whole(source.size(), block());
    let mut signer = Signer::<Sha256>::new(&source, whole, Offset::ZERO).unwrap();
    let signed = signer.by_ref().take_while(Result::is_ok).count();
    assert_eq!(signed as u64, BAD / 4096);
    assert_eq!(signer.cursor(), Offset::new(BAD));
    assert!(signer.next().is_none());
}

#[test]
fn a_write_error_leaves_the_cursor_at_what_was_not_written() {
    for threads in [1, 3] {
        let (source, target) = disks();
        target.fail(Fault::Write, extent(BAD, 512));
        let mut session = session();
        let error = resync(&source, &target, &mut session, threads).unwrap_err();
        assert!(
            matches!(error, Error::Write { extent, .. } if extent.contains(bad_block())),
            "{error}"
        );
        let cursor = session.cursor();
        assert!(cursor <= Offset::new(BAD));
        let done = usize::try_from(cursor.get()).unwrap();
        assert!(source.bytes()[..done] == target.bytes()[..done]);
        assert_eq!(session.summary().sent.get(), cursor.get());

        target.mend();
        resync(&source, &target, &mut session, threads).unwrap();
        assert!(source.bytes() == target.bytes());
    }
}

#[test]
fn a_failed_flush_puts_all_of_the_run_back_in_doubt() {
    let (source, target) = disks();
    let mut session = session();
    let once = LocalResync::new(&source, &target).unwrap();
    once.run(&mut session, |_| ControlFlow::Break(())).unwrap();
    let stored = session.clone();
    target.fail(Fault::Flush, extent(0, SIZE as u64));
    let error = resync(&source, &target, &mut session, 2).unwrap_err();
    assert!(matches!(error, Error::Flush { .. }));
    assert!(!error.is_recoverable());
    assert_eq!(session, stored);
    target.mend();
    resync(&source, &target, &mut session, 2).unwrap();
    assert!(session.is_complete() && target.is_flushed());
}

#[test]
fn a_disk_that_cannot_tell_its_holes_is_reported() {
    for (fault, threads) in [
        (Fault::Map, 1),
        (Fault::NoRun, 1),
        (Fault::Map, 3),
        (Fault::NoRun, 3),
    ] {
        let (source, target) = disks();
        source.punch(extent(BAD, SIZE as u64 - BAD));
        source.fail(fault, extent(BAD, 1));
        let mut session = session();
        match resync(&source, &target, &mut session, threads).unwrap_err() {
            Error::Map { side, at, .. } if fault == Fault::Map => {
                assert_eq!((side, at), (Side::Source, Offset::new(BAD)));
            }
            Error::InvalidRun { side, at } if fault == Fault::NoRun => {
                assert_eq!((side, at), (Side::Source, Offset::new(BAD)));
            }
            error => panic!("{error}"),
        }
        assert!(session.cursor() <= Offset::new(BAD));
        let whole = Scope::whole(source.size(), block());
        let signer = Signer::<Sha256>::new(&source, whole, Offset::ZERO).unwrap();
        assert!(signer.last().unwrap().is_err());
    }
}

#[test]
fn disks_and_scopes_of_other_sizes_are_refused() {
    let (source, target) = disks();
    let shorter = TestDisk::new(SIZE - 512);
    assert!(matches!(
        LocalResync::new(&source, &shorter).err(),
        Some(Error::SizesDiffer { source_size, target_size })
            if source_size == source.size() && target_size == shorter.size()
    ));
    let mut other = Session::whole(shorter.size(), block());
    assert!(matches!(
        resync(&source, &target, &mut other, 1),
        Err(Error::OtherDisk {
            side: Side::Source,
            ..
        })
    ));
    let page = SignaturePage::new(BlockIndex::new(0), &[Signature::Zero]);
    let result: Result<()> = Comparer::<Sha256>::new(other).compare(&source, page, |_| Ok(()));
    assert!(matches!(result, Err(Error::OtherDisk { .. })));
    let scope = Scope::whole(shorter.size(), block());
    assert!(Signer::<Sha256>::new(&source, scope, Offset::ZERO).is_err());

    let behind = ExtentSet::from(extent(SIZE as u64 - 1, 2));
    let result = Scope::new(source.size(), block(), &behind);
    assert!(matches!(result, Err(Error::ScopeOutOfRange { .. })));
    for (hostile, sound) in [
        ("[{\"size\":8192,\"block_size\":4096},[[4096,4096]]]", true),
        (
            "[{\"size\":18446744073709551615,\"block_size\":4096},[[18446744073709547520,4095]]]",
            true,
        ),
        ("[{\"size\":8192,\"block_size\":4096},[[4096,4097]]]", false),
        (
            "[{\"size\":8192,\"block_size\":4096},[[18446744073709551615,4096]]]",
            false,
        ),
        ("[{\"size\":8192,\"block_size\":6000},[]]", false),
    ] {
        let scope = serde_json::from_str::<Scope>(hostile);
        assert_eq!(scope.is_ok(), sound, "{hostile}");
        if let Ok(scope) = scope {
            let end = scope.next_from(Offset::ZERO).unwrap().end();
            assert_eq!(end.get(), scope.grid().size().get());
        }
    }
}

#[test]
fn signatures_of_other_blocks_are_refused() {
    let (source, _) = disks();
    let doubtful = ExtentSet::from(extent(10 * 4096, 4096));
    let session = Session::of(source.size(), block(), &doubtful).unwrap();
    let mut comparer = Comparer::<Sha256>::new(session);
    let signatures = vec![Signature::Zero; 10];
    for (first, count) in [
        (0, 10),
        (11, 10),
        (10, 0),
        (u64::MAX, 10),
        (u64::MAX / 4096, 10),
    ] {
        let page = SignaturePage::new(BlockIndex::new(first), &signatures[..count]);
        let result: Result<()> = comparer.compare(&source, page, |_| Ok(()));
        assert!(
            matches!(result, Err(Error::WrongPage { expected, .. }) if expected == BlockIndex::new(10)),
            "{first}"
        );
    }
    let page = SignaturePage::new(BlockIndex::new(1), &signatures);
    let result: Result<()> = comparer.compare(&source, page, |_| Ok(()));
    result.unwrap();
    assert!(comparer.next_in_doubt().is_none());
    // Nothing is in doubt any more, so any page will do.
    let result: Result<()> = comparer.compare(&source, page, |_| panic!("nothing differs"));
    result.unwrap();
}

#[test]
fn a_panic_in_a_disk_surfaces_and_hangs_no_thread() {
    let (source, target) = disks();
    source.fail(Fault::Panic, extent(BAD, 1));
    let result = catch_unwind(AssertUnwindSafe(|| {
        resync(&source, &target, &mut session(), 3)
    }));
    assert!(result.is_err());
}

#[test]
fn an_empty_disk_is_equal_to_another() {
    let (source, target) = (TestDisk::new(0), TestDisk::new(0));
    let mut session = Session::whole(Length::ZERO, block());
    assert!(session.is_complete());
    resync(&source, &target, &mut session, 2).unwrap();
    assert_eq!(session.summary(), Summary::default());
}

#[test]
fn a_dense_disk_is_not_asked_for_its_holes_at_each_page() {
    let (source, _) = disks();
    let signatures = vec![[1; 32].into(); SIZE / 4096];
    let mut comparer = Comparer::new(session());
    feed::<Error>(&mut comparer, &source, &signatures, 8, |_| Ok(())).unwrap();
    assert!(source.maps() < 4, "asked {} times", source.maps());
}

#[test]
fn dense_disks_are_not_asked_for_their_holes_at_each_window() {
    for threads in [1, 2, 5] {
        let disk = TestDisk::new(SIZE);
        disk.put(extent(0, SIZE as u64), |at| {
            (at / 4096).to_le_bytes()[0] | 1
        });
        let (source, target) = (disk.clone(), disk);
        // It tells of two runs.
        resync(&source, &target, &mut session(), threads).unwrap();
        assert_eq!((source.maps(), target.maps()), (2, 2), "{threads} threads");
    }
}

#[test]
fn a_hole_that_is_written_between_two_pages_is_seen() {
    let source = TestDisk::new(SIZE);
    let signatures = vec![Signature::Zero; SIZE / 4096];
    let mut comparer = Comparer::<Sha256>::new(session());
    let first = SignaturePage::new(BlockIndex::new(0), &signatures[..8]);
    let result: Result<()> = comparer.compare(&source, first, |_| panic!("nothing differs"));
    result.unwrap();
    source.put(bad_block(), |_| 9);
    let mut sent = Vec::new();
    feed::<Error>(&mut comparer, &source, &signatures, 8, |change| {
        sent.extend(change.extent());
        Ok(())
    })
    .unwrap();
    assert_eq!(sent, [bad_block()]);
}
