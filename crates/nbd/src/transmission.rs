//! The transmission phase: requests in, replies out, many at once.
//!
//! Workers take turns at the reading end of the connection. The one whose turn it is reads a request
//! with its payload, hands the turn on, does the I/O on its own thread and sends the reply. So
//! replies leave in the order in which the I/O ends, there is no queue, and a connection that keeps
//! one request in flight costs one thread.

use std::io::{self, BufReader, Read};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, Scope};

use afterimage_block::{BlockWrite, Error as BlockError, Extent, Length, Offset, RunKind, Zeroing};

use crate::budget::Budget;
use crate::handshake::Negotiated;
use crate::protocol::{
    BASE_ALLOCATION_ID, Request, allocation, chunk, chunk_header, command, command_flag, errno,
    simple_reply,
};
use crate::server::ServerOptions;
use crate::stream::{Stream, write_frame};

/// The most extents that one reply to BLOCK_STATUS describes.
const EXTENTS_MAX: usize = 2048;
/// A worker's buffer is kept between requests up to this size.
const BUFFER_KEPT: usize = 256 << 10;

/// A connection in its transmission phase.
pub(crate) struct Transmission<'a> {
    requests: Mutex<BufReader<&'a Stream>>,
    replies: Mutex<&'a Stream>,
    negotiated: Negotiated,
    options: &'a ServerOptions,
    budget: &'a Budget,
    stopping: &'a AtomicBool,
    /// Set when no more requests are to be read.
    ended: AtomicBool,
    workers: AtomicUsize,
    /// Workers that wait for their turn to read.
    idle: AtomicUsize,
}

/// What a worker does after a request.
#[derive(PartialEq, Eq)]
enum Next {
    Request,
    End,
}

/// The error number for the client.
struct Refusal(u32);

impl From<BlockError> for Refusal {
    fn from(error: BlockError) -> Self {
        tracing::warn!(%error, "request failed");
        Self(match &error {
            BlockError::OutOfRange { .. } => errno::EINVAL,
            BlockError::ReadOnly { .. } => errno::EPERM,
            BlockError::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => errno::ENOSPC,
                io::ErrorKind::OutOfMemory => errno::ENOMEM,
                _ => errno::EIO,
            },
            _ => errno::EIO,
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Transmission<'a> {
    pub(crate) fn new(
        stream: &'a Stream,
        negotiated: Negotiated,
        options: &'a ServerOptions,
        budget: &'a Budget,
        stopping: &'a AtomicBool,
    ) -> Self {
        Self {
            requests: Mutex::new(BufReader::with_capacity(64 << 10, stream)),
            replies: Mutex::new(stream),
            negotiated,
            options,
            budget,
            stopping,
            ended: AtomicBool::new(false),
            workers: AtomicUsize::new(1),
            idle: AtomicUsize::new(0),
        }
    }

    /// Serves until the client leaves, breaks the protocol or the server stops, and every request
    /// that was read is answered.
    pub(crate) fn run(&self) {
        thread::scope(|scope| self.work(scope));
    }

    fn work<'s>(&'s self, scope: &'s Scope<'s, '_>) {
        let mut buffer = Vec::new();
        loop {
            match self.serve_one(&mut buffer, scope) {
                Ok(Next::Request) => {}
                Ok(Next::End) => break,
                Err(error) => {
                    tracing::debug!(%error, "connection ended");
                    break;
                }
            }
            if buffer.capacity() > BUFFER_KEPT {
                buffer = Vec::new();
            }
        }
        self.ended.store(true, Ordering::Release);
    }

    /// Reads one request when it is this worker's turn, and answers it.
    fn serve_one<'s>(&'s self, buffer: &mut Vec<u8>, scope: &'s Scope<'s, '_>) -> io::Result<Next> {
        self.idle.fetch_add(1, Ordering::Relaxed);
        let mut requests = lock(&self.requests);
        self.idle.fetch_sub(1, Ordering::Relaxed);
        if self.ended.load(Ordering::Acquire) {
            return Ok(Next::End);
        }
        let request = match read_request(&mut *requests) {
            Ok(Some(request)) if request.command != command::DISC => request,
            Ok(_) => {
                self.ended.store(true, Ordering::Release);
                return Ok(Next::End);
            }
            Err(error) => {
                self.ended.store(true, Ordering::Release);
                return Err(error);
            }
        };
        let length = self.buffered(&request);
        let _share = self.budget.take(length.unwrap_or(0));
        let payload = self.read_payload(&mut requests, &request, length, buffer);
        if payload.is_err() {
            self.ended.store(true, Ordering::Release);
        }
        drop(requests);
        payload?;
        self.share_the_work(scope);
        self.answer(&request, length, buffer)?;
        Ok(Next::Request)
    }

