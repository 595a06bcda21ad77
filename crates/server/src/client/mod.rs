//! What is served, as an object store.

mod connection;
mod refused;
mod upload;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, Bytes, BytesMut};
use chrono::{DateTime, Utc};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use http::{HeaderMap, Method, Request, Response, header, request};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, Error as StoreError, Extensions, GetOptions, GetResult,
    GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use rustls::pki_types::ServerName;

use crate::pace::Pace;
use crate::protocol::{self, Entry, is_name, number, text};
use crate::{Error, Identity};
use connection::{Connection, Lost};
use refused::{generic, lost, refused};
use upload::Upload;

pub use refused::Refused;

const SCHEME: &str = "afterimage://";
/// Requests that can be repeated without harm are made so often, after pauses that grow from this.
const ATTEMPTS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(100);
/// Nothing of a body has come for so long: the answer is given up.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// No line of a list is longer.
const LINE_MAX: usize = 16 << 10;
/// Deletions on their way at a time.
const DELETIONS: usize = 8;

/// A replica server as an object store. It connects when something is asked of it.
///
/// Copies, attributes and tags are not offered: nothing in a replica is ever copied or has any. Names that
/// the protocol does not have are refused without asking.
#[derive(Clone, Debug)]
pub struct Client {
    remote: Arc<Remote>,
}

/// The other side.
#[derive(Debug)]
struct Remote {
    url: String,
    connection: Connection,
    pace: Pace,
}

impl Client {
    /// A client of the server at `url`, `afterimage://HOST:PORT/`, without limit of bandwidth.
    ///
    /// # Errors
    /// [`Error::Url`], [`Error::File`], [`Error::Pem`], [`Error::KeyExposed`],
    /// [`Error::Certificates`].
    pub fn new(url: &str, identity: &Identity) -> Result<Self, Error> {
        Self::with_bandwidth(url, identity, None)
    }

    /// As [`new`](Self::new); it sends at most so many bytes a second.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_bandwidth(
        url: &str,
        identity: &Identity,
        bandwidth: Option<u64>,
    ) -> Result<Self, Error> {
        let unknown = || Error::Url { url: url.into() };
        let address = url.strip_prefix(SCHEME).ok_or_else(unknown)?;
        let address = address.strip_suffix('/').unwrap_or(address);
        let (host, port) = address.rsplit_once(':').ok_or_else(unknown)?;
        let port: u16 = port.parse().map_err(|_| unknown())?;
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let name = ServerName::try_from(bare.unwrap_or(host).to_owned()).map_err(|_| unknown())?;
        let connection = Connection::new(format!("{host}:{port}"), name, identity.client()?);
        let remote = Remote {
            url: format!("{SCHEME}{host}:{port}/"),
            connection,
            pace: Pace::new(bandwidth),
        };
        let remote = Arc::new(remote);
        Ok(Self { remote })
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.remote.url.fmt(f)
    }
}

impl Remote {
    /// A request about what is called `path` among the things of one kind.
    fn request(&self, method: Method, kind: &str, path: &Path) -> Result<request::Builder> {
        if !is_name(path.as_ref()) {
            return Err(StoreError::NotSupported {
                source: format!("a replica server has no objects called `{path}`").into(),
            });
        }
        Ok(self.request_for(method, &format!("{kind}{path}")))
    }

    fn request_for(&self, method: Method, place: &str) -> request::Builder {
        let host = self.url.trim_start_matches(SCHEME).trim_end_matches('/');
        Request::builder()
            .method(method)
            .uri(format!("https://{host}{place}"))
    }

    /// The answer to a request that is made once.
    async fn send(
        &self,
        path: &Path,
        request: request::Builder,
        body: Bytes,
    ) -> Result<Response<Incoming>> {
        let answer = self.try_send(request, body).await?;
        answered(path, answer.map_err(|error| lost(path, error))?)
    }

    /// The answer to a request that is made again if the connection is lost: one that does nothing more when
    /// it is done twice.
    async fn send_again(
        &self,
        path: &Path,
        request: request::Builder,
        body: Bytes,
    ) -> Result<Response<Incoming>> {
        let request = request.body(()).map_err(generic)?;
        let mut pause = PAUSE;
        for _ in 1..ATTEMPTS {
            match self.try_send(again(&request), body.clone()).await? {
                Err(Lost::Broken(error)) => {
                    tracing::debug!(%error, "a request is made again");
                    tokio::time::sleep(pause).await;
                    pause *= 4;
                }
                answer => return answered(path, answer.map_err(|error| lost(path, error))?),
            }
        }
        self.send(path, again(&request), body).await
    }

