//! Both ends on threads, with a pipe between them.

use std::io::{self, Read, Write, pipe};
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use afterimage_block::{BlockRead, BlockWrite, Extent, Length, MemoryDisk, Offset, Run, Zeroing};
use afterimage_resync::protocol::{Message, Reason};
use afterimage_resync::remote::{Cursor, RemoteProgress, Terms};
use afterimage_resync::{BlockSize, Driver, Error, Reread, Result, Side};
use proptest::prelude::*;

use super::pair::{Dice, filled, terms};
use crate::disk::{Fault, TestDisk, extent};
use crate::world::{cases, worlds};

type Ended = (Result<RemoteProgress>, Result<RemoteProgress>);

fn run(
    near: Driver<'_>,
    far: impl FnOnce() -> Result<RemoteProgress> + Send,
    source: &dyn BlockRead,
    (reader, writer): (impl Read + Send + 'static, impl Write + Send + 'static),
) -> Ended {
    thread::scope(|scope| {
        let far = scope.spawn(far);
        let near = near.run_source(source, reader, writer);
        (near, far.join().unwrap())
    })
}

/// Over a pipe that breaks after so many bytes each way.
fn over_pipe(source: &dyn BlockRead, target: &dyn BlockWrite, terms: Terms, cut: usize) -> Ended {
    let ((far_in, near_out), (near_in, far_out)) = (pipe().unwrap(), pipe().unwrap());
    let (near_out, far_out) = (Cut(near_out, cut), Cut(far_out, cut));
    let two = NonZeroUsize::new(2).unwrap();
    let far = || {
        Driver::new(terms)
            .threads(two)
            .run_target(target, far_in, far_out)
    };
    run(
        Driver::new(terms).threads(two),
        far,
        source,
        (near_in, near_out),
    )
}

/// Writes so many bytes and then no more.
struct Cut<W>(W, usize);

impl<W: Write> Write for Cut<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.1 == 0 {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let count = self.0.write(&bytes[..bytes.len().min(self.1)])?;
        self.1 -= count;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

proptest! {
    #![proptest_config(cases(12))]

    #[test]
    fn disks_become_equal_over_a_pipe(world in worlds()) {
        let terms = terms(world.source.size(), world.block);
        let (near, far) = over_pipe(&world.source, &world.target, terms, usize::MAX);
        let (near, far) = (near.unwrap(), far.unwrap());
        prop_assert!(world.target.bytes() == world.source.bytes());
        prop_assert!(world.target.is_flushed());
        prop_assert_eq!(near, far);
    }

    #[test]
    fn a_pipe_that_breaks_at_any_byte_is_an_error_and_the_next_one_ends_it(
        world in worlds(), cuts in prop::collection::vec(1..60_000_usize, 1..5)
    ) {
        let terms = terms(world.source.size(), world.block);
        for cut in cuts {
            let (near, far) = over_pipe(&world.source, &world.target, terms, cut);
            for error in [near.err(), far.err()].into_iter().flatten() {
                prop_assert!(error.is_recoverable(), "{}", error);
            }
        }
        let (near, far) = over_pipe(&world.source, &world.target, terms, usize::MAX);
        prop_assert!(near.is_ok() && far.is_ok());
        prop_assert!(world.target.bytes() == world.source.bytes());
    }
}

#[test]
fn one_tebibyte_of_holes_costs_what_its_data_costs() {
    let size = Length::new((1 << 40) + 512);
    let (source, target) = (MemoryDisk::new(size), MemoryDisk::new(size));
    for at in [0, 1 << 32, 3 << 37, size.get() - 512] {
        source.write_at(Offset::new(at), &[7; 512]).unwrap();
    }
    target.write_at(Offset::new(5 << 36), &[7; 512]).unwrap();
    let terms = terms(size, BlockSize::MAX);
    let (near, far) = over_pipe(&source, &target, terms, usize::MAX);
    let near = near.unwrap();
    assert_eq!(near, far.unwrap());
    assert_eq!(near.sent, Length::new((3 << 24) + 512));
    // The unit is zeros on the source: it goes as one run.
    assert_eq!(near.zeroed, Length::gib(1));
    let mut last = [0; 512];
    target
        .read_at(Offset::new(size.get() - 512), &mut last)
        .unwrap();
    assert_eq!(last, [7; 512]);
    target.read_at(Offset::new(5 << 36), &mut last).unwrap();
    assert_eq!(last, [0; 512]);
}

/// Counts how often it is asked for anything.
struct Counted(MemoryDisk, AtomicU64);

impl BlockRead for Counted {
    fn size(&self) -> Length {
        self.0.size()
    }

