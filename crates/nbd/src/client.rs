//! A client: an export of any server as a block device.

mod connection;
mod negotiation;

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use afterimage_block::{
    BlockRead, BlockWrite, Error as BlockError, Extent, Length, Offset, Run, RunKind, SECTOR,
    Zeroing, check_range,
};

use crate::address::ListenAddress;
use crate::protocol::{Request, allocation, command, command_flag, transmission_flag as flag};
use crate::{Error, Result};

use connection::{Answer, Connection, Failure};
use negotiation::Agreed;

/// The longest range of a request that carries no data.
const RANGE_MAX: Length = Length::gib(1);

/// An export of an NBD server as a block device.
///
/// One request is in flight at a time; threads that share a client take turns. Open several clients
/// of one export for more. Once the connection is lost or the server breaks the protocol, every
/// call fails: make a new client. Requests must keep to the server's minimum block size, where it
/// has one, or the server refuses them.
#[derive(Debug)]
pub struct Client {
    connection: Mutex<Connection>,
    uri: String,
    agreed: Agreed,
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

    /// Connects to `export`; the empty name is the server's default. A server that does not answer
    /// is given up after 30 seconds.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Refused`] if there is no such export; [`Error::NotWholeSectors`];
    /// [`Error::Protocol`] if the server does not speak fixed newstyle NBD.
    pub fn connect(address: &ListenAddress, export: &str) -> Result<Self> {
        let (stream, agreed) = negotiation::negotiate(address, export)?;
        let uri = address.uri(export);
        if !agreed.size.get().is_multiple_of(SECTOR.get()) {
            let (peer, size) = (uri, agreed.size);
            return Err(Error::NotWholeSectors { peer, size });
        }
        Ok(Self {
            connection: Mutex::new(Connection::new(stream, &agreed)),
            uri,
            agreed,
        })
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request and waits for its reply.
    fn call(
        &self,
        operation: &'static str,
        request: Request,
        data: &[u8],
        into: &mut [u8],
    ) -> afterimage_block::Result<Answer> {
        let failed = |source| BlockError::Io {
            operation,
            device: self.uri.clone(),
            offset: Offset::new(request.offset),
            length: Length::new(request.length.into()),
            source,
        };
        let called = self.connection().call(request, data, into);
        called.map_err(|failure| match failure {
            Failure::Io(source) => failed(source),
            Failure::Violation(violation) => failed(io::Error::new(
                io::ErrorKind::InvalidData,
                Error::Protocol {
                    peer: self.uri.clone(),
                    violation,
                },
            )),
        })
    }

    fn zero(&self, extent: Extent, flags: u16) -> afterimage_block::Result<()> {
        for piece in extent.pieces(RANGE_MAX) {
            let request = request(command::WRITE_ZEROES, flags, piece);
            self.call("zero", request, &[], &mut [])?;
        }
        Ok(())
    }

    fn write_zeros(&self, extent: Extent) -> afterimage_block::Result<()> {
        let zeros = vec![0; self.agreed.request_max.min(64 << 10) as usize];
        for piece in extent.pieces(Length::of(&zeros)) {
            let length = piece.length().to_usize().unwrap_or(zeros.len());
            self.write_at(piece.start(), zeros.get(..length).unwrap_or(&zeros))?;
        }
        Ok(())
    }

    fn can(&self, flag: u16) -> bool {
        self.agreed.flags & flag != 0
    }

    fn check_writable(&self) -> afterimage_block::Result<()> {
        if self.can(flag::READ_ONLY) {
            let device = self.uri.clone();
            return Err(BlockError::ReadOnly { device });
        }
        Ok(())
    }
}

impl BlockRead for Client {
    fn size(&self) -> Length {
        self.agreed.size
    }

    fn read_at(&self, offset: Offset, buf: &mut [u8]) -> afterimage_block::Result<()> {
        let Some(whole) = check_range(offset, Length::of(buf), self.size())? else {
            return Ok(());
        };
        let mut at = whole.start();
        for piece in buf.chunks_mut(self.agreed.request_max as usize) {
            let extent = extent_of(at, piece)?;
            self.call("read", request(command::READ, 0, extent), &[], piece)?;
            at = extent.end();
        }
        Ok(())
    }

    fn next_run(&self, from: Offset) -> afterimage_block::Result<Option<Run>> {
        let end = Offset::new(self.size().get());
        let Some(left) = Extent::between(from, end) else {
            return Ok(None);
        };
        if self.agreed.allocation_id.is_none() {
            let (extent, kind) = (left, RunKind::Data);
            return Ok(Some(Run { extent, kind }));
        }
        let horizon = from.checked_add(RANGE_MAX).unwrap_or(end).min(end);
        let asked = Extent::between(from, horizon).unwrap_or(left);
        let request = request(command::BLOCK_STATUS, command_flag::REQ_ONE, asked);
        let answer = self.call("map", request, &[], &mut [])?;
        // The connection has seen to it that there is a status of at least one byte.
        let (length, state) = answer.status.unwrap_or((request.length, 0));
        let reported = Extent::new(from, Length::new(length.into())).unwrap_or(asked);
        let kind = if state & allocation::ZERO != 0 {
            RunKind::Hole
        } else {
            RunKind::Data
        };
        let extent = reported.intersection(left).unwrap_or(asked);
        Ok(Some(Run { extent, kind }))
    }
}

impl BlockWrite for Client {
    fn write_at(&self, offset: Offset, data: &[u8]) -> afterimage_block::Result<()> {
        self.check_writable()?;
        let Some(whole) = check_range(offset, Length::of(data), self.size())? else {
            return Ok(());
        };
        let mut at = whole.start();
        for piece in data.chunks(self.agreed.request_max as usize) {
            let extent = extent_of(at, piece)?;
            self.call("write", request(command::WRITE, 0, extent), piece, &mut [])?;
            at = extent.end();
        }
        Ok(())
    }

    fn write_zeroes(&self, extent: Extent, zeroing: Zeroing) -> afterimage_block::Result<()> {
        self.check_writable()?;
        check_range(extent.start(), extent.length(), self.size())?;
        if !self.can(flag::SEND_WRITE_ZEROES) {
            return self.write_zeros(extent);
        }
        let flags = match zeroing {
            Zeroing::Deallocate => 0,
            Zeroing::Allocate => command_flag::NO_HOLE,
        };
        self.zero(extent, flags)
    }

    /// As [`write_zeroes`](Self::write_zeroes): the protocol does not promise that trimmed ranges
    /// read as zeros, and this trait does.
    fn discard(&self, extent: Extent) -> afterimage_block::Result<()> {
        self.write_zeroes(extent, Zeroing::Deallocate)
    }

    fn flush(&self) -> afterimage_block::Result<()> {
        if !self.can(flag::SEND_FLUSH) {
            return Ok(());
        }
        let request = Request::bare(command::FLUSH);
        self.call("flush", request, &[], &mut []).map(drop)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.connection().close();
    }
}

fn request(command: u16, flags: u16, extent: Extent) -> Request {
    Request {
        flags,
        offset: extent.start().get(),
        // Pieces are cut to fit.
        length: u32::try_from(extent.length().get()).unwrap_or(u32::MAX),
        ..Request::bare(command)
    }
}

/// Where a piece of a checked range lies.
fn extent_of(at: Offset, piece: &[u8]) -> afterimage_block::Result<Extent> {
    let length = Length::of(piece);
    Extent::new(at, length).map_err(|_| BlockError::OutOfRange {
        offset: at,
        length,
        size: Length::ZERO,
    })
}
