//! An object store as a site sees it: every request takes its turn, and may meet a fault.

use std::fmt;
use std::future::poll_fn;
use std::ops::Range;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use afterimage_store::Throttled;
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result,
};

use crate::coverage::Mark;
use crate::hub::{Hub, Late, LateRequest, Link, THIRD};
use crate::plant::Plant;

/// The backend, as one site sees it.
#[derive(Clone, Debug)]
pub(crate) struct Objects {
    inner: Arc<dyn ObjectStore>,
    hub: Hub,
    party: usize,
}

impl fmt::Display for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} as site {} sees it", self.inner, self.party)
    }
}

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Done,
    /// It does not arrive.
    Lost,
    /// It is done, and the answer is lost.
    Answerless,
    /// It seems lost, and is done later.
    Late,
    /// It is done, and done again later.
    Twice,
    Busy,
    Full,
    /// Refused with 409, for no reason.
    Conflict,
    Cut,
    Flipped,
    /// Another object's answer comes.
    Misdirected,
}

const FOR_PUT: [Fate; 7] = [
    Fate::Lost,
    Fate::Answerless,
    Fate::Late,
    Fate::Twice,
    Fate::Busy,
    Fate::Full,
    Fate::Conflict,
];
const FOR_GET: [Fate; 5] = [
    Fate::Lost,
    Fate::Busy,
    Fate::Cut,
    Fate::Flipped,
    Fate::Misdirected,
];
const FOR_DELETE: [Fate; 4] = [Fate::Lost, Fate::Answerless, Fate::Late, Fate::Busy];

fn generic(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Generic {
        store: "simulated",
        source: source.into(),
    }
}

fn lost() -> Error {
    generic("the connection was lost")
}

fn refusal(fate: Fate, location: &Path) -> Error {
    match fate {
        Fate::Busy => generic(Throttled {
            after: Duration::from_secs(3),
        }),
        Fate::Full => generic("507: no space"),
        Fate::Conflict => Error::AlreadyExists {
            path: location.to_string(),
            source: "409: somebody else is at it".into(),
        },
        _ => lost(),
    }
}

/// Whether something comes back, be it what was asked for or not.
fn is_answered(fate: Fate) -> bool {
    matches!(
        fate,
        Fate::Done | Fate::Cut | Fate::Flipped | Fate::Misdirected
    )
}

fn is_manifest(location: &Path) -> bool {
    location.filename() == Some("manifest.json")
}

impl Objects {
    pub(crate) fn new(inner: Arc<dyn ObjectStore>, hub: Hub, party: usize) -> Self {
        Self { inner, hub, party }
    }

    /// Whether a failover that is asked for through it fences off whoever wrote before.
    pub(crate) fn fences(&self) -> bool {
        let third = self.party == THIRD && self.hub.is_planted(Plant::ThirdWithoutFence);
        !third && !self.hub.is_planted(Plant::FailoverWithoutFence)
    }