    fn read_at(&self, offset: Offset, buf: &mut [u8]) -> afterimage_block::Result<()> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.read_at(offset, buf)
    }

    fn next_run(&self, from: Offset) -> afterimage_block::Result<Option<Run>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.next_run(from)
    }
}

#[test]
fn a_hole_is_looked_at_once_however_large_it_is() {
    let size = Length::new((1 << 38) + 512);
    let source = Counted(MemoryDisk::new(size), AtomicU64::new(0));
    for at in [1 << 30, 3 << 35, size.get() - 512] {
        source.0.write_at(Offset::new(at), &[7; 512]).unwrap();
    }
    let [blank, other] = [(); 2].map(|()| MemoryDisk::new(size));
    other.write_at(Offset::new(5 << 34), &[7; 512]).unwrap();
    let terms = terms(size, BlockSize::default());
    for target in [&blank, &other] {
        source.1.store(0, Ordering::Relaxed);
        let (near, far) = over_pipe(&source, target, terms, usize::MAX);
        let near = near.unwrap();
        assert_eq!(near.sent, far.unwrap().sent);
        assert_eq!(near.sent, Length::new((2 << 16) + 512));
        let mut found = [0; 512];
        for at in [1 << 30, 3 << 35, size.get() - 512, 5 << 34] {
            target.read_at(Offset::new(at), &mut found).unwrap();
            assert_eq!(found == [7; 512], at != 5 << 34);
        }
        // It has 65 537 units.
        let asked = source.1.load(Ordering::Relaxed);
        assert!(asked < 8192, "{asked}");
    }
}

/// 26 MiB in blocks of 4 KiB of which a third differ.
fn disks() -> (TestDisk, TestDisk) {
    let byte = |at: usize| (at / 4096 * 7).to_le_bytes()[0] | 1;
    let source = filled(64 * 100, BlockSize::MIN, byte);
    let target = filled(64 * 100, BlockSize::MIN, |at| {
        if at / 4096 % 3 == 0 { 2 } else { byte(at) }
    });
    (source, target)
}

