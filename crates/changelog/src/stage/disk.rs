//! A disk whose changes go to a log.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use afterimage_block::{
    BlockRead, BlockWrite, Change, ContentDigest, Error as BlockError, Extent, Length, Offset, Run,
    RunKind, Zeroing, check_range,
};

use crate::writer::io_error;
use crate::{Error, FileWriter, LogHeader, Piece, Result, SealedLog};

type Done<T = ()> = afterimage_block::Result<T>;

/// A disk that reads as one to which everything was written, while the disk below stays as it is: what
/// is written goes to the log of a [`Stage`](super::Stage), with the time at which that was begun.
/// [`flush`](BlockWrite::flush) makes the log durable. Dropped, it leaves the log to be resumed.
pub struct StagedDisk<'d> {
    disk: &'d dyn BlockWrite,
    /// Gone once it is decided.
    log: Mutex<Option<FileWriter>>,
    header: LogHeader,
    /// The log's file once more.
    file: File,
}

impl<'d> StagedDisk<'d> {
    pub(super) fn over(disk: &'d dyn BlockWrite, log: FileWriter) -> Result<Self> {
        if !log.form().is_plain() {
            // What is staged is read back as it stands.
            return Err(Error::NotPlain.in_file(log.path()));
        }
        let file = File::open(log.path());
        let file = file.map_err(|source| io_error("open", log.path(), 0, source))?;
        Ok(Self {
            disk,
            header: *log.header(),
            log: Mutex::new(Some(log)),
            file,
        })
    }

    /// What the log says of itself.
    pub const fn header(&self) -> &LogHeader {
        &self.header
    }

    /// Seals the log: all changes are there, durably, and from now on are to be made or taken back. This
    /// disk is then of no more use.
    ///
    /// # Errors
    /// As [`FileWriter::seal`]; nothing is decided then. [`Error::Poisoned`] if it was before.
    pub fn decide(&self) -> Result<SealedLog> {
        let log = self.guard().take().ok_or(Error::Poisoned)?;
        log.seal(ContentDigest::NONE)
    }

    fn guard(&self) -> MutexGuard<'_, Option<FileWriter>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the log do something for the bytes of `extent`.
    fn log<T>(
        &self,
        operation: &'static str,
        extent: Extent,
        run: impl FnOnce(&mut FileWriter) -> Result<T>,
    ) -> Done<T> {
        let mut log = self.guard();
        let ran = log.as_mut().ok_or(Error::Poisoned).and_then(run);
        ran.map_err(|error| failed(operation, extent, error))
    }

    fn stage(&self, change: Change<'_>, extent: Extent) -> Done {
        let time = self.header.created;
        self.log("stage", extent, |log| log.append(change, time).map(drop))
    }

    /// Puts what of `extent`, which is that of `buf`, was changed in its place.
    fn lay_over(&self, extent: Extent, pieces: &[Piece], buf: &mut [u8]) -> Done {
        for piece in pieces {
            let start = piece.extent.start().checked_since(extent.start());
            let start = start.and_then(Length::to_usize).unwrap_or_default();
            let length = piece.extent.length().to_usize().unwrap_or_default();
            let part = buf.get_mut(start..start + length).unwrap_or_default();
            match piece.data_at {
                Some(at) => {
                    let read = self.file.read_exact_at(part, at);
                    self.log("read", piece.extent, |log| {
                        read.map_err(|source| io_error("read", log.path(), at, source))
                    })?;
                }
                None => part.fill(0),
            }
        }
        Ok(())
    }
}

impl BlockRead for StagedDisk<'_> {
    fn size(&self) -> Length {
        self.disk.size()
    }

    fn read_at(&self, offset: Offset, buf: &mut [u8]) -> Done {
        let Some(extent) = check_range(offset, Length::of(buf), self.size())? else {
            return Ok(());
        };
        self.disk.read_at(offset, buf)?;
        let pieces = self.log("read", extent, |log| {
            Ok(log.newest_within(extent).collect::<Vec<_>>())
        })?;
        self.lay_over(extent, &pieces, buf)
    }

    fn next_run(&self, from: Offset) -> Done<Option<Run>> {
        let Some(rest) = Extent::between(from, Offset::new(self.size().get())) else {
            return Ok(None);
        };
        let changed = self.log("map", rest, |log| Ok(log.newest_within(rest).next()))?;
        if let Some(piece) = changed.filter(|piece| piece.extent.start() == from) {
            let kind = piece.data_at.map_or(RunKind::Hole, |_| RunKind::Data);
            let extent = piece.extent;
            return Ok(Some(Run { extent, kind }));
        }
        let limit = changed.map_or(rest.end(), |piece| piece.extent.start());
        let run = self.disk.next_run(from)?;
        Ok(run.and_then(|run| {
            let extent = Extent::between(from, run.extent.end().min(limit))?;
            Some(Run { extent, ..run })
        }))
    }
}

impl BlockWrite for StagedDisk<'_> {
    fn write_at(&self, offset: Offset, data: &[u8]) -> Done {
        let extent = check_range(offset, Length::of(data), self.size())?;
        extent.map_or(Ok(()), |extent| {
            self.stage(Change::Write { offset, data }, extent)
        })
    }

    fn write_zeroes(&self, extent: Extent, _: Zeroing) -> Done {
        check_range(extent.start(), extent.length(), self.size())?;
        self.stage(Change::WriteZeroes(extent), extent)
    }

    fn discard(&self, extent: Extent) -> Done {
        check_range(extent.start(), extent.length(), self.size())?;
        self.stage(Change::Discard(extent), extent)
    }

    fn flush(&self) -> Done {
        let Some(whole) = Extent::whole(self.size()) else {
            return Ok(());
        };
        self.log("flush", whole, FileWriter::sync)
    }
}

impl fmt::Debug for StagedDisk<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StagedDisk")
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}

/// The error of a disk that the log gives. What the operating system said keeps its kind.
fn failed(operation: &'static str, extent: Extent, error: Error) -> BlockError {
    let kind = match &error {
        Error::Io { source, .. } => source.kind(),
        _ => std::io::ErrorKind::Other,
    };
    BlockError::Io {
        operation,
        device: "the staged disk".into(),
        offset: extent.start(),
        length: extent.length(),
        source: std::io::Error::new(kind, error),
    }
}
