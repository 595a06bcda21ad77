//! The records of a log, one after the other.

use std::io::{self, Read};

use afterimage_block::{Change, Length, Timestamp};
use bytes::Bytes;

use crate::codec::Codec;
use crate::fields::all_zero;
use crate::header::Head;
use crate::{BarrierMark, Error, Form, Keys, Kind, LogHeader, RecordHeader, Result};

/// A record that verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it starts in the file.
    pub at: u64,
    /// Its header.
    pub header: RecordHeader,
    /// What it holds, neither compressed nor encrypted: the new bytes of a write, the label of a bookmark, the [`barrier`](Self::barrier).
    pub payload: Bytes,
}

impl Record {
    /// The change; `None` if it changes no bytes.
    pub fn change(&self) -> Option<Change<'_>> {
        self.header.change(&self.payload)
    }

    /// The barrier; `None` if it is another record.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it is none that this release knows.
    pub fn barrier(&self) -> Result<Option<BarrierMark<'_>>> {
        match self.header.kind {
            Kind::Barrier => BarrierMark::parse(&self.payload, self.at).map(Some),
            _ => Ok(None),
        }
    }

    /// The label of a bookmark; `None` if it is another record.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it is no text.
    pub fn label(&self) -> Result<Option<&str>> {
        match self.header.kind {
            Kind::Bookmark => label(&self.payload, self.at).map(Some),
            _ => Ok(None),
        }
    }

    /// When it was logged.
    pub fn time(&self) -> Timestamp {
        self.header.time
    }

    /// Its length in the file.
    pub fn length(&self) -> u64 {
        RecordHeader::LEN as u64 + self.header.payload.get()
    }
}

/// The label in the payload of the bookmark at `at`.
pub(crate) fn label(payload: &[u8], at: u64) -> Result<&str> {
    std::str::from_utf8(payload).map_err(|_| Error::damaged(at, "the label is no text"))
}

/// How the records of a log end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// At the footer of a sealed log, or at the end of the file, or in zeros that were reserved.
    Whole,
    /// In something that does not verify: a write that a crash cut short, or damage.
    Torn {
        /// Where.
        at: u64,
        /// What is wrong there.
        reason: &'static str,
    },
}

/// The records of a log from any reader, in order, each verified. Memory is bounded by the longest
/// record.
///
/// It stops at the first thing that is no whole record of this log; [`tail`](Self::tail) tells what
/// that was.
#[derive(Debug)]
pub struct StreamReader<R> {
    from: R,
    codec: Codec,
    at: u64,
    next: u64,
    tail: Option<Tail>,
}

impl<R: Read> StreamReader<R> {
    /// Reads the header of the log that `from` yields, which is not encrypted.
    ///
    /// # Errors
    /// As [`with_keys`](Self::with_keys).
    pub fn new(from: R) -> Result<Self> {
        Self::with_keys(from, &Keys::none())
    }

    /// Reads the header of the log that `from` yields, whose key is among `keys` if it has one.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::NewerVersion`]; [`Error::NoKey`]; [`Error::NoCipher`],
    /// [`Error::NoCompression`] if a feature is missing; [`Error::Io`] if `from` fails, its path empty.
    pub fn with_keys(mut from: R, keys: &Keys) -> Result<Self> {
        let mut bytes = [0; LogHeader::LEN];
        let read = fill(&mut from, &mut bytes, 0)?;
        let codec = Codec::of(bytes.get(..read).unwrap_or_default(), keys)?;
        Ok(Self {
            from,
            codec,
            at: LogHeader::LEN as u64,
            next: 0,
            tail: None,
        })
    }

    /// The log's header.
    pub fn header(&self) -> &LogHeader {
        self.codec.header()
    }

    /// How its records are stored.
    pub fn form(&self) -> Form {
        self.codec.form()
    }

    pub(crate) fn head(&self) -> &Head {
        self.codec.head()
    }

    /// Where the next record would start.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// How the records ended; `None` before they did.
    pub fn tail(&self) -> Option<Tail> {
        self.tail
    }

    /// The next record; `None` at the end of the records.
    ///
    /// # Errors
    /// [`Error::Io`] if the reader fails.
    pub fn next_record(&mut self) -> Result<Option<Record>> {
        let mut payload = Vec::new();
        let read = self.read_into(&mut payload)?;
        Ok(read.map(|(at, header)| Record {
            at,
            header,
            payload: payload.into(),
        }))
    }

