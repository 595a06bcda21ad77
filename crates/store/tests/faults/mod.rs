//! An object store that fails as networks and clouds do.

#![allow(dead_code, reason = "each test takes what it needs")]

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use afterimage_store::Throttled;
use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result, UploadPart,
};

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It does not arrive.
    Before,
    /// It is done, and the answer is lost.
    After,
    /// It seems lost, and is done later.
    Late,
    /// The store is overloaded.
    Busy,
    /// The answer breaks off, silently.
    Cut,
    /// What a list shows is of some time ago.
    Stale,
    /// It takes its time.
    Slow,
}

const KINDS: usize = 7;
const FOR_PUT: &[Fault] = &[
    Fault::Before,
    Fault::After,
    Fault::Late,
    Fault::Busy,
    Fault::Slow,
];
const FOR_GET: &[Fault] = &[Fault::Before, Fault::Busy, Fault::Cut, Fault::Slow];
const FOR_UPLOAD: &[Fault] = &[Fault::Before, Fault::After, Fault::Busy, Fault::Slow];
const FOR_DELETE: &[Fault] = FOR_PUT;
const FOR_LIST: &[Fault] = &[Fault::Before, Fault::Stale, Fault::Slow];

/// Which faults come, and how many did.
#[derive(Debug)]
pub(crate) struct Weather {
    /// Of a hundred requests, those that meet a fault.
    percent: AtomicU32,
    random: Mutex<fastrand::Rng>,
    counts: [AtomicUsize; KINDS],
    requests: AtomicUsize,
}

impl Weather {
    pub(crate) fn new(seed: u64, percent: u32) -> Arc<Self> {
        Arc::new(Self {
            percent: percent.into(),
            random: Mutex::new(fastrand::Rng::with_seed(seed)),
            counts: Default::default(),
            requests: AtomicUsize::new(0),
        })
    }

    /// No more faults.
    pub(crate) fn clears(&self) {
        self.percent.store(0, Ordering::SeqCst);
    }

    pub(crate) fn faults(&self) -> usize {
        self.counts
            .iter()
            .map(|count| count.load(Ordering::SeqCst))
            .sum()
    }

    pub(crate) fn count(&self, fault: Fault) -> usize {
        self.counts[fault as usize].load(Ordering::SeqCst)
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    fn below(&self, bound: u64) -> u64 {
        self.random.lock().unwrap().u64(..bound)
    }

    fn next(&self, of: &[Fault]) -> Option<Fault> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let mut random = self.random.lock().unwrap();
        if random.u32(0..100) >= self.percent.load(Ordering::SeqCst) {
            return None;
        }
        let fault = of[random.usize(0..of.len())];
        self.counts[fault as usize].fetch_add(1, Ordering::SeqCst);
        Some(fault)
    }
}

/// `inner` in bad weather.
#[derive(Debug)]
pub(crate) struct Faulty {
    inner: Arc<dyn ObjectStore>,
    weather: Arc<Weather>,
    /// What the first lists showed.
    listed: Mutex<Option<Vec<Path>>>,
    /// How often each object was read, where bits flip on the way.
    flips: Option<Mutex<HashMap<Path, usize>>>,
}

/// Of so many answers with an object's bytes, the first has a flipped bit.
const FLIP_EVERY: usize = 16;

impl Faulty {
    pub(crate) fn new(inner: Arc<dyn ObjectStore>, weather: Arc<Weather>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            weather,
            listed: Mutex::default(),
            flips: None,
        })
    }

    /// Bits flip on the way from `inner`: in the first answer with an object's bytes and some later
    /// ones, and in two of three with a manifest's.
    pub(crate) fn flipping(inner: Arc<dyn ObjectStore>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            weather: Weather::new(0, 0),
            listed: Mutex::default(),
            flips: Some(Mutex::default()),
        })
    }

    fn is_flipped(&self, location: &Path) -> bool {
        let Some(flips) = &self.flips else {
            return false;
        };
        let mut flips = flips.lock().unwrap();
        let answers = flips.entry(location.clone()).or_default();
        *answers += 1;
        match location.filename() {
            Some("manifest.json" | "afterimage.json") => *answers % 3 != 0,
            _ => location.as_ref().contains("/disks/") && *answers % FLIP_EVERY == 1,
        }
    }
}

/// `result` with other bytes.
async fn with_bytes(
    result: GetResult,
    change: impl FnOnce(Vec<u8>) -> Vec<u8>,
) -> Result<GetResult> {
    let (meta, range) = (result.meta.clone(), result.range.clone());
    let (attributes, extensions) = (result.attributes.clone(), result.extensions.clone());
    let bytes = change(result.bytes().await?.into());
    Ok(GetResult {
        payload: GetResultPayload::Stream(stream::iter([Ok(bytes.into())]).boxed()),
        meta,
        range,
        attributes,
        extensions,
    })
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in bad weather", self.inner)
    }
}

