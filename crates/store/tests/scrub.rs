//! What is damaged is named, and never read as data.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod history;
mod slow;

use std::collections::BTreeSet;
use std::sync::Arc;

use afterimage_block::{BlockWrite, Length, MemoryDisk, Offset, Sequence};
use afterimage_store::{Damage, Error, Key, Replica, Store};
use bytes::Bytes;
use futures::stream::TryStreamExt;
use history::Primary;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::Value;
use slow::Slow;

async fn replica(objects: &Arc<InMemory>, key: Option<&Key>) -> Replica {
    let store = Store::with_objects(Arc::clone(objects) as _).await;
    let store = store.unwrap().with_key(key.cloned());
    store.replica("a".parse().unwrap())
}

/// What a scrub finds; how many objects were proved, and how many bytes.
async fn scrubbed(replica: &Replica) -> (Vec<Damage>, u64, Length) {
    let (mut damage, mut objects, mut proved) = (Vec::new(), 0, Length::ZERO);
    let mut scrub = replica.scrub();
    while let Some(step) = scrub.step().await.unwrap() {
        damage.extend(step.damage);
        objects += step.objects;
        proved = proved.saturating_add(step.proved);
    }
    (damage, objects, proved)
}

async fn contents(objects: &InMemory, path: &Path) -> Bytes {
    objects.get(path).await.unwrap().bytes().await.unwrap()
}

/// The objects that the manifest names, the manifest not among them. What is retired is not: no
/// point needs it.
async fn named(objects: &InMemory, key: Option<&Key>) -> Vec<Path> {
    let all: Vec<_> = objects.list(None).try_collect().await.unwrap();
    let mut named = Vec::new();
    for path in all.into_iter().map(|meta| meta.location) {
        let without = Arc::new(objects.fork());
        without.delete(&path).await.unwrap();
        let is_data = path.as_ref().contains("/disks/");
        if is_data && !scrubbed(&replica(&without, key).await).await.0.is_empty() {
            named.push(path);
        }
    }
    let whole = replica(&Arc::new(objects.fork()), key).await;
    assert!(whole.existing().await.unwrap().retired.is_some());
    named
}

#[tokio::test]
async fn a_whole_replica_is_proved_to_the_last_byte() {
    let objects = Arc::new(InMemory::new());
    let replica = replica(&objects, None).await;
    history::live(&replica, 11, 14).await;
    let (damage, count, proved) = scrubbed(&replica).await;
    assert_eq!(damage, []);
    let named = named(&objects, None).await;
    let mut bytes = 0;
    for path in &named {
        bytes += contents(&objects, path).await.len() as u64;
    }
    assert_eq!((count, proved), (named.len() as u64, Length::new(bytes)));
    for kind in ["roots", "pages", "chunks", "logs"] {
        assert!(
            named.iter().any(|path| path.as_ref().contains(kind)),
            "{kind}"
        );
    }
}

#[derive(Clone, Copy, Debug)]
enum Harm {
    Flip,
    Truncate,
    Extend,
    Delete,
    /// It has the content of the next object of its kind.
    Swap,
    /// It has the content of an object of another machine that lived as this one did.
    Foreign,
}

#[tokio::test]
async fn every_object_that_is_harmed_is_named_and_read_by_nobody() {
    harm_every_object(None).await;
}

#[tokio::test]
async fn every_sealed_object_that_is_harmed_is_named_and_read_by_nobody() {
    harm_every_object(Some(&history::key(1))).await;
}

/// The objects of another machine with the same disks.
async fn foreign(key: Option<&Key>) -> Vec<Bytes> {
    let objects = Arc::new(InMemory::new());
    history::live(&replica(&objects, key).await, 21, 12).await;
    let all: Vec<_> = objects.list(None).try_collect().await.unwrap();
    let mut foreign = Vec::new();
    for path in all.into_iter().map(|meta| meta.location) {
        if path.as_ref().contains("/disks/") {
            foreign.push(contents(&objects, &path).await);
        }
    }
    foreign
}

