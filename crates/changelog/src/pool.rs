//! Records of many logs, read where an index points.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;

use afterimage_block::Extent;

use crate::fetch::RecordFile;
use crate::index::Stored;
use crate::slab::Slabs;
use crate::{Error, Record, Result, SealedLog};

/// The most files that are open at a time.
const FILES_MAX: usize = 64;
/// The most records that are kept: of at most 1 MiB each.
const RECORDS_MAX: usize = 8;
/// The memory that records are read into: as much as those that are kept, and those of a few batches
/// that are under way.
const SLABS: usize = 10;

/// Files of numbered logs, opened when they are asked for, and not too many at a time.
#[derive(Debug)]
pub(crate) struct OpenFiles<F>(BTreeMap<usize, F>);

impl<F> Default for OpenFiles<F> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<F> OpenFiles<F> {
    /// The file of log number `log`, opened with `open` if it is not.
    pub(crate) fn get(&mut self, log: usize, open: impl FnOnce() -> Result<F>) -> Result<&F> {
        if self.0.len() >= FILES_MAX && !self.0.contains_key(&log) {
            self.0.clear();
        }
        match self.0.entry(log) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => Ok(entry.insert(open()?)),
        }
    }
}

/// Reads records of sealed logs, each proved anew. The ones used last are kept, so that a record of
/// which the index holds many pieces is read about once.
#[derive(Debug)]
pub(crate) struct RecordPool<'a> {
    logs: Vec<&'a SealedLog>,
    open: OpenFiles<RecordFile<'a>>,
    /// The one used last is the last.
    recent: Vec<(usize, Record)>,
    slabs: Slabs,
}

impl<'a> RecordPool<'a> {
    pub(crate) fn new(logs: Vec<&'a SealedLog>) -> Self {
        Self {
            logs,
            open: OpenFiles::default(),
            recent: Vec::new(),
            slabs: Slabs::new(SLABS),
        }
    }

    /// The record of log number `log` that holds the newest state of `extent`, as its index says.
    pub(crate) fn find(&mut self, log: usize, extent: Extent, stored: Stored) -> Result<Record> {
        let record = self.record(log, stored.record, stored.payload_for(extent))?;
        if stored.change_in(&record, extent).is_some() {
            return Ok(record);
        }
        let path = self.logs.get(log).map_or(Path::new(""), |log| log.path());
        let reason = "the record is not the one that the index names";
        Err(Error::damaged(record.at, reason).in_file(path))
    }

    /// The record at `at` in log number `log`, which holds at least `likely` bytes.
    fn record(&mut self, log: usize, at: u64, likely: u64) -> Result<Record> {
        let kept = self
            .recent
            .iter()
            .position(|(of, record)| (*of, record.at) == (log, at));
        let used = if let Some(position) = kept {
            self.recent.remove(position)
        } else {
            let sealed = self.logs.get(log).ok_or(Error::NotSealed)?;
            let file = self.open.get(log, || open_same(sealed))?;
            let memory = |length| self.slabs.part(length);
            (log, file.record_in(at, likely, memory)?)
        };
        if self.recent.len() == RECORDS_MAX {
            self.recent.remove(0);
        }
        let record = used.1.clone();
        self.recent.push(used);
        Ok(record)
    }
}

/// The log's file, unless another has taken its place.
fn open_same(log: &SealedLog) -> Result<RecordFile<'_>> {
    let file = RecordFile::open(log.path(), log.keys())?;
    if file.header() == log.header() && file.codec().form() == log.form() {
        return Ok(file);
    }
    let error = Error::damaged(0, "the log was replaced by another meanwhile");
    Err(error.in_file(log.path()))
}
