//! Who is not let in, what a certificate does not give, and what is kept.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use afterimage_server::{Limits, Refused};
use common::Site;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode};

fn manifest(machine: &str) -> Path {
    Path::from(format!("machines/{machine}/manifest.json"))
}

#[tokio::test]
async fn who_is_not_listed_or_of_another_authority_is_refused() {
    let mut site = Site::new();
    let host = site.client("host", "machines = ['a']");
    let stranger = site.stranger("stranger");
    let mut other = Site::new();
    let elsewhere = other.client("host", "machines = ['a']");
    let objects = Arc::new(InMemory::new());
    objects.put(&manifest("a"), "secret".into()).await.unwrap();
    let running = site.serve(objects, Limits::default()).await;
    let get = async |issued| running.client(issued).get(&manifest("a")).await;
    assert_eq!(get(&host).await.unwrap().bytes().await.unwrap(), "secret");
    // The connection of a stranger ends before anything is asked.
    assert!(get(&stranger).await.is_err());
    // A server that is of another authority than the client's is not believed, nor such a client.
    let error = get(&elsewhere).await.unwrap_err();
    assert!(matches!(error, Error::Unauthenticated { .. }), "{error}");
    let mut mixed = elsewhere.clone();
    mixed.identity.authority = host.identity.authority.clone();
    // It is told why, unless its own words overtake that.
    assert!(get(&mixed).await.is_err());
    assert!(get(&host).await.is_ok(), "nobody else is hindered");
}

#[tokio::test]
async fn a_certificate_is_for_its_machines_only() {
    let mut site = Site::new();
    let host = site.client("host", "machines = ['a', 'b']");
    let operator = site.client("operator", "machines = ['*']");
    let objects = Arc::new(InMemory::new());
    for path in ["machines/c/manifest.json", "afterimage.json", "elsewhere"] {
        objects.put(&Path::from(path), "1".into()).await.unwrap();
    }
    let running = site
        .serve(Arc::clone(&objects) as _, Limits::default())
        .await;
    let (client, all) = (running.client(&host), running.client(&operator));
    let denied = |error: Error| assert!(matches!(error, Error::PermissionDenied { .. }), "{error}");
    denied(client.get(&manifest("c")).await.unwrap_err());
    denied(client.put(&manifest("c"), "2".into()).await.unwrap_err());
    denied(client.delete(&manifest("c")).await.unwrap_err());
    denied(
        client
            .put_multipart(&manifest("c"))
            .await
            .map(drop)
            .unwrap_err(),
    );
    denied(client.get(&Path::from("elsewhere")).await.unwrap_err());
    denied(client.get(&Path::from("machines/a")).await.unwrap_err());
    // Nobody begins or ends a store from elsewhere.
    let marker = Path::from("afterimage.json");
    assert!(client.get(&marker).await.is_ok());
    denied(client.put(&marker, "2".into()).await.unwrap_err());
    denied(all.delete(&marker).await.unwrap_err());
    for machine in ["a", "b"] {
        client.put(&manifest(machine), "1".into()).await.unwrap();
    }
    let machines = Path::from("machines");
    let seen = async |client: &dyn ObjectStore| {
        let found = client.list_with_delimiter(Some(&machines)).await.unwrap();
        found.common_prefixes.len()
    };
    assert_eq!((seen(&client).await, seen(&all).await), (2, 3));
    let folder = Path::from("machines/a");
    let listed: Vec<_> = client.list(Some(&folder)).try_collect().await.unwrap();
    assert_eq!(listed[0].location, manifest("a"));
    for folder in [Some(Path::from("machines/c")), Some(machines.clone()), None] {
        let listed: Result<Vec<_>, _> = client.list(folder.as_ref()).try_collect().await;
        denied(listed.unwrap_err());
    }
    assert_eq!(
        objects
            .get(&manifest("c"))
            .await
            .unwrap()
            .bytes()
            .await
            .unwrap(),
        "1"
    );
}

#[tokio::test]
async fn a_quota_is_kept_and_told() {
    let mut site = Site::new();
    let host = site.client("host", "machines = ['a', 'b']\nquota = '1MiB'");
    let running = site
        .serve(Arc::new(InMemory::new()), Limits::default())
        .await;
    let client = running.client(&host);
    let path = |name: &str| Path::from(format!("machines/a/{name}"));
    client
        .put(&path("1"), vec![0; 600 << 10].into())
        .await
        .unwrap();
    let error = client
        .put(&path("2"), vec![0; 600 << 10].into())
        .await
        .unwrap_err();
    let Error::Generic { source, .. } = &error else {
        panic!("{error}")
    };
    let limit = 1 << 20;
    assert_eq!(
        source.downcast_ref(),
        Some(&Refused::Quota {
            used: 600 << 10,
            limit
        })
    );
    assert!(
        client.head(&path("2")).await.is_err(),
        "nothing of it is there"
    );
    // In parts, too; and an upload that is given up gives its room back.
    let mut upload = client.put_multipart(&path("3")).await.unwrap();
    upload.put_part(vec![0; 300 << 10].into()).await.unwrap();
    assert!(upload.put_part(vec![0; 300 << 10].into()).await.is_err());
    assert!(
        client
            .put(&path("4"), vec![0; 300 << 10].into())
            .await
            .is_err()
    );
    upload.abort().await.unwrap();
    client
        .put(&path("4"), vec![0; 300 << 10].into())
        .await
        .unwrap();
    // Another machine has a quota of its own; and many small objects are no way around it.
    let mut small = 0;
    while client
        .put(&Path::from(format!("machines/b/{small}")), "1".into())
        .await
        .is_ok()
    {
        small += 1;
    }
    assert_eq!(small, 256);
}

#[tokio::test]
async fn what_was_stored_is_kept_where_one_may_only_append() {
    let mut site = Site::new();
    let host = site.client("host", "machines = ['a']\nappend_only = true");
    let objects = Arc::new(InMemory::new());
    let running = site
        .serve(Arc::clone(&objects) as _, Limits::default())
        .await;
    let client = running.client(&host);
    let path = Path::from("machines/a/chunk");
    client.put(&path, "good".into()).await.unwrap();
    let error = client.delete(&path).await.unwrap_err();
    assert!(matches!(error, Error::PermissionDenied { .. }), "{error}");
    let kept = async || {
        let folder = Path::from("replaced");
        let kept: Vec<_> = objects.list(Some(&folder)).try_collect().await.unwrap();
        kept.into_iter()
            .map(|meta| meta.location)
            .collect::<Vec<_>>()
    };
    client.put(&path, "good".into()).await.unwrap();
    assert_eq!(kept().await, [], "put again, it is the same");
    client.put(&path, "evil".into()).await.unwrap();
    client.put(&path, "evil again".into()).await.unwrap();
    let [kept] = kept().await.try_into().unwrap();
    assert_eq!(
        objects.get(&kept).await.unwrap().bytes().await.unwrap(),
        "good"
    );
    assert!(client.get(&kept).await.is_err(), "out of reach");
    // What a store is tried on can be taken away.
    let probe = Path::from("probe-1");
    client
        .put_opts(&probe, "1".into(), PutMode::Create.into())
        .await
        .unwrap();
    client.delete(&probe).await.unwrap();
}
