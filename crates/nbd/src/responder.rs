//! From a request to its reply.

use std::borrow::Cow;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use afterimage_block::{
    BlockRead, BlockWrite, Error as BlockError, Extent, Length, Offset, Run, RunKind, Zeroing,
};

use crate::handshake::Negotiated;
use crate::pool::{Buffer, Pool};
use crate::protocol::{
    BASE_ALLOCATION_ID, NAME_MAX, Request, allocation, chunk, chunk_header, command, command_flag,
    errno, simple_reply,
};
use crate::runs::runs;
use crate::server::ServerOptions;
use crate::stream::{Stream, write_frame};

/// The most extents that one reply to BLOCK_STATUS describes.
const EXTENTS_MAX: usize = 2048;
/// Shorter reads are not worth a look for holes.
const HOLES_FROM: u32 = 64 << 10;
/// A read that falls into more parts is sent as one.
const PARTS_MAX: usize = 16;

/// Does what requests ask for and sends the replies, for many threads at once.
pub(crate) struct Responder<'a> {
    replies: Mutex<&'a Stream>,
    negotiated: Negotiated,
    options: &'a ServerOptions,
    pool: &'a Pool,
    stopping: &'a AtomicBool,
}

/// What a request brought.
enum Reply<'a> {
    Done,
    /// The parts of a read, in order, and the bytes from the first on as far as there is data.
    Content(Vec<Run>, Buffer<'a>),
    Status(Vec<Run>),
}

/// Why a request fails: the protocol's error number, and a text for a human.
struct Refusal {
    errno: u32,
    message: Cow<'static, str>,
}

impl Refusal {
    const fn new(errno: u32, message: &'static str) -> Self {
        let message = Cow::Borrowed(message);
        Self { errno, message }
    }
}

impl From<BlockError> for Refusal {
    fn from(error: BlockError) -> Self {
        tracing::warn!(%error, "the device failed a request");
        let errno = match &error {
            BlockError::OutOfRange { .. } => errno::EINVAL,
            BlockError::ReadOnly { .. } => errno::EPERM,
            BlockError::Io { source, .. } | BlockError::File { source, .. } => errno_of(source),
            _ => errno::EIO,
        };
        let message = Cow::Owned(error.to_string());
        Self { errno, message }
    }
}

fn errno_of(error: &io::Error) -> u32 {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge => errno::ENOSPC,
        Kind::OutOfMemory => errno::ENOMEM,
        Kind::PermissionDenied | Kind::ReadOnlyFilesystem => errno::EPERM,
        _ => errno::EIO,
    }
}

impl<'a> Responder<'a> {
    pub(crate) fn new(
        stream: &'a Stream,
        negotiated: Negotiated,
        options: &'a ServerOptions,
        pool: &'a Pool,
        stopping: &'a AtomicBool,
    ) -> Self {
        Self {
            replies: Mutex::new(stream),
            negotiated,
            options,
            pool,
            stopping,
        }
    }

    /// Does the request and sends its reply. `payload` is the data of a WRITE, `None` if it was too
    /// long to keep.
    ///
    /// # Errors
    /// If the reply cannot be sent.
    pub(crate) fn answer(&self, request: &Request, payload: Option<&[u8]>) -> io::Result<()> {
        match self.perform(request, payload) {
            Ok(Reply::Done) => self.send_done(request),
            Ok(Reply::Content(parts, bytes)) => self.send_content(request, &parts, &bytes),
            Ok(Reply::Status(runs)) => self.send_status(request, &runs),
            Err(refusal) => self.send_refusal(request, &refusal),
        }
    }

