//! The answers of a server, held against a model of its disk.

use super::script::Frame;
use super::{REQUEST_MAX, WRITES};

const READ: u16 = 0;
const FLUSH: u16 = 3;
const SIMPLE: u32 = 0x6744_6698;
const CHUNK: u32 = 0x668e_33ef;
const DONE: u16 = 1;

/// The answers of a server with one worker, so in the order of the requests.
pub(super) struct Answers<'a> {
    rest: &'a [u8],
    structured: bool,
}

impl<'a> Answers<'a> {
    pub(super) fn new(received: &'a [u8], structured: bool) -> Self {
        Self {
            rest: received,
            structured,
        }
    }

    /// Whether there is nothing more.
    pub(super) fn is_done(&self) -> bool {
        self.rest.is_empty()
    }

    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self
            .rest
            .split_at_checked(length)
            .expect("an answer ends early");
        self.rest = rest;
        taken
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        self.take(N).try_into().expect("it has this length")
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.array())
    }

    fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.array())
    }

    /// The answer to `request` is the model's, which is changed as the request asks.
    pub(super) fn check(&mut self, request: &Frame, model: &mut [u8], read_only: bool) {
        let place = place(request, model.len(), self.structured, read_only);
        let granted = match self.u32() {
            SIMPLE => {
                let error = self.u32();
                assert_eq!(self.u64(), request.cookie);
                if let (0, READ, Some(place)) = (error, request.command, place.clone()) {
                    assert!(!self.structured, "a read is answered in chunks");
                    assert!(self.take(place.len()) == &model[place]);
                }
                error == 0
            }
            CHUNK => {
                assert!(self.structured, "chunks were not asked for");
                self.chunks(request, place.clone().map_or(&[], |place| &model[place]))
            }
            other => panic!("no answer begins with {other:#x}"),
        };
        assert_eq!(granted, place.is_some(), "{}", request.command);
        let Some(place) = place.filter(|_| WRITES.contains(&request.command)) else {
            return;
        };
        let fill = if request.command == 1 {
            request.fill
        } else {
            0
        };
        model[place].fill(fill);
    }

    /// Chunks up to the last one, behind the magic of the first; whether they grant the read.
    fn chunks(&mut self, request: &Frame, expected: &[u8]) -> bool {
        let mut at = 0;
        loop {
            let (flags, kind) = (self.u16(), self.u16());
            assert_eq!(self.u64(), request.cookie);
            let length = self.u32() as usize;
            if kind & 1 << 15 != 0 {
                self.take(length);
                assert_eq!(flags, DONE);
                return false;
            }
            assert_eq!(
                self.u64(),
                request.offset + at as u64,
                "chunks follow each other"
            );
            let expected = &expected[at..];
            at += match kind {
                1 => {
                    let data = self.take(length - 8);
                    assert!(expected.starts_with(data));
                    data.len()
                }
                2 => {
                    let hole = self.u32() as usize;
                    assert!(expected[..hole].iter().all(|byte| *byte == 0));
                    hole
                }
                other => panic!("a read is not answered with a chunk of type {other}"),
            };
            if flags == DONE {
                assert_eq!(at, request.length as usize, "all was read");
                return true;
            }
            assert_eq!((flags, self.u32()), (0, CHUNK));
        }
    }
}

/// What of the disk `request` reads or changes; `None` if it must be refused.
fn place(
    request: &Frame,
    size: usize,
    structured: bool,
    read_only: bool,
) -> Option<std::ops::Range<usize>> {
    let own_flags = match request.command {
        READ if structured => 1 << 2,
        6 => 1 << 1,
        // `base:allocation` is not negotiated.
        7 => return None,
        _ => 0,
    };
    let changes = WRITES.contains(&request.command);
    let known = changes || matches!(request.command, READ | FLUSH);
    let short = request.length <= REQUEST_MAX || request.command > 1;
    let writable = !read_only || request.command == READ;
    if !known || !short || !writable || request.flags & !(1 | own_flags) != 0 {
        return None;
    }
    if request.command == FLUSH {
        return Some(0..0);
    }
    let start = usize::try_from(request.offset).ok()?;
    let end = start.checked_add(request.length as usize)?;
    (start < end && end <= size).then_some(start..end)
}
