//! Records of many logs, read where an index points.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;

use crate::fetch::RecordFile;
use crate::{Error, Record, Result, SealedLog};

/// The most files that are open at a time.
const FILES_MAX: usize = 64;
/// The most records that are kept: of at most 1 MiB each.
const RECORDS_MAX: usize = 8;

/// Reads records of sealed logs, each proved anew. The ones used last are kept, so that a record of
/// which the index holds many pieces is read about once.
#[derive(Debug)]
pub(crate) struct RecordPool<'a> {
    logs: Vec<&'a SealedLog>,
    open: BTreeMap<usize, RecordFile<'a>>,
    /// The one used last is the last.
    recent: Vec<(usize, Record)>,
}

impl<'a> RecordPool<'a> {
    pub(crate) fn new(logs: Vec<&'a SealedLog>) -> Self {
        Self {
            logs,
            open: BTreeMap::new(),
            recent: Vec::new(),
        }
    }

    /// The record at `at` in log number `log`, whose payload is at least as long as `likely`.
    pub(crate) fn record(&mut self, log: usize, at: u64, likely: u64) -> Result<Record> {
        let kept = self
            .recent
            .iter()
            .position(|(of, record)| (*of, record.at) == (log, at));
        let used = match kept {
            Some(position) => self.recent.remove(position),
            None => (log, self.open(log)?.record(at, likely)?),
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

    fn open(&mut self, log: usize) -> Result<&RecordFile<'a>> {
        if self.open.len() >= FILES_MAX && !self.open.contains_key(&log) {
            self.open.clear();
        }
        match self.open.entry(log) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let sealed = self.logs.get(log).ok_or(Error::NotSealed)?;
                Ok(entry.insert(open_same(sealed)?))
            }
        }
    }
}

/// The log's file, unless another has taken its place.
fn open_same(log: &SealedLog) -> Result<RecordFile<'_>> {
    let file = RecordFile::open(log.path())?;
    if file.header() == log.header() {
        return Ok(file);
    }
    let error = Error::damaged(0, "the log was replaced by another meanwhile");
    Err(error.in_file(log.path()))
}
