//! Logs on their way to a store: what is sent is what was proved, and nothing that comes late is read.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod history;

use std::sync::Arc;

use afterimage_block::{Extent, Length, Offset, Sequence};
use afterimage_changelog::SealedLog;
use afterimage_store::{Error, Key, Replica, Store};
use bytes::Bytes;
use futures::stream::TryStreamExt;
use history::Primary;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::Value;

async fn replica(objects: &Arc<InMemory>, key: Option<&Key>) -> Replica {
    let store = Store::with_objects(Arc::clone(objects) as _).await;
    let store = store.unwrap().with_key(key.cloned());
    store.replica("a".parse().unwrap())
}

/// The objects whose path has `part` in it.
async fn with(objects: &InMemory, part: &str) -> Vec<(Path, Bytes)> {
    let all: Vec<_> = objects.list(None).try_collect().await.unwrap();
    let mut found = Vec::new();
    for path in all.into_iter().map(|meta| meta.location) {
        if path.as_ref().contains(part) {
            let content = objects.get(&path).await.unwrap().bytes().await.unwrap();
            found.push((path, content));
        }
    }
    found
}

/// Every part of a log: its header, a record, the footer's head and pieces, the trailer.
fn places(log: &SealedLog) -> Vec<u64> {
    let length = log.summary().file_length.get();
    let footer_at = length - 32 - 128;
    vec![
        9,
        200,
        length / 2,
        footer_at - 200,
        footer_at,
        length - 40,
        length - 20,
        length - 1,
    ]
}

#[tokio::test]
async fn a_log_that_is_damaged_after_it_was_proved_is_not_stored() {
    for key in [None, Some(history::key(1))] {
        let objects = Arc::new(InMemory::new());
        let replica = replica(&objects, key.as_ref()).await;
        let mut primary = Primary::new(1);
        let writer = history::claim(&replica).await;
        primary.copy(&writer).await;
        // In one request, and in parts.
        for (sequence, length) in [(2, 300_000), (3, 9 << 20)] {
            let log = primary.rewrite(sequence, Offset::ZERO, &vec![1; length]);
            let log = SealedLog::open(log.path()).unwrap();
            let whole = std::fs::read(log.path()).unwrap();
            let before = with(&objects, "/logs/").await;
            for at in places(&log) {
                let mut damaged = whole.clone();
                damaged[usize::try_from(at).unwrap()] ^= 1;
                std::fs::write(log.path(), damaged).unwrap();
                let error = writer.put_log(0, &log).await.unwrap_err();
                assert!(matches!(error, Error::LogChanged { .. }), "{at}: {error}");
                assert!(with(&objects, "/logs/").await == before, "{at} of {length}");
            }
            std::fs::write(log.path(), &whole[..whole.len() - 1]).unwrap();
            writer.put_log(0, &log).await.unwrap_err();
            std::fs::write(log.path(), whole).unwrap();
            primary.ship(&writer, &log, &Value::Null).await;
            assert!(history::contents(&replica, sequence).await == primary.disk.contents());
        }
    }
}

/// A request that was given up may still be done, long after others took its place.
#[tokio::test]
async fn a_put_that_comes_late_changes_nothing() {
    for key in [None, Some(history::key(1))] {
        let objects = Arc::new(InMemory::new());
        let replica = replica(&objects, key.as_ref()).await;
        let mut primary = Primary::new(1);
        let writer = history::claim(&replica).await;
        primary.copy(&writer).await;
        let given_up = primary.rewrite(2, Offset::ZERO, &vec![1; 300_000]);
        writer.put_log(0, &given_up).await.unwrap();
        let late = with(&objects, "/logs/").await;
        let log = primary.rewrite(2, Offset::ZERO, &vec![2; 300_000]);
        primary.ship(&writer, &log, &Value::Null).await;
        let published = with(&objects, "/logs/").await;
        assert_eq!(published.len(), 1, "the earlier attempt is deleted");
        let point = replica.open_point(Sequence::new(2)).await.unwrap();
        for (path, content) in late {
            objects.put(&path, content.into()).await.unwrap();
        }
        // The one that is published is put again, too.
        writer.put_log(0, &log).await.unwrap();
        let again = with(&objects, published[0].0.as_ref()).await;
        assert_eq!(
            again, published,
            "the same bytes, also where they are sealed"
        );
        let extent = Extent::new(Offset::new(65_536), Length::new(4096)).unwrap();
        assert!(point.disks[0].read(extent).await.unwrap() == [2; 4096]);
        assert!(history::contents(&replica, 2).await == primary.disk.contents());
        assert!(history::damaged(replica.scrub()).await.is_empty());
    }
}

/// What the release before wrote: format 3, and logs named by sequence and epoch alone.
async fn as_before(objects: &InMemory) {
    let path = Path::from("machines/a/manifest.json");
    let found = objects.get(&path).await.unwrap().bytes().await.unwrap();
    let mut manifest: Value = serde_json::from_slice(&found[..found.len() - 66]).unwrap();
    manifest["format"] = 3.into();
    for entry in manifest["logs"].as_array_mut().unwrap() {
        let naming = entry["disks"][0].as_object_mut().unwrap().remove("naming");
        assert_eq!(naming, Some("content".into()));
    }
    let bytes = history::sealed(&serde_json::to_vec(&manifest).unwrap());
    objects.put(&path, bytes.into()).await.unwrap();
    for (path, content) in with(objects, "/logs/").await {
        let mut parts: Vec<_> = path.as_ref().split('.').collect();
        parts.remove(2);
        objects.delete(&path).await.unwrap();
        objects
            .put(&parts.join(".").into(), content.into())
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_replica_of_the_release_before_is_read_and_continued() {
    let objects = Arc::new(InMemory::new());
    let mut primary = Primary::new(1);
    let old = replica(&objects, None).await;
    let writer = history::claim(&old).await;
    primary.copy(&writer).await;
    for sequence in 2..6 {
        let log = primary.generation(sequence);
        primary.ship(&writer, &log, &Value::Null).await;
    }
    as_before(&objects).await;
    let replica = replica(&objects, None).await;
    assert!(history::contents(&replica, 5).await == primary.disk.contents());
    let writer = history::claim(&replica).await;
    for sequence in 6..30 {
        let log = primary.generation(sequence);
        primary.ship(&writer, &log, &Value::Null).await;
    }
    assert!(history::contents(&replica, 29).await == primary.disk.contents());
    assert!(history::damaged(replica.scrub()).await.is_empty());
    let left = with(&objects, "/logs/").await;
    let dots = |path: &Path| path.as_ref().matches('.').count();
    assert!(
        left.iter().all(|(path, _)| dots(path) == 3),
        "the old ones are swept"
    );
}
