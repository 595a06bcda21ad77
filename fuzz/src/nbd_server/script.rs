//! What a client sends, and which answers are foretold.

use super::{
    Choice, DISK_BYTES, REQUEST_MAGIC, REQUEST_MAX, Request, SENT_MAX, Setting, Step, Way,
};

/// What a client sends.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Script {
    pub(super) sent: Vec<u8>,
    /// What the handshake must be answered with; `None` if that is not foretold.
    pub(super) greeting: Option<Vec<u8>>,
    /// The requests that must be answered.
    pub(super) requests: Vec<Frame>,
    /// Whether anything follows them that may or may not be a request.
    pub(super) raw: bool,
    pub(super) structured: bool,
    pub(super) read_only: bool,
    /// The client has said that it goes.
    gone: bool,
    cookie: u64,
    /// The bytes of reads asked for.
    wanted: usize,
}

/// A request with its numbers as they are sent.
pub(super) struct Frame {
    pub(super) flags: u16,
    pub(super) command: u16,
    pub(super) cookie: u64,
    pub(super) offset: u64,
    pub(super) length: u32,
    pub(super) fill: u8,
}

impl Script {
    pub(super) fn new(setting: &Setting) -> Self {
        let mut script = Self {
            sent: vec![0, 0, 0, if setting.no_zeroes { 3 } else { 1 }],
            greeting: Some(b"NBDMAGICIHAVEOPT\0\x03".to_vec()),
            requests: Vec::new(),
            raw: false,
            structured: matches!(setting.way, Way::Structured),
            read_only: setting.read_only,
            gone: false,
            cookie: 0,
            wanted: 0,
        };
        let name = if setting.read_only { "other" } else { "disk" };
        match setting.way {
            Way::ExportName => {
                script.option(1, name.as_bytes());
                let padding = if setting.no_zeroes { 0 } else { 124 };
                let facts = [script.facts(), vec![0; padding]].concat();
                script.expect(&facts);
            }
            Way::Go => script.go(name),
            Way::Structured => {
                script.option(8, &[]);
                script.reply(8, 1, &[]);
                script.go(name);
            }
            Way::Unknown => script.greeting = None,
        }
        script
    }

    fn expect(&mut self, bytes: &[u8]) {
        self.greeting.iter_mut().for_each(|all| all.extend(bytes));
    }

    fn option(&mut self, option: u32, payload: &[u8]) {
        self.sent.extend(b"IHAVEOPT");
        self.sent.extend(option.to_be_bytes());
        self.sent.extend(length_of(payload).to_be_bytes());
        self.sent.extend(payload);
    }

    fn reply(&mut self, option: u32, kind: u32, payload: &[u8]) {
        self.expect(&0x0003_e889_0455_65a9_u64.to_be_bytes());
        for field in [option, kind, length_of(payload)] {
            self.expect(&field.to_be_bytes());
        }
        self.expect(payload);
    }

    /// Size and transmission flags of the export.
    fn facts(&self) -> Vec<u8> {
        let writes = if self.read_only { 1 << 1 } else { 0b110_1100 };
        let df = if self.structured { 1 << 7 } else { 0 };
        let flags: u16 = 1 | 1 << 8 | writes | df;
        let mut facts = (DISK_BYTES as u64).to_be_bytes().to_vec();
        facts.extend(flags.to_be_bytes());
        facts
    }

    fn go(&mut self, name: &str) {
        let length = length_of(name.as_bytes()).to_be_bytes();
        self.option(7, &[&length, name.as_bytes(), &[0, 0]].concat());
        let facts = self.facts();
        self.reply(7, 3, &[&[0, 0], &facts[..]].concat());
        let sizes = [1, 4096, REQUEST_MAX].map(u32::to_be_bytes).concat();
        self.reply(7, 3, &[&[0, 3], &sizes[..]].concat());
        self.reply(7, 1, &[]);
    }

    pub(super) fn add(&mut self, step: &Step) {
        match step {
            Step::Option(choice) => self.choice(choice),
            Step::Request(request) => self.request(request),
            Step::Raw(bytes) => {
                self.sent.extend(bytes);
                self.raw |= !bytes.is_empty();
            }
        }
    }

    /// An option, where its answer need not be foretold.
    fn choice(&mut self, choice: &Choice) {
        if self.greeting.is_some() {
            return;
        }
        let mut payload = choice.payload.clone();
        if choice.named {
            payload = [b"\0\0\0\x04disk", &payload[..]].concat();
        }
        let at = self.sent.len() + 12;
        self.option(u32::from(choice.option) % 12, &payload);
        if let Some(claimed) = choice.claimed {
            self.sent[at..at + 4].copy_from_slice(&claimed.to_be_bytes());
        }
    }

    fn request(&mut self, request: &Request) {
        self.cookie += 1;
        let frame = Frame::new(request, self.cookie);
        let data = if frame.command < 2 {
            frame.length as usize
        } else {
            0
        };
        if self.sent.len() + self.wanted + data > SENT_MAX {
            return;
        }
        self.sent.extend(REQUEST_MAGIC);
        self.sent.extend(frame.flags.to_be_bytes());
        self.sent.extend(frame.command.to_be_bytes());
        self.sent.extend(frame.cookie.to_be_bytes());
        self.sent.extend(frame.offset.to_be_bytes());
        self.sent.extend(frame.length.to_be_bytes());
        if frame.command == 1 {
            self.sent.extend(vec![frame.fill; data]);
        } else {
            self.wanted += data;
        }
        self.gone |= frame.command == 2 && !self.raw;
        if !self.gone && !self.raw {
            self.requests.push(frame);
        }
    }
}

fn length_of(payload: &[u8]) -> u32 {
    u32::try_from(payload.len()).expect("it is short")
}

impl Frame {
    fn new(request: &Request, cookie: u64) -> Self {
        let (offset, length) = (u64::from(request.offset), u32::from(request.length));
        let command = u16::from(request.command % 16).min(8);
        let plain = !request.flags.is_multiple_of(4);
        Self {
            flags: if plain {
                request.flags % 2
            } else {
                request.flags >> 2
            },
            // Reads and writes twice as often as the others, and one that there is not.
            command: if command == 8 {
                u16::from(request.command % 2)
            } else {
                command
            },
            cookie,
            offset: if request.far {
                offset << 32 | offset
            } else {
                offset % DISK_BYTES as u64
            },
            // Two more than the longest that the server takes, at most.
            length: if request.long {
                length + 2
            } else {
                length % 1024
            },
            fill: request.fill,
        }
    }
}