    /// Waits for the next turn. A thread that works while the world waits for it has none to wait for.
    async fn turn(&self) {
        let mut asked = !self.hub.is_home();
        poll_fn(|context| {
            if std::mem::replace(&mut asked, true) {
                return Poll::Ready(());
            }
            self.hub.pause();
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    fn fate(&self, of: &[Fate]) -> Fate {
        if !self.hub.is_home() {
            return Fate::Done;
        }
        match self.hub.link(self.party) {
            Link::Down => return Fate::Lost,
            Link::OneWay => return Fate::Answerless,
            Link::Up => {}
        }
        if !self.hub.store_fault() {
            return Fate::Done;
        }
        let fate = of[self.hub.below(of.len())];
        match fate {
            Fate::Lost => self.hub.mark(Mark::RequestLost),
            Fate::Answerless => self.hub.mark(Mark::AnswerLost),
            Fate::Busy => self.hub.mark(Mark::Busy),
            Fate::Full => self.hub.mark(Mark::StoreFull),
            Fate::Cut => self.hub.mark(Mark::CutAnswer),
            Fate::Flipped => self.hub.mark(Mark::FlippedAnswer),
            Fate::Twice => self.hub.mark(Mark::Duplicated),
            Fate::Misdirected => self.hub.mark(Mark::MisdirectedAnswer),
            Fate::Done | Fate::Late | Fate::Conflict => {}
        }
        fate
    }

    /// Puts, and takes note of who replaced the manifest.
    async fn put_now(
        &self,
        location: &Path,
        mut payload: PutPayload,
        mut options: PutOptions,
    ) -> Result<PutResult> {
        let third = self.party == THIRD && self.hub.is_planted(Plant::ThirdConditionsIgnored);
        if (third || self.hub.is_planted(Plant::ConditionsIgnored)) && is_manifest(location) {
            options.mode = PutMode::Overwrite;
        }
        let is_log = location.extension() == Some("ailog") || location.as_ref().contains("/packs/");
        if self.hub.is_planted(Plant::LogCutShort) && is_log && self.hub.chance(100) {
            let bytes = Bytes::from(payload);
            payload = bytes.slice(..bytes.len().saturating_sub(16)).into();
        }
        let put = self.inner.put_opts(location, payload, options).await;
        if put.is_ok() && is_manifest(location) {
            self.hub.published(self.party);
        }
        put
    }

    /// Does what is late.
    pub(crate) async fn deliver(hub: &Hub, inner: &Arc<dyn ObjectStore>, late: Late) {
        hub.mark(Mark::Late);
        let Late {
            party,
            location,
            request,
        } = late;
        match request {
            LateRequest::Put(payload, options) => {
                let objects = Self::new(Arc::clone(inner), hub.clone(), party);
                let put = objects.put_now(&location, payload, options).await;
                hub.trace(|| format!("late: put {location}: {}", put.is_ok()));
                if let Err(Error::Precondition { .. } | Error::AlreadyExists { .. }) = put {
                    hub.mark(Mark::LateRefused);
                }
            }
            LateRequest::Delete => {
                let _ = inner.delete(&location).await;
            }
        }
    }

    fn put_off(&self, location: &Path, request: LateRequest) {
        self.hub.put_off(Late {
            party: self.party,
            location: location.clone(),
            request,
        });
    }

    async fn delete_one(&self, location: Path) -> Result<Path> {
        self.turn().await;
        match self.fate(&FOR_DELETE) {
            Fate::Done => {}
            Fate::Answerless => {
                self.inner.delete(&location).await?;
                return Err(lost());
            }
            Fate::Late => {
                self.put_off(&location, LateRequest::Delete);
                return Err(lost());
            }
            fate => return Err(refusal(fate, &location)),
        }
        self.inner.delete(&location).await.map(|()| location)
    }
}

#[async_trait]
impl ObjectStore for Objects {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.turn().await;
        let fate = self.fate(&FOR_PUT);
        self.hub
            .trace(|| format!("site {}: put {location}: {fate:?}", self.party));
        let late = LateRequest::Put(payload.clone(), options.clone());
        let conditional = options.mode != PutMode::Overwrite;
        let put = match fate {
            Fate::Done => self.put_now(location, payload, options).await,
            Fate::Answerless => {
                if conditional {
                    self.hub.mark(Mark::ConditionalAnswerLost);
                }
                let _ = self.put_now(location, payload, options).await;
                Err(lost())
            }
            Fate::Late => {
                self.put_off(location, late);
                Err(lost())
            }
            Fate::Twice => {
                self.put_off(location, late);
                self.put_now(location, payload, options).await
            }
            Fate::Conflict if conditional => {
                self.hub.mark(Mark::SpuriousConflict);
                Err(refusal(fate, location))
            }
            fate => Err(refusal(fate, location)),
        };
        let lingers = if is_manifest(location) { 500 } else { 100 };
        if self.hub.has_faults() && self.hub.chance(lingers) {
            // What is done here may come to nobody's knowledge.
            self.turn().await;
        }
        put
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.turn().await;
        let fate = self.fate(&FOR_GET);
        self.hub
            .trace(|| format!("site {}: get {location}: {fate:?}", self.party));
        if !is_answered(fate) {
            return Err(refusal(fate, location));
        }
        let found = self.inner.get_opts(location, options).await?;
        let (meta, range) = (found.meta.clone(), found.range.clone());
        let (attributes, extensions) = (found.attributes.clone(), found.extensions.clone());
        let bytes = self.answer(fate, location, found.bytes().await?);
        Ok(GetResult {
            payload: GetResultPayload::Stream(stream::iter([Ok(bytes)]).boxed()),
            meta,
            range,
            attributes,
            extensions,
        })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.turn().await;
        let fate = self.fate(&FOR_GET);
        if !is_answered(fate) {
            return Err(refusal(fate, location));
        }
        let found = self.inner.get_ranges(location, ranges).await?.into_iter();
        Ok(found
            .map(|bytes| self.answer(fate, location, bytes))
            .collect())
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let objects = self.clone();
        let delete = move |location: Result<Path>| {
            let objects = objects.clone();
            async move { objects.delete_one(location?).await }
        };
        locations.then(delete).boxed()
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

impl Objects {
    /// What comes of an answer: it may be cut, have a flipped bit, or be another one.
    fn answer(&self, fate: Fate, location: &Path, bytes: Bytes) -> Bytes {
        if !self.hub.is_home() {
            return bytes;
        }
        // An answer that was the manifest's once would be a stale read, which stores rule out.
        let other = if is_manifest(location) {
            self.hub.last_answer()
        } else {
            self.hub.exchange_answer(bytes.clone())
        };
        match fate {
            Fate::Misdirected => other,
            Fate::Cut | Fate::Flipped if !bytes.is_empty() => self.spoil(fate, &bytes),
            _ => bytes,
        }
    }

    fn spoil(&self, fate: Fate, bytes: &Bytes) -> Bytes {
        let at = self.hub.below(bytes.len());
        if fate == Fate::Cut {
            return bytes.slice(..at);
        }
        let mut spoiled = bytes.to_vec();
        spoiled[at] ^= 1 << self.hub.below(8);
        spoiled.into()
    }
}
