//! The handshake: which export, which kind of replies.

use std::io::{self, Read};

use crate::export::{Export, Exports};
use crate::protocol::{
    BASE_ALLOCATION, BASE_ALLOCATION_ID, Fields, Frame, MAGIC, OPTION_MAGIC, handshake_flag, info,
    option, option_reply, reply,
};
use crate::server::ServerOptions;
use crate::stream::{Stream, write_frame};

/// The longest payload of an option that is looked at. The longest that means anything holds an
/// export name and a few context names.
const OPTION_MAX: u32 = 16 << 10;
/// Longer ones are not even skipped: the client is cut off.
const SKIPPED_MAX: u64 = 1 << 20;

/// What a client settled on.
pub(crate) struct Negotiated {
    pub(crate) export: Export,
    pub(crate) structured: bool,
    pub(crate) base_allocation: bool,
}

/// The handshake of one connection.
pub(crate) struct Handshake<'a> {
    stream: &'a Stream,
    exports: &'a Exports,
    options: &'a ServerOptions,
    no_zeroes: bool,
    structured: bool,
    /// The export for which `base:allocation` was asked.
    base_allocation: Option<String>,
}

/// What follows an option.
enum Next {
    Option,
    Transmission(Export),
    Close,
}

impl<'a> Handshake<'a> {
    pub(crate) fn new(
        stream: &'a Stream,
        exports: &'a Exports,
        options: &'a ServerOptions,
    ) -> Self {
        Self {
            stream,
            exports,
            options,
            no_zeroes: false,
            structured: false,
            base_allocation: None,
        }
    }

    /// Greets the client and answers its options; `None` if it leaves or breaks the protocol.
    pub(crate) fn run(mut self) -> io::Result<Option<Negotiated>> {
        let flags = handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES;
        let greeting: Vec<u8> = Frame::new().u64(MAGIC).u64(OPTION_MAGIC).u16(flags).into();
        write_frame(self.stream, &greeting, &[])?;
        let client = u32::from_be_bytes(self.read()?);
        if client & !u32::from(flags) != 0 {
            return Ok(None);
        }
        self.no_zeroes = client & u32::from(handshake_flag::NO_ZEROES) != 0;
        loop {
            match self.option()? {
                Next::Option => {}
                Next::Close => return Ok(None),
                Next::Transmission(export) => {
                    let asked = self.base_allocation.as_deref();
                    let base_allocation = asked.and_then(|name| self.exports.find(name));
                    return Ok(Some(Negotiated {
                        base_allocation: base_allocation.is_some_and(|e| e.name == export.name),
                        structured: self.structured,
                        export,
                    }));
                }
            }
        }
    }

