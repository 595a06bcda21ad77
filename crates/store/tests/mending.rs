//! What is damaged is put there anew by its primary; what cannot be is offered to nobody.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod history;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use afterimage_block::{BlockRead, ContentDigest, ExtentSet, MemoryDisk, Sequence};
use afterimage_store::{
    Key, LogEntry, Manifest, Part, PointSelector, Publication, Replica, Store, Writer,
};
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

/// A primary and its replica, and what the disk was at each barrier.
struct Life {
    objects: Arc<InMemory>,
    key: Option<Key>,
    primary: Primary,
    images: BTreeMap<u64, Vec<u8>>,
    next: u64,
}

#[derive(Clone, Copy, Debug)]
enum Harm {
    Flip,
    Truncate,
    Delete,
    /// It has the content of another object of its kind, or of none.
    Swap,
}

const HARMS: [Harm; 4] = [Harm::Flip, Harm::Truncate, Harm::Delete, Harm::Swap];

impl Life {
    async fn begin(key: Option<Key>, generations: u64) -> Self {
        let objects = Arc::new(InMemory::new());
        let replica = replica(&objects, key.as_ref()).await;
        let mut life = Self {
            objects,
            key,
            primary: Primary::new(5),
            images: BTreeMap::new(),
            next: 2,
        };
        let writer = history::claim(&replica).await;
        life.primary.generation(1);
        life.primary.copy(&writer).await;
        life.images.insert(1, life.primary.disk.contents());
        life.go_on(&writer, generations).await;
        life
    }

    async fn go_on(&mut self, writer: &Writer, generations: u64) {
        for _ in 0..generations {
            let log = self.primary.generation(self.next);
            self.primary.ship(writer, &log, &Value::Null).await;
            self.images.insert(self.next, self.primary.disk.contents());
            self.next += 1;
        }
    }

    /// Does what a resynchronization does: sends what the replica lacks as it is now.
    async fn resynchronize(&mut self, writer: &Writer, manifest: &Manifest, lacks: &ExtentSet) {
        let compared = writer
            .replica()
            .open_to_compare(manifest, &manifest.sizes_at(manifest.last().unwrap()))
            .await
            .unwrap();
        assert_eq!(Some(compared.sequence), manifest.last());
        let log = self.primary.copied(self.next, lacks);
        let publication = Publication {
            first: Sequence::new(self.next),
            logs: LogEntry {
                sequence: Sequence::new(self.next),
                disks: vec![Some(writer.put_log(0, &log).await.unwrap())],
            },
            sizes: manifest.sizes_at(Sequence::new(self.next)),
            predecessors: vec![ContentDigest::NONE],
            after_loss: true,
            point: None,
            amends: manifest
                .open_losses()
                .map(|loss| loss.clone().without(lacks))
                .collect(),
        };
        writer.publish(&publication, &Value::Null).await.unwrap();
        self.next += 1;
    }

    async fn replica(&self) -> Replica {
        replica(&self.objects, self.key.as_ref()).await
    }

    fn source(&self) -> Vec<Arc<dyn BlockRead>> {
        vec![self.primary.disk.clone() as _]
    }

    /// Every point that is offered reads as it was.
    async fn check_points(&self) {
        let replica = self.replica().await;
        let manifest = replica.existing().await.unwrap();
        for point in manifest.whole_points() {
            let sequence = point.sequence.get();
            let found = history::contents(&replica, sequence).await;
            assert!(found == self.images[&sequence], "point {sequence}");
        }
    }
}

async fn named(life: &Life) -> Vec<Path> {
    let all: Vec<_> = life.objects.list(None).try_collect().await.unwrap();
    let mut named = Vec::new();
    for path in all.into_iter().map(|meta| meta.location) {
        let without = Arc::new(life.objects.fork());
        without.delete(&path).await.unwrap();
        let without = replica(&without, life.key.as_ref()).await;
        if path.as_ref().contains("/disks/") && !history::damaged(without.scrub()).await.is_empty()
        {
            named.push(path);
        }
    }
    named
}

async fn harm(objects: &InMemory, path: &Path, like: &[Path], harm: Harm) {
    let read = async |path| objects.get(path).await.unwrap().bytes().await.unwrap();
    let mut bytes = read(path).await.to_vec();
    match harm {
        Harm::Flip => {
            let at = bytes.len() / 3;
            bytes[at] ^= 8;
        }
        Harm::Truncate => bytes.truncate(bytes.len() / 2),
        Harm::Delete => return objects.delete(path).await.unwrap(),
        Harm::Swap => {
            let kind = path.as_ref().rsplit_once('/').unwrap().0;
            let mut others = like.iter().filter(|other| *other != path);
            let other = others.find(|other| other.as_ref().starts_with(kind));
            bytes = match other {
                Some(other) => read(other).await.to_vec(),
                None => vec![7; bytes.len()],
            };
        }
    }
    objects.put(path, bytes.into()).await.unwrap();
}

/// What a scrub finds is recorded; how many objects.
async fn recorded(replica: &Replica) -> usize {
    let mut scrub = replica.scrub();
    let mut recorded = 0;
    while let Some(step) = scrub.step().await.unwrap() {
        recorded += replica.record(&step.damage).await.unwrap();
    }
    recorded
}

/// How a loss was made up for.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Mended {
    AsItWas,
    Resynchronized,
}

