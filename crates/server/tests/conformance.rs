//! What is served behaves as the store that is served: `object_store`'s own suites, over TLS.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use afterimage_server::{Client, Limits};
use afterimage_store::Store;
use common::{Running, Site};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{
    Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, UpdateVersion, integration,
};

async fn in_memory() -> (Running, Client) {
    let mut site = Site::new();
    let host = site.client("host", "machines = ['a']");
    let running = site
        .serve(Arc::new(InMemory::new()), Limits::default())
        .await;
    let client = running.client(&host);
    (running, client)
}

#[tokio::test]
async fn conditions_ranges_and_lists_are_those_of_the_store() {
    let (_running, client) = in_memory().await;
    let machine = |name: &str| PrefixStore::new(client.clone(), format!("machines/a/{name}"));
    integration::get_opts(&machine("get_opts")).await;
    integration::stream_get(&machine("stream_get")).await;
    integration::list_uses_directories_correctly(&machine("list")).await;
    integration::list_with_delimiter(&machine("folders")).await;
    integration::multipart_race_condition(&machine("race"), true).await;
}

fn update(e_tag: Option<String>) -> PutMode {
    PutMode::Update(UpdateVersion {
        e_tag,
        version: None,
    })
}

async fn conditions_hold(objects: Arc<dyn ObjectStore>) {
    let mut site = Site::new();
    let host = site.client("host", "machines = ['a']");
    let running = site.serve(objects, Limits::default()).await;
    let client = running.client(&host);
    let path = Path::from("machines/a/manifest.json");
    let put = async |text: &'static str, mode: PutMode| {
        client.put_opts(&path, text.into(), mode.into()).await
    };
    let error = put("0", update(Some("\"0\"".into()))).await.unwrap_err();
    assert!(matches!(error, Error::Precondition { .. }), "{error}");
    let first = put("1", PutMode::Create).await.unwrap().e_tag;
    let error = put("2", PutMode::Create).await.unwrap_err();
    assert!(matches!(error, Error::AlreadyExists { .. }), "{error}");
    assert_eq!(client.head(&path).await.unwrap().e_tag, first);
    let second = put("2", update(first.clone())).await.unwrap().e_tag;
    let error = put("3", update(first)).await.unwrap_err();
    assert!(matches!(error, Error::Precondition { .. }), "{error}");
    let found = client.get(&path).await.unwrap();
    assert_eq!(found.meta.e_tag, second);
    assert_eq!(found.bytes().await.unwrap(), "2");
    // Of many that replace the same, one does.
    let racing = (0..8).map(|number| {
        let (client, path, mode) = (client.clone(), path.clone(), update(second.clone()));
        async move {
            let put = client.put_opts(&path, number.to_string().into(), mode.into());
            put.await.is_ok()
        }
    });
    let won = futures::future::join_all(racing).await;
    assert_eq!(won.iter().filter(|won| **won).count(), 1);
}

#[tokio::test]
async fn conditions_hold_in_memory() {
    conditions_hold(Arc::new(InMemory::new())).await;
}

/// Which has none by itself.
#[tokio::test]
async fn conditions_hold_in_a_local_folder() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().to_str().unwrap()).await.unwrap();
    conditions_hold(store.objects()).await;
}

#[tokio::test]
async fn large_objects_come_whole_and_in_parts() {
    let (_running, client) = in_memory().await;
    let path = Path::from("machines/a/large");
    let content: Vec<u8> = (0..9_u32 << 20).map(|n| n.to_le_bytes()[1]).collect();
    client.put(&path, content.clone().into()).await.unwrap();
    let found = client.get(&path).await.unwrap();
    assert_eq!(found.meta.size, content.len() as u64);
    assert!(found.bytes().await.unwrap() == content);
    for range in [
        GetRange::Bounded(5 << 20..(8 << 20) + 1),
        GetRange::Offset((9 << 20) - 1),
        GetRange::Suffix(3),
    ] {
        let expected = range.as_range(content.len() as u64).unwrap();
        let options = GetOptions::new().with_range(Some(range));
        let found = client.get_opts(&path, options).await.unwrap();
        assert_eq!(
            (&found.range, found.meta.size),
            (&expected, content.len() as u64)
        );
        let part = usize::try_from(expected.start).unwrap()..usize::try_from(expected.end).unwrap();
        assert!(found.bytes().await.unwrap() == content[part]);
    }
    let empty = Path::from("machines/a/empty");
    client.put(&empty, "".into()).await.unwrap();
    assert_eq!(client.get(&empty).await.unwrap().bytes().await.unwrap(), "");
}
