//! What is asked for, and what is done.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use chrono::DateTime;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use object_store::path::Path;
use object_store::{
    Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions,
    PutOptions, PutPayload, UpdateVersion,
};
use tokio::sync::Notify;

use super::answer::{self, Answered, Body, Refusal};
use super::body::{Bodies, length};
use super::grants::Client;
use super::limits::Limits;
use super::listing;
use super::quota::Quotas;
use super::target::{Access, Target};
use super::uploads::Uploads;
use crate::protocol::{self, Code, number, text};

/// Where what is replaced by a client that may only append is kept, out of the reach of all clients.
const REPLACED: &str = "replaced";

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Service {
    objects: Arc<dyn ObjectStore>,
    limits: Limits,
    bodies: Bodies,
    quotas: Quotas,
    uploads: Uploads,
}

/// Who asks, on which connection.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) client: Arc<Client>,
    /// Ends the connection.
    pub(crate) end: Arc<Notify>,
}

fn malformed(reason: &'static str) -> Refusal {
    Refusal::new(Code::Malformed, reason)
}

impl Service {
    pub(crate) fn new(objects: Arc<dyn ObjectStore>, limits: Limits) -> Self {
        Self {
            objects,
            bodies: Bodies::new(limits.clone()),
            limits,
            quotas: Quotas::default(),
            uploads: Uploads::default(),
        }
    }