    fn read<const N: usize>(&self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        let mut stream = self.stream;
        stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn option(&mut self) -> io::Result<Next> {
        if u64::from_be_bytes(self.read()?) != OPTION_MAGIC {
            return Ok(Next::Close);
        }
        let option = u32::from_be_bytes(self.read()?);
        let length = u32::from_be_bytes(self.read()?);
        if length > OPTION_MAX {
            return self.too_big(option, length.into());
        }
        let mut payload = vec![0; length as usize];
        let mut stream = self.stream;
        stream.read_exact(&mut payload)?;
        match option {
            option::EXPORT_NAME => self.export_name(&payload),
            option::ABORT => {
                self.reply(option, reply::ACK, &[])?;
                Ok(Next::Close)
            }
            option::LIST => self.list(&payload),
            option::INFO | option::GO => self.info(option, &payload),
            option::STRUCTURED_REPLY => self.structured_reply(&payload),
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.contexts(option, &payload),
            _ => self.refuse(option, reply::ERR_UNSUP, "unknown option"),
        }
    }

    fn reply(&self, option: u32, kind: u32, payload: &[u8]) -> io::Result<()> {
        write_frame(self.stream, &option_reply(option, kind, payload), &[])
    }

    fn refuse(&self, option: u32, kind: u32, message: &str) -> io::Result<Next> {
        self.reply(option, kind, message.as_bytes())?;
        Ok(Next::Option)
    }

    /// Skips a payload that nothing legitimate needs, up to a limit.
    fn too_big(&self, option: u32, length: u64) -> io::Result<Next> {
        if option == option::EXPORT_NAME || length > SKIPPED_MAX {
            return Ok(Next::Close);
        }
        let skipped = io::copy(&mut self.stream.take(length), &mut io::sink())?;
        if skipped < length {
            return Ok(Next::Close);
        }
        self.refuse(option, reply::ERR_TOO_BIG, "the option is too long")
    }

    /// The oldest way to choose an export: there is no reply to refuse it with.
    fn export_name(&self, payload: &[u8]) -> io::Result<Next> {
        let name = std::str::from_utf8(payload).ok();
        let Some(export) = name.and_then(|name| self.exports.find(name)) else {
            return Ok(Next::Close);
        };
        let frame = Frame::new()
            .u64(export.device.reader().size().get())
            .u16(export.device.flags(self.structured));
        let padding: &[u8] = if self.no_zeroes { &[] } else { &[0; 124] };
        write_frame(self.stream, &Vec::from(frame), padding)?;
        Ok(Next::Transmission(export.clone()))
    }

    fn list(&self, payload: &[u8]) -> io::Result<Next> {
        if !payload.is_empty() {
            return self.refuse(option::LIST, reply::ERR_INVALID, "LIST takes no data");
        }
        for export in self.exports.iter() {
            let entry = Frame::new()
                .name(&export.name)
                .bytes(export.description.as_bytes());
            self.reply(option::LIST, reply::SERVER, &Vec::from(entry))?;
        }
        self.reply(option::LIST, reply::ACK, &[])?;
        Ok(Next::Option)
    }

    fn info(&self, option: u32, payload: &[u8]) -> io::Result<Next> {
        let mut fields = Fields(payload);
        let (Some(name), Some(count)) = (fields.name(), fields.u16()) else {
            return self.refuse(option, reply::ERR_INVALID, "the request is malformed");
        };
        let asked: Vec<u16> = std::iter::from_fn(|| fields.u16()).collect();
        if asked.len() != usize::from(count) || !fields.0.is_empty() {
            return self.refuse(option, reply::ERR_INVALID, "the request is malformed");
        }
        let Some(export) = self.exports.find(name) else {
            return self.refuse(option, reply::ERR_UNKNOWN, "no export has this name");
        };
        self.describe(option, export, &asked)?;
        self.reply(option, reply::ACK, &[])?;
        Ok(match option {
            option::GO => Next::Transmission(export.clone()),
            _ => Next::Option,
        })
    }

    fn describe(&self, option: u32, export: &Export, asked: &[u16]) -> io::Result<()> {
        let facts = Frame::new()
            .u16(info::EXPORT)
            .u64(export.device.reader().size().get())
            .u16(export.device.flags(self.structured));
        self.reply(option, reply::INFO, &Vec::from(facts))?;
        let texts = [
            (info::NAME, &export.name),
            (info::DESCRIPTION, &export.description),
        ];
        for (kind, text) in texts {
            if asked.contains(&kind) {
                let text = Frame::new().u16(kind).bytes(text.as_bytes());
                self.reply(option, reply::INFO, &Vec::from(text))?;
            }
        }
        let sizes = Frame::new()
            .u16(info::BLOCK_SIZE)
            .u32(1)
            .u32(4096)
            .u32(self.options.request_max());
        self.reply(option, reply::INFO, &Vec::from(sizes))
    }

    fn structured_reply(&mut self, payload: &[u8]) -> io::Result<Next> {
        let option = option::STRUCTURED_REPLY;
        if !payload.is_empty() {
            return self.refuse(option, reply::ERR_INVALID, "STRUCTURED_REPLY takes no data");
        }
        self.structured = true;
        self.reply(option, reply::ACK, &[])?;
        Ok(Next::Option)
    }

    fn contexts(&mut self, option: u32, payload: &[u8]) -> io::Result<Next> {
        let sets = option == option::SET_META_CONTEXT;
        if sets {
            // Whatever was set before is gone, even if this fails.
            self.base_allocation = None;
        }
        let mut fields = Fields(payload);
        let (Some(name), Some(count)) = (fields.name(), fields.u32()) else {
            return self.refuse(option, reply::ERR_INVALID, "the request is malformed");
        };
        let queries: Vec<&str> = std::iter::from_fn(|| fields.name()).collect();
        if queries.len() as u64 != u64::from(count) || !fields.0.is_empty() {
            return self.refuse(option, reply::ERR_INVALID, "the request is malformed");
        }
        if !self.structured {
            return self.refuse(
                option,
                reply::ERR_INVALID,
                "negotiate structured replies first",
            );
        }
        if self.exports.find(name).is_none() {
            return self.refuse(option, reply::ERR_UNKNOWN, "no export has this name");
        }
        let lists_all = !sets && queries.is_empty();
        let matches = |query: &&str| *query == BASE_ALLOCATION || (!sets && *query == "base:");
        let found = lists_all || queries.iter().any(matches);
        if found {
            let id = if sets { BASE_ALLOCATION_ID } else { 0 };
            let context = Frame::new().u32(id).bytes(BASE_ALLOCATION.as_bytes());
            self.reply(option, reply::META_CONTEXT, &Vec::from(context))?;
        }
        if sets {
            self.base_allocation = found.then(|| name.to_owned());
        }
        self.reply(option, reply::ACK, &[])?;
        Ok(Next::Option)
    }
}
