//! What both sides have in common. Specified in `PROTOCOL.md`.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

/// Where objects, uploads and lists are.
pub(crate) const OBJECTS: &str = "/1/objects/";
pub(crate) const UPLOADS: &str = "/1/uploads/";
pub(crate) const LIST: &str = "/1/list/";

pub(crate) const VERSION: HeaderName = HeaderName::from_static("afterimage-version");
pub(crate) const MODIFIED: HeaderName = HeaderName::from_static("afterimage-modified");
pub(crate) const IF_MODIFIED: HeaderName = HeaderName::from_static("afterimage-if-modified");
pub(crate) const IF_UNMODIFIED: HeaderName = HeaderName::from_static("afterimage-if-unmodified");
pub(crate) const UPLOAD: HeaderName = HeaderName::from_static("afterimage-upload");
pub(crate) const PART: HeaderName = HeaderName::from_static("afterimage-part");
pub(crate) const ERROR: HeaderName = HeaderName::from_static("afterimage-error");
pub(crate) const USED: HeaderName = HeaderName::from_static("afterimage-used");
pub(crate) const LIMIT: HeaderName = HeaderName::from_static("afterimage-limit");

/// No part of a name is longer, and no name.
const PART_MAX: usize = 128;
const NAME_MAX: usize = 1024;

/// Whether `name` is one of those that are served: parts of `A-Z a-z 0-9 . _ -`, none of them `.` or
/// `..`, with slashes between.
pub(crate) fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let is_part = |part: &str| {
        (1..=PART_MAX).contains(&part.len())
            && part.bytes().all(allowed)
            && part != "."
            && part != ".."
    };
    name.len() <= NAME_MAX && name.split('/').all(is_part)
}

/// Why a request is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    Malformed,
    Forbidden,
    NotFound,
    Method,
    Timeout,
    NoUpload,
    NoLength,
    Exists,
    Precondition,
    TooLong,
    TooMany,
    NotModified,
    NotSupported,
    Failed,
    Busy,
    Quota,
}

impl Code {
    const ALL: [(Self, &'static str, StatusCode); 16] = [
        (Self::Malformed, "malformed", StatusCode::BAD_REQUEST),
        (Self::Forbidden, "forbidden", StatusCode::FORBIDDEN),
        (Self::NotFound, "not-found", StatusCode::NOT_FOUND),
        (Self::Method, "method", StatusCode::METHOD_NOT_ALLOWED),
        (Self::Timeout, "timeout", StatusCode::REQUEST_TIMEOUT),
        (Self::NoUpload, "no-upload", StatusCode::GONE),
        (Self::NoLength, "no-length", StatusCode::LENGTH_REQUIRED),
        (Self::Exists, "exists", StatusCode::PRECONDITION_FAILED),
        (
            Self::Precondition,
            "precondition",
            StatusCode::PRECONDITION_FAILED,
        ),
        (Self::TooLong, "too-long", StatusCode::PAYLOAD_TOO_LARGE),
        (Self::TooMany, "too-many", StatusCode::TOO_MANY_REQUESTS),
        (Self::NotModified, "not-modified", StatusCode::NOT_MODIFIED),
        (
            Self::NotSupported,
            "not-supported",
            StatusCode::NOT_IMPLEMENTED,
        ),
        (Self::Failed, "failed", StatusCode::BAD_GATEWAY),
        (Self::Busy, "busy", StatusCode::SERVICE_UNAVAILABLE),
        (Self::Quota, "quota", StatusCode::INSUFFICIENT_STORAGE),
    ];

    #[cfg(feature = "serve")]
    pub(crate) fn name(self) -> &'static str {
        let mut all = Self::ALL.iter();
        all.find(|(code, ..)| *code == self)
            .map_or("failed", |(_, name, _)| name)
    }

    #[cfg(feature = "serve")]
    pub(crate) fn status(self) -> StatusCode {
        let mut all = Self::ALL.iter();
        let found = all.find(|(code, ..)| *code == self);
        found.map_or(StatusCode::BAD_GATEWAY, |(.., status)| *status)
    }

    #[cfg(feature = "client")]
    pub(crate) fn of(name: &str) -> Option<Self> {
        let mut all = Self::ALL.iter();
        all.find(|(_, found, _)| *found == name)
            .map(|(code, ..)| *code)
    }
}

/// The text of a header.
pub(crate) fn text(headers: &HeaderMap, name: impl http::header::AsHeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// The number in a header.
pub(crate) fn number<T: std::str::FromStr>(
    headers: &HeaderMap,
    name: impl http::header::AsHeaderName,
) -> Option<T> {
    text(headers, name)?.parse().ok()
}

/// Sets a header, if the value can be one.
pub(crate) fn set(headers: &mut HeaderMap, name: HeaderName, value: &impl ToString) {
    if let Ok(value) = HeaderValue::try_from(value.to_string()) {
        headers.insert(name, value);
    }
}

/// An entry of a list, one in a line of JSON.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Entry {
    Object {
        name: String,
        size: u64,
        modified: i64,
        e_tag: Option<String>,
        version: Option<String>,
    },
    Folder {
        name: String,
    },
    /// The last one.
    End {},
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_lead_elsewhere_are_none() {
        let long = "a".repeat(129);
        for name in [
            "", "/", "a/", "/a", "a//b", "..", "a/../b", "a/./b", "a%2f", "a b", "a\\b", "ä", &long,
        ] {
            assert!(!is_name(name), "{name:?}");
        }
        for name in ["a", "machines/web-01/manifest.json", "a/.../b_"] {
            assert!(is_name(name), "{name:?}");
        }
    }
}
