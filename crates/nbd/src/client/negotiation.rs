//! The client's side of the handshake.

use std::io::{self, Read};
use std::time::Duration;

use afterimage_block::Length;

use super::connection::Failure;
use crate::address::ListenAddress;
use crate::protocol::{
    BASE_ALLOCATION, Fields, Frame, MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC, handshake_flag, info,
    option, reply,
};
use crate::stream::{Stream, write_frame};
use crate::{Error, Result};

/// The most data that one request moves.
const REQUEST_MAX: u32 = 1 << 20;
/// The longest reply to an option that is looked at.
const REPLY_MAX: u32 = 16 << 10;
/// The most replies to one option.
const REPLIES_MAX: usize = 64;
/// For each step.
const PATIENCE: Duration = Duration::from_secs(30);

/// What client and server agreed on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Agreed {
    pub(super) size: Length,
    pub(super) flags: u16,
    /// The longest READ or WRITE, a multiple of the server's minimum block size.
    pub(super) request_max: u32,
    pub(super) structured: bool,
    /// The server's id for `base:allocation`, if it has that.
    pub(super) allocation_id: Option<u32>,
}

/// Connects and asks for `export`.
pub(super) fn negotiate(address: &ListenAddress, export: &str) -> Result<(Stream, Agreed)> {
    let io = |operation| {
        move |source| Error::Io {
            operation,
            peer: address.to_string(),
            source,
        }
    };
    let stream = Stream::connect(address).map_err(io("connect to"))?;
    let agreed = within_patience(&stream, |stream| Negotiation { stream, export }.run());
    let agreed = agreed.map_err(|ending| match ending {
        Ending::Failure(Failure::Io(source)) => io("negotiate with")(source),
        Ending::Failure(Failure::Violation(violation)) => Error::Protocol {
            peer: address.to_string(),
            violation,
        },
        Ending::Refused { code, message } => Error::Refused {
            peer: address.to_string(),
            export: export.into(),
            code,
            message,
        },
    })?;
    Ok((stream, agreed))
}

fn within_patience(
    stream: &Stream,
    run: impl FnOnce(&Stream) -> Result<Agreed, Ending>,
) -> Result<Agreed, Ending> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let agreed = run(stream)?;
    // A device may take its time from here on.
    stream.set_read_timeout(None)?;
    stream.set_write_timeout(None)?;
    Ok(agreed)
}

/// Why there is no agreement.
enum Ending {
    Failure(Failure),
    Refused { code: u32, message: String },
}

impl From<io::Error> for Ending {
    fn from(error: io::Error) -> Self {
        Self::Failure(Failure::Io(error))
    }
}

fn violation(what: &'static str) -> Ending {
    Ending::Failure(Failure::Violation(what))
}

struct Negotiation<'a> {
    stream: &'a Stream,
    export: &'a str,
}

/// A server's replies to an option, up to its ACK.
type Replies = Vec<(u32, Vec<u8>)>;

