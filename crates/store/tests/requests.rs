//! What a store is asked for: so many requests an interval, no lists, and no deletion that is needed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod history;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use afterimage_block::{BlockWrite, Offset, Sequence};
use afterimage_store::{Key, Replica, Store};
use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};
use history::Primary;
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
        let budget = requests(&[("put", 3 + 1 + 1 + 1), ("get", 4)]);
        assert_eq!(objects.taken(), budget, "3 chunks, page, root, manifest");
        let quiet = requests(&[("put", 2), ("get", 5)]);
        let with_retention = requests(&[("put", 3), ("get", 7)]);
        let mut folds = 0;
        for sequence in 2..40 {
            let data = [u8::try_from(sequence).unwrap(); 4096];
            let log = primary.rewrite(sequence, Offset::ZERO, &data);
            primary.ship(&writer, &log, &Value::Null).await;
            let taken = objects.taken();
            assert_eq!(taken.get("list"), None);
            if sequence < 5 {
                assert_eq!(taken, quiet, "interval {sequence}");
            } else if taken != with_retention {
                // A fold: chunk, page, root and manifest; of 8 logs the outlines, and what they hold.
                folds += 1;
                assert_eq!(taken.get("put"), Some(&(2 + 4)), "fold at {sequence}");
                assert!(
                    taken["get"] <= 7 + 8 * 3 + 12,
                    "fold at {sequence}: {taken:?}"
                );
            }
        }
        assert_eq!(folds, 4, "one in 8 intervals");
        replica.existing().await.unwrap();
        assert_eq!(objects.taken(), requests(&[("get", 1)]), "status");
        let point = replica.open_point(Sequence::new(39)).await.unwrap();
        let logs = replica.existing().await.unwrap().logs.len();
        let budget = requests(&[("get", 1 + 1 + 3 * logs + 1)]);
        assert_eq!(
            objects.taken(),
            budget,
            "a point opens by its root and logs"
        );
        drop(point);
    }
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
