//! The numbers and frames of the NBD protocol, without I/O.
//!
//! Source: the NBD protocol specification (`doc/proto.md` of the reference implementation). All
//! integers are big-endian.

/// `NBDMAGIC`, the first eight bytes from the server.
pub(crate) const MAGIC: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`, in the greeting and before each option.
pub(crate) const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Before each reply to an option.
pub(crate) const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Before each request of the transmission phase.
pub(crate) const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Before each simple reply.
pub(crate) const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Before each chunk of a structured reply.
pub(crate) const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// The metadata context that tells data from holes.
pub(crate) const BASE_ALLOCATION: &str = "base:allocation";
/// The id under which it is negotiated.
pub(crate) const BASE_ALLOCATION_ID: u32 = 1;
/// The length of the longest export or context name.
pub(crate) const NAME_MAX: usize = 4096;

/// Flags of the greeting; the client answers with the same bits.
pub(crate) mod handshake_flag {
    pub(crate) const FIXED_NEWSTYLE: u16 = 1 << 0;
    pub(crate) const NO_ZEROES: u16 = 1 << 1;
}

/// Options of the handshake.
pub(crate) mod option {
    pub(crate) const EXPORT_NAME: u32 = 1;
    pub(crate) const ABORT: u32 = 2;
    pub(crate) const LIST: u32 = 3;
    pub(crate) const INFO: u32 = 6;
    pub(crate) const GO: u32 = 7;
    pub(crate) const STRUCTURED_REPLY: u32 = 8;
    pub(crate) const LIST_META_CONTEXT: u32 = 9;
    pub(crate) const SET_META_CONTEXT: u32 = 10;
}

/// Replies to options.
pub(crate) mod reply {
    pub(crate) const ACK: u32 = 1;
    pub(crate) const SERVER: u32 = 2;
    pub(crate) const INFO: u32 = 3;
    pub(crate) const META_CONTEXT: u32 = 4;
    /// Set in every reply that is an error.
    pub(crate) const ERROR: u32 = 1 << 31;
    pub(crate) const ERR_UNSUP: u32 = ERROR | 1;
    pub(crate) const ERR_INVALID: u32 = ERROR | 3;
    pub(crate) const ERR_UNKNOWN: u32 = ERROR | 6;
    pub(crate) const ERR_TOO_BIG: u32 = ERROR | 9;
}

/// Kinds of information about an export.
pub(crate) mod info {
    pub(crate) const EXPORT: u16 = 0;
    pub(crate) const NAME: u16 = 1;
    pub(crate) const DESCRIPTION: u16 = 2;
    pub(crate) const BLOCK_SIZE: u16 = 3;
}

/// What an export can do.
pub(crate) mod transmission_flag {
    pub(crate) const HAS_FLAGS: u16 = 1 << 0;
    pub(crate) const READ_ONLY: u16 = 1 << 1;
    pub(crate) const SEND_FLUSH: u16 = 1 << 2;
    pub(crate) const SEND_FUA: u16 = 1 << 3;
    pub(crate) const SEND_TRIM: u16 = 1 << 5;
    pub(crate) const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub(crate) const SEND_DF: u16 = 1 << 7;
    pub(crate) const CAN_MULTI_CONN: u16 = 1 << 8;
}

/// Commands of the transmission phase.
pub(crate) mod command {
    pub(crate) const READ: u16 = 0;
    pub(crate) const WRITE: u16 = 1;
    pub(crate) const DISC: u16 = 2;
    pub(crate) const FLUSH: u16 = 3;
    pub(crate) const TRIM: u16 = 4;
    pub(crate) const WRITE_ZEROES: u16 = 6;
    pub(crate) const BLOCK_STATUS: u16 = 7;
}

/// Flags of commands.
pub(crate) mod command_flag {
    pub(crate) const FUA: u16 = 1 << 0;
    pub(crate) const NO_HOLE: u16 = 1 << 1;
    pub(crate) const DF: u16 = 1 << 2;
    pub(crate) const REQ_ONE: u16 = 1 << 3;
}

/// Chunks of structured replies.
pub(crate) mod chunk {
    /// The flag of the last chunk of a reply.
    pub(crate) const DONE: u16 = 1 << 0;
    pub(crate) const NONE: u16 = 0;
    pub(crate) const OFFSET_DATA: u16 = 1;
    pub(crate) const OFFSET_HOLE: u16 = 2;
    pub(crate) const BLOCK_STATUS: u16 = 5;
    /// Set in the type of every chunk that is an error.
    pub(crate) const ERROR_BIT: u16 = 1 << 15;
    pub(crate) const ERROR: u16 = ERROR_BIT | 1;
}

/// States of `base:allocation`.
pub(crate) mod allocation {
    pub(crate) const HOLE: u32 = 1 << 0;
    pub(crate) const ZERO: u32 = 1 << 1;
}

/// Error numbers of the protocol.
pub(crate) mod errno {
    pub(crate) const EPERM: u32 = 1;
    pub(crate) const EIO: u32 = 5;
    pub(crate) const ENOMEM: u32 = 12;
    pub(crate) const EINVAL: u32 = 22;
    pub(crate) const ENOSPC: u32 = 28;
    pub(crate) const EOVERFLOW: u32 = 75;
    pub(crate) const ENOTSUP: u32 = 95;
    pub(crate) const ESHUTDOWN: u32 = 108;
}

/// The header of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) flags: u16,
    pub(crate) command: u16,
    pub(crate) cookie: u64,
    pub(crate) offset: u64,
    pub(crate) length: u32,
}

impl Request {
    pub(crate) const LEN: usize = 28;

    /// A request for nothing in particular, with cookie 0.
    pub(crate) const fn bare(command: u16) -> Self {
        Self {
            flags: 0,
            command,
            cookie: 0,
            offset: 0,
            length: 0,
        }
    }

    /// The request in `frame`; `None` if its magic is wrong.
    pub(crate) fn parse(frame: &[u8; Self::LEN]) -> Option<Self> {
        let mut fields = Fields(frame);
        let magic = fields.u32()?;
        let request = Self {
            flags: fields.u16()?,
            command: fields.u16()?,
            cookie: fields.u64()?,
            offset: fields.u64()?,
            length: fields.u32()?,
        };
        (magic == REQUEST_MAGIC).then_some(request)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        Frame::new()
            .u32(REQUEST_MAGIC)
            .u16(self.flags)
            .u16(self.command)
            .u64(self.cookie)
            .u64(self.offset)
            .u32(self.length)
            .into()
    }

    pub(crate) fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// Big-endian fields read off the front of a slice.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// A text behind its 32-bit length, no longer than a name may be.
    pub(crate) fn name(&mut self) -> Option<&'a str> {
        let length = usize::try_from(self.u32()?).ok()?;
        let name = self.bytes(length).filter(|name| name.len() <= NAME_MAX)?;
        std::str::from_utf8(name).ok()
    }
}

/// A frame being built of big-endian fields.
#[derive(Debug, Default)]
pub(crate) struct Frame(Vec<u8>);

impl Frame {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn u16(self, value: u16) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    pub(crate) fn u32(self, value: u32) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    pub(crate) fn u64(self, value: u64) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    /// A text behind its 32-bit length.
    pub(crate) fn name(self, name: &str) -> Self {
        let length = u32::try_from(name.len()).unwrap_or(u32::MAX);
        self.u32(length).bytes(name.as_bytes())
    }
}

impl From<Frame> for Vec<u8> {
    fn from(frame: Frame) -> Self {
        frame.0
    }
}

/// A reply to an option: kind and payload.
pub(crate) fn option_reply(option: u32, kind: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    Frame::new()
        .u64(OPTION_REPLY_MAGIC)
        .u32(option)
        .u32(kind)
        .u32(length)
        .bytes(payload)
        .into()
}

/// The header of a simple reply.
pub(crate) fn simple_reply(error: u32, cookie: u64) -> Vec<u8> {
    Frame::new()
        .u32(SIMPLE_REPLY_MAGIC)
        .u32(error)
        .u64(cookie)
        .into()
}

/// The header of a chunk with `length` bytes of payload.
pub(crate) fn chunk_header(flags: u16, kind: u16, cookie: u64, length: u32) -> Frame {
    Frame::new()
        .u32(CHUNK_MAGIC)
        .u16(flags)
        .u16(kind)
        .u64(cookie)
        .u32(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_round_trip_and_other_magic_is_refused() {
        let request = Request {
            flags: command_flag::FUA,
            command: command::WRITE,
            cookie: 0x0102_0304_0506_0708,
            offset: 4096,
            length: 512,
        };
        let mut frame: [u8; Request::LEN] = request.encode().try_into().unwrap();
        assert_eq!(Request::parse(&frame), Some(request));
        frame[0] ^= 1;
        assert_eq!(Request::parse(&frame), None);
    }

    #[test]
    fn names_must_be_whole_and_not_too_long() {
        assert_eq!(Fields(&[0, 0, 0, 2, b'a']).name(), None);
        let long: Vec<u8> = Frame::new().name(&"a".repeat(NAME_MAX + 1)).into();
        assert_eq!(Fields(&long).name(), None);
        let fits: Vec<u8> = Frame::new().name("disk").into();
        assert_eq!(Fields(&fits).name(), Some("disk"));
    }
}
