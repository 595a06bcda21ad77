//! A client: an export of any server as a block device.

use std::io::{self, Read};
use std::net::Shutdown;
use std::sync::{Mutex, MutexGuard, PoisonError};

use afterimage_block::{
    BlockRead, BlockWrite, Error as BlockError, Extent, Length, Offset, Run, RunKind, Zeroing,
    check_range,
};

use crate::address::ListenAddress;
use crate::protocol::{
    BASE_ALLOCATION, BASE_ALLOCATION_ID, CHUNK_MAGIC, Fields, Frame, MAGIC, OPTION_MAGIC,
    OPTION_REPLY_MAGIC, Request, SIMPLE_REPLY_MAGIC, allocation, chunk, command, command_flag,
    handshake_flag, info, option, reply, transmission_flag,
};
use crate::stream::{Stream, write_frame};
use crate::{Error, Result};

/// The most data that one request moves.
const REQUEST_MAX: u32 = 1 << 20;
/// The longest option reply or non-data chunk that is looked at.
const REPLY_MAX: u32 = 64 << 10;

/// An export of an NBD server as a block device.
///
/// One request is in flight at a time; threads that share a client take turns. Open several clients
/// of one export for more.
#[derive(Debug)]
pub struct Client {
    connection: Mutex<Connection>,
    name: String,
    size: Length,
    flags: u16,
    request_max: u32,
    maps: bool,
}

#[derive(Debug)]
struct Connection {
    stream: Stream,
    cookie: u64,
    structured: bool,
    /// Set after an I/O or protocol error: what comes next on the stream means nothing.
    broken: bool,
}

/// What a reply brought.
#[derive(Default)]
struct Answer {
    /// The protocol's error number, 0 for success.
    error: u32,
    /// The first extent of a block status: length and state.
    status: Option<(u32, u32)>,
}

impl Client {
    /// Connects to the export that an NBD URI names.
    ///
    /// # Errors
    /// As [`connect`](Self::connect), and [`Error::Address`] if it is no such URI.
    pub fn open(uri: &str) -> Result<Self> {
        let (address, export) = ListenAddress::parse_uri(uri)?;
        Self::connect(&address, &export)
    }