    async fn try_send(
        &self,
        request: request::Builder,
        body: Bytes,
    ) -> Result<Result<Response<Incoming>, Lost>> {
        let length = body.len();
        let request = request.header(header::CONTENT_LENGTH, length);
        let request = request.body(Full::new(body)).map_err(generic)?;
        self.pace.take(length).await;
        Ok(self.connection.send(request, length).await)
    }

    /// The entries of a list, in the order in which they come.
    async fn list(
        self: Arc<Self>,
        folder: Option<Path>,
        query: &str,
    ) -> Result<BoxStream<'static, Result<Entry>>> {
        let folder = folder.unwrap_or_default();
        if folder != Path::default() && !is_name(folder.as_ref()) {
            return Ok(stream::iter([Ok(Entry::End {})]).boxed());
        }
        let place = format!("{}{folder}{query}", protocol::LIST);
        let request = self.request_for(Method::GET, &place);
        let answer = self.send_again(&folder, request, Bytes::new()).await?;
        Ok(entries(content(answer.into_body())))
    }
}

/// A request like `request`.
fn again(request: &Request<()>) -> request::Builder {
    let mut again = Request::builder()
        .method(request.method().clone())
        .uri(request.uri().clone());
    if let Some(headers) = again.headers_mut() {
        headers.clone_from(request.headers());
    }
    again
}

fn answered(path: &Path, answer: Response<Incoming>) -> Result<Response<Incoming>> {
    if answer.status().is_success() {
        return Ok(answer);
    }
    Err(refused(path, answer.status(), answer.headers()))
}

/// What comes of a body, unless it comes too slowly.
fn content(body: Incoming) -> BoxStream<'static, Result<Bytes>> {
    let parts = stream::try_unfold(body, |mut body| async move {
        let frame = tokio::time::timeout(IDLE_MAX, body.frame()).await;
        let frame = frame.map_err(|_| generic("the rest of the answer does not come"))?;
        let frame = frame.transpose().map_err(generic)?;
        Ok(frame.map(|frame| (frame.into_data().unwrap_or_default(), body)))
    });
    parts.boxed()
}

/// The lines of a list as entries. A list whose end is missing was cut.
fn entries(content: BoxStream<'static, Result<Bytes>>) -> BoxStream<'static, Result<Entry>> {
    let state = (content, BytesMut::new());
    let entries = stream::try_unfold(state, |(mut content, mut pending)| async move {
        loop {
            if let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let line = pending.split_to(end);
                pending.advance(1);
                let entry: Entry = serde_json::from_slice(&line).map_err(generic)?;
                return Ok(match entry {
                    Entry::End {} => None,
                    entry => Some((entry, (content, pending))),
                });
            }
            match content.try_next().await? {
                Some(part) if pending.len() <= LINE_MAX => pending.extend_from_slice(&part),
                Some(_) => return Err(generic("a line of the list is too long")),
                None => return Err(generic("the list was cut")),
            }
        }
    });
    entries.boxed()
}

fn time(nanos: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_nanos(nanos)
}

fn object(entry: Entry) -> Option<ObjectMeta> {
    match entry {
        Entry::Object {
            name,
            size,
            modified,
            e_tag,
            version,
        } => Some(ObjectMeta {
            location: Path::parse(name).ok()?,
            last_modified: time(modified),
            size,
            e_tag,
            version,
        }),
        Entry::Folder { .. } | Entry::End {} => None,
    }
}

fn put_result(headers: &HeaderMap) -> PutResult {
    PutResult {
        e_tag: text(headers, header::ETAG).map(Into::into),
        version: text(headers, protocol::VERSION).map(Into::into),
        extensions: Extensions::default(),
    }
}

/// What an answer says of its object, whose size is `size`.
fn meta(path: &Path, headers: &HeaderMap, size: u64) -> ObjectMeta {
    ObjectMeta {
        location: path.clone(),
        last_modified: time(number(headers, protocol::MODIFIED).unwrap_or_default()),
        size,
        e_tag: text(headers, header::ETAG).map(Into::into),
        version: text(headers, protocol::VERSION).map(Into::into),
    }
}

/// First and last byte that were sent, and the object's size.
fn content_range(headers: &HeaderMap) -> Option<(std::ops::Range<u64>, u64)> {
    let (range, size) = text(headers, header::CONTENT_RANGE)?
        .strip_prefix("bytes ")?
        .split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let end = last.parse::<u64>().ok()?.checked_add(1)?;
    Some((first.parse().ok()?..end, size.parse().ok()?))
}

