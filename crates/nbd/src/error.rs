//! What can go wrong between an NBD server and its clients.

use std::io;
use std::path::PathBuf;

/// The result of an NBD operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, and with whom.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A text is neither `unix:PATH` nor `tcp:ADDRESS:PORT`, nor an NBD URI.
    #[error("`{0}` is no NBD address: write unix:PATH or tcp:127.0.0.1:PORT")]
    Address(String),
    /// The address is reachable from other hosts, and there is no TLS.
    #[error("{0} is not a loopback address: without TLS, serve on loopback or a Unix socket")]
    NotLoopback(std::net::SocketAddr),
    /// Another server listens on the socket.
    #[error("another server listens on `{}`: stop it or use another path", .0.display())]
    InUse(PathBuf),
    /// Two exports have one name, or there is none at all.
    #[error("the export name `{0}` is used twice")]
    DuplicateExport(String),
    /// There is nothing to serve.
    #[error("there is nothing to export")]
    NoExports,
    /// The operating system refused or failed something.
    #[error("cannot {operation} {peer}: {source}")]
    Io {
        /// The verb: listen on, connect to, read from, write to.
        operation: &'static str,
        /// The address.
        peer: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// The server refused an option of the handshake.
    #[error("the server refuses export `{export}` with reply {code:#x}: {message}")]
    Refused {
        /// The export that was asked for.
        export: String,
        /// The reply's code.
        code: u32,
        /// What the server said.
        message: String,
    },
    /// The peer does not keep to the protocol.
    #[error("the peer breaks the NBD protocol: {0}")]
    Protocol(&'static str),
}

impl Error {
    /// Whether trying again can help.
    pub fn is_recoverable(&self) -> bool {
        matches!(self, Self::Io { .. } | Self::InUse(_))
    }
}
