//! Whole lives of replicas on a store that another host serves, which is killed and started again, and is
//! reached over connections that are cut.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod cuts;
#[path = "../../store/tests/history/mod.rs"]
mod history;

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use afterimage_server::{Issued, Limits};
use afterimage_store::{Error, Store};
use common::{Running, Site};
use cuts::Cuts;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};

/// The settings of the environment for a client.
fn settings(issued: &Issued) -> Vec<(String, String)> {
    let identity = &issued.identity;
    let files = [
        ("AUTHORITY", &identity.authority),
        ("CERTIFICATE", &identity.certificate),
        ("KEY", &identity.key),
    ];
    let setting = |(name, path): (&str, &std::path::PathBuf)| {
        (
            format!("AFTERIMAGE_SERVER_{name}"),
            path.to_str().unwrap().to_owned(),
        )
    };
    files.into_iter().map(setting).collect()
}

async fn open(running: &Running, issued: &Issued) -> Store {
    history::done(async || Store::open_with(&running.url(), settings(issued)).await).await
}

/// A folder with a store in it.
async fn in_folder() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().to_str().unwrap()).await.unwrap();
    (folder, store)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_lives_by_url_alone() {
    let (_folder, here) = in_folder().await;
    let mut site = Site::new();
    let host = site.client("host", "machines = ['a']\nappend_only = true");
    let operator = site.client("operator", "machines = ['*']");
    let running = site.serve(here.objects(), Limits::default()).await;
    for key in [None, Some(history::key(1))] {
        let name = if key.is_some() { "b" } else { "a" };
        let issued = if key.is_some() { &operator } else { &host };
        let there = open(&running, issued).await.with_key(key.clone());
        let images = history::live(&there.replica(name.parse().unwrap()), 3, 18).await;
        // Also for who has the folder itself, and for another client.
        let folder = here.clone().with_key(key.clone());
        history::check(&folder.replica(name.parse().unwrap()), &images).await;
        let seen = open(&running, &operator).await.with_key(key);
        let replica = seen.replica(name.parse().unwrap());
        history::check(&replica, &images).await;
        assert!(history::damaged(replica.scrub()).await.is_empty());
    }
    let all = open(&running, &operator).await.machines().await.unwrap();
    assert_eq!(all.len(), 2);
    assert_eq!(
        open(&running, &host).await.machines().await.unwrap().len(),
        1
    );
    let there = open(&running, &host).await;
    let foreign = there
        .replica("b".parse().unwrap())
        .manifest()
        .await
        .unwrap_err();
    assert!(
        matches!(foreign, Error::Store { .. }) && !foreign.is_recoverable(),
        "{foreign}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_again_and_again_loses_nothing() {
    let (_folder, here) = in_folder().await;
    let mut site = Site::new();
    let host = site.client("host", "machines = ['a']");
    let mut running = site.serve(here.objects(), Limits::default()).await;
    let there = open(&running, &host).await;
    let replica = there.replica("a".parse().unwrap());
    let living = history::live(&replica, 5, 18);
    tokio::pin!(living);
    let (mut kills, mut random) = (0, fastrand::Rng::with_seed(5));
    let images = loop {
        tokio::select! {
            images = &mut living => break images,
            () = tokio::time::sleep(Duration::from_millis(random.u64(20..600))) => {
                site.restart(&mut running).await;
                kills += 1;
            }
        }
    };
    assert!(kills > 3, "{kills}");
    history::check(&here.replica("a".parse().unwrap()), &images).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_primaries_one_wins_in_50_of_50() {
    let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let here = Store::with_objects(Arc::clone(&objects)).await.unwrap();
    let mut site = Site::new();
    let host = site.client("host", "machines = ['*']");
    let running = site.serve(objects, Limits::default()).await;
    let cuts = Cuts::start(running.port, 6 << 20).await;
    let url = format!("afterimage://localhost:{}/", cuts.port);
    let open = async || Store::open_with(&url, settings(&host)).await;
    let there = history::done(open).await;
    for round in 0..50 {
        let replica = there.replica(format!("race-{round}").parse().unwrap());
        history::race(&replica, round, round % 2 == 0).await;
    }
    assert!(cuts.count() > 20, "{}", cuts.count());
    assert_eq!(here.machines().await.unwrap().len(), 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_is_cut_goes_on_where_it_was() {
    let objects = Arc::new(InMemory::new());
    let mut site = Site::new();
    let host = site.client("host", "machines = ['a']");
    let running = site
        .serve(Arc::clone(&objects) as _, Limits::default())
        .await;
    // Every connection breaks after 1.5 to 3 MiB; a part has 1.
    let cuts = Cuts::start(running.port, 3 << 20).await;
    let url = format!("afterimage://127.0.0.1:{}/", cuts.port);
    let client = afterimage_server::Client::new(&url, &host.identity).unwrap();
    let path = Path::from("machines/a/log");
    let content: Vec<u8> = (0..20_u32 << 20).map(|n| n.to_le_bytes()[2]).collect();
    let mut upload = client.put_multipart(&path).await.unwrap();
    for part in content.chunks(1 << 20) {
        upload
            .put_part(PutPayload::from(part.to_vec()))
            .await
            .unwrap();
    }
    upload.complete().await.unwrap();
    assert!(cuts.count() >= 5, "{}", cuts.count());
    assert!(objects.get(&path).await.unwrap().bytes().await.unwrap() == content);
}

#[tokio::test]
async fn settings_that_do_not_do_are_told() {
    let mut site = Site::new();
    let host = site.client("host", "machines = ['a']");
    let error = Store::open_with("afterimage://localhost:1/", [])
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("AFTERIMAGE_SERVER_AUTHORITY"),
        "{error}"
    );
    for url in [
        "afterimage://localhost/",
        "afterimage://h:1/folder",
        "afterimage://:1/",
    ] {
        let error = Store::open_with(url, settings(&host)).await.unwrap_err();
        assert!(matches!(error, Error::Url { .. }), "{error}");
    }
    let error = Store::open_with("afterimage://u:canary@h:1/", settings(&host))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::SecretInUrl { .. }), "{error}");
    let open_to_all = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(&host.identity.key, open_to_all).unwrap();
    let error = Store::open_with("afterimage://localhost:1/", settings(&host))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("chmod 600"), "{error}");
}
