//! The transmission phase: requests in, replies out, many at once.
//!
//! Workers take turns at the reading end of the connection. The one whose turn it is reads a request
//! with its payload, hands the turn on, does the I/O on its own thread and sends the reply. So
//! replies leave in the order in which the I/O ends, there is no queue, and a connection that keeps
//! one request in flight costs one thread.

use std::io::{self, BufRead, BufReader, Read};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, Scope};

use crate::handshake::Negotiated;
use crate::pool::{Buffer, Pool};
use crate::protocol::{Request, command};
use crate::responder::Responder;
use crate::server::{STACK_BYTES, ServerOptions};
use crate::stream::Stream;

/// Enough for a batch of small requests with one call.
const READ_AHEAD: usize = 64 << 10;
/// The payload of a WRITE that is too long is skipped up to this length; beyond, the client is cut
/// off. Any up to 32 MiB should not be taken for an attack.
const SKIPPED_MAX: u32 = 64 << 20;

/// A connection in its transmission phase.
pub(crate) struct Transmission<'a> {
    stream: &'a Stream,
    requests: Mutex<BufReader<&'a Stream>>,
    responder: Responder<'a>,
    options: &'a ServerOptions,
    pool: &'a Pool,
    /// Set when no more requests are to be read.
    ended: AtomicBool,
    workers: AtomicUsize,
    /// Workers that wait for their turn to read.
    waiting: AtomicUsize,
}

/// A request with the data that came with it; `None` if that was too long to keep.
struct Received<'a> {
    request: Request,
    payload: Option<Buffer<'a>>,
}

impl<'a> Transmission<'a> {
    pub(crate) fn new(
        stream: &'a Stream,
        negotiated: Negotiated,
        options: &'a ServerOptions,
        pool: &'a Pool,
        stopping: &'a AtomicBool,
    ) -> Self {
        Self {
            stream,
            requests: Mutex::new(BufReader::with_capacity(READ_AHEAD, stream)),
            responder: Responder::new(stream, negotiated, options, pool, stopping),
            options,
            pool,
            ended: AtomicBool::new(false),
            workers: AtomicUsize::new(1),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Serves until the client leaves, breaks the protocol or the server stops, and every request
    /// that was read is answered.
    pub(crate) fn run(&self) {
        thread::scope(|scope| self.work(scope));
    }

    fn work<'s>(&'s self, scope: &'s Scope<'s, '_>) {
        let ending = Ending(self);
        while let Some(received) = self.next() {
            self.share_the_work(scope);
            let Received { request, payload } = received;
            if let Err(error) = self.responder.answer(&request, payload.as_deref()) {
                tracing::debug!(%error, "cannot send a reply");
                // Whoever reads the next request must not wait for a client that is gone.
                let _ = self.stream.shutdown(Shutdown::Both);
                break;
            }
        }
        drop(ending);
    }

    /// Reads one request when it is this worker's turn; `None` when there are no more.
    fn next(&self) -> Option<Received<'_>> {
        let mut requests = self.turn();
        if self.ended.load(Ordering::Acquire) {
            return None;
        }
        let received = self.receive(&mut requests).unwrap_or_else(|error| {
            tracing::debug!(%error, "cannot read a request");
            None
        });
        if received.is_none() {
            // Before the turn passes on.
            self.ended.store(true, Ordering::Release);
        }
        received
    }

    fn turn(&self) -> MutexGuard<'_, BufReader<&'a Stream>> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let turn = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        turn
    }

    fn receive(&self, requests: &mut BufReader<&Stream>) -> io::Result<Option<Received<'_>>> {
        if !wait_for_request(requests)? {
            return Ok(None);
        }
        let mut frame = [0; Request::LEN];
        requests.read_exact(&mut frame)?;
        let request =
            Request::parse(&frame).ok_or_else(|| violation("a request has the wrong magic"))?;
        if request.command == command::DISC {
            return Ok(None);
        }
        let payload = self.payload(requests, &request)?;
        Ok(Some(Received { request, payload }))
    }

    fn payload(
        &self,
        requests: &mut BufReader<&Stream>,
        request: &Request,
    ) -> io::Result<Option<Buffer<'_>>> {
        if request.command != command::WRITE {
            return Ok(None);
        }
        if request.length <= self.options.request_max() {
            let mut buffer = self.pool.take(request.length as usize);
            requests.read_exact(&mut buffer)?;
            return Ok(Some(buffer));
        }
        if request.length > SKIPPED_MAX {
            return Err(violation("the data of a write is far too long"));
        }
        let length = u64::from(request.length);
        let skipped = io::copy(&mut requests.take(length), &mut io::sink())?;
        if skipped < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(None)
    }

    /// Starts another worker if nobody waits for the next request.
    fn share_the_work<'s>(&'s self, scope: &'s Scope<'s, '_>) {
        let workers = self.workers.load(Ordering::Relaxed);
        let wanted =
            self.waiting.load(Ordering::Relaxed) == 0 && workers < self.options.in_flight_max;
        let swap = |count| {
            let (next, order) = (count + 1, Ordering::Relaxed);
            self.workers.compare_exchange(count, next, order, order)
        };
        if wanted && swap(workers).is_ok() {
            let builder = thread::Builder::new().name("nbd-worker".into());
            let spawned = builder
                .stack_size(STACK_BYTES)
                .spawn_scoped(scope, move || self.work(scope));
            if let Err(error) = spawned {
                // The workers that there are do it more slowly.
                tracing::warn!(%error, "cannot start another worker");
                self.workers.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

/// Ends the transmission when a worker ends, and at once if its device panicked.
struct Ending<'t, 'a>(&'t Transmission<'a>);

impl Drop for Ending<'_, '_> {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
        if thread::panicking() {
            tracing::error!("a device panicked, closing the connection");
            let _ = self.0.stream.shutdown(Shutdown::Both);
        }
    }
}

/// Waits for the first byte of a request, for as long as it takes; whether it came before the end.
fn wait_for_request(requests: &mut BufReader<&Stream>) -> io::Result<bool> {
    use io::ErrorKind as Kind;
    loop {
        match requests.fill_buf() {
            Ok(bytes) => return Ok(!bytes.is_empty()),
            // The socket's timeout is for clients that stop in the middle.
            Err(error)
                if matches!(
                    error.kind(),
                    Kind::WouldBlock | Kind::TimedOut | Kind::Interrupted
                ) => {}
            Err(error) => return Err(error),
        }
    }
}

fn violation(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
