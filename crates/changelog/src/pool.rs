//! Records of many logs, read where an index points.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;

use afterimage_block::Length;
use bytes::Bytes;

use crate::file::LogFile;
use crate::{Error, LogHeader, Record, RecordHeader, Result, SealedLog};

/// The most files that are open at a time.
const FILES_MAX: usize = 64;
/// The most records that are kept: of at most 1 MiB each.
const RECORDS_MAX: usize = 8;

/// Reads records of sealed logs, each proved anew. The ones used last are kept, so that a record of
/// which the index holds many pieces is read about once.
#[derive(Debug)]
pub(crate) struct RecordPool<'a> {
    logs: Vec<&'a SealedLog>,
    open: BTreeMap<usize, Open<'a>>,
    /// The one used last is the last.
    recent: Vec<(usize, Record)>,
}

#[derive(Debug)]
struct Open<'a> {
    file: LogFile<'a>,
    salt: u32,
    disk_size: Length,
}

impl<'a> RecordPool<'a> {
    pub(crate) fn new(logs: Vec<&'a SealedLog>) -> Self {
        Self {
            logs,
            open: BTreeMap::new(),
            recent: Vec::new(),
        }
    }

    /// The record at `at` in log number `log`.
    pub(crate) fn record(&mut self, log: usize, at: u64) -> Result<Record> {
        let kept = self
            .recent
            .iter()
            .position(|(of, record)| (*of, record.at) == (log, at));
        let used = match kept {
            Some(position) => self.recent.remove(position),
            None => (log, self.open(log)?.read(at)?),
        };
        if self.recent.len() == RECORDS_MAX {
            self.recent.remove(0);
        }
        let record = used.1.clone();
        self.recent.push(used);
        Ok(record)
    }

    /// Where log number `log` is.
    pub(crate) fn path(&self, log: usize) -> &Path {
        self.logs.get(log).map_or(Path::new(""), |log| log.path())
    }

    fn open(&mut self, log: usize) -> Result<&Open<'a>> {
        if self.open.len() >= FILES_MAX && !self.open.contains_key(&log) {
            self.open.clear();
        }
        match self.open.entry(log) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let sealed = self.logs.get(log).ok_or(Error::NotSealed)?;
                Ok(entry.insert(Open::new(sealed)?))
            }
        }
    }
}

impl<'a> Open<'a> {
    fn new(log: &'a SealedLog) -> Result<Self> {
        let file = LogFile::open(log.path())?;
        let mut bytes = [0; LogHeader::LEN];
        file.read(&mut bytes, 0)?;
        let (header, salt) = LogHeader::parse(&bytes).map_err(|error| error.in_file(log.path()))?;
        if header != *log.header() {
            let error = Error::damaged(0, "the log was replaced by another meanwhile");
            return Err(error.in_file(log.path()));
        }
        let disk_size = header.disk_size;
        Ok(Self {
            file,
            salt,
            disk_size,
        })
    }

    fn read(&self, at: u64) -> Result<Record> {
        let mut head = [0; RecordHeader::LEN];
        self.file.read(&mut head, at)?;
        let named = |error: Error| error.in_file(self.file.path());
        let header = RecordHeader::parse(&head, at, self.disk_size).map_err(named)?;
        // At most PAYLOAD_MAX, which parsing has checked.
        let mut payload = vec![0; header.payload.to_usize().unwrap_or_default()];
        self.file
            .read(&mut payload, at + RecordHeader::LEN as u64)?;
        if !header.verify(&head, &payload, self.salt) {
            return Err(named(Error::damaged(
                at,
                "the record's checksum does not match",
            )));
        }
        let payload = Bytes::from(payload);
        Ok(Record {
            at,
            header,
            payload,
        })
    }
}