    /// The bytes that the request needs in memory; `None` if they are more than a request may.
    fn buffered(&self, request: &Request) -> Option<usize> {
        match request.command {
            command::READ | command::WRITE => {
                let fits = request.length <= self.options.request_max();
                fits.then_some(request.length as usize)
            }
            _ => Some(0),
        }
    }

    fn read_payload(
        &self,
        requests: &mut BufReader<&Stream>,
        request: &Request,
        length: Option<usize>,
        buffer: &mut Vec<u8>,
    ) -> io::Result<()> {
        buffer.resize(length.unwrap_or(0), 0);
        match (request.command, length) {
            (command::WRITE, Some(_)) => requests.read_exact(buffer),
            (command::WRITE, None) => {
                let payload = u64::from(request.length);
                let skipped = io::copy(&mut requests.take(payload), &mut io::sink())?;
                if skipped < payload {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Starts another worker if nobody waits for the next request.
    fn share_the_work<'s>(&'s self, scope: &'s Scope<'s, '_>) {
        let workers = self.workers.load(Ordering::Relaxed);
        let wanted = self.idle.load(Ordering::Relaxed) == 0 && workers < self.options.in_flight_max;
        let swap = |count| {
            let (next, order) = (count + 1, Ordering::Relaxed);
            self.workers.compare_exchange(count, next, order, order)
        };
        if wanted && swap(workers).is_ok() {
            let builder = thread::Builder::new().name("nbd-worker".into());
            if let Err(error) = builder.spawn_scoped(scope, move || self.work(scope)) {
                // The workers that there are do it more slowly.
                tracing::warn!(%error, "cannot start another worker");
                self.workers.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    fn answer(
        &self,
        request: &Request,
        length: Option<usize>,
        buffer: &mut [u8],
    ) -> io::Result<()> {
        if self.stopping.load(Ordering::Acquire) {
            return self.refuse(request, errno::ESHUTDOWN);
        }
        if length.is_none() {
            return self.refuse(request, errno::EOVERFLOW);
        }
        let known = match request.command {
            command::READ if self.negotiated.structured => command_flag::DF,
            command::WRITE | command::TRIM => command_flag::FUA,
            command::WRITE_ZEROES => command_flag::FUA | command_flag::NO_HOLE,
            command::BLOCK_STATUS => command_flag::REQ_ONE,
            // QEMU sends FUA with these too; it means nothing there.
            command::READ | command::FLUSH => command_flag::FUA,
            _ => 0,
        };
        if request.flags & !known != 0 {
            return self.refuse(request, errno::EINVAL);
        }
        let result = match request.command {
            command::READ => return self.read(request, buffer),
            command::BLOCK_STATUS => return self.block_status(request),
            command::WRITE => self.write(request, buffer),
            command::FLUSH => self.writer().and_then(|disk| Ok(disk.flush()?)),
            command::TRIM => self.trim(request),
            command::WRITE_ZEROES => self.write_zeroes(request),
            _ => Err(Refusal(errno::EINVAL)),
        };
        match result {
            Ok(()) => self.done(request),
            Err(Refusal(error)) => self.refuse(request, error),
        }
    }

    fn writer(&self) -> Result<&dyn BlockWrite, Refusal> {
        let writer = self.negotiated.export.device.writer();
        writer.ok_or(Refusal(errno::EPERM))
    }

    /// The extent that a change is for: a write past the end is ENOSPC, by the specification.
    fn changed(&self, request: &Request) -> Result<Extent, Refusal> {
        let size = self.negotiated.export.device.reader().size().get();
        let (offset, length) = (
            Offset::new(request.offset),
            Length::new(request.length.into()),
        );
        let extent = Extent::new(offset, length).map_err(|_| Refusal(errno::EINVAL))?;
        if extent.end().get() > size {
            return Err(Refusal(errno::ENOSPC));
        }
        Ok(extent)
    }

    fn write(&self, request: &Request, data: &[u8]) -> Result<(), Refusal> {
        let disk = self.writer()?;
        disk.write_at(self.changed(request)?.start(), data)?;
        self.force(request, disk)
    }

    fn trim(&self, request: &Request) -> Result<(), Refusal> {
        let disk = self.writer()?;
        disk.discard(self.changed(request)?)?;
        self.force(request, disk)
    }

    fn write_zeroes(&self, request: &Request) -> Result<(), Refusal> {
        let disk = self.writer()?;
        let zeroing = if request.has(command_flag::NO_HOLE) {
            Zeroing::Allocate
        } else {
            Zeroing::Deallocate
        };
        disk.write_zeroes(self.changed(request)?, zeroing)?;
        self.force(request, disk)
    }

    /// Honours FUA.
    fn force(&self, request: &Request, disk: &dyn BlockWrite) -> Result<(), Refusal> {
        if request.has(command_flag::FUA) {
            disk.flush()?;
        }
        Ok(())
    }

    fn read(&self, request: &Request, buffer: &mut [u8]) -> io::Result<()> {
        let disk = self.negotiated.export.device.reader();
        if request.length == 0 {
            return self.refuse(request, errno::EINVAL);
        }
        if let Err(error) = disk.read_at(Offset::new(request.offset), buffer) {
            return self.refuse(request, Refusal::from(error).0);
        }
        if !self.negotiated.structured {
            return self.send(&simple_reply(0, request.cookie), buffer);
        }
        let (kind, length) = (chunk::OFFSET_DATA, request.length.saturating_add(8));
        let header = chunk_header(chunk::DONE, kind, request.cookie, length).u64(request.offset);
        self.send(&Vec::from(header), buffer)
    }

    fn block_status(&self, request: &Request) -> io::Result<()> {
        if !self.negotiated.base_allocation || request.length == 0 {
            return self.refuse(request, errno::EINVAL);
        }
        let extents = match self.allocation(request) {
            Ok(extents) => extents,
            Err(Refusal(error)) => return self.refuse(request, error),
        };
        let payload = u32::try_from(4 + 8 * extents.len()).unwrap_or(u32::MAX);
        let kind = chunk::BLOCK_STATUS;
        let header = chunk_header(chunk::DONE, kind, request.cookie, payload);
        let describe = |frame: crate::protocol::Frame, (length, state): &(u32, u32)| {
            frame.u32(*length).u32(*state)
        };
        let frame = extents
            .iter()
            .fold(header.u32(BASE_ALLOCATION_ID), describe);
        self.send(&Vec::from(frame), &[])
    }

    /// The runs from the start of the request on, neighbours of one state joined: length and state.
    fn allocation(&self, request: &Request) -> Result<Vec<(u32, u32)>, Refusal> {
        let disk = self.negotiated.export.device.reader();
        let (offset, length) = (
            Offset::new(request.offset),
            Length::new(request.length.into()),
        );
        let whole = Extent::new(offset, length).map_err(|_| Refusal(errno::EINVAL))?;
        if whole.end().get() > disk.size().get() {
            return Err(Refusal(errno::EINVAL));
        }
        let limit = if request.has(command_flag::REQ_ONE) {
            1
        } else {
            EXTENTS_MAX
        };
        let mut extents: Vec<(u32, u32)> = Vec::new();
        let mut at = whole.start();
        while let Some(run) = disk.next_run(at)? {
            let Some(part) = run.extent.intersection(whole) else {
                break;
            };
            at = part.end();
            let length = u32::try_from(part.length().get()).map_err(|_| Refusal(errno::EINVAL))?;
            let state = match run.kind {
                RunKind::Data => 0,
                RunKind::Hole => allocation::HOLE | allocation::ZERO,
            };
            if let Some((total, _)) = extents.last_mut().filter(|(_, last)| *last == state) {
                *total += length;
            } else if extents.len() == limit {
                break;
            } else {
                extents.push((length, state));
            }
        }
        Ok(extents)
    }

    /// A reply without data.
    fn done(&self, request: &Request) -> io::Result<()> {
        if !self.negotiated.structured {
            return self.send(&simple_reply(0, request.cookie), &[]);
        }
        let header = chunk_header(chunk::DONE, chunk::NONE, request.cookie, 0);
        self.send(&Vec::from(header), &[])
    }

    fn refuse(&self, request: &Request, error: u32) -> io::Result<()> {
        if !self.negotiated.structured {
            return self.send(&simple_reply(error, request.cookie), &[]);
        }
        let header = chunk_header(chunk::DONE, chunk::ERROR, request.cookie, 6);
        self.send(&Vec::from(header.u32(error).u16(0)), &[])
    }

    fn send(&self, header: &[u8], payload: &[u8]) -> io::Result<()> {
        write_frame(&lock(&self.replies), header, payload)
    }
}

/// The next request; `None` if the client closed between two, or sent something else.
fn read_request(from: &mut impl Read) -> io::Result<Option<Request>> {
    let mut frame = [0; Request::LEN];
    let (first, rest) = frame.split_at_mut(1);
    if from.read(first)? == 0 {
        return Ok(None);
    }
    from.read_exact(rest)?;
    Ok(Request::parse(&frame))
}
