//! Logs in the manifest and in packs.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod history;
mod machine;

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use afterimage_block::{Length, MemoryDisk, Sequence};
use afterimage_store::{Error, Inlining, Key, Replica, Store};
use bytes::Bytes;
use futures::stream::TryStreamExt;
use machine::Machine;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

async fn replica(objects: &Arc<InMemory>, key: Option<&Key>) -> Replica {
    let store = Store::with_objects(Arc::clone(objects) as _).await.unwrap();
    let store = store.with_key(key.cloned());
    let store = store.with_inlining(history::PACKING);
    store.replica("a".parse().unwrap())
}

async fn packs(objects: &InMemory) -> Vec<(Path, Bytes)> {
    let all: Vec<_> = objects.list(None).try_collect().await.unwrap();
    let mut packs = Vec::new();
    for path in all.into_iter().map(|meta| meta.location) {
        if path.as_ref().starts_with("machines/a/packs/") {
            let found = objects.get(&path).await.unwrap();
            packs.push((path, found.bytes().await.unwrap()));
        }
    }
    packs
}

#[tokio::test]
async fn points_read_back_whoever_opens_them_and_packs_are_deleted() {
    for key in [None, Some(history::key(1))] {
        let objects = Arc::new(InMemory::new());
        let written = replica(&objects, key.as_ref()).await;
        let images = history::live(&written, 3, 40).await;
        history::check(&replica(&objects, key.as_ref()).await, &images).await;
        assert!(history::damaged(written.scrub()).await.is_empty());
        let left = packs(&objects).await.len();
        // Of 40 generations of 1 to 2 MiB, those since the fold before the last.
        assert!((1..=10).contains(&left), "{left}");
    }
}

/// As one that is harmed, missing, or in the place of another.
#[tokio::test]
async fn a_pack_that_is_harmed_is_named_and_read_by_nobody() {
    for key in [None, Some(history::key(1))] {
        let objects = Arc::new(InMemory::new());
        let images = history::live(&replica(&objects, key.as_ref()).await, 4, 7).await;
        let packs = packs(&objects).await;
        assert!(!packs.is_empty());
        let (_, other) = &packs[packs.len() - 1];
        let mut flipped = packs[0].1.to_vec();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 1;
        let cut = packs[0].1.slice(..packs[0].1.len() - 1);
        let foreign = (packs.len() > 1).then(|| other.clone());
        let harms = [Some(flipped.into()), Some(cut), foreign, None];
        for harm in harms {
            let harmed = Arc::new(objects.fork());
            let path = &packs[0].0;
            match harm {
                Some(content) => drop(harmed.put(path, content.into()).await.unwrap()),
                None => harmed.delete(path).await.unwrap(),
            }
            let replica = replica(&harmed, key.as_ref()).await;
            let (mut scrub, mut damage) = (replica.scrub(), Vec::new());
            while let Some(step) = scrub.step().await.unwrap() {
                damage.extend(step.damage);
            }
            assert!(!damage.is_empty());
            let names_it = |reason: &str| reason.contains(path.as_ref());
            assert!(
                damage.iter().all(|damage| names_it(&damage.reason)),
                "{damage:?}"
            );
            assert_eq!(replica.record(&damage).await.unwrap(), damage.len());
            let manifest = replica.existing().await.unwrap();
            assert!(manifest.damaged_points().count() > 0);
            for (sequence, image) in &images {
                match replica.open_point(Sequence::new(*sequence)).await {
                    Err(Error::Damaged { reason, .. }) => assert!(names_it(&reason)),
                    Err(error) => panic!("{error}"),
                    Ok(_) => assert!(history::contents(&replica, *sequence).await == *image),
                }
            }
            // Where it is whole again, nothing is lost any more.
            harmed.put(path, packs[0].1.clone().into()).await.unwrap();
            let writer = history::claim(&replica).await;
            let disk = Arc::new(MemoryDisk::new(history::SIZE));
            writer.mend(&[disk]).await.unwrap();
            assert_eq!(replica.existing().await.unwrap().open_losses().count(), 0);
            history::check(&replica, &images).await;
        }
    }
}

fn golden() -> PathBuf {
    FilePath::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/format-7")
}

/// A machine that lived for a while in a store that is a folder: a pack of four logs, one in an object of its
/// own, two in the manifest. The disk at each of its barriers.
async fn small(folder: &FilePath) -> Vec<Vec<u8>> {
    let store = Store::open(folder.to_str().unwrap()).await.unwrap();
    let store = store.with_inlining(Inlining {
        log_max: Length::kib(1),
        total_max: Length::kib(2),
    });
    let replica = store.replica("a".parse().unwrap());
    let mut machine = Machine::new(&replica, 1).await;
    let mut images = Vec::new();
    for length in [100, 120, 140, 360, 2000, 300, 100] {
        machine.shipped(1, length).await;
        images.push(machine.contents());
    }
    images
}

/// Makes the golden store, of a new format only: what is there is never made anew.
#[tokio::test]
#[ignore = "writes the golden files"]
async fn make_the_golden_store() {
    small(&golden()).await;
}

#[tokio::test]
async fn a_store_of_format_7_reads_as_ever() {
    let now = tempfile::tempdir().unwrap();
    let images = small(now.path()).await;
    let replica = async |folder: &FilePath| {
        let store = Store::open_existing(folder.to_str().unwrap()).await;
        store.unwrap().replica("a".parse().unwrap())
    };
    // A copy, since who opens a store locks it.
    let then = tempfile::tempdir().unwrap();
    copy(&golden(), then.path());
    let (now, then) = (replica(now.path()).await, replica(then.path()).await);
    for (sequence, image) in (2..).zip(images) {
        let point = then.open_point(Sequence::new(sequence)).await.unwrap();
        let restored = Arc::new(MemoryDisk::new(machine::SIZE));
        point.disks[0]
            .restore(restored.clone(), |_| ())
            .await
            .unwrap();
        assert!(restored.contents() == image, "point {sequence}");
    }
    let (now, then) = (
        now.existing().await.unwrap(),
        then.existing().await.unwrap(),
    );
    assert_eq!(now.logs, then.logs, "what is written is what it was");
    assert!(format!("{:?}", then.logs).contains("Packed") && then.logs.len() == 7);
}

fn copy(from: &FilePath, to: &FilePath) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}
