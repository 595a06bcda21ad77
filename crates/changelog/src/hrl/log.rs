//! An HRL file that was proved.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use afterimage_block::{BlockWrite, Extent, ExtentMap, Length, Offset, Slice, Timestamp};

use super::block::entry_at;
use super::checksum::ByteSum;
use super::walk::{Placed, read_block, read_header, walk};
use super::{HrlEntry, HrlHeader, HrlTime};
use crate::apply::{Applied, apply_pieces};
use crate::file::LogFile;
use crate::{Error, PAYLOAD_MAX, Piece, Result};

/// An HRL file, of version 1 or 2. It exists only where header, metadata blocks and entries were
/// proved, and the data of every entry that has a checksum of it.
///
/// The checksums of the format are sums of bytes: they find a flipped bit, and not bytes that
/// changed places. Data without a checksum is taken as it is.
#[derive(Clone, Debug)]
pub struct HrlLog {
    path: PathBuf,
    header: HrlHeader,
    blocks: Arc<[Placed]>,
    /// Where the entries are that did not prove themselves, in order; none unless salvaged.
    rejected: Arc<[u64]>,
    summary: HrlSummary,
}

/// What an HRL holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HrlSummary {
    /// The number of entries.
    pub entries: u64,
    /// The number of entries that have a checksum of their data.
    pub checksummed: u64,
    /// The sum of their lengths.
    pub payload: Length,
    /// The number of metadata blocks.
    pub blocks: u64,
}

/// An entry, and where it and its data are in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HrlRecord {
    /// Where the entry is in the file.
    pub at: u64,
    /// Where its data is in the file.
    pub data_at: u64,
    /// The entry.
    pub entry: HrlEntry,
}

impl HrlLog {
    /// Opens the closed log at `path` and proves it, from its end. Reads all metadata, and the data
    /// that has a checksum, in memory bounded by 16 bytes a metadata block.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::InFile`] around [`Error::UnknownFormat`],
    /// [`Error::UnknownHrlVersion`], [`Error::NotClosed`] or [`Error::Damaged`].
    pub fn open(path: &Path) -> Result<Self> {
        Self::prove(path).map_err(|error| error.in_file(path))
    }

    fn prove(path: &Path) -> Result<Self> {
        let file = LogFile::open(path)?;
        let header = read_header(&file)?;
        let end = header.end.ok_or(Error::NotClosed)?;
        if end > file.length() {
            return Err(Error::damaged(
                44,
                "the log ends behind the end of the file",
            ));
        }
        let (blocks, failed) = walk(&file, &header, end);
        if let Some(error) = failed {
            return Err(error);
        }
        let (log, rejected) = Self::of_blocks(&file, header, blocks)?;
        if let Some(record) = rejected.first() {
            return Err(Error::damaged(
                record.at,
                "the checksum of the entry's data does not match",
            ));
        }
        if log.summary.entries != header.entries {
            return Err(Error::damaged(
                96,
                "the header announces another number of entries",
            ));
        }
        Ok(log)
    }