    fn perform(&self, request: &Request, payload: Option<&[u8]>) -> Result<Reply<'a>, Refusal> {
        if self.stopping.load(Ordering::Acquire) {
            return Err(Refusal::new(errno::ESHUTDOWN, "the server stops"));
        }
        if request.flags & !self.flags_of(request.command) != 0 {
            return Err(Refusal::new(errno::EINVAL, "the command has no such flag"));
        }
        match request.command {
            command::READ => return self.read(request),
            command::BLOCK_STATUS => return self.block_status(request),
            command::WRITE => self.write(request, payload)?,
            command::FLUSH => self.writer()?.flush()?,
            command::TRIM => self.trim(request)?,
            command::WRITE_ZEROES => self.write_zeroes(request)?,
            _ => return Err(Refusal::new(errno::EINVAL, "there is no such command")),
        }
        Ok(Reply::Done)
    }

    /// The flags that a command takes. FUA may come with any, and means nothing without a write.
    fn flags_of(&self, command: u16) -> u16 {
        let own = match command {
            command::READ if self.negotiated.structured => command_flag::DF,
            command::WRITE_ZEROES => command_flag::NO_HOLE,
            command::BLOCK_STATUS => command_flag::REQ_ONE,
            _ => 0,
        };
        command_flag::FUA | own
    }

    fn reader(&self) -> &dyn BlockRead {
        self.negotiated.export.device.reader()
    }

    fn writer(&self) -> Result<&dyn BlockWrite, Refusal> {
        let writer = self.negotiated.export.device.writer();
        writer.ok_or(Refusal::new(errno::EPERM, "the export is read-only"))
    }

    /// What the request is for; `past_end` is the error for a range that the disk does not have.
    fn extent(&self, request: &Request, past_end: u32) -> Result<Extent, Refusal> {
        if request.length == 0 {
            return Err(Refusal::new(errno::EINVAL, "the range is empty"));
        }
        let length = Length::new(request.length.into());
        match Extent::new(Offset::new(request.offset), length) {
            Ok(extent) if extent.end().get() <= self.reader().size().get() => Ok(extent),
            _ => Err(Refusal::new(past_end, "the range ends behind the disk")),
        }
    }

    fn write(&self, request: &Request, payload: Option<&[u8]>) -> Result<(), Refusal> {
        let disk = self.writer()?;
        let data = payload.ok_or(Refusal::new(errno::EINVAL, "the write is too long"))?;
        disk.write_at(self.extent(request, errno::ENOSPC)?.start(), data)?;
        force(request, disk)
    }

    fn trim(&self, request: &Request) -> Result<(), Refusal> {
        let disk = self.writer()?;
        disk.discard(self.extent(request, errno::EINVAL)?)?;
        force(request, disk)
    }

    fn write_zeroes(&self, request: &Request) -> Result<(), Refusal> {
        let disk = self.writer()?;
        let zeroing = if request.has(command_flag::NO_HOLE) {
            Zeroing::Allocate
        } else {
            Zeroing::Deallocate
        };
        disk.write_zeroes(self.extent(request, errno::ENOSPC)?, zeroing)?;
        force(request, disk)
    }

    fn read(&self, request: &Request) -> Result<Reply<'a>, Refusal> {
        let whole = self.extent(request, errno::EINVAL)?;
        if request.length > self.options.request_max() {
            let errno = if self.negotiated.structured {
                errno::EOVERFLOW
            } else {
                errno::EINVAL
            };
            return Err(Refusal::new(errno, "the read is too long"));
        }
        let parts = self.parts(request, whole)?;
        if parts.iter().all(|part| part.kind == RunKind::Hole) {
            return Ok(Reply::Content(parts, self.pool.take(0)));
        }
        let mut buffer = self.pool.take(request.length as usize);
        for part in parts.iter().filter(|part| part.kind == RunKind::Data) {
            if let Some(bytes) = buffer.get_mut(within(whole, part.extent)) {
                self.reader().read_at(part.extent.start(), bytes)?;
            }
        }
        Ok(Reply::Content(parts, buffer))
    }

    /// The parts in which a read is answered: one for each run if the client can take holes and it
    /// is worth a look, else one of data.
    fn parts(&self, request: &Request, whole: Extent) -> Result<Vec<Run>, Refusal> {
        let may_split = self.negotiated.structured && !request.has(command_flag::DF);
        if may_split && request.length >= HOLES_FROM {
            let parts = runs(self.reader(), whole, PARTS_MAX)?;
            if parts.last().map(|part| part.extent.end()) == Some(whole.end()) {
                return Ok(parts);
            }
        }
        let (extent, kind) = (whole, RunKind::Data);
        Ok(vec![Run { extent, kind }])
    }

    fn block_status(&self, request: &Request) -> Result<Reply<'a>, Refusal> {
        if !self.negotiated.base_allocation {
            let message = "base:allocation was not negotiated";
            return Err(Refusal::new(errno::EINVAL, message));
        }
        let whole = self.extent(request, errno::EINVAL)?;
        let limit = if request.has(command_flag::REQ_ONE) {
            1
        } else {
            EXTENTS_MAX
        };
        Ok(Reply::Status(runs(self.reader(), whole, limit)?))
    }

    fn replies(&self) -> MutexGuard<'_, &'a Stream> {
        self.replies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send_done(&self, request: &Request) -> io::Result<()> {
        let reply = simple_reply(0, request.cookie);
        write_frame(&self.replies(), &reply, &[])
    }

    fn send_content(&self, request: &Request, parts: &[Run], bytes: &[u8]) -> io::Result<()> {
        let replies = self.replies();
        if !self.negotiated.structured {
            return write_frame(&replies, &simple_reply(0, request.cookie), bytes);
        }
        let base = Extent::new(
            Offset::new(request.offset),
            Length::new(request.length.into()),
        );
        let mut parts = parts.iter().peekable();
        while let (Some(part), Ok(whole)) = (parts.next(), base) {
            let last = parts.peek().is_none();
            let flags = if last { chunk::DONE } else { 0 };
            let (offset, length) = (part.extent.start().get(), length_of(part.extent));
            if part.kind == RunKind::Hole {
                let header = chunk_header(flags, chunk::OFFSET_HOLE, request.cookie, 12);
                write_frame(&replies, &Vec::from(header.u64(offset).u32(length)), &[])?;
            } else {
                let data = bytes
                    .get(within(whole, part.extent))
                    .ok_or(io::ErrorKind::InvalidData)?;
                let payload = length.saturating_add(8);
                let header = chunk_header(flags, chunk::OFFSET_DATA, request.cookie, payload);
                write_frame(&replies, &Vec::from(header.u64(offset)), data)?;
            }
        }
        Ok(())
    }

    fn send_status(&self, request: &Request, runs: &[Run]) -> io::Result<()> {
        let payload = u32::try_from(4 + 8 * runs.len()).unwrap_or(u32::MAX);
        let header = chunk_header(chunk::DONE, chunk::BLOCK_STATUS, request.cookie, payload);
        let frame = runs
            .iter()
            .fold(header.u32(BASE_ALLOCATION_ID), |frame, run| {
                let state = match run.kind {
                    RunKind::Data => 0,
                    RunKind::Hole => allocation::HOLE | allocation::ZERO,
                };
                frame.u32(length_of(run.extent)).u32(state)
            });
        write_frame(&self.replies(), &Vec::from(frame), &[])
    }

    fn send_refusal(&self, request: &Request, refusal: &Refusal) -> io::Result<()> {
        if !self.negotiated.structured {
            let reply = simple_reply(refusal.errno, request.cookie);
            return write_frame(&self.replies(), &reply, &[]);
        }
        let message = &refusal.message;
        let (message, _) = message.split_at(message.floor_char_boundary(NAME_MAX));
        let length = u16::try_from(message.len()).unwrap_or(0);
        let payload = u32::from(length) + 6;
        let header = chunk_header(chunk::DONE, chunk::ERROR, request.cookie, payload);
        let header = Vec::from(header.u32(refusal.errno).u16(length));
        write_frame(&self.replies(), &header, message.as_bytes())
    }
}

/// Honours FUA.
fn force(request: &Request, disk: &dyn BlockWrite) -> Result<(), Refusal> {
    if request.has(command_flag::FUA) {
        disk.flush()?;
    }
    Ok(())
}

/// A length that lies within a request's, so that it fits.
fn length_of(extent: Extent) -> u32 {
    u32::try_from(extent.length().get()).unwrap_or(u32::MAX)
}

/// Where `part` lies in a buffer that starts where `whole` does.
fn within(whole: Extent, part: Extent) -> std::ops::Range<usize> {
    let index = |at: Offset| {
        let since = at.checked_since(whole.start());
        since.and_then(Length::to_usize).unwrap_or(usize::MAX)
    };
    index(part.start())..index(part.end())
}