#[test]
fn a_target_that_is_stopped_goes_on_with_what_it_saved() {
    let (source, target) = disks();
    let terms = terms(source.size(), BlockSize::MIN);
    let saved: Mutex<Option<Cursor>> = Mutex::new(None);
    let mut dice = Dice::new(8);
    let mut stops = 0;
    let mut hashed = Vec::new();
    loop {
        let limit = Length::new(dice.roll(2 << 20) as u64 + 1);
        let ((far_in, near_out), (near_in, far_out)) = (pipe().unwrap(), pipe().unwrap());
        let mut driver = Driver::new(terms);
        let cursor = saved.lock().unwrap().clone();
        if let Some(cursor) = cursor {
            driver = driver.resume(cursor);
        }
        let mut first = None;
        let observe = |progress: RemoteProgress| {
            first.get_or_insert(progress.hashed);
            let more = progress.sent < limit || stops == 3;
            if more {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        };
        let save = |cursor: &Cursor| {
            *saved.lock().unwrap() = Some(cursor.clone());
            Ok(())
        };
        let far = driver.observe(observe).save(save);
        let (near, far) = thread::scope(|scope| {
            let near = scope.spawn(|| Driver::new(terms).run_source(&source, near_in, near_out));
            (
                far.run_target(&target, far_in, far_out),
                near.join().unwrap(),
            )
        });
        hashed.extend(first);
        if near.is_ok() && far.is_ok() {
            break;
        }
        let (stopped, told) = (near.unwrap_err(), far.unwrap_err());
        assert!(matches!(stopped, Error::Stopped), "{stopped}");
        let by_peer =
            matches!(&told, Error::Peer { farewell } if farewell.reason == Reason::Stopped);
        assert!(by_peer && told.is_recoverable(), "{told}");
        stops += 1;
    }
    assert_eq!(stops, 3);
    assert!(target.bytes() == source.bytes());
    // The first began at nothing, the others with all but a part.
    let part = Length::new(16 * 64 * 4096);
    assert_eq!(hashed[0], Length::ZERO);
    assert!(
        hashed[1..]
            .iter()
            .all(|hashed| *hashed >= source.size().saturating_sub(part))
    );
}

#[test]
fn a_dry_run_of_either_end_tells_what_would_be_sent_and_changes_nothing() {
    let (source, target) = disks();
    source.punch(extent(64 * 4096, 64 * 4096));
    let before = target.bytes();
    let terms = terms(source.size(), BlockSize::MIN);
    let ((far_in, near_out), (near_in, far_out)) = (pipe().unwrap(), pipe().unwrap());
    let (dry, far) = thread::scope(|scope| {
        let far = scope.spawn(|| Driver::new(terms).run_target(&target, far_in, far_out));
        let dry = Driver::new(terms).dry_run_source(&source, near_in, near_out);
        (dry.unwrap(), far.join().unwrap().unwrap_err())
    });
    assert!(
        matches!(&far, Error::Peer { farewell } if farewell.reason == Reason::Stopped),
        "{far}"
    );
    let ((far_in, near_out), (near_in, far_out)) = (pipe().unwrap(), pipe().unwrap());
    let far = || {
        Driver::new(terms)
            .conclude(|| panic!("it is only compared"))
            .dry_run_target(&target, far_in, far_out)
    };
    let (told, asked) = run(Driver::new(terms), far, &source, (near_in, near_out));
    assert!(target.bytes() == before && target.writes().is_empty());
    let (near, _) = over_pipe(&source, &target, terms, usize::MAX);
    let near = near.unwrap();
    assert!(near.sent > Length::ZERO && near.zeroed > Length::ZERO);
    let is_dry = true;
    let near = RemoteProgress { is_dry, ..near };
    assert_eq!((dry, told.unwrap()), (near, near));
    let asked = asked.unwrap();
    assert_eq!((asked.sent, asked.zeroed), (near.sent, near.zeroed));
}

#[test]
fn the_source_is_told_only_what_the_target_has_concluded() {
    for fails in [false, true] {
        let (source, target) = disks();
        let terms = terms(source.size(), BlockSize::MIN);
        let concluded = Mutex::new(0);
        let ((far_in, near_out), (near_in, far_out)) = (pipe().unwrap(), pipe().unwrap());
        let far = || {
            let far = Driver::new(terms).conclude(|| {
                assert!(target.bytes() == source.bytes() && target.is_flushed());
                *concluded.lock().unwrap() += 1;
                if fails {
                    return Err("it did not work".into());
                }
                Ok(())
            });
            far.run_target(&target, far_in, far_out)
        };
        let near = Driver::new(terms).conclude(|| panic!("it is not the target"));
        let (near, far) = run(near, far, &source, (near_in, near_out));
        assert_eq!(*concluded.lock().unwrap(), 1);
        if fails {
            let (near, far) = (near.unwrap_err(), far.unwrap_err());
            assert!(matches!(far, Error::Conclude { .. }), "{far}");
            assert!(near.to_string().contains("it did not work"), "{near}");
        } else {
            assert!(near.is_ok() && far.is_ok());
        }
    }
}

#[test]
fn a_disk_that_fails_is_named_and_the_other_end_is_told() {
    let (block, all) = (extent(70 * 4096, 4096), extent(0, 64 * 100 * 4096));
    let faults = [
        (Fault::Read, Side::Source, block),
        (Fault::Read, Side::Target, block),
        (Fault::Map, Side::Target, extent(0, 1)),
        (Fault::Write, Side::Target, all),
        (Fault::Flush, Side::Target, all),
    ];
    for (fault, side, at) in faults {
        let (source, target) = disks();
        let failing = if side == Side::Source {
            &source
        } else {
            &target
        };
        failing.fail(fault, at);
        let terms = terms(source.size(), BlockSize::MIN);
        let (near, far) = over_pipe(&source, &target, terms, usize::MAX);
        let (near, far) = (near.unwrap_err(), far.unwrap_err());
        let (own, told) = if side == Side::Source {
            (near, far)
        } else {
            (far, near)
        };
        let named = match &own {
            Error::Read {
                side: at, extent, ..
            } => *at == side && *extent == block,
            Error::Map { side: at, .. } => *at == side && fault == Fault::Map,
            Error::Write { .. } => fault == Fault::Write,
            Error::Flush { .. } => fault == Fault::Flush,
            _ => false,
        };
        assert!(named, "{fault:?}: {own}");
        let disk = matches!(&told, Error::Peer { farewell } if farewell.reason == Reason::Disk);
        assert!(disk, "{fault:?}: {told}");
    }
}

#[test]
fn a_dense_disk_is_not_asked_for_its_holes_at_each_unit() {
    let zeros = || filled(64 * 100, BlockSize::MIN, |_| 0);
    for (source, target) in [(disks().0, disks().0), (zeros(), zeros())] {
        let terms = terms(source.size(), BlockSize::MIN);
        let (near, far) = over_pipe(&source, &target, terms, usize::MAX);
        assert!(near.is_ok() && far.is_ok());
        let maps = (source.maps(), target.maps());
        assert!(maps.0 < 10 && maps.1 < 10, "{maps:?} of 100 units");
    }
}

/// Makes the disks equal, the target being asked by one of the ends to read so much once more.
fn reread(source: &TestDisk, target: &TestDisk, reread: Reread, by_source: bool) -> Ended {
    let terms = terms(source.size(), BlockSize::MIN);
    let ((far_in, near_out), (near_in, far_out)) = (pipe().unwrap(), pipe().unwrap());
    let driver = |asks: bool| {
        let driver = Driver::new(terms);
        if asks { driver.reread(reread) } else { driver }
    };
    let far = || driver(!by_source).run_target(target, far_in, far_out);
    run(driver(by_source), far, source, (near_in, near_out))
}

#[test]
fn a_target_is_read_once_more_if_either_end_asks_for_it() {
    for how in [Reread::Sample, Reread::Full] {
        for by_source in [true, false] {
            let (source, target) = disks();
            let (near, far) = reread(&source, &target, how, by_source);
            let (near, far) = (near.unwrap(), far.unwrap());
            assert!(source.bytes() == target.bytes() && near.sent == far.sent);
            let grid = terms(source.size(), BlockSize::MIN).grid;
            let part = how.scope(grid, terms(source.size(), BlockSize::MIN).session);
            assert_eq!((far.reread, far.to_reread), (part.total(), part.total()));
        }
    }
}

/// Takes one write for made that is not.
struct Forgetful(TestDisk, Extent);

impl BlockRead for Forgetful {
    fn size(&self) -> Length {
        self.0.size()
    }

    fn read_at(&self, offset: Offset, buf: &mut [u8]) -> afterimage_block::Result<()> {
        self.0.read_at(offset, buf)
    }
}

impl BlockWrite for Forgetful {
    fn write_at(&self, offset: Offset, data: &[u8]) -> afterimage_block::Result<()> {
        let extent = Extent::new(offset, Length::of(data)).unwrap();
        if extent.intersection(self.1).is_some() {
            return Ok(());
        }
        self.0.write_at(offset, data)
    }

    fn write_zeroes(&self, extent: Extent, zeroing: Zeroing) -> afterimage_block::Result<()> {
        self.0.write_zeroes(extent, zeroing)
    }

    fn discard(&self, extent: Extent) -> afterimage_block::Result<()> {
        self.0.discard(extent)
    }

    fn flush(&self) -> afterimage_block::Result<()> {
        self.0.flush()
    }
}

#[test]
fn a_write_that_is_lost_is_found_by_reading_once_more_and_by_nothing_else() {
    let terms = terms(disks().0.size(), BlockSize::MIN);
    let sample = Reread::Sample.scope(terms.grid, terms.session);
    let sampled = sample.next_from(Offset::ZERO).unwrap();
    // The first block from there on that differs.
    let lost = |from: Offset| extent(from.get().next_multiple_of(3 * 4096), 4096);
    let beside = lost(sampled.end());
    assert!(sample.next_from(beside.start()).unwrap().start() > beside.start());
    for (lost, how, is_found) in [
        (lost(sampled.start()), None, false),
        (lost(sampled.start()), Some(Reread::Sample), true),
        (beside, Some(Reread::Sample), false),
        (beside, Some(Reread::Full), true),
    ] {
        let (source, target) = disks();
        let target = Forgetful(target, lost);
        let ((far_in, near_out), (near_in, far_out)) = (pipe().unwrap(), pipe().unwrap());
        let near = Driver::new(terms);
        let near = how.into_iter().fold(near, Driver::reread);
        let far = || Driver::new(terms).run_target(&target, far_in, far_out);
        let (near, far) = run(near, far, &source, (near_in, near_out));
        assert_eq!(
            (near.is_err(), far.is_err()),
            (is_found, is_found),
            "{how:?}"
        );
        let told = match far {
            Err(Error::TargetChanged { extent }) => extent.intersection(lost) == Some(lost),
            ended => ended.is_ok(),
        };
        assert!(told && source.bytes() != target.0.bytes());
    }
}

#[test]
fn a_panic_in_a_disk_surfaces_and_hangs_nobody() {
    let (source, target) = disks();
    source.fail(Fault::Panic, extent(1 << 20, 1));
    let terms = terms(source.size(), BlockSize::MIN);
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        over_pipe(&source, &target, terms, usize::MAX)
    }));
    assert!(panicked.is_err());
}

