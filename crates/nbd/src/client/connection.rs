//! Requests out, replies in, one at a time.

use std::io::{self, Read};
use std::net::Shutdown;

use afterimage_block::{Extent, ExtentSet, Length, Offset};

use super::negotiation::Agreed;
use crate::protocol::{CHUNK_MAGIC, Fields, Request, SIMPLE_REPLY_MAGIC, chunk, command, errno};
use crate::stream::{Stream, write_frame};

/// The longest chunk without data that is looked at: an error with its message, or one status.
const CHUNK_MAX: u32 = 8 << 10;
/// More chunks without data than this in one reply, and the server is talking nonsense.
const CHUNKS_MAX: u32 = 1 << 10;

/// A connection in its transmission phase.
#[derive(Debug)]
pub(super) struct Connection {
    stream: Stream,
    cookie: u64,
    structured: bool,
    allocation_id: Option<u32>,
    /// Set while a call is under way and after it failed: what comes next on the stream means
    /// nothing.
    broken: bool,
}

/// Why a conversation with the server ended.
pub(super) enum Failure {
    Io(io::Error),
    Violation(&'static str),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What a successful reply brought besides data.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// The first extent of a block status: length, never zero, and state.
    pub(super) status: Option<(u32, u32)>,
}

/// A reply while it comes in.
struct Incoming<'a> {
    request: &'a Request,
    into: &'a mut [u8],
    received: ExtentSet,
    answer: Answer,
    /// The protocol's error number, 0 for success.
    error: u32,
    chunks: u32,
}

impl Connection {
    pub(super) fn new(stream: Stream, agreed: &Agreed) -> Self {
        Self {
            stream,
            cookie: 0,
            structured: agreed.structured,
            allocation_id: agreed.allocation_id,
            broken: false,
        }
    }

    /// Sends a request and waits for its reply, whose data fill `into`.
    pub(super) fn call(
        &mut self,
        request: Request,
        data: &[u8],
        into: &mut [u8],
    ) -> Result<Answer, Failure> {
        if self.broken {
            return Err(Failure::Io(io::ErrorKind::NotConnected.into()));
        }
        self.broken = true;
        self.cookie += 1;
        let cookie = self.cookie;
        let request = Request { cookie, ..request };
        write_frame(&self.stream, &request.encode(), data)?;
        let incoming = self.receive(&request, into)?;
        self.broken = false;
        match incoming.error {
            0 => Ok(incoming.answer),
            error => Err(Failure::Io(io_error(error))),
        }
    }

