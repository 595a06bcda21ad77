//! What can go wrong between an NBD server and its clients.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use afterimage_block::Length;

/// The result of an NBD operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, doing what, with whom.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A text is neither `unix:PATH` nor `tcp:ADDRESS:PORT`, nor an NBD URI.
    #[error("`{0}` is no NBD address: write unix:PATH or tcp:127.0.0.1:PORT")]
    Address(String),
    /// The address is reachable from other hosts, and there is no TLS.
    #[error("{0} is not a loopback address: without TLS, serve on loopback or a Unix socket")]
    NotLoopback(SocketAddr),
    /// Another server listens on the socket.
    #[error("another server listens on `{}`: stop it or use another path", .0.display())]
    InUse(PathBuf),
    /// Something that is not a socket is where the socket should be.
    #[error("`{}` is there and is not a socket: remove it or use another path", .0.display())]
    NotASocket(PathBuf),
    /// There is nothing to serve.
    #[error("there is nothing to export: name at least one disk")]
    NoExports,
    /// Two exports have one name.
    #[error("two exports are called `{0}`: give each its own name")]
    DuplicateExport(String),
    /// An export's name or description cannot be sent to a client.
    #[error("the {field} of export `{name}` has {length} bytes or a NUL: use at most 4096 without")]
    ExportText {
        /// The export's name, as it is.
        name: String,
        /// Which text: name or description.
        field: &'static str,
        /// Its length in bytes.
        length: usize,
    },
    /// The operating system refused or failed something.
    #[error("cannot {operation} {peer}: {source}")]
    Io {
        /// The verb: listen on, connect to, negotiate with.
        operation: &'static str,
        /// The address.
        peer: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// The server does not give the export to the client.
    #[error("{peer} refuses export `{export}` with reply {code:#x}: {message}")]
    Refused {
        /// The server's address.
        peer: String,
        /// The export that was asked for.
        export: String,
        /// The reply's type, as the NBD protocol numbers it.
        code: u32,
        /// What the server said, control characters escaped.
        message: String,
    },
    /// The export cannot be a disk here.
    #[error("{peer} exports {size}, which is not a whole number of 512-byte sectors: resize it")]
    NotWholeSectors {
        /// The export's URI.
        peer: String,
        /// Its size.
        size: Length,
    },
    /// The peer does not keep to the protocol.
    #[error("{peer} breaks the NBD protocol: {violation}")]
    Protocol {
        /// The address or URI.
        peer: String,
        /// What it did.
        violation: &'static str,
    },
}

impl Error {
    /// Whether trying again later can help: a server that is not there yet, a socket in use.
    pub fn is_recoverable(&self) -> bool {
        matches!(self, Self::Io { .. } | Self::InUse(_))
    }
}
