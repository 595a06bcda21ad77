//! A resync that is stopped, stored, and gone on with.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;

use afterimage_block::{Change, ExtentSet, Length};
use afterimage_resync::{Comparer, Error, LocalResync, Session};
use proptest::prelude::*;

use crate::disk::extent;
use crate::world::{cases, feed, worlds};

/// What a thread may have read in vain: four windows of both disks.
const WINDOWS_A_THREAD: Length = Length::kib(4 * 2 * 256);

/// Through a file, as a restart would.
fn restarted(session: &Session) -> Session {
    let stored = serde_json::to_string(session).unwrap();
    let restored = serde_json::from_str(&stored).unwrap();
    assert_eq!(*session, restored);
    restored
}

/// What a sink that stops returns.
#[derive(Debug)]
struct Stopped;

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        panic!("{error}")
    }
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn a_local_resync_stopped_at_every_step_ends_the_same(world in worlds()) {
        let expected = world.expected();
        let healed = world.healed();
        let read_once = world.stored(&world.source).saturating_add(world.stored(&world.target));
        let mut session = world.session();
        let mut runs = 0_u32;
        while !session.is_complete() {
            LocalResync::new(&world.source, &world.target).unwrap()
                .threads(world.threads)
                .run(&mut session, |_| ControlFlow::Break(()))
                .unwrap();
            prop_assert!(world.target.is_flushed());
            session = restarted(&session);
            runs += 1;
        }
        prop_assert!(world.target.bytes() == healed);
        let summary = session.summary();
        prop_assert_eq!(
            (summary.compared, summary.equal.saturating_add(summary.sent).saturating_add(summary.zeroed)),
            (expected.compared, expected.compared)
        );
        if world.threads == NonZeroUsize::MIN {
            prop_assert_eq!(summary.sent, expected.sent);
            prop_assert_eq!(summary.zeroed, expected.zeroed);
            prop_assert_eq!(summary.read, read_once);
        }
        let read: Length = [&world.source, &world.target].iter()
            .flat_map(|disk| disk.reads())
            .fold(Length::ZERO, |sum, read| sum.saturating_add(read.length()));
        let wasted = read.saturating_sub(read_once).get();
        let allowed = WINDOWS_A_THREAD.get() * world.threads.get() as u64 * u64::from(runs);
        prop_assert!(wasted <= allowed, "{} read in vain", wasted);
    }

    #[test]
    fn a_comparer_stopped_at_every_change_sends_each_block_once(
        world in worlds(), page in 1..40_usize, step in 1..4_usize,
    ) {
        let (expected, healed) = (world.expected(), world.healed());
        let signatures = world.signatures();
        let mut session = world.session();
        let mut taken = Length::ZERO;
        while !session.is_complete() {
            let mut comparer = Comparer::new(session).threads(world.threads);
            let mut left = step;
            let result = feed::<Stopped>(&mut comparer, &world.source, &signatures, page, |change| {
                if left == 0 {
                    return Err(Stopped);
                }
                left -= 1;
                let length = change.extent().unwrap().length();
                taken = taken.saturating_add(length);
                change.apply_to(&world.target).unwrap();
                Ok(())
            });
            prop_assert_eq!(result.is_err(), comparer.next_in_doubt().is_some());
            session = restarted(comparer.session());
        }
        prop_assert!(world.target.bytes() == healed);
        prop_assert_eq!(taken, expected.sent.saturating_add(expected.zeroed));
        prop_assert_eq!(session.summary().sent, expected.sent);
        prop_assert_eq!(session.summary().equal, expected.equal);
    }
}

#[test]
fn a_stored_session_that_contradicts_itself_is_refused() {
    let block = "4KiB".parse().unwrap();
    let doubtful = ExtentSet::from(extent(32_768, 32_768));
    let session = Session::of(Length::kib(64), block, &doubtful).unwrap();
    let stored = serde_json::to_value(&session).unwrap();
    let all = [("/summary/compared", 32_768), ("/summary/equal", 32_768)];
    let damages: [&[(&str, u64)]; 7] = [
        &[("/cursor", 1)],
        &[("/cursor", 36_864)],
        &[("/cursor", 65_536 + 4096), all[0], all[1]],
        &[all[0], all[1]],
        &[("/cursor", 65_536), all[0]],
        &[("/cursor", 65_536), all[0], ("/summary/equal", u64::MAX)],
        &[("/scope/0/block_size", 5000)],
    ];
    let restore = |damage: &[(&str, u64)]| {
        let mut stored = stored.clone();
        for (place, value) in damage {
            *stored.pointer_mut(place).unwrap() = (*value).into();
        }
        serde_json::from_value::<Session>(stored)
    };
    for damage in damages {
        assert!(restore(damage).is_err(), "{damage:?}");
    }
    let complete = restore(&[("/cursor", 65_536), all[0], all[1]]).unwrap();
    assert!(complete.is_complete());
    assert_eq!(restore(&[]).unwrap(), session);
}

#[test]
fn a_change_shows_what_the_source_held() {
    let source = crate::disk::TestDisk::dense(&[7; 8192]);
    let signatures = [[0; 32].into(), [1; 32].into()];
    let mut comparer = Comparer::new(Session::whole(Length::kib(8), "4KiB".parse().unwrap()));
    let mut seen = Vec::new();
    feed::<Error>(&mut comparer, &source, &signatures, 2, |change| {
        assert!(matches!(change, Change::Write { data, .. } if data == [7; 8192]));
        seen.push(change.extent().unwrap());
        Ok(())
    })
    .unwrap();
    assert_eq!(seen, [extent(0, 8192)]);
}