    /// Says goodbye, if the server still listens.
    pub(super) fn close(&mut self) {
        if !self.broken {
            // Best effort: the server notices a closed connection as well.
            let _ = write_frame(&self.stream, &Request::bare(command::DISC).encode(), &[]);
        }
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    fn receive<'a>(
        &self,
        request: &'a Request,
        into: &'a mut [u8],
    ) -> Result<Incoming<'a>, Failure> {
        let mut incoming = Incoming {
            request,
            into,
            received: ExtentSet::default(),
            answer: Answer::default(),
            error: 0,
            chunks: 0,
        };
        while !self.receive_part(&mut incoming)? {}
        incoming.check(self.allocation_id.is_some())?;
        Ok(incoming)
    }

    /// Reads a simple reply or one chunk; whether it is the last.
    fn receive_part(&self, incoming: &mut Incoming<'_>) -> Result<bool, Failure> {
        let mut head = [0; 16];
        (&self.stream).read_exact(&mut head)?;
        let mut fields = Fields(&head);
        let short = Failure::Violation("a reply is too short");
        let (Some(magic), Some(middle), Some(cookie)) = (fields.u32(), fields.u32(), fields.u64())
        else {
            return Err(short);
        };
        if cookie != incoming.request.cookie {
            return Err(Failure::Violation("a reply is for another request"));
        }
        match magic {
            SIMPLE_REPLY_MAGIC => self.simple(incoming, middle).map(|()| true),
            CHUNK_MAGIC if self.structured => self.chunk(incoming, middle),
            _ => Err(Failure::Violation("a reply has the wrong magic")),
        }
    }

    fn simple(&self, incoming: &mut Incoming<'_>, error: u32) -> Result<(), Failure> {
        if self.structured && incoming.request.command == command::READ {
            return Err(Failure::Violation("a read has a simple reply"));
        }
        incoming.error = error;
        if error == 0 && incoming.request.command == command::READ {
            let whole = incoming.part(incoming.request.offset, incoming.request.length)?;
            (&self.stream).read_exact(whole)?;
        }
        Ok(())
    }

    fn chunk(&self, incoming: &mut Incoming<'_>, flags_and_kind: u32) -> Result<bool, Failure> {
        let last = (flags_and_kind >> 16) & u32::from(chunk::DONE) != 0;
        let kind = u16::try_from(flags_and_kind & 0xffff).unwrap_or_default();
        let length = u32::from_be_bytes(self.read()?);
        match kind {
            chunk::OFFSET_DATA => {
                let data = length.checked_sub(8);
                let data = data.ok_or(Failure::Violation("a chunk is too short"))?;
                let offset = u64::from_be_bytes(self.read()?);
                let part = incoming.part(offset, data)?;
                (&self.stream).read_exact(part)?;
            }
            chunk::OFFSET_HOLE if length == 12 => {
                let offset = u64::from_be_bytes(self.read()?);
                let hole = u32::from_be_bytes(self.read()?);
                incoming.part(offset, hole)?.fill(0);
            }
            _ if length > CHUNK_MAX => return Err(Failure::Violation("a chunk is too long")),
            _ => {
                let mut payload = vec![0; length as usize];
                (&self.stream).read_exact(&mut payload)?;
                incoming.note(kind, &payload, self.allocation_id)?;
            }
        }
        Ok(last)
    }

    fn read<const N: usize>(&self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        (&self.stream).read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

impl Incoming<'_> {
    /// The part of the request's buffer that a chunk fills. No two may overlap.
    fn part(&mut self, offset: u64, length: u32) -> Result<&mut [u8], Failure> {
        let outside = || Failure::Violation("a chunk lies outside the request");
        let length = Length::new(length.into());
        let extent = Extent::new(Offset::new(offset), length).map_err(|_| outside())?;
        if self.received.overlaps(extent) {
            return Err(Failure::Violation("two chunks overlap"));
        }
        let index = |at: Offset| {
            let since = at.checked_since(Offset::new(self.request.offset));
            since.and_then(Length::to_usize)
        };
        let range = index(extent.start()).zip(index(extent.end()));
        self.received.insert(extent);
        range
            .and_then(|(start, end)| self.into.get_mut(start..end))
            .ok_or_else(outside)
    }

    /// Takes a chunk without data for what it says.
    fn note(&mut self, kind: u16, payload: &[u8], context: Option<u32>) -> Result<(), Failure> {
        self.chunks += 1;
        if self.chunks > CHUNKS_MAX {
            return Err(Failure::Violation("a reply has too many chunks"));
        }
        let mut fields = Fields(payload);
        if kind & chunk::ERROR_BIT != 0 {
            let error = fields.u32().filter(|error| *error != 0);
            self.error = error.ok_or(Failure::Violation("an error chunk has no error"))?;
            return Ok(());
        }
        match kind {
            chunk::NONE if payload.is_empty() => Ok(()),
            chunk::BLOCK_STATUS if self.request.command == command::BLOCK_STATUS => {
                if context.is_none() || fields.u32() != context {
                    return Err(Failure::Violation("a status has another context"));
                }
                let status = fields.u32().zip(fields.u32());
                self.answer.status = status.filter(|(length, _)| *length > 0);
                Ok(())
            }
            _ => Err(Failure::Violation("a chunk is of an unexpected kind")),
        }
    }

    /// Refuses a success that did not bring what was asked for.
    fn check(&self, has_context: bool) -> Result<(), Failure> {
        if self.error != 0 {
            return Ok(());
        }
        if self.received.total() != Length::of(self.into) {
            return Err(Failure::Violation("a reply lacks data"));
        }
        let wants_status = has_context && self.request.command == command::BLOCK_STATUS;
        if wants_status && self.answer.status.is_none() {
            return Err(Failure::Violation("a reply lacks a status"));
        }
        Ok(())
    }
}

/// The error that a server reports. Numbers that the protocol does not have stand for EINVAL.
fn io_error(error: u32) -> io::Error {
    let kind = match error {
        errno::EPERM => io::ErrorKind::PermissionDenied,
        errno::EIO => return io::Error::other("the server reports an input/output error"),
        errno::ENOMEM => io::ErrorKind::OutOfMemory,
        errno::ENOSPC => io::ErrorKind::StorageFull,
        errno::EOVERFLOW => io::ErrorKind::FileTooLarge,
        errno::ENOTSUP => io::ErrorKind::Unsupported,
        errno::ESHUTDOWN => io::ErrorKind::ConnectionAborted,
        _ => io::ErrorKind::InvalidInput,
    };
    kind.into()
}
