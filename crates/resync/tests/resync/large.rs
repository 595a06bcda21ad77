//! Disks of terabytes, nearly all holes, and disks that are real files.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;

use afterimage_block::{BlockRead, BlockWrite, Length, MemoryDisk, Offset, RawDisk};
use afterimage_resync::{BlockSize, LocalResync, Scope, Session, Signer};
use sha2::Sha256;

fn resync(source: &dyn BlockRead, target: &dyn BlockWrite) -> Session {
    let mut session = Session::whole(source.size(), BlockSize::default());
    LocalResync::new(source, target)
        .unwrap()
        .threads(NonZeroUsize::new(2).unwrap())
        .run(&mut session, |_| ControlFlow::Continue(()))
        .unwrap();
    session
}

/// Data around every power of two that offsets have been cut off at, and at the disk's end.
fn fill(disk: &dyn BlockWrite, seed: u8) {
    let marks = [
        0,
        1 << 31,
        1 << 32,
        1 << 37,
        1 << 41,
        disk.size().get() - 512,
    ];
    for at in marks {
        disk.write_at(Offset::new(at), &[seed; 512]).unwrap();
    }
}

#[test]
fn three_tebibytes_of_holes_cost_what_their_data_costs() {
    let size = Length::new(3 << 40).saturating_add(Length::new(512));
    let (source, target) = (MemoryDisk::new(size), MemoryDisk::new(size));
    fill(&source, 1);
    fill(&target, 2);
    // One more block of the target must go, behind what 32 bits of sectors reach.
    target
        .write_at(Offset::new((1 << 41) + (1 << 20)), &[3; 512])
        .unwrap();
    let summary = resync(&source, &target).summary();
    assert_eq!(summary.compared, size);
    assert_eq!(summary.sent, Length::new(5 * 65_536 + 512));
    assert_eq!(summary.zeroed, Length::kib(64));
    assert_eq!(summary.read, Length::new(11 * 65_536 + 2 * 512));
    let again = resync(&source, &target).summary();
    assert_eq!(again.equal, size);
}

#[test]
fn files_become_equal_and_keep_their_holes() {
    let folder = tempfile::tempdir().unwrap();
    let size = Length::mib(64).saturating_add(Length::new(512));
    let create = |name| RawDisk::create(folder.path().join(name), size).unwrap();
    let (source, target) = (create("source.raw"), create("target.raw"));
    let data: Vec<u8> = (0..3_000_000_u32)
        .map(|at| at.to_le_bytes()[1] | 1)
        .collect();
    source.write_at(Offset::new(20_000_256), &data).unwrap();
    target.write_at(Offset::new(40_000_000), &data).unwrap();
    let summary = resync(&source, &target).summary();
    assert!(summary.sent.get() < 3_200_000 && summary.zeroed.get() < 3_200_000);

    let bytes = |name| std::fs::read(folder.path().join(name)).unwrap();
    assert!(bytes("source.raw") == bytes("target.raw"));
    let whole = Scope::whole(size, BlockSize::default());
    let signed = |disk: &RawDisk| {
        let mut signer = Signer::<Sha256>::new(disk, whole.clone(), Offset::ZERO).unwrap();
        let all: Vec<_> = signer.by_ref().map(Result::unwrap).collect();
        (all, signer.read())
    };
    let ((ours, _), (theirs, read)) = (signed(&source), signed(&target));
    assert_eq!(ours, theirs);
    // Where the filesystem tells holes, what was zeroed is one again.
    assert!(read <= size);
}
