//! Answers, and refusals.

use std::io;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use object_store::{Error, ObjectMeta, PutResult};

use crate::protocol::{self, Code};

/// The body of an answer.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;
/// An answer, or why there is none.
pub(crate) type Answered<T = Response<Body>> = Result<T, Refusal>;

/// Why a request is not done.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) code: Code,
    pub(crate) reason: &'static str,
    /// Of a quota: what is used, and the limit.
    pub(crate) quota: Option<(u64, u64)>,
}

impl Refusal {
    pub(crate) fn new(code: Code, reason: &'static str) -> Self {
        Self {
            code,
            reason,
            quota: None,
        }
    }

    pub(crate) fn answer(&self) -> Response<Body> {
        let mut answer = empty(self.code.status());
        let headers = answer.headers_mut();
        protocol::set(headers, protocol::ERROR, &self.code.name());
        if let Some((used, limit)) = self.quota {
            protocol::set(headers, protocol::USED, &used);
            protocol::set(headers, protocol::LIMIT, &limit);
        }
        if self.code != Code::NotModified {
            *answer.body_mut() = whole(Bytes::from_static(self.reason.as_bytes()));
        }
        answer
    }
}

impl From<Error> for Refusal {
    /// What the store said stays in the server's log: it may name places that are no business of a
    /// client.
    fn from(error: Error) -> Self {
        let (code, reason) = match error {
            Error::NotFound { .. } => (Code::NotFound, "there is no such object"),
            Error::AlreadyExists { .. } => (Code::Exists, "there is such an object"),
            Error::Precondition { .. } => (Code::Precondition, "the object is another one"),
            Error::NotModified { .. } => (Code::NotModified, "the object is still the same"),
            Error::NotSupported { .. } | Error::NotImplemented { .. } => {
                (Code::NotSupported, "the server's store cannot do this")
            }
            error => {
                tracing::warn!(%error, "the store failed");
                (Code::Failed, "the server's store failed")
            }
        };
        Self::new(code, reason)
    }
}

pub(crate) fn whole(bytes: Bytes) -> Body {
    Full::new(bytes)
        .map_err(|never| match never {})
        .boxed_unsync()
}

pub(crate) fn empty(status: StatusCode) -> Response<Body> {
    let mut answer = Response::new(whole(Bytes::new()));
    *answer.status_mut() = status;
    answer
}

/// That an object is put.
pub(crate) fn put(result: PutResult) -> Response<Body> {
    let mut answer = empty(StatusCode::OK);
    tags(answer.headers_mut(), result.e_tag, result.version);
    answer
}

/// What there is to say of an object.
pub(crate) fn describe(headers: &mut HeaderMap, meta: &ObjectMeta) {
    tags(headers, meta.e_tag.clone(), meta.version.clone());
    let modified = meta.last_modified.timestamp_nanos_opt().unwrap_or_default();
    protocol::set(headers, protocol::MODIFIED, &modified);
}

fn tags(headers: &mut HeaderMap, e_tag: Option<String>, version: Option<String>) {
    if let Some(e_tag) = e_tag {
        protocol::set(headers, header::ETAG, &e_tag);
    }
    if let Some(version) = version {
        protocol::set(headers, protocol::VERSION, &version);
    }
}
