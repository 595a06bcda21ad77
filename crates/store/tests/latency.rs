//! How long a delta and an opening take where each answer of the store takes 50 ms: counted by a clock that
//! stands still but for them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod machine;

use std::sync::Arc;
use std::time::Duration;

use afterimage_block::Length;
use afterimage_store::{Inlining, Store};
use futures::stream::TryStreamExt;
use machine::Machine;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use object_store::throttle::{ThrottleConfig, ThrottledStore};
use tokio::time::Instant;

const ROUND_TRIP: Duration = Duration::from_millis(50);

/// A machine of so many disks, and the objects of its replica.
async fn far_away(disks: usize, inlining: Inlining) -> (Machine, Arc<InMemory>) {
    let objects = Arc::new(InMemory::new());
    let config = ThrottleConfig {
        wait_delete_per_call: ROUND_TRIP,
        wait_get_per_call: ROUND_TRIP,
        wait_put_per_call: ROUND_TRIP,
        ..ThrottleConfig::default()
    };
    let far = ThrottledStore::new(Arc::clone(&objects), config);
    let store = Store::with_objects(Arc::new(far)).await.unwrap();
    let store = store.with_inlining(inlining);
    let replica = store.replica("a".parse().unwrap());
    (Machine::new(&replica, disks).await, objects)
}

/// How many answers were waited for, one after the other, since `begun`.
fn round_trips(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() / ROUND_TRIP.as_secs_f64()
}

async fn stored(objects: &InMemory) -> u64 {
    let all: Vec<_> = objects.list(None).try_collect().await.unwrap();
    all.iter().map(|meta| meta.size).sum()
}

#[tokio::test(start_paused = true)]
async fn scattered_writes_are_durable_after_one_round_trip_and_a_point_after_two() {
    let (mut machine, objects) = far_away(1, Inlining::default()).await;
    let changed = 1000 * 4096;
    let logs = machine.write(1000, 4096);
    let before = stored(&objects).await;
    let begun = Instant::now();
    machine.writer.put_log(0, &logs[0]).await.unwrap();
    assert!((round_trips(begun) - 1.0).abs() < 0.05, "{begun:?}");
    let begun = Instant::now();
    machine.ship(&logs).await.unwrap();
    let taken = round_trips(begun);
    assert!((taken - 2.0).abs() < 0.05, "{taken} round trips");
    let shipped = stored(&objects).await - before;
    // 1.02: headers of records, the index, and what the manifest says.
    assert!(shipped * 100 <= changed * 103, "{shipped} of {changed}");
    machine.check().await;
}

#[tokio::test(start_paused = true)]
async fn a_quiet_interval_takes_one_round_trip_and_many_disks_no_more_than_one() {
    for (length, expected) in [(100, 1.0), (40_000, 2.0)] {
        let (mut machine, _) = far_away(6, Inlining::default()).await;
        let logs = machine.write(1, length);
        let begun = Instant::now();
        machine.ship(&logs).await.unwrap();
        let taken = round_trips(begun);
        assert!((taken - expected).abs() < 0.05, "{length}: {taken}");
    }
}

/// As many as are kept before a fold; each in its own object, or in packs.
#[tokio::test(start_paused = true)]
async fn a_point_with_128_logs_opens_within_a_second() {
    let packed = Inlining {
        log_max: Length::kib(64),
        ..Inlining::default()
    };
    for (inlining, most) in [(Inlining::NONE, 0.75), (packed, 0.3)] {
        let (mut machine, _) = far_away(1, inlining).await;
        for _ in 0..128 {
            machine.shipped(4, 4096).await;
        }
        let begun = Instant::now();
        let replica = machine.writer.replica();
        replica.open_point(machine.last()).await.unwrap();
        let taken = begun.elapsed().as_secs_f64();
        assert!(taken <= most, "{taken} s");
        machine.check().await;
    }
}
