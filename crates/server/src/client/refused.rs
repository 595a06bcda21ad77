//! What a server refuses, as an error of a store.

use http::{HeaderMap, StatusCode};
use object_store::Error;
use object_store::path::Path;

use super::connection::Lost;
use crate::protocol::{self, Code, number, text};

/// What errors say that they come from.
const STORE: &str = "replica server";

/// Why a server does not do a request that could succeed later or elsewhere. It is among the sources of the
/// `object_store` error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// What the machine may store is used up.
    #[error(
        "the machine's quota is reached: it uses {used} of {limit} bytes; let fewer recovery points be \
         kept, or have the quota raised"
    )]
    Quota {
        /// Bytes used.
        used: u64,
        /// Bytes that may be used.
        limit: u64,
    },
    /// The upload was given up, or the server was started anew.
    #[error("the server does not know the upload any more: it is begun again")]
    NoUpload,
    /// Anything else.
    #[error("{code} ({status})")]
    Other {
        /// The status of HTTP.
        status: u16,
        /// The server's word for it.
        code: String,
    },
}

/// The error for a connection that gave no answer.
pub(super) fn lost(path: &Path, lost: Lost) -> Error {
    let source = Box::new(lost);
    if matches!(*source, Lost::Certificate(_)) {
        let path = path.to_string();
        return Error::Unauthenticated { path, source };
    }
    let store = STORE;
    Error::Generic { store, source }
}

/// The error for an answer that is none.
pub(super) fn generic(reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Generic {
        store: STORE,
        source: reason.into(),
    }
}

/// The error for a refusal.
pub(super) fn refused(path: &Path, status: StatusCode, headers: &HeaderMap) -> Error {
    let name = text(headers, protocol::ERROR).unwrap_or_default();
    let code = Code::of(name);
    let refused = match code {
        Some(Code::Quota) => Refused::Quota {
            used: number(headers, protocol::USED).unwrap_or_default(),
            limit: number(headers, protocol::LIMIT).unwrap_or_default(),
        },
        Some(Code::NoUpload) => Refused::NoUpload,
        _ => Refused::Other {
            status: status.as_u16(),
            // A word of the protocol, and nothing that somebody else made up.
            code: if code.is_some() {
                name.into()
            } else {
                "refused".into()
            },
        },
    };
    let (path, source) = (path.to_string(), Box::new(refused));
    match code {
        Some(Code::NotFound) => Error::NotFound { path, source },
        Some(Code::Exists) => Error::AlreadyExists { path, source },
        Some(Code::Precondition) => Error::Precondition { path, source },
        Some(Code::NotModified) => Error::NotModified { path, source },
        Some(Code::Forbidden) => Error::PermissionDenied { path, source },
        Some(Code::NotSupported | Code::TooLong | Code::Malformed | Code::Method) => {
            Error::NotSupported { source }
        }
        _ => generic(*source),
    }
}
