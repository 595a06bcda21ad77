//! What holds for any two disks.

use std::ops::ControlFlow;

use afterimage_block::{Change, Extent, Length, Offset};
use afterimage_resync::{
    BlockIndex, Comparer, Error, LocalResync, Signature, Signer, Summary, sign,
};
use proptest::prelude::*;
use sha2::Sha256;

use crate::disk::{TestDisk, range};
use crate::world::{World, cases, feed, worlds};

fn total(extents: &[Extent]) -> Length {
    let lengths = extents.iter().map(|extent| extent.length());
    lengths.fold(Length::ZERO, Length::saturating_add)
}

/// A summary but for what is read.
fn found(summary: Summary) -> Summary {
    let read = Length::ZERO;
    Summary { read, ..summary }
}

/// Each read is of blocks that hold something.
fn reads_no_hole(world: &World, disk: &TestDisk, reads: &[Extent]) -> bool {
    let mut blocks = reads
        .iter()
        .flat_map(|read| read.pieces(world.block.length()));
    blocks.all(|block| disk.is_stored(block))
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn a_local_resync_makes_equal_and_touches_only_what_differs(world in worlds()) {
        let expected = world.expected();
        let healed = world.healed();
        let before = world.target.clone();
        let mut session = world.session();
        let mut last = session.progress();
        let total_in_doubt = last.total;
        LocalResync::new(&world.source, &world.target).unwrap()
            .threads(world.threads)
            .run(&mut session, |progress| {
                assert!(progress.cursor > last.cursor && progress.total == total_in_doubt);
                assert!(progress.summary.compared > last.summary.compared);
                last = progress;
                ControlFlow::Continue(())
            })
            .unwrap();

        prop_assert!(world.target.bytes() == healed);
        prop_assert!(world.target.is_flushed());
        prop_assert!(session.is_complete());
        prop_assert_eq!(session.progress(), last);
        let summary = session.summary();
        prop_assert_eq!(found(summary), expected);
        prop_assert_eq!(summary.compared, total_in_doubt);

        let written = total(&world.target.writes());
        prop_assert_eq!(written, expected.sent.saturating_add(expected.zeroed));
        prop_assert_eq!(total(&world.source.reads()), world.stored(&world.source));
        prop_assert!(reads_no_hole(&world, &world.source, &world.source.reads()));
        prop_assert_eq!(total(&world.target.reads()), world.stored(&before));
        prop_assert!(reads_no_hole(&world, &before, &world.target.reads()));
        let read = world.stored(&world.source).saturating_add(world.stored(&before));
        prop_assert_eq!(summary.read, read);
    }

    #[test]
    fn a_dry_run_finds_the_same_and_writes_nothing(world in worlds()) {
        let mut session = world.session();
        LocalResync::dry_run(&world.source, &world.target).unwrap()
            .threads(world.threads)
            .run(&mut session, |_| ControlFlow::Continue(()))
            .unwrap();
        prop_assert_eq!(found(session.summary()), world.expected());
        prop_assert_eq!(world.target.writes(), vec![]);
    }

    #[test]
    fn a_resync_by_signatures_makes_equal_and_sends_only_what_differs(
        world in worlds(), page in 1..40_usize,
    ) {
        let (expected, healed) = (world.expected(), world.healed());
        let signatures = world.signatures();
        let mut comparer = Comparer::new(world.session()).threads(world.threads);
        let mut at = Offset::ZERO;
        feed::<Error>(&mut comparer, &world.source, &signatures, page, |change| {
            let extent = change.extent().unwrap();
            assert!(extent.start() >= at && !matches!(change, Change::Discard(_)));
            at = extent.end();
            change.apply_to(&world.target).unwrap();
            Ok(())
        }).unwrap();

        prop_assert!(world.target.bytes() == healed);
        let session = comparer.into_session();
        prop_assert!(session.is_complete());
        let read = world.stored(&world.source);
        prop_assert_eq!(session.summary(), Summary { read, ..expected });
        prop_assert_eq!(total(&world.source.reads()), read);
    }

    #[test]
    fn signatures_are_those_of_the_bytes_and_holes_are_not_read(
        world in worlds(), start in any::<prop::sample::Index>(),
    ) {
        let disk = &world.source;
        let bytes = disk.bytes();
        let start = start.index(bytes.len()) as u64;
        let aligned = start / world.block.get() * world.block.get();
        let blocks = world.blocks_in_doubt().into_iter();
        let blocks: Vec<_> = blocks.filter(|block| block.start().get() >= aligned).collect();
        let mut signer = Signer::<Sha256>::new(disk, world.scope(), Offset::new(start)).unwrap();
        let signed: Vec<_> = signer.by_ref().map(Result::unwrap).collect();

        let index = |block: &Extent| BlockIndex::new(block.start().get() / world.block.get());
        let expected: Vec<(BlockIndex, Signature)> = blocks
            .iter()
            .map(|block| (index(block), sign(&bytes[range(*block)])))
            .collect();
        prop_assert_eq!(signed, expected);
        let stored: Vec<_> = blocks.into_iter().filter(|block| disk.is_stored(*block)).collect();
        prop_assert_eq!(total(&disk.reads()), total(&stored));
        prop_assert_eq!(signer.read(), total(&stored));
    }

    #[test]
    fn a_second_resync_finds_nothing(world in worlds()) {
        let resync = LocalResync::new(&world.source, &world.target).unwrap();
        resync.run(&mut world.session(), |_| ControlFlow::Continue(())).unwrap();
        let writes = world.target.writes().len();
        let mut again = world.session();
        resync.run(&mut again, |_| ControlFlow::Continue(())).unwrap();
        prop_assert_eq!(again.summary().equal, again.summary().compared);
        prop_assert_eq!(world.target.writes().len(), writes);
    }
}