fn conditions(mut request: request::Builder, options: &GetOptions) -> request::Builder {
    let nanos = |time: DateTime<Utc>| time.timestamp_nanos_opt().unwrap_or_default().to_string();
    let headers = [
        (header::IF_MATCH, options.if_match.clone()),
        (header::IF_NONE_MATCH, options.if_none_match.clone()),
        (protocol::IF_MODIFIED, options.if_modified_since.map(nanos)),
        (
            protocol::IF_UNMODIFIED,
            options.if_unmodified_since.map(nanos),
        ),
        (protocol::VERSION, options.version.clone()),
        (
            header::RANGE,
            options.range.as_ref().map(ToString::to_string),
        ),
    ];
    for (name, value) in headers {
        if let Some(value) = value {
            request = request.header(name, value);
        }
    }
    request
}

fn unsupported(what: &str) -> StoreError {
    StoreError::NotSupported {
        source: format!("a replica server has no {what}").into(),
    }
}

#[async_trait]
impl ObjectStore for Client {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        if !options.attributes.is_empty() {
            return Err(unsupported("attributes"));
        }
        let request = self
            .remote
            .request(Method::PUT, protocol::OBJECTS, location)?;
        let body = payload.into();
        let answer = match options.mode {
            PutMode::Overwrite => self.remote.send_again(location, request, body).await,
            // Whether a conditional put was done whose answer was lost, only its caller can tell.
            PutMode::Create => {
                let request = request.header(header::IF_NONE_MATCH, "*");
                self.remote.send(location, request, body).await
            }
            PutMode::Update(version) => {
                let e_tag = version
                    .e_tag
                    .ok_or_else(|| unsupported("update without a tag"))?;
                let mut request = request.header(header::IF_MATCH, e_tag);
                if let Some(version) = version.version {
                    request = request.header(protocol::VERSION, version);
                }
                self.remote.send(location, request, body).await
            }
        };
        Ok(put_result(answer?.headers()))
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        if !options.attributes.is_empty() {
            return Err(unsupported("attributes"));
        }
        let remote = Arc::clone(&self.remote);
        let request = remote.request(Method::POST, protocol::UPLOADS, location)?;
        // Begun twice, one of them is given up by the server.
        let answer = remote.send_again(location, request, Bytes::new()).await?;
        let name = text(answer.headers(), protocol::UPLOAD);
        let name = name
            .ok_or_else(|| generic("the upload has no name"))?
            .to_owned();
        Ok(Box::new(Upload {
            remote,
            path: location.clone(),
            name,
            parts: 0,
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let method = if options.head {
            Method::HEAD
        } else {
            Method::GET
        };
        let request = self.remote.request(method, protocol::OBJECTS, location)?;
        let request = conditions(request, &options);
        let answer = self
            .remote
            .send_again(location, request, Bytes::new())
            .await?;
        let headers = answer.headers();
        let length: Option<u64> = number(headers, header::CONTENT_LENGTH);
        let (range, size) = match (content_range(headers), length) {
            (Some(found), _) => found,
            (None, Some(length)) => (0..length, length),
            (None, None) => return Err(generic("the answer does not say how long it is")),
        };
        let meta = meta(location, headers, size);
        let content = if options.head {
            stream::empty().boxed()
        } else {
            content(answer.into_body())
        };
        Ok(GetResult {
            payload: GetResultPayload::Stream(content),
            meta,
            range,
            attributes: Attributes::default(),
            extensions: Extensions::default(),
        })
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let remote = Arc::clone(&self.remote);
        let deleted = locations.map(move |location| {
            let remote = Arc::clone(&remote);
            async move {
                let location = location?;
                let request = remote.request(Method::DELETE, protocol::OBJECTS, &location)?;
                remote.send_again(&location, request, Bytes::new()).await?;
                Ok(location)
            }
        });
        deleted.buffered(DELETIONS).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (remote, prefix) = (Arc::clone(&self.remote), prefix.cloned());
        let entries = stream::once(remote.list(prefix, "")).try_flatten();
        entries
            .try_filter_map(|entry| async move { Ok(object(entry)) })
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let remote = Arc::clone(&self.remote);
        let mut entries = remote.list(prefix.cloned(), "?folders").await?;
        let mut found = ListResult {
            common_prefixes: Vec::new(),
            objects: Vec::new(),
            extensions: Extensions::default(),
        };
        while let Some(entry) = entries.try_next().await? {
            match entry {
                Entry::Folder { name } => found.common_prefixes.push(Path::parse(name)?),
                entry => found.objects.extend(object(entry)),
            }
        }
        Ok(found)
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(unsupported("copies"))
    }
}
