//! Whole histories on a store that loses, delays, repeats, cuts and refuses.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod faults;
mod history;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use afterimage_store::{Replica, Store};
use faults::{Fault, Faulty, Weather};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

async fn store(weather: &Arc<Weather>) -> (Store, Arc<InMemory>) {
    let memory = Arc::new(InMemory::new());
    let inner: Arc<dyn ObjectStore> = memory.clone();
    let objects = Faulty::new(inner, Arc::clone(weather));
    let open = async || Store::with_objects(objects.clone()).await;
    (history::done(open).await, memory)
}

fn replica(store: &Store, name: &str) -> Replica {
    store.replica(name.parse().unwrap())
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap()
}

#[test]
fn histories_lose_nothing() {
    let config = ProptestConfig {
        cases: 12,
        max_shrink_iters: 8,
        ..ProptestConfig::default()
    };
    let faults = AtomicUsize::new(0);
    let histories = (any::<u64>(), 1_u32..6, 4_u64..24, any::<[bool; 2]>());
    let lived = TestRunner::new(config).run(&histories, |(seed, percent, generations, kind)| {
        let met = runtime().block_on(lose_nothing(seed, percent, generations, kind))?;
        faults.fetch_add(met, Ordering::Relaxed);
        Ok(())
    });
    lived.unwrap();
    // A short history in good weather may meet none.
    assert!(faults.into_inner() > 0);
}

/// Lives through a history; how many faults it met.
async fn lose_nothing(
    seed: u64,
    percent: u32,
    generations: u64,
    [encrypted, packing]: [bool; 2],
) -> Result<usize, TestCaseError> {
    let key = encrypted.then(|| history::key(1));
    let weather = Weather::new(seed, percent);
    let (store, memory) = store(&weather).await;
    let mut store = store.with_key(key.clone());
    if packing {
        store = store.with_inlining(history::PACKING);
    }
    let images = history::live(&replica(&store, "a"), seed, generations).await;
    history::check(&replica(&store, "a"), &images).await;
    weather.clears();
    let names = store.machines().await.unwrap();
    prop_assert_eq!(names, vec!["a".parse().unwrap()]);
    // Also for one who comes later, to the same objects.
    let fresh = Store::with_objects(memory).await.unwrap().with_key(key);
    history::check(&replica(&fresh, "a"), &images).await;
    Ok(weather.faults())
}

#[test]
fn of_two_writers_one_wins_in_50_of_50() {
    runtime().block_on(async {
        let weather = Weather::new(7, 40);
        let (store, _) = store(&weather).await;
        for round in 0..50 {
            let replica = replica(&store, &format!("race-{round}"));
            history::race(&replica, round, round % 2 == 0).await;
        }
        for fault in [
            Fault::Before,
            Fault::After,
            Fault::Late,
            Fault::Busy,
            Fault::Cut,
        ] {
            let count = weather.count(fault);
            assert!(
                count >= 25,
                "{fault:?}: {count} of {} requests",
                weather.requests()
            );
        }
        assert!(weather.faults() >= 2000, "{}", weather.faults());
    });
}

/// A list that is old may lack a machine, and harms nothing else.
#[test]
fn a_stale_list_lacks_at_most_what_is_new() {
    runtime().block_on(async {
        let weather = Weather::new(3, 60);
        let (store, _) = store(&weather).await;
        for name in ["a", "b"] {
            history::claim(&replica(&store, name)).await;
            for _ in 0..20 {
                let names = history::done(async || store.machines().await).await;
                assert_eq!(names[0].as_str(), "a");
            }
        }
        assert!(weather.count(Fault::Stale) > 0);
        weather.clears();
        assert!(replica(&store, "b").existing().await.is_ok());
    });
}

/// What flips on the way is no damage: it is read again.
#[test]
fn bits_that_flip_on_the_way_are_no_damage() {
    runtime().block_on(async {
        for key in [None, Some(history::key(1))] {
            let memory = Arc::new(InMemory::new());
            let flipping = Store::with_objects(Faulty::flipping(memory.clone())).await;
            let flipping = flipping.unwrap().with_key(key.clone());
            let images = history::live(&replica(&flipping, "a"), 5, 12).await;
            history::check(&replica(&flipping, "a"), &images).await;
            let whole = Store::with_objects(memory).await.unwrap().with_key(key);
            history::check(&replica(&whole, "a"), &images).await;
            let mut scrub = replica(&flipping, "a").scrub();
            while let Some(step) = scrub.step().await.unwrap() {
                assert_eq!(step.damage, []);
            }
        }
    });
}