#[test]
fn a_peer_that_talks_nonsense_is_told_so() {
    let (source, _) = disks();
    let terms = terms(source.size(), BlockSize::MIN);
    let ((_near_in, near_out), (far_in, mut far_out)) = (pipe().unwrap(), pipe().unwrap());
    far_out.write_all(&[0xFF; 64]).unwrap();
    let error = Driver::new(terms)
        .run_source(&source, far_in, near_out)
        .unwrap_err();
    assert!(matches!(error, Error::Undecodable(_)), "{error}");

    let ((mut near_in, near_out), (far_in, mut far_out)) = (pipe().unwrap(), pipe().unwrap());
    let early = Message::Written { count: 1 }.encode();
    far_out.write_all(&early.head).unwrap();
    let error = Driver::new(terms)
        .run_source(&source, far_in, near_out)
        .unwrap_err();
    assert!(matches!(error, Error::Violation { .. }), "{error}");
    let mut told = Vec::new();
    near_in.read_to_end(&mut told).unwrap();
    assert!(String::from_utf8_lossy(&told).contains("it is not its turn"));
}

#[test]
fn a_disk_of_another_size_is_refused_before_anything_is_said() {
    let (source, _) = disks();
    let terms = terms(Length::mib(1), BlockSize::MIN);
    let error = Driver::new(terms)
        .run_source(&source, io::empty(), io::sink())
        .unwrap_err();
    assert!(
        matches!(
            error,
            Error::OtherDisk {
                side: Side::Source,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn blake3_is_spoken_where_both_ends_chose_it() {
    use afterimage_resync::Algorithm;
    let (source, target) = disks();
    let sha = terms(source.size(), BlockSize::MIN);
    let algorithm = Algorithm::Blake3;
    let terms = Terms { algorithm, ..sha };
    let (near, far) = over_pipe(&source, &target, terms, usize::MAX);
    assert_eq!(near.unwrap(), far.unwrap());
    assert!(target.bytes() == source.bytes());

    let abc = Algorithm::Blake3.block(b"abc");
    let known = "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85";
    assert_eq!(format!("{abc:?}"), known);

    let ((far_in, near_out), (near_in, far_out)) = (pipe().unwrap(), pipe().unwrap());
    let far = || Driver::new(sha).run_target(&target, far_in, far_out);
    let (near, far) = run(Driver::new(terms), far, &source, (near_in, near_out));
    let parted = |ended: Result<RemoteProgress>| match ended.unwrap_err() {
        Error::OtherTerms { .. } => true,
        Error::Peer { farewell } => farewell.reason == Reason::OtherTerms,
        _ => false,
    };
    assert!(parted(near) && parted(far));
}
