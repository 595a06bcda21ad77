//! Single records of a log file, wherever they are.

use std::fs::File;
use std::path::Path;

use bytes::BytesMut;

use crate::codec::Codec;
use crate::file::{LogFile, ReadAt};
use crate::{Error, Keys, LogHeader, PAYLOAD_MAX, Record, RecordHeader, Result};

/// A native log file of which records are read by their position, each proved.
#[derive(Debug)]
pub(crate) struct RecordFile<'a, S = File> {
    file: LogFile<'a, S>,
    codec: Codec,
}

impl<'a> RecordFile<'a> {
    pub(crate) fn open(path: &'a Path, keys: &Keys) -> Result<Self> {
        Self::over(LogFile::open(path)?, keys)
    }
}

impl<'a, S: ReadAt> RecordFile<'a, S> {
    pub(crate) fn over(file: LogFile<'a, S>, keys: &Keys) -> Result<Self> {
        let mut bytes = Vec::new();
        file.read_up_to(&mut bytes, 0, LogHeader::LEN)?;
        let codec = Codec::of(&bytes, keys).map_err(|error| error.in_file(file.path()))?;
        Ok(Self { file, codec })
    }

    pub(crate) fn file(&self) -> &LogFile<'a, S> {
        &self.file
    }

    pub(crate) fn codec(&self) -> &Codec {
        &self.codec
    }

    pub(crate) fn header(&self) -> &LogHeader {
        self.codec.header()
    }

    /// The record's header at `at`, which nothing proves yet.
    pub(crate) fn parse(&self, head: &[u8; RecordHeader::LEN], at: u64) -> Result<RecordHeader> {
        let parsed = self.codec.parse(head, at);
        parsed.map_err(|error| error.in_file(self.file.path()))
    }

    /// The record at `at`, read at once if it does not hold more than `likely` bytes.
    pub(crate) fn record(&self, at: u64, likely: u64) -> Result<Record> {
        self.record_in(at, likely, BytesMut::with_capacity)
    }

    /// The same, in the `memory` that has room for as many bytes.
    pub(crate) fn record_in(
        &self,
        at: u64,
        likely: u64,
        memory: impl FnOnce(usize) -> BytesMut,
    ) -> Result<Record> {
        let likely = usize::try_from(likely.min(PAYLOAD_MAX.get())).unwrap_or_default();
        let most = RecordHeader::LEN + likely + self.codec.overhead();
        let most = most.min(self.file.left(at));
        let mut bytes = memory(most);
        bytes.resize(most, 0);
        self.file.read(&mut bytes, at)?;
        let Some(head) = bytes.first_chunk::<{ RecordHeader::LEN }>().copied() else {
            let error = Error::damaged(at, "the file ends before its log does");
            return Err(error.in_file(self.file.path()));
        };
        let header = self.parse(&head, at)?;
        let read = bytes.len();
        // Little more than PAYLOAD_MAX at most, which parsing has checked.
        let length = RecordHeader::LEN + header.payload.to_usize().unwrap_or_default();
        bytes.resize(length, 0);
        if let Some(rest) = bytes.get_mut(read..) {
            self.file.read(rest, at + read as u64)?;
        }
        let stored = bytes.freeze().split_off(RecordHeader::LEN);
        let payload = self
            .codec
            .open((&header, &head), stored)
            .map_err(|reason| Error::damaged(at, reason).in_file(self.file.path()))?;
        Ok(Record {
            at,
            header,
            payload,
        })
    }
}