    /// Answers a request, whatever it is.
    pub(crate) async fn answer(
        &self,
        caller: &Caller,
        request: Request<Incoming>,
    ) -> Response<Body> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        match self.dispatch(caller, request, &path).await {
            Ok(answer) => answer,
            Err(refusal) => {
                let (client, code) = (&caller.client.name, refusal.code.name());
                tracing::debug!(client, %method, path, code, "refused");
                refusal.answer()
            }
        }
    }

    async fn dispatch(&self, caller: &Caller, request: Request<Incoming>, path: &str) -> Answered {
        let method = request.method().clone();
        if let Some(name) = path.strip_prefix(protocol::OBJECTS) {
            return match method {
                Method::GET | Method::HEAD => self.get(caller, name, &request).await,
                Method::PUT => self.put(caller, name, request).await,
                Method::DELETE => self.delete(caller, name).await,
                _ => Err(Refusal::new(
                    Code::Method,
                    "objects are got, put and deleted",
                )),
            };
        }
        if let Some(name) = path.strip_prefix(protocol::UPLOADS) {
            let target = Target::of(name, &caller.client, Access::Write)?;
            return match method {
                Method::POST => {
                    self.begin_or_complete(caller, &target, request.headers())
                        .await
                }
                Method::PUT => self.put_part(caller, &target, request).await,
                Method::GET => self.parts(caller, &target, request.headers()),
                Method::DELETE => self.abort(caller, &target, request.headers()).await,
                _ => Err(Refusal::new(
                    Code::Method,
                    "uploads are posted, put and deleted",
                )),
            };
        }
        if let Some(folder) = path.strip_prefix(protocol::LIST) {
            let flat = match request.uri().query() {
                None => true,
                Some("folders") => false,
                Some(_) => return Err(malformed("a list is asked for in another way")),
            };
            if method != Method::GET {
                return Err(Refusal::new(Code::Method, "lists are got"));
            }
            return listing::answer(&self.objects, &caller.client, folder, flat).await;
        }
        Err(malformed("there is nothing of that kind here"))
    }

    async fn get(&self, caller: &Caller, name: &str, request: &Request<Incoming>) -> Answered {
        let target = Target::of(name, &caller.client, Access::Read)?;
        let options = get_options(request)?;
        let found = self.objects.get_opts(&target.path, options).await?;
        let mut answer = answer::empty(StatusCode::OK);
        let headers = answer.headers_mut();
        answer::describe(headers, &found.meta);
        let (range, size) = (found.range.clone(), found.meta.size);
        let is_head = request.method() == Method::HEAD;
        let sent = if is_head {
            size
        } else {
            range.end.saturating_sub(range.start)
        };
        protocol::set(headers, header::CONTENT_LENGTH, &sent);
        if is_head {
            return Ok(answer);
        }
        if request.headers().contains_key(header::RANGE) {
            let last = range.end.saturating_sub(1);
            let shown = format!("bytes {}-{last}/{size}", range.start);
            protocol::set(headers, header::CONTENT_RANGE, &shown);
            *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        *answer.body_mut() = self.bodies.send(found, &caller.client, &caller.end).await?;
        Ok(answer)
    }

    async fn put(&self, caller: &Caller, name: &str, request: Request<Incoming>) -> Answered {
        let client = &caller.client;
        let target = Target::of(name, client, Access::Write)?;
        let mode = put_mode(request.headers())?;
        let length = length(request.headers(), target.length_max(self.limits.object))?;
        let (objects, machine) = (&self.objects, target.machine());
        let room = self
            .quotas
            .reserve(objects, client, machine, length)
            .await?;
        let received = self
            .bodies
            .receive(request.into_body(), length, client)
            .await?;
        let keep = client.append_only && machine.is_some() && mode != PutMode::Create;
        let (objects, path) = (Arc::clone(objects), target.path);
        // It goes on to its end though the client goes away.
        let putting = tokio::spawn(async move {
            if keep {
                keep_replaced(&objects, &path, &received.payload).await?;
            }
            let put = objects
                .put_opts(&path, received.payload, PutOptions::from(mode))
                .await?;
            room.used().await;
            Ok::<_, Refusal>(put)
        });
        let put = putting
            .await
            .map_err(|_| Refusal::new(Code::Failed, "the put broke off"))?;
        Ok(answer::put(put?))
    }

    async fn delete(&self, caller: &Caller, name: &str) -> Answered {
        let target = Target::of(name, &caller.client, Access::Delete)?;
        self.objects.delete(&target.path).await?;
        Ok(answer::empty(StatusCode::NO_CONTENT))
    }

    async fn begin_or_complete(
        &self,
        caller: &Caller,
        target: &Target,
        headers: &HeaderMap,
    ) -> Answered {
        let client = &caller.client;
        if let Some(name) = text(headers, protocol::UPLOAD) {
            let parts = number(headers, protocol::PART);
            let parts = parts.ok_or_else(|| malformed("say how many parts there are"))?;
            let upload = self.uploads.find(name, client, &target.path)?;
            return Ok(answer::put(upload.complete(parts).await?));
        }
        if target.machine().is_none() {
            return Err(Refusal::new(
                Code::Forbidden,
                "that object is put in one request",
            ));
        }
        self.uploads.check(client, &self.limits)?;
        if client.append_only {
            keep_replaced(&self.objects, &target.path, &PutPayload::new()).await?;
        }
        let options = PutMultipartOptions::default();
        let inner = self
            .objects
            .put_multipart_opts(&target.path, options)
            .await?;
        let name = self.uploads.begin(client, &target.path, inner);
        let mut answer = answer::empty(StatusCode::CREATED);
        protocol::set(answer.headers_mut(), protocol::UPLOAD, &name);
        Ok(answer)
    }

    async fn put_part(
        &self,
        caller: &Caller,
        target: &Target,
        request: Request<Incoming>,
    ) -> Answered {
        let (client, headers) = (&caller.client, request.headers());
        let name = text(headers, protocol::UPLOAD).ok_or_else(|| malformed("say which upload"))?;
        let part = number(headers, protocol::PART).ok_or_else(|| malformed("say which part"))?;
        let upload = self.uploads.find(name, client, &target.path)?;
        let length = length(headers, self.limits.object)?;
        let machine = target.machine();
        let room = self
            .quotas
            .reserve(&self.objects, client, machine, length)
            .await?;
        let received = self
            .bodies
            .receive(request.into_body(), length, client)
            .await?;
        upload
            .put(part, received, room, self.limits.patience)
            .await?;
        Ok(answer::empty(StatusCode::NO_CONTENT))
    }

    fn parts(&self, caller: &Caller, target: &Target, headers: &HeaderMap) -> Answered {
        let name = text(headers, protocol::UPLOAD).ok_or_else(|| malformed("say which upload"))?;
        let upload = self.uploads.find(name, &caller.client, &target.path)?;
        let mut answer = answer::empty(StatusCode::NO_CONTENT);
        protocol::set(answer.headers_mut(), protocol::PART, &upload.parts());
        Ok(answer)
    }

    async fn abort(&self, caller: &Caller, target: &Target, headers: &HeaderMap) -> Answered {
        let name = text(headers, protocol::UPLOAD).ok_or_else(|| malformed("say which upload"))?;
        let upload = self.uploads.find(name, &caller.client, &target.path)?;
        upload.abort().await;
        Ok(answer::empty(StatusCode::NO_CONTENT))
    }
}