/// Harms one object, has it mended and lives on.
async fn mended(life: &mut Life, path: &Path, like: &[Path], how: Harm) -> (&'static str, Mended) {
    harm(&life.objects, path, like, how).await;
    let replica = life.replica().await;
    let writer = history::claim(&replica).await;
    assert_eq!(recorded(&replica).await, 1, "{how:?} {path}");
    assert_eq!(recorded(&replica).await, 0, "it is known");
    let manifest = replica.existing().await.unwrap();
    let kind = match manifest.losses[0].part {
        Part::Root => "root",
        Part::Page(_) => "page",
        Part::Chunk(_) => "chunk",
        Part::Log(_) => "log",
    };
    life.check_points().await;
    let lacks = writer.mend(&life.source()).await.unwrap().remove(0);
    let manifest = replica.existing().await.unwrap();
    let mended = if manifest.losses.is_empty() {
        assert!(lacks.is_empty());
        Mended::AsItWas
    } else {
        let newest = manifest.last();
        life.resynchronize(&writer, &manifest, &lacks).await;
        let manifest = replica.existing().await.unwrap();
        assert_eq!(manifest.open_losses().count(), 0);
        let latest = manifest.select(PointSelector::Latest);
        let older = latest.as_ref().map_or(None, |point| Some(point.sequence));
        assert!(older <= newest, "the differences alone are no point");
        Mended::Resynchronized
    };
    assert_eq!(
        history::damaged(replica.scrub()).await,
        [""; 0],
        "{how:?} {path}"
    );
    life.go_on(&writer, 1).await;
    let manifest = replica.existing().await.unwrap();
    let latest = manifest.latest_point().unwrap().sequence.get();
    assert_eq!(latest, life.next - 1, "the newest point is offered");
    life.check_points().await;
    (kind, mended)
}

async fn every_kind_is_mended(key: Option<Key>) {
    let mut life = Life::begin(key, 20).await;
    let named = named(&life).await;
    let before = (Arc::clone(&life.objects), life.next);
    let mut seen = BTreeSet::new();
    for (number, path) in named.iter().enumerate() {
        let kinds = ["/chunks/", "/logs/"];
        let is_one_of_many = kinds.iter().any(|kind| path.as_ref().contains(kind));
        let harms = if is_one_of_many {
            vec![HARMS[number % 4]]
        } else {
            HARMS.to_vec()
        };
        for how in harms {
            // Each time from the same replica; the primary lives on.
            life.objects = Arc::new(before.0.fork());
            let disk = life.primary.disk.contents();
            life.next = before.1;
            life.primary.put_back(&life.images[&(before.1 - 1)]);
            seen.insert(mended(&mut life, path, &named, how).await);
            life.primary.put_back(&disk);
        }
    }
    for expected in [
        ("chunk", Mended::AsItWas),
        ("chunk", Mended::Resynchronized),
        ("log", Mended::Resynchronized),
        ("page", Mended::Resynchronized),
        ("root", Mended::Resynchronized),
    ] {
        assert!(seen.contains(&expected), "{expected:?} of {seen:?}");
    }
}

#[tokio::test]
async fn every_kind_of_object_is_mended() {
    every_kind_is_mended(None).await;
}

#[tokio::test]
async fn every_kind_of_sealed_object_is_mended() {
    every_kind_is_mended(Some(history::key(1))).await;
}

/// Folds need nothing that is lost, and once they are past it nothing is remembered of it.
#[tokio::test]
async fn a_replica_that_lost_things_lives_on_until_nothing_is_left_of_it() {
    for kind in ["/roots/", "/pages/", "/chunks/", "/logs/"] {
        let mut life = Life::begin(None, 12).await;
        let named = named(&life).await;
        let path = named.iter().find(|path| path.as_ref().contains(kind));
        mended(&mut life, path.unwrap(), &named, Harm::Delete).await;
        let replica = life.replica().await;
        let writer = history::claim(&replica).await;
        for _ in 0..5 {
            life.go_on(&writer, 4).await;
            life.check_points().await;
            assert_eq!(history::damaged(replica.scrub()).await, [""; 0], "{kind}");
        }
        let manifest = replica.existing().await.unwrap();
        assert_eq!(manifest.losses, [], "{kind}");
        assert_eq!(manifest.points.len(), 4, "{kind}");
    }
}

/// Where there is no primary any more, what can be read is read.
#[tokio::test]
async fn a_damaged_point_is_given_by_its_number_alone() {
    let life = Life::begin(None, 3).await;
    let named = named(&life).await;
    let chunk = named.iter().find(|path| path.as_ref().contains("/chunks/"));
    life.objects.delete(chunk.unwrap()).await.unwrap();
    let replica = life.replica().await;
    assert_eq!(recorded(&replica).await, 1);
    let manifest = replica.existing().await.unwrap();
    let damaged: Vec<_> = manifest.damaged_points().copied().collect();
    assert!(!damaged.is_empty());
    for point in &damaged {
        let found = manifest.select(PointSelector::AtOrBefore(point.time));
        assert!(found.is_err() || found.unwrap() != *point);
        let found = manifest.select(PointSelector::Sequence(point.sequence));
        assert_eq!(found.unwrap(), *point);
    }
    let opened = replica.open_point(damaged[0].sequence).await.unwrap();
    let target = Arc::new(MemoryDisk::new(history::SIZE));
    assert!(opened.disks[0].restore(target, |_| ()).await.is_err());
}