impl Negotiation<'_> {
    fn run(&mut self) -> Result<Agreed, Ending> {
        if self.u64()? != MAGIC || self.u64()? != OPTION_MAGIC {
            return Err(violation("the greeting is not that of an NBD server"));
        }
        let flags = u16::from_be_bytes(self.read()?);
        if flags & handshake_flag::FIXED_NEWSTYLE == 0 {
            return Err(violation("the server does not speak fixed newstyle"));
        }
        let common = flags & (handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES);
        write_frame(self.stream, &u32::from(common).to_be_bytes(), &[])?;
        let structured = self.option(option::STRUCTURED_REPLY, &[])?.is_ok();
        let allocation_id = if structured {
            self.allocation_id()?
        } else {
            None
        };
        let (size, flags, request_max) = self.go()?;
        Ok(Agreed {
            size,
            flags,
            request_max,
            structured,
            allocation_id,
        })
    }

    fn allocation_id(&mut self) -> Result<Option<u32>, Ending> {
        let asked = Frame::new().name(self.export).u32(1).name(BASE_ALLOCATION);
        // Whether there is such an export at all, GO will tell.
        let replies = self.option(option::SET_META_CONTEXT, &Vec::from(asked))?;
        let id = |(kind, payload): &(u32, Vec<u8>)| {
            let mut fields = Fields(payload);
            let id = fields.u32().filter(|_| *kind == reply::META_CONTEXT)?;
            (fields.0 == BASE_ALLOCATION.as_bytes()).then_some(id)
        };
        Ok(replies.ok().and_then(|replies| replies.iter().find_map(id)))
    }

    fn go(&mut self) -> Result<(Length, u16, u32), Ending> {
        let asked = Frame::new().name(self.export).u16(1).u16(info::BLOCK_SIZE);
        let replies = self.option(option::GO, &Vec::from(asked))?;
        let replies = replies.map_err(|(code, message)| Ending::Refused { code, message })?;
        let mut facts = None;
        let mut request_max = REQUEST_MAX;
        for (kind, payload) in &replies {
            let mut fields = Fields(payload);
            match (kind, fields.u16()) {
                (&reply::INFO, Some(info::EXPORT)) => facts = fields.u64().zip(fields.u16()),
                (&reply::INFO, Some(info::BLOCK_SIZE)) => {
                    request_max = request_max_of(&mut fields)
                        .ok_or_else(|| violation("the block sizes make no sense"))?;
                }
                (&reply::INFO, _) => {}
                _ => return Err(violation("an unexpected reply to GO")),
            }
        }
        let facts = facts.ok_or_else(|| violation("the server did not tell the export's size"))?;
        Ok((Length::new(facts.0), facts.1, request_max))
    }

    /// Sends an option and collects the replies; code and message if the server refuses it.
    fn option(
        &mut self,
        option: u32,
        payload: &[u8],
    ) -> Result<Result<Replies, (u32, String)>, Ending> {
        let length = u32::try_from(payload.len())
            .map_err(|_| violation("an export name is longer than the protocol takes"))?;
        let header = Frame::new().u64(OPTION_MAGIC).u32(option).u32(length);
        write_frame(self.stream, &Vec::from(header), payload)?;
        let mut replies = Replies::new();
        while replies.len() < REPLIES_MAX {
            let (kind, payload) = self.reply(option)?;
            if kind & reply::ERROR != 0 {
                let message = String::from_utf8_lossy(&payload);
                return Ok(Err((kind, message.escape_debug().to_string())));
            }
            if kind == reply::ACK {
                return Ok(Ok(replies));
            }
            replies.push((kind, payload));
        }
        Err(violation("an option has too many replies"))
    }

    /// The next reply to `option`: kind and payload.
    fn reply(&mut self, option: u32) -> Result<(u32, Vec<u8>), Ending> {
        let magic = self.u64()?;
        let answered = u32::from_be_bytes(self.read()?);
        let kind = u32::from_be_bytes(self.read()?);
        let length = u32::from_be_bytes(self.read()?);
        if magic != OPTION_REPLY_MAGIC || answered != option || length > REPLY_MAX {
            return Err(violation("a reply to an option is malformed"));
        }
        let mut payload = vec![0; length as usize];
        self.stream.read_exact(&mut payload)?;
        Ok((kind, payload))
    }

    fn read<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn u64(&mut self) -> io::Result<u64> {
        self.read().map(u64::from_be_bytes)
    }
}

/// The longest request by a server's block sizes (minimum, preferred, maximum); `None` if they are
/// not what the specification allows.
fn request_max_of(fields: &mut Fields<'_>) -> Option<u32> {
    let (minimum, _preferred, maximum) = (fields.u32()?, fields.u32()?, fields.u32()?);
    let sane = minimum.is_power_of_two() && minimum <= 64 << 10 && minimum.max(512) <= maximum;
    let longest = maximum.min(REQUEST_MAX);
    sane.then(|| longest - longest % minimum)
}
