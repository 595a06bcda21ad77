//! Whole histories on a real server: the store that AFTERIMAGE_TEST_STORE names, by URL, with the
//! settings of the environment. `.ci/cloud` starts servers and runs it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod faults;
mod history;

use std::sync::Arc;

use afterimage_block::SessionId;
use afterimage_store::{Replica, Store};
use faults::{Faulty, Weather};
use object_store::ObjectStore;
use object_store::prefix::PrefixStore;

/// The store's URL, with a folder of its own; `None` if there is no server.
fn url(name: &str) -> Option<String> {
    let url = std::env::var("AFTERIMAGE_TEST_STORE").ok()?;
    Some(format!("{url}/{name}-{}", SessionId::random()))
}

fn replica(store: &Store, name: &str) -> Replica {
    store.replica(name.parse().unwrap())
}

/// The same store in bad weather.
async fn in_weather(url: &str, weather: &Arc<Weather>) -> Store {
    let (objects, folder) =
        object_store::parse_url_opts(&url.parse().unwrap(), std::env::vars()).unwrap();
    let objects: Arc<dyn ObjectStore> = Arc::new(PrefixStore::new(objects, folder));
    let objects = Faulty::new(objects, Arc::clone(weather));
    history::done(async || Store::with_objects(objects.clone()).await).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn histories_read_back() {
    let Some(url) = url("history") else { return };
    let store = Store::open(&url).await.unwrap();
    let images = history::live(&replica(&store, "web-01"), 1, 24).await;
    drop(store);
    let fresh = Store::open_existing(&url).await.unwrap();
    history::check(&replica(&fresh, "web-01"), &images).await;
    assert_eq!(fresh.machines().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn histories_in_bad_weather_lose_nothing() {
    let Some(url) = url("weather") else { return };
    let weather = Weather::new(2, 4);
    let store = in_weather(&url, &weather).await;
    let images = history::live(&replica(&store, "web-01"), 2, 12).await;
    let fresh = Store::open_existing(&url).await.unwrap();
    history::check(&replica(&fresh, "web-01"), &images).await;
    eprintln!(
        "{} faults in {} requests",
        weather.faults(),
        weather.requests()
    );
    assert!(weather.faults() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_writers_one_wins_in_50_of_50() {
    let Some(url) = url("race") else { return };
    let weather = Weather::new(3, 40);
    let store = in_weather(&url, &weather).await;
    for round in 0..50 {
        let replica = replica(&store, &format!("race-{round}"));
        history::race(&replica, round, round % 2 == 0).await;
    }
    eprintln!(
        "{} faults in {} requests",
        weather.faults(),
        weather.requests()
    );
    assert!(weather.faults() >= 2000, "{}", weather.faults());
}

/// A folder of a store that was never begun is not taken for an empty store.
#[tokio::test]
async fn what_is_not_there_is_unreachable() {
    let Some(url) = url("none") else { return };
    let error = Store::open_existing(&url).await.unwrap_err();
    assert!(error.is_recoverable(), "{error}");
    assert!(error.to_string().contains("there is no store"), "{error}");
}
