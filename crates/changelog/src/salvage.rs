//! What a native log still proves that is damaged in the middle.

use std::path::Path;

use afterimage_block::{Doubt, ExtentSet};

use crate::digest::digest_of;
use crate::fetch::RecordFile;
use crate::fields::all_zero;
use crate::sealed::read_footer;
use crate::{
    Error, Form, Gap, Index, Keys, LogHeader, PAYLOAD_MAX, Record, RecordHeader, Result, Summary,
};

/// The bytes that are searched at a time.
const WINDOW: usize = 1 << 20;
/// How many bytes may be read for records that turn out to be none, in lengths of the file: so that
/// data made to look like records cannot make this take for ever. Behind that, only the records that
/// the index names are looked for.
const BUDGET: u64 = 16;

/// What was salvaged of a native log.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Salvaged {
    /// What the log is of.
    pub header: LogHeader,
    /// How its records are stored.
    pub form: Form,
    /// The number of records that proved themselves.
    pub records: u64,
    /// The number that is lost; `None` if the log's footer is, too.
    pub lost: Option<u64>,
    /// The parts of the file before the footer that are no proved record, in order.
    pub gaps: Vec<Gap>,
    /// What of the disk was changed in a way that is not known any more: what the index says of lost
    /// records. Everything if there is no index, which is to say also if the log was never sealed.
    pub unknown: Doubt,
}

/// Hands every record of the log at `path` that still proves itself to `take`, in order: also those
/// behind damage, which [`recover`](crate::recover) stops at.
///
/// A record proves itself by its checksum, which continues that of the log's header: a record of
/// another log, such as one that is stored on the logged disk, never passes. The records do not lead
/// to the state of any barrier: what is [unknown](Salvaged::unknown) has to be copied anew.
///
/// Memory is bounded by the longest record, the gaps and the index. The log is not encrypted.
///
/// # Errors
/// As [`salvage_with`].
pub fn salvage(path: &Path, take: impl FnMut(&Record) -> Result<()>) -> Result<Salvaged> {
    salvage_with(path, &Keys::none(), take)
}

/// As [`salvage`], of a log whose key is among `keys` if it has one. A record of an encrypted log also
/// proves that it was encrypted with that key.
///
/// # Errors
/// [`Error::Io`]; [`Error::InFile`] if not even the header is whole, or the key is missing; what
/// `take` returns.
pub fn salvage_with(
    path: &Path,
    keys: &Keys,
    mut take: impl FnMut(&Record) -> Result<()>,
) -> Result<Salvaged> {
    let log = RecordFile::open(path, keys)?;
    let footer = match read_footer(log.file(), keys) {
        Ok(footer) => Some(footer),
        Err(error @ Error::Io { .. }) => return Err(error),
        Err(_) => None,
    };
    let end = footer
        .as_ref()
        .map_or(log.file().length(), |(_, _, at)| *at);
    let named = footer.iter().flat_map(|(_, index, _)| index.iter());
    let mut search = Search::new(&log, end, named.map(|piece| piece.record_at));
    let mut gaps = Vec::new();
    let mut records = 0;
    let mut whole_until = LogHeader::LEN as u64;
    while let Some(record) = search.next()? {
        gaps.extend(Gap::between(whole_until, record.at));
        whole_until = record.at + record.length();
        records += 1;
        take(&record)?;
    }
    // Zeros behind the records of an open log are space that was reserved.
    if footer.is_some() || !search.only_zeros_since(whole_until)? {
        gaps.extend(Gap::between(whole_until, end));
    }
    let unknown = match &footer {
        Some((summary, index, at)) => {
            let proved = gaps.is_empty() && digest_of(log.file(), *at)? == summary.content;
            unknown(summary, index, records, proved, &gaps)
        }
        None => everything("the log has no index: it was not sealed, or its end is lost"),
    };
    Ok(Salvaged {
        header: *log.header(),
        form: log.codec().form(),
        records,
        lost: footer.map(|(summary, ..)| summary.records.saturating_sub(records)),
        gaps,
        unknown,
    })
}

fn everything(reason: &str) -> Doubt {
    Doubt::Everything {
        reason: reason.into(),
    }
}

/// What the index says of records in the gaps.
fn unknown(summary: &Summary, index: &Index, records: u64, proved: bool, gaps: &[Gap]) -> Doubt {
    if gaps.is_empty() && (!proved || records != summary.records) {
        return everything("the records are not those that the footer is of");
    }
    let lost = index.iter().filter(|piece| {
        let behind = gaps.partition_point(|gap| gap.at + gap.length <= piece.record_at);
        gaps.get(behind)
            .is_some_and(|gap| gap.at <= piece.record_at)
    });
    Doubt::Extents(lost.map(|piece| piece.extent).collect::<ExtentSet>())
}

