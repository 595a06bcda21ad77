//! What can go wrong before there is a connection.

use std::path::PathBuf;

/// The result of setting something up.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, and with what. No variant shows a key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A URL is not a replica server's.
    #[error("`{url}` is not a replica server: write afterimage://HOST:PORT/")]
    Url {
        /// The URL.
        url: String,
    },
    /// A file cannot be read or written.
    #[error("cannot {operation} `{path}`: {source}")]
    File {
        /// The verb.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("`{path}` is no {expected}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What it should be.
        expected: &'static str,
    },
    /// A private key can be read by others.
    #[error("`{path}` can be read by others: take their rights to it away (chmod 600)")]
    KeyExposed {
        /// The file.
        path: PathBuf,
    },
    /// Certificate and key do not do.
    #[error("these certificates cannot be used: {0}")]
    Certificates(String),
    /// The list of clients is not understood.
    #[error("the list of clients is refused: {0}")]
    Grants(String),
    /// No address to listen at.
    #[error("cannot listen at `{address}`: {source}")]
    Listen {
        /// The address.
        address: String,
        /// What the operating system said.
        source: std::io::Error,
    },
}

impl Error {
    pub(crate) fn file(
        operation: &'static str,
        path: &std::path::Path,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File {
            operation,
            path,
            source,
        }
    }
}
