//! Single records of a log file, wherever they are.

use std::path::Path;

use afterimage_block::Length;
use bytes::Bytes;

use crate::file::LogFile;
use crate::{Error, LogHeader, Record, RecordHeader, Result};

/// A native log file of which records are read by their position, each proved.
#[derive(Debug)]
pub(crate) struct RecordFile<'a> {
    file: LogFile<'a>,
    header: LogHeader,
    salt: u32,
}

impl<'a> RecordFile<'a> {
    pub(crate) fn open(path: &'a Path) -> Result<Self> {
        let file = LogFile::open(path)?;
        let mut bytes = Vec::new();
        file.read_up_to(&mut bytes, 0, LogHeader::LEN)?;
        let (header, salt) = LogHeader::parse(&bytes).map_err(|error| error.in_file(path))?;
        Ok(Self { file, header, salt })
    }

    pub(crate) fn file(&self) -> &LogFile<'a> {
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

    /// The record at `at`.
    pub(crate) fn record(&self, at: u64) -> Result<Record> {
        let mut head = [0; RecordHeader::LEN];
        self.file.read(&mut head, at)?;
        let header = self.parse(&head, at)?;
        // At most PAYLOAD_MAX, which parsing has checked.
        let mut payload = vec![0; header.payload.to_usize().unwrap_or_default()];
        self.file
            .read(&mut payload, at + RecordHeader::LEN as u64)?;
        if !header.verify(&head, &payload, self.salt) {
            let error = Error::damaged(at, "the record's checksum does not match");
            return Err(error.in_file(self.file.path()));
        }
        let payload = Bytes::from(payload);
        Ok(Record {
            at,
            header,
            payload,
        })
    }
}
