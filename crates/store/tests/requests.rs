//! What a store is asked for: so many requests an interval, no lists, and no deletion that is needed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod history;
mod machine;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use afterimage_block::{BlockWrite, Offset};
use afterimage_store::{Key, Manifest, NOTES, Replica, Store, Transition};
use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};
use history::Primary;
use machine::Machine;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use serde_json::Value;

/// A store that counts what it is asked for. Whoever uses it may not delete.
#[derive(Debug)]
struct AppendOnly {
    inner: Arc<InMemory>,
    requests: Arc<Mutex<BTreeMap<&'static str, usize>>>,
}

impl AppendOnly {
    fn new(inner: Arc<InMemory>) -> Arc<Self> {
        let requests = Arc::default();
        Arc::new(Self { inner, requests })
    }

    fn count(&self, request: &'static str) {
        *self.requests.lock().unwrap().entry(request).or_default() += 1;
    }

    /// The requests since this was asked for last.
    fn taken(&self) -> BTreeMap<&'static str, usize> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }
}

impl fmt::Display for AppendOnly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, append-only", self.inner)
    }
}

#[async_trait]
impl ObjectStore for AppendOnly {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        self.count("put");
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.count("put in parts");
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.count("get");
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let requests = Arc::clone(&self.requests);
        let refuse = move |location: Result<Path>| {
            *requests.lock().unwrap().entry("delete").or_default() += 1;
            Err(Error::PermissionDenied {
                path: location?.to_string(),
                source: "these credentials cannot delete".into(),
            })
        };
        locations
            .flat_map(move |location| stream::iter([refuse(location)]))
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.count("list");
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.count("list");
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.count("copy");
        self.inner.copy_opts(from, to, options).await
    }
}

async fn replica(objects: &Arc<AppendOnly>, key: Option<Key>) -> Replica {
    let store = Store::with_objects(Arc::clone(objects) as _).await.unwrap();
    store.with_key(key).replica("a".parse().unwrap())
}

