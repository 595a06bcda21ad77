//! A writer that is replaced while it deletes, and whose deletions are done much later.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod history;
mod slow;

use std::collections::BTreeMap;
use std::sync::Arc;

use afterimage_block::{MemoryDisk, Offset, Sequence};
use afterimage_store::{Error, Point, Store};
use history::Primary;
use object_store::ObjectStore;
use serde_json::Value;
use slow::Slow;

/// Two chunks change to and fro between the same contents, so that by content alone the objects that
/// were deleted long ago would be needed again.
#[tokio::test]
async fn deletions_that_come_late_harm_nothing() {
    let store = Slow::to_delete(Arc::default());
    let objects = Arc::clone(&store) as Arc<dyn ObjectStore>;
    let opened = Store::with_objects(objects).await.unwrap();
    let replica = opened.replica("a".parse().unwrap());
    let mut primary = Primary::new(1);
    let mut writer = history::claim(&replica).await;
    primary.copy(&writer).await;
    let (mut images, mut deleted) = (BTreeMap::new(), 0);
    for sequence in 2..90 {
        if sequence % 20 == 0 {
            writer = history::claim(&replica).await;
        }
        let place = Offset::new((sequence % 2) << 20);
        let content = [1, 2, 0][usize::try_from(sequence / 12 % 3).unwrap()];
        let log = primary.rewrite(sequence, place, &vec![content; 1 << 20]);
        primary.ship(&writer, &log, &Value::Null).await;
        images.insert(sequence, primary.disk.contents());
        // Long after: folds and claims came in between.
        if sequence % 33 == 0 {
            deleted += store.catch_up().await;
        }
        let oldest = replica.existing().await.unwrap().points[0].sequence.get();
        images.retain(|point, _| *point >= oldest);
        history::check(&replica, &images).await;
    }
    assert!(deleted > 50, "{deleted}");
}

async fn read(point: &Point) -> Result<Vec<u8>, Error> {
    let target = Arc::new(MemoryDisk::new(history::SIZE));
    point.disks[0].restore(target.clone(), |_| ()).await?;
    Ok(target.contents())
}

/// Who opened a point that is no longer offered can read it until the next fold.
#[tokio::test]
async fn a_reader_of_an_old_point_has_time_until_the_next_fold() {
    let opened = Store::open("memory://stalled-reader").await.unwrap();
    let replica = opened.replica("a".parse().unwrap());
    let mut primary = Primary::new(2);
    let writer = history::claim(&replica).await;
    primary.generation(1);
    primary.copy(&writer).await;
    let image = primary.disk.contents();
    let base = Sequence::new(1);
    let unread = replica.open_point(base).await.unwrap();
    let mut reads = 0;
    for sequence in 2.. {
        let log = primary.generation(sequence);
        let point = replica.open_point(base).await;
        primary.ship(&writer, &log, &Value::Null).await;
        let manifest = replica.existing().await.unwrap();
        let retired = manifest.retired.map(|retired| retired.checkpoint.sequence);
        if retired.is_some_and(|retired| retired > base) {
            break;
        }
        if let Ok(point) = point {
            assert!(read(&point).await.unwrap() == image, "{sequence}");
            reads += 1;
        } else {
            assert_eq!(retired, Some(base), "it is offered until it is retired");
        }
    }
    assert!(reads > 8, "{reads}");
    let error = read(&unread).await.unwrap_err().to_string();
    assert!(error.contains("it is missing"), "{error}");
}

/// A store that is far away is asked for many logs at a time, so that a point opens at once.
#[tokio::test]
async fn a_point_with_many_logs_asks_for_them_together() {
    let store = Slow::to_delete(Arc::default());
    let objects = Arc::clone(&store) as Arc<dyn ObjectStore>;
    let opened = Store::with_objects(objects).await.unwrap();
    let replica = opened.replica("a".parse().unwrap());
    let mut primary = Primary::new(3);
    let writer = history::claim(&replica).await;
    primary.copy(&writer).await;
    let mut images = BTreeMap::new();
    for sequence in 2..8 {
        let log = primary.generation(sequence);
        primary.ship(&writer, &log, &Value::Null).await;
        images.insert(sequence, primary.disk.contents());
    }
    images.retain(|sequence, _| *sequence == 7);
    history::check(&replica, &images).await;
    assert!(
        store.most_reads_of_logs() >= 4,
        "{}",
        store.most_reads_of_logs()
    );
}