fn lost() -> Error {
    Error::Generic {
        store: "faulty",
        source: "the connection was lost".into(),
    }
}

fn busy() -> Error {
    let after = Duration::from_millis(1);
    Error::Generic {
        store: "faulty",
        source: Box::new(Throttled { after }),
    }
}

async fn slow() {
    tokio::time::sleep(Duration::from_millis(2)).await;
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        match self.weather.next(FOR_PUT) {
            Some(Fault::Before) => return Err(lost()),
            Some(Fault::Busy) => return Err(busy()),
            Some(Fault::After) => {
                // Also where it is refused: the refusal does not arrive either.
                let _ = self.inner.put_opts(location, payload, opts).await;
                return Err(lost());
            }
            Some(Fault::Late) => {
                let (inner, location) = (Arc::clone(&self.inner), location.clone());
                tokio::spawn(async move {
                    slow().await;
                    let _ = inner.put_opts(&location, payload, opts).await;
                });
                return Err(lost());
            }
            Some(_) => slow().await,
            None => {}
        }
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        match self.weather.next(FOR_UPLOAD) {
            Some(Fault::Before | Fault::After) => return Err(lost()),
            Some(Fault::Busy) => return Err(busy()),
            _ => {}
        }
        let inner = self.inner.put_multipart_opts(location, opts).await?;
        let weather = Arc::clone(&self.weather);
        Ok(Box::new(FaultyUpload { inner, weather }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let fault = self.weather.next(FOR_GET);
        match fault {
            Some(Fault::Before) => return Err(lost()),
            Some(Fault::Busy) => return Err(busy()),
            Some(Fault::Slow) => slow().await,
            _ => {}
        }
        let has_no_body = options.head;
        let result = self.inner.get_opts(location, options).await?;
        if fault == Some(Fault::Cut) {
            let cut = |bytes: Vec<u8>| bytes[..bytes.len() / 2].to_vec();
            return with_bytes(result, cut).await;
        }
        if !has_no_body && self.is_flipped(location) {
            let flip = |mut bytes: Vec<u8>| {
                let at = bytes.len() / 2;
                bytes[at] ^= 1;
                bytes
            };
            return with_bytes(result, flip).await;
        }
        Ok(result)
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let (inner, weather) = (Arc::clone(&self.inner), Arc::clone(&self.weather));
        let delete = move |location: Result<Path>| {
            let (inner, weather) = (Arc::clone(&inner), Arc::clone(&weather));
            async move {
                let location = location?;
                match weather.next(FOR_DELETE) {
                    Some(Fault::Before) => return Err(lost()),
                    Some(Fault::Busy) => return Err(busy()),
                    Some(Fault::After) => {
                        inner.delete(&location).await?;
                        return Err(lost());
                    }
                    Some(Fault::Late) => {
                        let pause = Duration::from_millis(weather.below(300));
                        tokio::spawn(async move {
                            tokio::time::sleep(pause).await;
                            let _ = inner.delete(&location).await;
                        });
                        return Err(lost());
                    }
                    Some(_) => slow().await,
                    None => {}
                }
                inner.delete(&location).await.map(|()| location)
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.weather.next(FOR_LIST) {
            Some(Fault::Before) => stream::iter([Err(lost())]).boxed(),
            _ => self.inner.list(prefix),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let fault = self.weather.next(FOR_LIST);
        if fault == Some(Fault::Before) {
            return Err(lost());
        }
        let mut fresh = self.inner.list_with_delimiter(prefix).await?;
        let mut listed = self.listed.lock().unwrap();
        match (fault, &*listed) {
            (Some(Fault::Stale), Some(stale)) => fresh.common_prefixes.clone_from(stale),
            (_, None) => *listed = Some(fresh.common_prefixes.clone()),
            _ => {}
        }
        Ok(fresh)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct FaultyUpload {
    inner: Box<dyn MultipartUpload>,
    weather: Arc<Weather>,
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        match self.weather.next(FOR_UPLOAD) {
            Some(Fault::Before | Fault::After) => Box::pin(async { Err(lost()) }),
            Some(Fault::Busy) => Box::pin(async { Err(busy()) }),
            _ => self.inner.put_part(data),
        }
    }

    async fn complete(&mut self) -> Result<PutResult> {
        match self.weather.next(FOR_UPLOAD) {
            Some(Fault::Before) => Err(lost()),
            Some(Fault::Busy) => Err(busy()),
            Some(Fault::After) => {
                self.inner.complete().await?;
                Err(lost())
            }
            _ => self.inner.complete().await,
        }
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}