fn requests(of: &[(&'static str, usize)]) -> BTreeMap<&'static str, usize> {
    of.iter().copied().collect()
}

/// The table of `LAYOUT.md`.
#[tokio::test]
async fn requests_keep_to_their_budget() {
    for key in [None, Some(history::key(1))] {
        let objects = AppendOnly::new(Arc::default());
        let replica = replica(&objects, key).await;
        let budget = requests(&[("put", 5), ("get", 4), ("delete", 1)]);
        assert_eq!(objects.taken(), budget, "a new store");
        let mut primary = Primary::new(1);
        let writer = history::claim(&replica).await;
        assert_eq!(
            objects.taken(),
            requests(&[("put", 1), ("get", 2)]),
            "claim"
        );
        primary
            .disk
            .write_at(Offset::ZERO, &vec![1; 3 << 20])
            .unwrap();
        primary.copy(&writer).await;
        let budget = requests(&[("put", 3 + 1 + 1 + 1)]);
        assert_eq!(objects.taken(), budget, "3 chunks, page, root, manifest");
        let mut counts = [0; 3];
        for sequence in 2..300 {
            let data = [u8::try_from(sequence % 250).unwrap(); 4096];
            let log = primary.rewrite(sequence, Offset::ZERO, &data);
            primary.ship(&writer, &log, &Value::Null).await;
            let taken = objects.taken();
            assert_eq!(taken.get("list"), None);
            let kind = if taken == requests(&[("put", 1)]) {
                0
            } else if taken == requests(&[("put", 2)]) {
                1
            } else {
                // A fold: chunk, page, root and manifest, and what the logs' packs hold.
                let puts = taken["put"] - 4;
                assert!((1..=2).contains(&puts), "fold at {sequence}: {taken:?}");
                assert!(taken["get"] <= 5 + 9 + 4, "fold at {sequence}: {taken:?}");
                2
            };
            counts[kind] += 1;
        }
        assert_eq!(counts[2], 2, "a fold when 128 generations are there");
        assert!(counts[1] <= 300 / 15, "a pack of 15 logs: {counts:?}");
        let manifest = replica.existing().await.unwrap();
        assert_eq!(objects.taken(), requests(&[("get", 1)]), "status");
        let point = replica.open_point(manifest.last().unwrap()).await.unwrap();
        let packs = manifest.logs.len().div_ceil(15);
        let taken = objects.taken()["get"];
        assert!(
            (2..=2 + packs).contains(&taken),
            "a point opens by its root and packs: {taken}"
        );
        drop(point);
    }
}

/// Whatever the number of its disks.
#[tokio::test]
async fn a_quiet_interval_of_a_machine_is_one_put() {
    let objects = AppendOnly::new(Arc::default());
    let replica = replica(&objects, None).await;
    let mut machine = Machine::new(&replica, 5).await;
    objects.taken();
    let mut ship = async |length| {
        machine.shipped(1, length).await;
        machine.check().await;
        let mut taken = objects.taken();
        taken.remove("get");
        taken
    };
    for interval in 0..4 {
        assert_eq!(ship(100).await, requests(&[("put", 1)]), "{interval}");
    }
    let large = requests(&[("put", 5 + 1)]);
    assert_eq!(ship(20_000).await, large, "each log, and the manifest");
    let packed = requests(&[("put", 1 + 1)]);
    assert_eq!(ship(15_000).await, packed, "each small, and all too large");
    assert_eq!(ship(100).await, requests(&[("put", 1)]));
    let heartbeat = machine.writer.set_state(&Value::Null);
    heartbeat.await.unwrap();
    assert_eq!(objects.taken(), requests(&[("put", 1)]), "a heartbeat");
}

/// What others change meanwhile costs another try, and is kept.
#[tokio::test]
async fn what_others_changed_is_read_before_it_is_written_over() {
    let objects = AppendOnly::new(Arc::default());
    let replica = replica(&objects, None).await;
    let mut machine = Machine::new(&replica, 1).await;
    let noted = |manifest: &Manifest| {
        let mut state = manifest.state.clone();
        state[NOTES] = "seen".into();
        Ok(Transition {
            state,
            fences: false,
        })
    };
    replica.transition(noted).await.unwrap();
    objects.taken();
    let logs = machine.write(1, 100);
    let manifest = machine.ship(&logs).await.unwrap();
    // Refused, and looked at; then the manifest is read, and it is put.
    assert_eq!(objects.taken(), requests(&[("put", 2), ("get", 2)]));
    assert_eq!(manifest.state[NOTES], "seen");
    machine.shipped(1, 100).await;
    assert_eq!(objects.taken(), requests(&[("put", 1)]), "as before");
    // A writer that was fenced off learns it by the refusal.
    machine::claim(&replica, 1).await;
    let logs = machine.write(1, 100);
    let before = replica.existing().await.unwrap();
    let error = machine.ship(&logs).await.unwrap_err();
    assert!(
        matches!(error, afterimage_store::Error::Fenced { .. }),
        "{error}"
    );
    assert_eq!(replica.existing().await.unwrap(), before);
}

/// Nothing but space is lost where the primary cannot delete.
#[tokio::test]
async fn a_primary_need_not_be_able_to_delete() {
    for key in [None, Some(history::key(1))] {
        let memory = Arc::new(InMemory::new());
        let objects = AppendOnly::new(Arc::clone(&memory));
        let written = replica(&objects, key.clone()).await;
        let images = history::live(&written, 9, 24).await;
        let deletions = objects.taken()["delete"];
        assert!(deletions > 8, "tried and refused: {deletions}");
        let other = AppendOnly::new(memory);
        let read = replica(&other, key).await;
        history::check(&read, &images).await;
        assert!(history::damaged(read.scrub()).await.is_empty());
    }
}
