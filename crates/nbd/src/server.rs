//! Listening, and the life of connections.

use std::collections::HashMap;
use std::io;
use std::net::{Shutdown, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use afterimage_block::Length;

use crate::budget::Budget;
use crate::handshake::Handshake;
use crate::stream::Stream;
use crate::transmission::Transmission;
use crate::{Error, Exports, ListenAddress, Result};

/// A client that takes longer for one step of the handshake, or to take one reply, is cut off.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long clients may take for the last replies once the server stops.
const FAREWELL: Duration = Duration::from_secs(5);

/// Limits of a server.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerOptions {
    /// Requests of one connection that are worked on at once, at least 1. Default 16.
    pub in_flight_max: usize,
    /// The longest READ or WRITE, 64 KiB to 32 MiB. Longer ones get EOVERFLOW. Default 4 MiB.
    pub request_length_max: Length,
    /// The memory for the data of all requests in flight, at least one of the longest. Default
    /// 32 MiB.
    pub memory_max: Length,
    /// Connections at a time; further ones are closed at once. Default 64.
    pub connections_max: usize,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            in_flight_max: 16,
            request_length_max: Length::mib(4),
            memory_max: Length::mib(32),
            connections_max: 64,
        }
    }
}

impl ServerOptions {
    /// The longest request, within what the protocol and sense allow.
    pub(crate) fn request_max(&self) -> u32 {
        let bytes = self.request_length_max.get().clamp(64 << 10, 32 << 20);
        u32::try_from(bytes).unwrap_or(32 << 20)
    }

    fn budget(&self) -> Budget {
        let wanted = self.memory_max.to_usize().unwrap_or(usize::MAX);
        Budget::new(wanted.max(self.request_max() as usize))
    }
}

/// A running NBD server. Stops when it is dropped.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    address: ListenAddress,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    exports: Exports,
    options: ServerOptions,
    budget: Budget,
    stopping: AtomicBool,
    connections: Mutex<Connections>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Connections {
    open: HashMap<u64, Arc<Stream>>,
    threads: Vec<JoinHandle<()>>,
    last: u64,
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Unix(listener) => Ok(Stream::Unix(listener.accept()?.0)),
            Self::Tcp(listener) => Stream::tcp(listener.accept()?.0),
        }
    }
}

impl Server {
    /// Listens on `address` and serves `exports` until it is stopped.
    ///
    /// A Unix socket is made for its owner only (mode 0600); the socket file that a dead server left
    /// behind is replaced. TCP is served on loopback only: there is no TLS here.
    ///
    /// # Errors
    /// [`Error::NotLoopback`], [`Error::InUse`] if a server answers on the socket, [`Error::Io`] if
    /// the address cannot be listened on.
    pub fn bind(address: &ListenAddress, exports: Exports, options: ServerOptions) -> Result<Self> {
        let (listener, address) = listen(address)?;
        let shared = Arc::new(Shared {
            budget: options.budget(),
            exports,
            options,
            stopping: AtomicBool::new(false),
            connections: Mutex::default(),
        });
        let accepting = Arc::clone(&shared);
        let acceptor = thread::Builder::new()
            .name("nbd-accept".into())
            .spawn(move || accepting.accept(&listener))
            .map_err(|source| io_error("listen on", &address, source))?;
        Ok(Self {
            shared,
            address,
            acceptor: Some(acceptor),
        })
    }

    /// Where it listens, with the port that it really has.
    pub fn local_address(&self) -> ListenAddress {
        self.address.clone()
    }

    /// The NBD URI of the export called `name`.
    pub fn uri(&self, name: &str) -> String {
        self.address.uri(name)
    }

    /// Accepts no more connections and no more requests, waits until those that were read are
    /// answered, and closes everything. Clients that do not take their answers are cut off after a
    /// few seconds.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        // The acceptor sees that it is to stop when it next accepts.
        let woken = Stream::connect(&self.address);
        if let (Some(acceptor), Ok(_)) = (self.acceptor.take(), woken) {
            join(acceptor);
        }
        if let ListenAddress::Unix(path) = &self.address {
            let _ = std::fs::remove_file(path);
        }
        self.shared.farewell();
    }
}

