//! An object store that waits.

#![allow(dead_code, reason = "each test takes what it needs")]

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::Notify;

/// A store in memory that takes its time.
#[derive(Debug)]
pub(crate) struct Slow {
    inner: Arc<InMemory>,
    /// What it says that it deleted, and has not yet; `None` if it deletes at once.
    later: Option<Arc<Mutex<Vec<Path>>>>,
    /// What is waited for at the first read of a chunk.
    gate: Option<Gate>,
    logs: Crowd,
}

/// How many reads of logs are under way.
#[derive(Debug, Default)]
struct Crowd {
    now: AtomicUsize,
    most: AtomicUsize,
}

#[derive(Debug, Default)]
pub(crate) struct Gate {
    reached: Notify,
    open: Notify,
    passed: AtomicBool,
}

impl Slow {
    pub(crate) fn to_delete(inner: Arc<InMemory>) -> Arc<Self> {
        let later = Some(Arc::default());
        Arc::new(Self {
            inner,
            later,
            gate: None,
            logs: Crowd::default(),
        })
    }

    pub(crate) fn to_read(inner: Arc<InMemory>) -> Arc<Self> {
        let gate = Some(Gate::default());
        Arc::new(Self {
            inner,
            later: None,
            gate,
            logs: Crowd::default(),
        })
    }

    /// Waits until a chunk is asked for, and gives it when `meanwhile` is done.
    pub(crate) async fn at_first_read(&self, meanwhile: impl Future<Output = ()>) {
        let gate = self.gate.as_ref().unwrap();
        gate.reached.notified().await;
        meanwhile.await;
        gate.open.notify_one();
    }

    /// The most reads of logs that were under way at once.
    pub(crate) fn most_reads_of_logs(&self) -> usize {
        self.logs.most.load(Ordering::SeqCst)
    }

    /// Does what was left undone; how much that was.
    pub(crate) async fn catch_up(&self) -> usize {
        let later = self.later.as_ref().unwrap();
        let later = std::mem::take(&mut *later.lock().unwrap());
        for path in &later {
            self.inner.delete(path).await.unwrap();
        }
        later.len()
    }
}

impl fmt::Display for Slow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, in a while", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Slow {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let is_chunk = location.as_ref().contains("/chunks/");
        if let Some(gate) = self.gate.as_ref().filter(|_| is_chunk)
            && !gate.passed.swap(true, Ordering::SeqCst)
        {
            gate.reached.notify_one();
            gate.open.notified().await;
        }
        if !location.as_ref().contains("/logs/") {
            return self.inner.get_opts(location, options).await;
        }
        let now = self.logs.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.logs.most.fetch_max(now, Ordering::SeqCst);
        // Whoever else has something to ask comes first.
        tokio::task::yield_now().await;
        let result = self.inner.get_opts(location, options).await;
        self.logs.now.fetch_sub(1, Ordering::SeqCst);
        result
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let Some(later) = self.later.clone() else {
            return self.inner.delete_stream(locations);
        };
        let note = move |path: &Result<Path>| {
            later.lock().unwrap().extend(path.as_ref().ok().cloned());
        };
        locations.inspect(note).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
