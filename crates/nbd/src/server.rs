//! The life of a server and of its connections.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use afterimage_block::Length;

use crate::handshake::Handshake;
use crate::listener::{Listener, Waker};
use crate::pool::Pool;
use crate::stream::Stream;
use crate::transmission::Transmission;
use crate::{Error, Exports, ListenAddress, Result};

/// A client that takes longer for one step of the handshake, for the rest of a request, or to take a
/// reply, is cut off.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long clients may take for the last replies once the server stops.
const FAREWELL: Duration = Duration::from_secs(5);
/// The stack of a thread that serves.
pub(crate) const STACK_BYTES: usize = 512 << 10;

/// Limits of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerOptions {
    /// Requests of one connection that are worked on at once, at least 1. Default 16.
    pub in_flight_max: usize,
    /// The longest READ or WRITE, 64 KiB to 32 MiB; longer ones are refused. Default 32 MiB, which
    /// every server should take by the specification.
    pub request_length_max: Length,
    /// The memory for the data of all requests in flight, at least one of the longest; requests
    /// wait when it is used up. Default 64 MiB.
    pub memory_max: Length,
    /// Connections at a time; further ones are closed at once. Default 64.
    pub connections_max: usize,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            in_flight_max: 16,
            request_length_max: Length::mib(32),
            memory_max: Length::mib(64),
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

    fn pool(&self) -> Pool {
        let wanted = self.memory_max.to_usize().unwrap_or(usize::MAX);
        Pool::new(wanted.max(self.request_max() as usize))
    }
}

/// A running NBD server. Stops when it is dropped.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    address: ListenAddress,
    waker: Option<Waker>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    exports: Exports,
    options: ServerOptions,
    pool: Pool,
    stopping: AtomicBool,
    connections: Mutex<Connections>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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

impl Server {
    /// Listens on `address` and serves `exports` until it is stopped.
    ///
    /// A Unix socket is made for its owner only (mode 0600); the socket file that a dead server left
    /// behind is replaced. TCP is served on loopback only: there is no TLS here.
    ///
    /// # Errors
    /// [`Error::NotLoopback`]; [`Error::InUse`] if a server answers on the socket;
    /// [`Error::NotASocket`] if something else is there; [`Error::Io`] if the address cannot be
    /// listened on.
    pub fn bind(address: &ListenAddress, exports: Exports, options: ServerOptions) -> Result<Self> {
        let (listener, waker, address) = Listener::bind(address)?;
        let shared = Arc::new(Shared {
            pool: options.pool(),
            exports,
            options,
            stopping: AtomicBool::new(false),
            connections: Mutex::default(),
        });
        let accepting = Arc::clone(&shared);
        let acceptor = spawn("nbd-accept", move || accepting.accept(&listener));
        let acceptor = acceptor.map_err(|source| Error::Io {
            operation: "listen on",
            peer: address.to_string(),
            source,
        })?;
        Ok(Self {
            shared,
            address,
            waker: Some(waker),
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

    /// Accepts no more connections, finishes and answers the requests that are being worked on,
    /// refuses those that still arrive with ESHUTDOWN, closes everything and removes the Unix
    /// socket. Clients that do not take their answers are cut off after five seconds; only a device
    /// that does not return can hold this up for longer.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        drop(self.waker.take());
        self.acceptor.take().into_iter().for_each(join);
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
            match listener.accept() {
                Ok(Some(stream)) => self.open(stream),
                Ok(None) => return,
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
        let open = OpenConnection {
            shared: Arc::clone(self),
            stream,
            id,
        };
        match spawn("nbd-connection", move || open.serve()) {
            Ok(thread) => connections.threads.push(thread),
            Err(error) => {
                tracing::warn!(%error, "cannot serve another connection");
                connections.open.remove(&id);
            }
        }
    }

    /// Ends every connection once its requests are answered.
    fn farewell(&self) {
        let threads = {
            let mut connections = self.connections();
            for stream in connections.open.values() {
                let _ = stream.shutdown(Shutdown::Read);
            }
            std::mem::take(&mut connections.threads)
        };
        let deadline = Instant::now() + FAREWELL;
        while threads.iter().any(|thread| !thread.is_finished()) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        for stream in self.connections().open.values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        threads.into_iter().for_each(join);
    }
}

/// A connection that is known to the server, until it is dropped.
struct OpenConnection {
    shared: Arc<Shared>,
    stream: Arc<Stream>,
    id: u64,
}

impl OpenConnection {
    fn serve(&self) {
        if let Err(error) = self.converse() {
            tracing::debug!(%error, "connection ended");
        }
    }

    fn converse(&self) -> io::Result<()> {
        let (stream, shared) = (&*self.stream, &*self.shared);
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let handshake = Handshake::new(stream, &shared.exports, &shared.options);
        if let Some(negotiated) = handshake.run()? {
            let (options, pool) = (&shared.options, &shared.pool);
            Transmission::new(stream, negotiated, options, pool, &shared.stopping).run();
        }
        Ok(())
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
        self.shared.connections().open.remove(&self.id);
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    let builder = thread::Builder::new().name(name.into());
    builder.stack_size(STACK_BYTES).spawn(run)
}

fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        tracing::error!("a thread of the server panicked");
    }
}