/// Keeps what is at `path` and about to be replaced by other bytes, the first of each hour, so that what is
/// put again and again takes little.
async fn keep_replaced(
    objects: &Arc<dyn ObjectStore>,
    path: &Path,
    by: &PutPayload,
) -> Answered<()> {
    let present = match objects.head(path).await {
        Err(Error::NotFound { .. }) => return Ok(()),
        present => present?,
    };
    if present.size == by.content_length() as u64
        && objects.get(path).await?.bytes().await? == bytes::Bytes::from(by.clone())
    {
        return Ok(());
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let kept = Path::from(format!("{REPLACED}/{path}/{}", now.as_secs() / 3600));
    match objects.copy_if_not_exists(path, &kept).await {
        Err(Error::AlreadyExists { .. } | Error::NotFound { .. }) => Ok(()),
        copied => Ok(copied?),
    }
}

fn put_mode(headers: &HeaderMap) -> Answered<PutMode> {
    match (
        text(headers, header::IF_MATCH),
        text(headers, header::IF_NONE_MATCH),
    ) {
        (None, None) => Ok(PutMode::Overwrite),
        (None, Some("*")) => Ok(PutMode::Create),
        (Some(e_tag), None) => Ok(PutMode::Update(UpdateVersion {
            e_tag: Some(e_tag.to_owned()),
            version: text(headers, protocol::VERSION).map(str::to_owned),
        })),
        _ => Err(malformed("the conditions contradict each other")),
    }
}

fn get_options(request: &Request<Incoming>) -> Answered<GetOptions> {
    let headers = request.headers();
    let owned = |name: header::HeaderName| text(headers, name).map(str::to_owned);
    let time = |name: header::HeaderName| {
        let nanos: Option<i64> = number(headers, name);
        nanos.map(DateTime::from_timestamp_nanos)
    };
    let range = match text(headers, header::RANGE) {
        Some(range) => Some(byte_range(range).ok_or_else(|| malformed("that is no range"))?),
        None => None,
    };
    Ok(GetOptions {
        if_match: owned(header::IF_MATCH),
        if_none_match: owned(header::IF_NONE_MATCH),
        if_modified_since: time(protocol::IF_MODIFIED),
        if_unmodified_since: time(protocol::IF_UNMODIFIED),
        range,
        version: owned(protocol::VERSION),
        head: request.method() == Method::HEAD,
        ..GetOptions::default()
    })
}

/// One range of bytes; several are not served.
fn byte_range(text: &str) -> Option<GetRange> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    match (first, last) {
        ("", last) => Some(GetRange::Suffix(last.parse().ok()?)),
        (first, "") => Some(GetRange::Offset(first.parse().ok()?)),
        (first, last) => {
            let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
            let end = last.checked_add(1)?;
            (first < end).then_some(GetRange::Bounded(first..end))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_http() {
        assert_eq!(byte_range("bytes=2-5"), Some(GetRange::Bounded(2..6)));
        assert_eq!(byte_range("bytes=2-"), Some(GetRange::Offset(2)));
        assert_eq!(byte_range("bytes=-2"), Some(GetRange::Suffix(2)));
        for bad in [
            "2-5",
            "bytes=5-2",
            "bytes=-",
            "bytes=0-1,3-4",
            "bytes=0-18446744073709551615",
        ] {
            assert_eq!(byte_range(bad), None, "{bad}");
        }
    }
}