async fn harm_every_object(key: Option<&Key>) {
    let objects = Arc::new(InMemory::new());
    let images = history::live(&replica(&objects, key).await, 12, 12).await;
    let named = named(&objects, key).await;
    let foreign = foreign(key).await;
    for (number, path) in named.iter().enumerate() {
        let content = contents(&objects, path).await;
        for harm in [
            Harm::Flip,
            Harm::Truncate,
            Harm::Extend,
            Harm::Delete,
            Harm::Swap,
            Harm::Foreign,
        ] {
            let harmed = Arc::new(objects.fork());
            let mut bytes = content.to_vec();
            match harm {
                Harm::Flip => bytes[content.len() * (number % 8) / 8] ^= 1 << (number % 7),
                Harm::Truncate => bytes.truncate(content.len() - 1 - number % 2),
                Harm::Extend => bytes.push(0),
                Harm::Delete => harmed.delete(path).await.unwrap(),
                Harm::Swap => {
                    let next = &named[(number + 1) % named.len()];
                    bytes = contents(&objects, next).await.to_vec();
                }
                // As long as itself, if there is such an object.
                Harm::Foreign => {
                    let mut alike = foreign.iter().filter(|other| other.len() == content.len());
                    let other = alike.find(|other| **other != content);
                    bytes = other.unwrap_or(&foreign[0]).to_vec();
                }
            }
            if !matches!(harm, Harm::Delete) {
                harmed.put(path, bytes.into()).await.unwrap();
            }
            let harmed = replica(&harmed, key).await;
            let (damage, ..) = scrubbed(&harmed).await;
            let told: BTreeSet<_> = damage.iter().map(|damage| damage.object.as_str()).collect();
            assert_eq!(told, BTreeSet::from([path.as_ref()]), "{harm:?}");
            let (sequence, image) = images.iter().nth(number % images.len()).unwrap();
            match restored(&harmed, *sequence).await {
                Ok(read) => assert!(read == *image, "{harm:?} {path}"),
                Err(error) => assert!(error.to_string().contains(path.as_ref()), "{error}"),
            }
        }
    }
}

async fn restored(replica: &Replica, sequence: u64) -> Result<Vec<u8>, Error> {
    let point = replica.open_point(Sequence::new(sequence)).await?;
    let target = Arc::new(MemoryDisk::new(history::SIZE));
    point.disks[0].restore(target.clone(), |_| ()).await?;
    Ok(target.contents())
}

/// The chunk that a scrub asks for is replaced and deleted while it waits for it.
#[tokio::test]
async fn what_is_deleted_while_it_is_scrubbed_is_no_damage() {
    let objects = Arc::new(InMemory::new());
    let written = replica(&objects, None).await;
    let mut primary = Primary::new(13);
    let writer = history::claim(&written).await;
    primary.disk.write_at(Offset::ZERO, &[3; 4096]).unwrap();
    primary.copy(&writer).await;
    let slow = Slow::to_read(Arc::clone(&objects));
    let store = Store::with_objects(Arc::clone(&slow) as _).await.unwrap();
    let mut scrub = store.replica("a".parse().unwrap()).scrub();
    let base = written.existing().await.unwrap().checkpoint;
    let go_on = async {
        for sequence in 2.. {
            let data = [u8::try_from(sequence).unwrap(); 4096];
            let log = primary.rewrite(sequence, Offset::ZERO, &data);
            primary.ship(&writer, &log, &Value::Null).await;
            let retired = written.existing().await.unwrap().retired;
            let retired = retired.map(|retired| retired.checkpoint);
            if retired.is_some() && retired != base {
                return;
            }
        }
    };
    let (step, ()) = tokio::join!(scrub.step(), slow.at_first_read(go_on));
    let step = step.unwrap().unwrap();
    assert_eq!(step.damage, []);
    // Root, page and chunk of the checkpoint that the replica is at now.
    assert_eq!(step.objects, 3);
}