    /// The next record, its payload in `payload`: where it is, and its header.
    pub(crate) fn read_into(
        &mut self,
        payload: &mut Vec<u8>,
    ) -> Result<Option<(u64, RecordHeader)>> {
        if self.tail.is_some() {
            return Ok(None);
        }
        let mut bytes = [0; RecordHeader::LEN];
        let read = fill(&mut self.from, &mut bytes, self.at)?;
        let found = bytes.get(..read).unwrap_or_default();
        if all_zero(found) || found.starts_with(b"AIFT") {
            self.tail = Some(Tail::Whole);
            return Ok(None);
        }
        if read < bytes.len() {
            return Ok(self.torn("the record's header is cut short"));
        }
        let header = match self.codec.parse(&bytes, self.at) {
            Ok(header) => header,
            Err(Error::Damaged { reason, .. }) => return Ok(self.torn(reason)),
            Err(error) => return Err(error),
        };
        // Little more than PAYLOAD_MAX at most, which parsing has checked.
        payload.resize(header.payload.to_usize().unwrap_or_default(), 0);
        let read = fill(&mut self.from, payload, self.at)?;
        if read < payload.len() {
            return Ok(self.torn("the record's payload is cut short"));
        }
        if let Err(reason) = self.codec.decode((&header, &bytes), payload) {
            return Ok(self.torn(reason));
        }
        if header.lsn.get() != self.next {
            return Ok(self.torn("the record is out of sequence"));
        }
        let at = self.at;
        self.at += RecordHeader::LEN as u64 + header.payload.get();
        self.next += 1;
        Ok(Some((at, header)))
    }

    fn torn<T>(&mut self, reason: &'static str) -> Option<T> {
        self.tail = Some(Tail::Torn {
            at: self.at,
            reason,
        });
        None
    }
}

/// Fills `into` as far as `from` goes.
fn fill(from: &mut impl Read, into: &mut [u8], at: u64) -> Result<usize> {
    let mut filled = 0;
    while let Some(rest) = into.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match from.read(rest) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => {
                return Err(Error::Io {
                    operation: "read",
                    path: std::path::PathBuf::new(),
                    at,
                    source,
                });
            }
        }
    }
    Ok(filled)
}

/// The records of a log in memory, in order, each verified, their payloads slices of it where they are
/// stored as they are.
#[derive(Clone, Debug)]
pub struct Reader {
    bytes: Bytes,
    codec: Codec,
    at: usize,
    next: u64,
    tail: Option<Tail>,
}

impl Reader {
    /// Reads the header of the log in `bytes`, which is not encrypted.
    ///
    /// # Errors
    /// As [`with_keys`](Self::with_keys).
    pub fn new(bytes: Bytes) -> Result<Self> {
        Self::with_keys(bytes, &Keys::none())
    }

    /// Reads the header of the log in `bytes`, whose key is among `keys` if it has one.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::NewerVersion`]; [`Error::NoKey`]; [`Error::NoCipher`],
    /// [`Error::NoCompression`] if a feature is missing.
    pub fn with_keys(bytes: Bytes, keys: &Keys) -> Result<Self> {
        let codec = Codec::of(&bytes, keys)?;
        Ok(Self {
            bytes,
            codec,
            at: LogHeader::LEN,
            next: 0,
            tail: None,
        })
    }

    /// The log's header.
    pub fn header(&self) -> &LogHeader {
        self.codec.header()
    }

    /// How its records are stored.
    pub fn form(&self) -> Form {
        self.codec.form()
    }

    /// How the records ended; `None` before they did.
    pub fn tail(&self) -> Option<Tail> {
        self.tail
    }

    /// The length of what verified so far.
    pub fn whole(&self) -> Length {
        Length::new(self.at as u64)
    }

    fn read(&mut self) -> Result<Option<Record>, &'static str> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let ends = rest.get(..RecordHeader::LEN).unwrap_or(rest);
        if all_zero(ends) || rest.starts_with(b"AIFT") {
            return Ok(None);
        }
        let head = rest
            .first_chunk()
            .ok_or("the record's header is cut short")?;
        let at = self.at as u64;
        let header = match self.codec.parse(head, at) {
            Ok(header) => header,
            Err(Error::Damaged { reason, .. }) => return Err(reason),
            Err(_) => return Err("no record begins here"),
        };
        let start = self.at + RecordHeader::LEN;
        let end = start + header.payload.to_usize().unwrap_or_default();
        if end > self.bytes.len() {
            return Err("the record's payload is cut short");
        }
        let stored = self.bytes.slice(start..end);
        let payload = self.codec.open((&header, head), stored)?;
        if header.lsn.get() != self.next {
            return Err("the record is out of sequence");
        }
        (self.at, self.next) = (end, self.next + 1);
        Ok(Some(Record {
            at,
            header,
            payload,
        }))
    }
}

impl Iterator for Reader {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        if self.tail.is_some() {
            return None;
        }
        match self.read() {
            Ok(Some(record)) => return Some(record),
            Ok(None) => self.tail = Some(Tail::Whole),
            Err(reason) => {
                let at = self.at as u64;
                self.tail = Some(Tail::Torn { at, reason });
            }
        }
        None
    }
}