/// Goes through a log from record to record, searching where none begins.
#[derive(Debug)]
struct Search<'a, 'f> {
    log: &'a RecordFile<'f>,
    at: u64,
    end: u64,
    next_lsn: u64,
    /// Where the index has records, in order.
    named: Vec<u64>,
    /// The bytes that may still be read in vain, for what looks like a record and for what is named.
    budget: u64,
    budget_named: u64,
}

impl<'a, 'f> Search<'a, 'f> {
    fn new(log: &'a RecordFile<'f>, end: u64, named: impl Iterator<Item = u64>) -> Self {
        let mut named: Vec<_> = named.collect();
        named.sort_unstable();
        named.dedup();
        Self {
            log,
            named,
            budget_named: end.saturating_mul(BUDGET),
            at: LogHeader::LEN as u64,
            end,
            next_lsn: 0,
            budget: end.saturating_mul(BUDGET),
        }
    }

    /// The next record that proves itself.
    fn next(&mut self) -> Result<Option<Record>> {
        let record = match self.prove(self.at)? {
            Some(record) => Some(record),
            None => match self.search()? {
                Some(record) => Some(record),
                None => self.named()?,
            },
        };
        if let Some(record) = &record {
            self.at = record.at + record.length();
            self.next_lsn = record.header.lsn.get().saturating_add(1);
        }
        Ok(record)
    }

    /// The record at `at`, if there is one that may come next.
    fn prove(&mut self, at: u64) -> Result<Option<Record>> {
        match self.log.record(at, 0) {
            Ok(record) => {
                let fits = at + record.length() <= self.end;
                let later = record.header.lsn.get() >= self.next_lsn;
                Ok(Some(record).filter(|_| fits && later))
            }
            Err(error) if matches!(error.cause(), Error::Damaged { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The first record behind the present position.
    fn search(&mut self) -> Result<Option<Record>> {
        let mut window = Vec::new();
        let mut start = self.at + 1;
        while start + RecordHeader::LEN as u64 <= self.end {
            self.log.file().read_up_to(&mut window, start, WINDOW)?;
            for (at, head) in (start..).zip(window.windows(RecordHeader::LEN)) {
                if self.budget == 0 {
                    return Ok(None);
                }
                if head.starts_with(b"AIRC")
                    && let Some(head) = head.first_chunk()
                    && let Some(record) = self.candidate(at, head)?
                {
                    return Ok(Some(record));
                }
            }
            let searched = window.len().saturating_sub(RecordHeader::LEN - 1).max(1);
            start += searched as u64;
        }
        Ok(None)
    }

    /// The first record behind the present position that the index names.
    fn named(&mut self) -> Result<Option<Record>> {
        let first = self.named.partition_point(|at| *at <= self.at);
        for number in first..self.named.len() {
            let at = self.named.get(number).copied().unwrap_or(self.end);
            let cost = RecordHeader::LEN as u64 + PAYLOAD_MAX.get();
            if self.budget_named == 0 || at >= self.end {
                return Ok(None);
            }
            if let Some(record) = self.prove(at)? {
                return Ok(Some(record));
            }
            self.budget_named = self.budget_named.saturating_sub(cost);
        }
        Ok(None)
    }

    /// The record at `at` that begins with `head`, if it is one and may still be looked at.
    fn candidate(&mut self, at: u64, head: &[u8; RecordHeader::LEN]) -> Result<Option<Record>> {
        let Ok(header) = self.log.parse(head, at) else {
            return Ok(None);
        };
        let cost = RecordHeader::LEN as u64 + header.payload.get();
        if header.lsn.get() < self.next_lsn {
            return Ok(None);
        }
        let proved = self.prove(at)?;
        if proved.is_none() {
            self.budget = self.budget.saturating_sub(cost);
        }
        Ok(proved)
    }

    /// Whether there are only zeros from `at` to the end.
    fn only_zeros_since(&self, mut at: u64) -> Result<bool> {
        let mut buffer = Vec::new();
        while at < self.end {
            let left = usize::try_from(self.end - at).unwrap_or(usize::MAX);
            self.log
                .file()
                .read_up_to(&mut buffer, at, left.min(WINDOW))?;
            if buffer.is_empty() || !all_zero(&buffer) {
                return Ok(false);
            }
            at += buffer.len() as u64;
        }
        Ok(true)
    }
}