    /// Connects to `export`; the empty name is the server's default.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Refused`] if there is no such export, [`Error::Protocol`] if the
    /// server does not speak fixed newstyle NBD.
    pub fn connect(address: &ListenAddress, export: &str) -> Result<Self> {
        let io = |source| Error::Io {
            operation: "talk to",
            peer: address.to_string(),
            source,
        };
        let stream = Stream::connect(address).map_err(io)?;
        let mut negotiation = Negotiation {
            stream: &stream,
            export,
        };
        let agreed = negotiation.run().map_err(|failure| match failure {
            Failure::Io(source) => io(source),
            Failure::Nbd(error) => error,
        })?;
        Ok(Self {
            connection: Mutex::new(Connection {
                stream,
                cookie: 0,
                structured: agreed.structured,
                broken: false,
            }),
            name: address.uri(export),
            size: agreed.size,
            flags: agreed.flags,
            request_max: agreed.request_max,
            maps: agreed.maps,
        })
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn request(&self, command: u16, flags: u16, extent: Extent) -> Request {
        Request {
            flags,
            command,
            cookie: 0,
            offset: extent.start().get(),
            length: u32::try_from(extent.length().get()).unwrap_or(u32::MAX),
        }
    }

    /// Sends a request and waits for its reply.
    fn call(
        &self,
        operation: &'static str,
        request: Request,
        data: &[u8],
        into: &mut [u8],
    ) -> afterimage_block::Result<Answer> {
        let io = |source| BlockError::Io {
            operation,
            device: self.name.clone(),
            offset: Offset::new(request.offset),
            length: Length::new(request.length.into()),
            source,
        };
        let answer = self.connection().call(request, data, into).map_err(io)?;
        match i32::try_from(answer.error) {
            Ok(0) => Ok(answer),
            Ok(errno) => Err(io(io::Error::from_raw_os_error(errno))),
            Err(_) => Err(io(io::ErrorKind::Other.into())),
        }
    }

    fn zero(
        &self,
        operation: &'static str,
        command: u16,
        flags: u16,
        extent: Extent,
    ) -> afterimage_block::Result<()> {
        check_range(extent.start(), extent.length(), self.size)?;
        // Zeroing carries no data, so only the 32-bit length bounds it.
        for piece in extent.pieces(Length::gib(1)) {
            let request = self.request(command, flags, piece);
            self.call(operation, request, &[], &mut [])?;
        }
        Ok(())
    }

    fn can(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

impl BlockRead for Client {
    fn size(&self) -> Length {
        self.size
    }

    fn read_at(&self, offset: Offset, buf: &mut [u8]) -> afterimage_block::Result<()> {
        let Some(whole) = check_range(offset, Length::of(buf), self.size)? else {
            return Ok(());
        };
        let mut rest = buf;
        let mut at = whole.start();
        while let Some(left) = Extent::between(at, whole.end()) {
            let take = left.length().get().min(self.request_max.into());
            let end = Offset::new(at.get() + take);
            let (piece, next) = rest.split_at_mut(usize::try_from(take).unwrap_or(usize::MAX));
            let Some(extent) = Extent::between(at, end) else {
                break;
            };
            let request = self.request(command::READ, 0, extent);
            self.call("read", request, &[], piece)?;
            (at, rest) = (end, next);
        }
        Ok(())
    }

    fn next_run(&self, from: Offset) -> afterimage_block::Result<Option<Run>> {
        let end = Offset::new(self.size.get());
        let Some(left) = Extent::between(from, end) else {
            return Ok(None);
        };
        let data = Run {
            extent: left,
            kind: RunKind::Data,
        };
        if !self.maps {
            return Ok(Some(data));
        }
        let asked = left.length().get().min(1 << 30);
        let asked = Extent::between(from, Offset::new(from.get() + asked)).unwrap_or(left);
        let request = self.request(command::BLOCK_STATUS, command_flag::REQ_ONE, asked);
        let answer = self.call("map", request, &[], &mut [])?;
        let Some((length, state)) = answer.status.filter(|(length, _)| *length > 0) else {
            return Ok(Some(data));
        };
        let run = Extent::new(from, Length::new(length.into())).ok();
        let kind = if state & allocation::ZERO != 0 {
            RunKind::Hole
        } else {
            RunKind::Data
        };
        let extent = run.and_then(|run| run.intersection(left)).unwrap_or(left);
        Ok(Some(Run { extent, kind }))
    }
}

impl BlockWrite for Client {
    fn write_at(&self, offset: Offset, data: &[u8]) -> afterimage_block::Result<()> {
        let Some(whole) = check_range(offset, Length::of(data), self.size)? else {
            return Ok(());
        };
        let step = usize::try_from(self.request_max).unwrap_or(usize::MAX);
        let mut at = whole.start();
        for piece in data.chunks(step) {
            let end = Offset::new(at.get() + piece.len() as u64);
            if let Some(extent) = Extent::between(at, end) {
                let request = self.request(command::WRITE, 0, extent);
                self.call("write", request, piece, &mut [])?;
            }
            at = end;
        }
        Ok(())
    }

    fn write_zeroes(&self, extent: Extent, zeroing: Zeroing) -> afterimage_block::Result<()> {
        let flags = match zeroing {
            Zeroing::Deallocate => 0,
            Zeroing::Allocate => command_flag::NO_HOLE,
        };
        if self.can(transmission_flag::SEND_WRITE_ZEROES) {
            return self.zero("zero", command::WRITE_ZEROES, flags, extent);
        }
        check_range(extent.start(), extent.length(), self.size)?;
        let zeros = vec![0; 64 << 10];
        for piece in extent.pieces(Length::of(&zeros)) {
            let length = piece.length().to_usize().unwrap_or(zeros.len());
            self.write_at(piece.start(), zeros.get(..length).unwrap_or(&zeros))?;
        }
        Ok(())
    }

    /// As [`write_zeroes`](Self::write_zeroes): the protocol does not promise that trimmed ranges
    /// read as zeros, and this trait does.
    fn discard(&self, extent: Extent) -> afterimage_block::Result<()> {
        self.write_zeroes(extent, Zeroing::Deallocate)
    }

    fn flush(&self) -> afterimage_block::Result<()> {
        if !self.can(transmission_flag::SEND_FLUSH) {
            return Ok(());
        }
        let request = Request {
            flags: 0,
            command: command::FLUSH,
            cookie: 0,
            offset: 0,
            length: 0,
        };
        self.call("flush", request, &[], &mut []).map(drop)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let connection = self.connection();
        let goodbye = Request {
            flags: 0,
            command: command::DISC,
            cookie: 0,
            offset: 0,
            length: 0,
        };
        // Best effort: the server notices a closed connection as well.
        let _ = write_frame(&connection.stream, &goodbye.encode(), &[]);
        let _ = connection.stream.shutdown(Shutdown::Both);
    }
}

impl Connection {
    fn call(&mut self, request: Request, data: &[u8], into: &mut [u8]) -> io::Result<Answer> {
        if self.broken {
            return Err(io::ErrorKind::NotConnected.into());
        }
        self.cookie += 1;
        let request = Request {
            cookie: self.cookie,
            ..request
        };
        let answer = write_frame(&self.stream, &request.encode(), data)
            .and_then(|()| self.answer(&request, into));
        self.broken = answer.is_err();
        answer
    }

    fn read<const N: usize>(&self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        (&self.stream).read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn answer(&self, request: &Request, into: &mut [u8]) -> io::Result<Answer> {
        let mut answer = Answer::default();
        let mut received = 0;
        loop {
            let last = match u32::from_be_bytes(self.read()?) {
                SIMPLE_REPLY_MAGIC => self.simple(request, into, &mut answer, &mut received)?,
                CHUNK_MAGIC if self.structured => {
                    self.chunk(request, into, &mut answer, &mut received)?
                }
                _ => return Err(broken("a reply has the wrong magic")),
            };
            if last {
                break;
            }
        }
        if answer.error == 0 && received != into.len() {
            return Err(broken("a reply lacks data"));
        }
        Ok(answer)
    }

    fn simple(
        &self,
        request: &Request,
        into: &mut [u8],
        answer: &mut Answer,
        received: &mut usize,
    ) -> io::Result<bool> {
        answer.error = u32::from_be_bytes(self.read()?);
        self.check_cookie(request, u64::from_be_bytes(self.read()?))?;
        if answer.error == 0 {
            (&self.stream).read_exact(into)?;
            *received = into.len();
        }
        Ok(true)
    }

    /// Reads one chunk; whether it is the last.
    fn chunk(
        &self,
        request: &Request,
        into: &mut [u8],
        answer: &mut Answer,
        received: &mut usize,
    ) -> io::Result<bool> {
        let flags = u16::from_be_bytes(self.read()?);
        let kind = u16::from_be_bytes(self.read()?);
        self.check_cookie(request, u64::from_be_bytes(self.read()?))?;
        let length = u32::from_be_bytes(self.read()?);
        match kind {
            chunk::OFFSET_DATA => {
                let offset = u64::from_be_bytes(self.read()?);
                let data = length
                    .checked_sub(8)
                    .ok_or_else(|| broken("a chunk is too short"))?;
                let part = part_of(into, request.offset, offset, data)?;
                *received += part.len();
                (&self.stream).read_exact(part)?;
            }
            chunk::OFFSET_HOLE => {
                let offset = u64::from_be_bytes(self.read()?);
                let part = part_of(
                    into,
                    request.offset,
                    offset,
                    u32::from_be_bytes(self.read()?),
                )?;
                *received += part.len();
                part.fill(0);
            }
            _ if length > REPLY_MAX => return Err(broken("a chunk is too long")),
            _ => {
                let mut payload = vec![0; length as usize];
                (&self.stream).read_exact(&mut payload)?;
                note_chunk(kind, &payload, answer)?;
            }
        }
        Ok(flags & chunk::DONE != 0)
    }

    fn check_cookie(&self, request: &Request, cookie: u64) -> io::Result<()> {
        if cookie == request.cookie {
            Ok(())
        } else {
            Err(broken("a reply is for another request"))
        }
    }
}

/// Takes a chunk without data for what it says.
fn note_chunk(kind: u16, payload: &[u8], answer: &mut Answer) -> io::Result<()> {
    let mut fields = Fields(payload);
    if kind & chunk::ERROR_BIT != 0 {
        let error = fields.u32().filter(|error| *error != 0);
        answer.error = error.ok_or_else(|| broken("an error chunk has no error"))?;
    } else if kind == chunk::BLOCK_STATUS && fields.u32() == Some(BASE_ALLOCATION_ID) {
        answer.status = fields.u32().zip(fields.u32());
    }
    Ok(())
}

/// The part of `into`, which starts at disk offset `base`, that a chunk fills.
fn part_of(into: &mut [u8], base: u64, offset: u64, length: u32) -> io::Result<&mut [u8]> {
    let start = offset
        .checked_sub(base)
        .and_then(|start| usize::try_from(start).ok());
    let end = start.and_then(|start| start.checked_add(length as usize));
    let part = start
        .zip(end)
        .and_then(|(start, end)| into.get_mut(start..end));
    part.ok_or_else(|| broken("a chunk lies outside the request"))
}

fn broken(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, Error::Protocol(what))
}

/// What client and server agreed on.
struct Agreed {
    size: Length,
    flags: u16,
    request_max: u32,
    structured: bool,
    maps: bool,
}

struct Negotiation<'a> {
    stream: &'a Stream,
    export: &'a str,
}

enum Failure {
    Io(io::Error),
    Nbd(Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn protocol<T>(what: &'static str) -> Result<T, Failure> {
    Err(Failure::Nbd(Error::Protocol(what)))
}

impl Negotiation<'_> {
    fn run(&mut self) -> Result<Agreed, Failure> {
        if u64::from_be_bytes(self.read()?) != MAGIC
            || u64::from_be_bytes(self.read()?) != OPTION_MAGIC
        {
            return protocol("the greeting is not that of an NBD server");
        }
        let flags = u16::from_be_bytes(self.read()?);
        if flags & handshake_flag::FIXED_NEWSTYLE == 0 {
            return protocol("the server does not speak fixed newstyle");
        }
        let common = flags & (handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES);
        write_frame(self.stream, &u32::from(common).to_be_bytes(), &[])?;
        let structured = self.accepted(option::STRUCTURED_REPLY, &[])?;
        let context: Vec<u8> = Frame::new()
            .name(self.export)
            .u32(1)
            .name(BASE_ALLOCATION)
            .into();
        let maps = structured && self.accepted(option::SET_META_CONTEXT, &context)?;
        self.go(structured, maps)
    }

    fn read<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn send(&mut self, option: u32, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let header: Vec<u8> = Frame::new()
            .u64(OPTION_MAGIC)
            .u32(option)
            .u32(length)
            .into();
        write_frame(self.stream, &header, payload)
    }

    /// The next reply to `option`: kind and payload.
    fn reply(&mut self, option: u32) -> Result<(u32, Vec<u8>), Failure> {
        let magic = u64::from_be_bytes(self.read()?);
        let answered = u32::from_be_bytes(self.read()?);
        let kind = u32::from_be_bytes(self.read()?);
        let length = u32::from_be_bytes(self.read()?);
        if magic != OPTION_REPLY_MAGIC || answered != option || length > REPLY_MAX {
            return protocol("a reply to an option is malformed");
        }
        let mut payload = vec![0; length as usize];
        self.stream.read_exact(&mut payload)?;
        Ok((kind, payload))
    }

    /// Whether the server takes `option`, and every context that it asks for.
    fn accepted(&mut self, option: u32, payload: &[u8]) -> Result<bool, Failure> {
        self.send(option, payload)?;
        let mut contexts = 0;
        loop {
            let (kind, payload) = self.reply(option)?;
            match kind {
                reply::ACK => return Ok(option != option::SET_META_CONTEXT || contexts == 1),
                reply::META_CONTEXT if Fields(&payload).u32() == Some(BASE_ALLOCATION_ID) => {
                    contexts += 1;
                }
                // Another id would have to be remembered; no server that we know of picks one.
                reply::META_CONTEXT => {}
                _ if kind & reply::ERROR != 0 => return Ok(false),
                _ => return protocol("an unexpected reply to an option"),
            }
        }
    }

    fn go(&mut self, structured: bool, maps: bool) -> Result<Agreed, Failure> {
        let request: Vec<u8> = Frame::new()
            .name(self.export)
            .u16(1)
            .u16(info::BLOCK_SIZE)
            .into();
        self.send(option::GO, &request)?;
        let mut facts = None;
        let mut request_max = REQUEST_MAX;
        loop {
            let (kind, payload) = self.reply(option::GO)?;
            let mut fields = Fields(&payload);
            match (kind, fields.u16()) {
                (reply::ACK, _) => break,
                (reply::INFO, Some(info::EXPORT)) => facts = fields.u64().zip(fields.u16()),
                (reply::INFO, Some(info::BLOCK_SIZE)) => {
                    let largest = fields.u64().and_then(|_| fields.u32());
                    request_max = request_max.min(largest.unwrap_or(request_max)).max(4096);
                }
                (reply::INFO, _) => {}
                _ if kind & reply::ERROR != 0 => {
                    return Err(Failure::Nbd(Error::Refused {
                        export: self.export.into(),
                        code: kind,
                        message: String::from_utf8_lossy(&payload).into_owned(),
                    }));
                }
                _ => return protocol("an unexpected reply to GO"),
            }
        }
        let Some((size, flags)) = facts else {
            return protocol("the server did not tell the export's size");
        };
        Ok(Agreed {
            size: Length::new(size),
            flags,
            request_max,
            structured,
            maps,
        })
    }
}