    /// The log of these blocks, without the entries whose data proved wrong, and those.
    pub(crate) fn of_blocks(
        file: &LogFile<'_>,
        header: HrlHeader,
        blocks: Vec<Placed>,
    ) -> Result<(Self, Vec<HrlRecord>)> {
        let mut log = Self {
            path: file.path().into(),
            header,
            blocks: blocks.into(),
            rejected: Arc::default(),
            summary: HrlSummary::default(),
        };
        let (mut summary, mut rejected, mut buffer) =
            (HrlSummary::default(), Vec::new(), Vec::new());
        log.each(file, |record| {
            let checked = record.entry.data_checksum.is_some();
            if checked && !data_matches(file, &record, &mut buffer)? {
                rejected.push(record);
                return Ok(());
            }
            summary.entries += 1;
            summary.checksummed += u64::from(checked);
            summary.payload = summary.payload.saturating_add(record.entry.data_length());
            Ok(())
        })?;
        summary.blocks = log.blocks.len() as u64;
        log.summary = summary;
        log.rejected = rejected.iter().map(|record| record.at).collect();
        Ok((log, rejected))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its header.
    pub fn header(&self) -> &HrlHeader {
        &self.header
    }

    /// What it holds.
    pub fn summary(&self) -> &HrlSummary {
        &self.summary
    }

    /// Proves it anew, to find whether the file was changed since.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`Error::NotClosed`] of a log that was salvaged.
    pub fn verify(&self) -> Result<()> {
        Self::open(&self.path).map(drop)
    }

    /// Hands its entries to `take`, in the order in which the writes were made.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Damaged`] if the file was changed since it was proved; what `take`
    /// returns.
    pub fn entries(&self, take: impl FnMut(HrlRecord) -> Result<()>) -> Result<()> {
        let file = LogFile::open(&self.path)?;
        self.each(&file, take)
    }

    fn each(
        &self,
        file: &LogFile<'_>,
        mut take: impl FnMut(HrlRecord) -> Result<()>,
    ) -> Result<()> {
        let named = |error: Error| error.in_file(&self.path);
        for placed in &*self.blocks {
            let block = read_block(file, &self.header, placed.at).map_err(named)?;
            if placed.data_at.checked_add(block.data_length()) != Some(placed.at) {
                let error = Error::damaged(placed.at, "the metadata block was changed meanwhile");
                return Err(named(error));
            }
            let mut data_at = placed.data_at;
            for (number, entry) in block.entries.into_iter().enumerate() {
                let at = entry_at(placed.at, number);
                if self.rejected.binary_search(&at).is_err() {
                    take(HrlRecord { at, data_at, entry })?;
                }
                data_at += u64::from(entry.length);
            }
        }
        Ok(())
    }

    /// Hands the time, place and bytes of its writes to `take`, in order, in pieces of at most 1 MiB.
    pub(crate) fn writes(
        &self,
        mut take: impl FnMut(Timestamp, Offset, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let file = LogFile::open(&self.path)?;
        let mut buffer = Vec::new();
        self.each(&file, |record| {
            let Some(extent) = record.entry.extent() else {
                return Ok(());
            };
            let mut at = record.data_at;
            for piece in extent.pieces(PAYLOAD_MAX) {
                buffer.resize(piece.length().to_usize().unwrap_or_default(), 0);
                file.read(&mut buffer, at)?;
                take(record.entry.time.into(), piece.start(), &buffer)?;
                at += piece.length().get();
            }
            Ok(())
        })
    }

    /// Where the newest state of every changed byte is, in the order of the disk.
    ///
    /// # Errors
    /// As [`entries`](Self::entries).
    pub fn index(&self) -> Result<Vec<Piece>> {
        let piece = |(extent, data): (_, &Data)| Piece {
            extent,
            data_at: Some(data.at),
            record_at: data.entry,
            discarded: false,
        };
        Ok(self.newest()?.iter().map(piece).collect())
    }

    /// The newest data of every changed byte.
    pub(super) fn newest(&self) -> Result<ExtentMap<Data>> {
        let mut newest = ExtentMap::new();
        self.entries(|record| {
            if let Some(extent) = record.entry.extent() {
                let data = Data {
                    entry: record.at,
                    at: record.data_at,
                    time: record.entry.time,
                };
                newest.insert(extent, data);
            }
            Ok(())
        })?;
        Ok(newest)
    }

    /// The extents that it changes, in the order of the disk.
    ///
    /// # Errors
    /// As [`entries`](Self::entries).
    pub fn extents(&self) -> Result<Vec<Extent>> {
        Ok(self.index()?.iter().map(|piece| piece.extent).collect())
    }

    /// Refuses a disk of `size` if the log changes bytes behind its end. An HRL does not say how
    /// large its disk is.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] within [`Error::InFile`]; as [`entries`](Self::entries).
    pub fn check_fits(&self, size: Length) -> Result<()> {
        check_pieces(&self.index()?, size).map_err(|error| error.in_file(&self.path))
    }

    /// Makes its changes on `disk`, each byte once, in the order of the disk. Making them again
    /// changes nothing. The disk is not flushed.
    ///
    /// # Errors
    /// As [`check_fits`](Self::check_fits), before anything is written; [`Error::Io`],
    /// [`Error::Disk`]: some changes are then made, and it is to be applied again.
    pub fn apply(&self, disk: &(impl BlockWrite + ?Sized)) -> Result<Applied> {
        let pieces = self.index()?;
        check_pieces(&pieces, disk.size()).map_err(|error| error.in_file(&self.path))?;
        apply_pieces(&LogFile::open(&self.path)?, &pieces, disk)
    }
}

/// Refuses pieces that end past the end of a disk of `size`.
fn check_pieces(pieces: &[Piece], size: Length) -> Result<()> {
    match pieces.last().map(|piece| piece.extent) {
        Some(extent) if extent.end().get() > size.get() => Err(Error::OutOfRange { extent, size }),
        _ => Ok(()),
    }
}

/// Where the data of a run is in the file, the entry that describes it, and when it was written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Data {
    entry: u64,
    pub(super) at: u64,
    pub(super) time: HrlTime,
}

impl Slice for Data {
    fn advanced(&self, length: Length) -> Self {
        Self {
            at: self.at + length.get(),
            ..*self
        }
    }
}

/// Whether the data of `record` has the checksum that its entry says.
fn data_matches(file: &LogFile<'_>, record: &HrlRecord, buffer: &mut Vec<u8>) -> Result<bool> {
    let mut sum = ByteSum::default();
    let end = record.data_at + u64::from(record.entry.length);
    let mut at = record.data_at;
    while at < end {
        let left = usize::try_from(end - at).unwrap_or(usize::MAX);
        buffer.resize(left.min(1 << 20), 0);
        file.read(buffer, at)?;
        sum.add(buffer);
        at += buffer.len() as u64;
    }
    Ok(sum.of_data() == record.entry.data_checksum)
}
