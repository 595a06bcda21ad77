//! Single extents of a sealed log, found through its index.

use std::fs::File;
use std::path::Path;

use afterimage_block::{Change, Extent, Timestamp};

use crate::codec::Codec;
use crate::fetch::RecordFile;
use crate::file::{LogFile, ReadAt};
use crate::footer::Head;
use crate::index::Stored;
use crate::pages::{Bounds, Fence, PAGE, PIECE, parse_fences};
use crate::sealed::{read_entries, read_trailer};
use crate::writer::io_error;
use crate::{Error, Index, Keys, LogHeader, Piece, Record, Result, Summary, Trailer};

/// A sealed log in which extents are looked up, without the rest being read.
///
/// What is proved: header, trailer, the footer's summary and fence table when it is opened; each page
/// of the index and each record when it is used, by their checksums. What is *not*: that the log is
/// what its [content digest](Summary::content) says, that the index is what the records make of it,
/// and records that nothing asks for. [`SealedLog::open`](crate::SealedLog::open) proves all of that,
/// and reads everything.
///
/// Opening reads 16 bytes for each 256 pieces, a lookup 8 KiB for each 256 pieces that it finds, and
/// 16 KiB at the least where they are in two pages. An index that has no pages, because it has no more
/// than 256 pieces or because an old release wrote it, is read when the log is opened.
#[derive(Debug)]
pub struct IndexedLog<S = File> {
    log: RecordFile<'static, S>,
    trailer: Trailer,
    summary: Summary,
    index: Entries,
}

/// How the pieces are found.
#[derive(Debug)]
enum Entries {
    Whole(Index),
    Paged {
        fences: Vec<Fence>,
        /// Where the first page starts in the file.
        at: u64,
    },
}

impl IndexedLog {
    /// Opens the sealed log at `path`, whose key is among `keys` if it has one.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::InFile`] around [`Error::NotSealed`], [`Error::NewerVersion`],
    /// [`Error::Damaged`], [`Error::NoKey`], [`Error::NoCipher`] or [`Error::NoCompression`].
    pub fn open(path: &Path, keys: &Keys) -> Result<Self> {
        let file = File::open(path).map_err(|source| io_error("open", path, 0, source))?;
        Self::over(file, path, keys)
    }
}

impl<S: ReadAt> IndexedLog<S> {
    /// Opens the sealed log in `source`, which errors are to call `path`.
    ///
    /// # Errors
    /// As [`open`](IndexedLog::open).
    pub fn over(source: S, path: &Path, keys: &Keys) -> Result<Self> {
        let log = RecordFile::over(LogFile::over(source, path.to_path_buf())?, keys)?;
        let read = read_index(log.file(), log.codec());
        let (trailer, summary, index) = read.map_err(|error| error.in_file(log.file().path()))?;
        Ok(Self {
            log,
            trailer,
            summary,
            index,
        })
    }

    /// What it is of.
    pub fn header(&self) -> &LogHeader {
        self.log.header()
    }

    /// What its footer says that it holds.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Where the newest state of what the log changes in `extent` is, cut to fit, in order.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::InFile`] around [`Error::Damaged`].
    pub fn lookup(&self, extent: Extent) -> Result<Vec<Piece>> {
        let mut pieces = Vec::new();
        self.each_within(extent, |part, stored| {
            pieces.push(Piece::new(part, stored));
            Ok(())
        })?;
        Ok(pieces)
    }

    /// Hands what the log makes of `extent` to `take`, with the times at which it was logged: each
    /// byte once, in the order of the disk. What it does not change is left out.
    ///
    /// A record is read whole, since only then it proves itself: 1 MiB at the most.
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup); what `take` returns.
    pub fn changes(
        &self,
        extent: Extent,
        mut take: impl FnMut(Timestamp, Change<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut last: Option<Record> = None;
        self.each_within(extent, |part, stored| {
            let known = last.take().filter(|record| record.at == stored.record);
            let record = match known {
                Some(record) => record,
                None => self.log.record(stored.record, stored.payload_for(part))?,
            };
            let Some(change) = stored.change_in(&record, part) else {
                let reason = "the record is not the one that the index names";
                return Err(self.damaged(record.at, reason));
            };
            take(record.time(), change)?;
            last = Some(record);
            Ok(())
        })
    }

    fn each_within(
        &self,
        extent: Extent,
        mut take: impl FnMut(Extent, Stored) -> Result<()>,
    ) -> Result<()> {
        let mut all = |index: &Index| {
            let mut pieces = index.stored_within(extent);
            pieces.try_for_each(|(part, stored)| take(part, stored))
        };
        let (fences, at) = match &self.index {
            Entries::Whole(index) => return all(index),
            Entries::Paged { fences, at } => (fences, *at),
        };
        // The page before the first that begins behind the extent's start can reach into it.
        let behind = fences.partition_point(|fence| fence.first <= extent.start());
        for number in behind.saturating_sub(1)..fences.len() {
            let reaches = |fence: &&Fence| fence.first < extent.end();
            let Some(fence) = fences.get(number).filter(reaches) else {
                break;
            };
            all(&self.page(fence, fences.get(number + 1), at, number)?)?;
        }
        Ok(())
    }

    /// Page `number` of those that start at `at`, which is behind `fence` and before `next`.
    fn page(&self, fence: &Fence, next: Option<&Fence>, at: u64, number: usize) -> Result<Index> {
        let at = at + (number * PAGE * PIECE) as u64;
        let mut bytes = vec![0; fence.pieces * PIECE];
        self.log.file().read(&mut bytes, at)?;
        let bounds = Bounds::new(&self.trailer, self.header().disk_size);
        let proof = (bounds, self.log.codec().footer_cipher());
        let pieces = fence.parse_page((number, &bytes), at, proof, next);
        pieces
            .map(Index)
            .map_err(|error| error.in_file(self.log.file().path()))
    }

    fn damaged(&self, at: u64, reason: &'static str) -> Error {
        Error::damaged(at, reason).in_file(self.log.file().path())
    }
}

/// What is read of a log when it is opened.
fn read_index<S: ReadAt>(
    file: &LogFile<'_, S>,
    codec: &Codec,
) -> Result<(Trailer, Summary, Entries)> {
    let trailer = read_trailer(file)?;
    let at = trailer.footer_at;
    let whole = trailer.footer_length.to_usize().unwrap_or(usize::MAX);
    let mut footer = Vec::new();
    file.read_up_to(&mut footer, at, whole.min(Head::LEN_MAX))?;
    let head = Head::parse(&footer, &trailer)?;
    read_entries(file, &mut footer, at, head.proved_length())?;
    if !head.paged {
        let (size, cipher) = (codec.header().disk_size, codec.footer_cipher());
        let (index, summary) = Index::parse_with(&footer, &trailer, size, cipher)?;
        return Ok((trailer, summary, Entries::Whole(index)));
    }
    head.prove(&footer, &trailer, codec.footer_cipher())?;
    let table = footer.get(head.length()..).unwrap_or_default();
    let fences = parse_fences(table, head.pieces, head.is_tagged(), at)?;
    let at = at + head.pieces_at() as u64;
    Ok((trailer, head.summary, Entries::Paged { fences, at }))
}