impl Shared {
    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(self: &Arc<Self>, listener: &Listener) {
        loop {
            let stream = listener.accept();
            if self.stopping.load(Ordering::Acquire) {
                return;
            }
            match stream {
                Ok(stream) => self.open(stream),
                Err(error) => {
                    // Out of file handles, most likely: others will be closed.
                    tracing::warn!(%error, "cannot accept a connection");
                    thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }

    fn open(self: &Arc<Self>, stream: Stream) {
        let mut connections = self.connections();
        if connections.open.len() >= self.options.connections_max {
            tracing::warn!("too many connections, closing a new one");
            return;
        }
        connections.threads.retain(|thread| !thread.is_finished());
        connections.last += 1;
        let (id, stream) = (connections.last, Arc::new(stream));
        connections.open.insert(id, Arc::clone(&stream));
        let shared = Arc::clone(self);
        let serve = move || {
            shared.serve(&stream);
            let _ = stream.shutdown(Shutdown::Both);
            shared.connections().open.remove(&id);
        };
        match thread::Builder::new()
            .name("nbd-connection".into())
            .spawn(serve)
        {
            Ok(thread) => connections.threads.push(thread),
            Err(error) => {
                tracing::warn!(%error, "cannot serve another connection");
                connections.open.remove(&id);
            }
        }
    }

    fn serve(&self, stream: &Stream) {
        let limits = stream
            .set_read_timeout(Some(PATIENCE))
            .and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
        let handshake = Handshake::new(stream, &self.exports, &self.options);
        let negotiated = match limits.and_then(|()| handshake.run()) {
            Ok(Some(negotiated)) => negotiated,
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(%error, "handshake failed");
                return;
            }
        };
        // From here on a client may be idle for as long as it likes.
        if stream.set_read_timeout(None).is_ok() {
            let (options, budget) = (&self.options, &self.budget);
            Transmission::new(stream, negotiated, options, budget, &self.stopping).run();
        }
    }

    /// Ends every connection once its requests are answered.
    fn farewell(&self) {
        let threads = {
            let mut connections = self.connections();
            for stream in connections.open.values() {
                let _ = stream.set_write_timeout(Some(FAREWELL));
                let _ = stream.shutdown(Shutdown::Read);
            }
            std::mem::take(&mut connections.threads)
        };
        threads.into_iter().for_each(join);
    }
}

fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        tracing::error!("a thread of the server panicked");
    }
}

fn listen(address: &ListenAddress) -> Result<(Listener, ListenAddress)> {
    let failed = |source| io_error("listen on", address, source);
    match address {
        ListenAddress::Tcp(socket) if !socket.ip().is_loopback() => {
            Err(Error::NotLoopback(*socket))
        }
        ListenAddress::Tcp(socket) => {
            let listener = TcpListener::bind(socket).map_err(failed)?;
            let actual = listener.local_addr().map_err(failed)?;
            Ok((Listener::Tcp(listener), ListenAddress::Tcp(actual)))
        }
        ListenAddress::Unix(path) => {
            let listener = listen_unix(path)?;
            Ok((Listener::Unix(listener), address.clone()))
        }
    }
}

/// Makes the socket under a temporary name, for its owner only, and renames it into place: it is
/// never there with wider permissions.
fn listen_unix(path: &Path) -> Result<UnixListener> {
    let address = ListenAddress::Unix(path.into());
    let failed = |source| io_error("listen on", &address, source);
    if UnixStream::connect(path).is_ok() {
        return Err(Error::InUse(path.into()));
    }
    if std::fs::symlink_metadata(path).is_ok_and(|found| !is_socket(&found)) {
        return Err(failed(io::ErrorKind::AlreadyExists.into()));
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let _ = std::fs::remove_file(&temporary);
    let listener = UnixListener::bind(&temporary).map_err(failed)?;
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&temporary, private).map_err(failed)?;
    std::fs::rename(&temporary, path).map_err(failed)?;
    Ok(listener)
}

fn is_socket(metadata: &std::fs::Metadata) -> bool {
    std::os::unix::fs::FileTypeExt::is_socket(&metadata.file_type())
}

fn io_error(operation: &'static str, address: &ListenAddress, source: io::Error) -> Error {
    Error::Io {
        operation,
        peer: address.to_string(),
        source,
    }
}
