//! Single records of a log file, wherever they are.

use std::fs::File;
use std::path::Path;

use afterimage_block::Length;
use bytes::Bytes;

use crate::file::{LogFile, ReadAt};
use crate::{Error, LogHeader, PAYLOAD_MAX, Record, RecordHeader, Result};

/// A native log file of which records are read by their position, each proved.
#[derive(Debug)]
pub(crate) struct RecordFile<'a, S = File> {
    file: LogFile<'a, S>,
    header: LogHeader,
    salt: u32,
}

impl<'a> RecordFile<'a> {
    pub(crate) fn open(path: &'a Path) -> Result<Self> {
        Self::over(LogFile::open(path)?)
    }
}

impl<'a, S: ReadAt> RecordFile<'a, S> {
    pub(crate) fn over(file: LogFile<'a, S>) -> Result<Self> {
        let mut bytes = Vec::new();
        file.read_up_to(&mut bytes, 0, LogHeader::LEN)?;
        let parsed = LogHeader::parse(&bytes);
        let (header, salt) = parsed.map_err(|error| error.in_file(file.path()))?;
        Ok(Self { file, header, salt })
    }

    pub(crate) fn file(&self) -> &LogFile<'a, S> {
        &self.file
    }

    pub(crate) fn header(&self) -> &LogHeader {
        &self.header
    }

    /// The record's header at `at`, which nothing proves yet.
    pub(crate) fn parse(&self, head: &[u8; RecordHeader::LEN], at: u64) -> Result<RecordHeader> {
        let size: Length = self.header.disk_size;
        RecordHeader::parse(head, at, size).map_err(|error| error.in_file(self.file.path()))
    }

    /// The record at `at`, read at once if its payload is not longer than `likely`.
    pub(crate) fn record(&self, at: u64, likely: u64) -> Result<Record> {
        let likely = usize::try_from(likely.min(PAYLOAD_MAX.get())).unwrap_or_default();
        let mut bytes = Vec::new();
        self.file
            .read_up_to(&mut bytes, at, RecordHeader::LEN + likely)?;
        let Some(head) = bytes.first_chunk::<{ RecordHeader::LEN }>().copied() else {
            let error = Error::damaged(at, "the file ends before its log does");
            return Err(error.in_file(self.file.path()));
        };
        let header = self.parse(&head, at)?;
        let read = bytes.len();
        // At most PAYLOAD_MAX, which parsing has checked.
        let length = RecordHeader::LEN + header.payload.to_usize().unwrap_or_default();
        bytes.resize(length, 0);
        if let Some(rest) = bytes.get_mut(read..) {
            self.file.read(rest, at + read as u64)?;
        }
        let payload = Bytes::from(bytes).split_off(RecordHeader::LEN);
        if !header.verify(&head, &payload, self.salt) {
            let error = Error::damaged(at, "the record's checksum does not match");
            return Err(error.in_file(self.file.path()));
        }
        Ok(Record {
            at,
            header,
            payload,
        })
    }
}
