//! An HRL file that is being written.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use afterimage_block::{Change, Extent, Length, Offset, Timestamp, check_range};

use super::encoder::{HrlEncoder, HrlOptions};
use super::{HrlLog, HrlTime};
use crate::writer::{io_error, sync_folder};
use crate::{Error, PAYLOAD_MAX, Result};

/// An HRL file of version 2 that is being written, by appending.
///
/// The format knows writes only: zeros and discards are written as zeros, in entries of 1 MiB.
/// Nothing is durable before [`sync`](Self::sync) or [`close`](Self::close), and the log has an end
/// only once it is closed. After a write or force that failed, the log takes no more: what it holds
/// can still be salvaged.
#[derive(Debug)]
pub struct HrlWriter {
    file: File,
    path: PathBuf,
    encoder: HrlEncoder,
    quota: Option<Length>,
    poisoned: bool,
}

impl HrlWriter {
    /// Begins a log at `path`, where no file may be.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(path: &Path, options: &HrlOptions) -> Result<Self> {
        let (encoder, bytes) = HrlEncoder::new(options);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path)
            .and_then(|mut file| file.write_all(&bytes).map(|()| file))
            .map_err(|source| io_error("create", path, 0, source))?;
        Ok(Self {
            file,
            path: path.into(),
            encoder,
            quota: options.quota,
            poisoned: false,
        })
    }

    /// Appends a change that was made at `time`, cut to the second: as one entry for each MiB. An
    /// empty write appends nothing.
    ///
    /// # Errors
    /// [`Error::OverQuota`] and [`Error::Disk`], if its end is past what an offset can say, leave
    /// the log as it was; [`Error::Io`] poisons it; [`Error::Poisoned`].
    pub fn append(&mut self, change: Change<'_>, time: Timestamp) -> Result<()> {
        let Some(extent) = extent_of(change)? else {
            return Ok(());
        };
        self.check_room(extent)?;
        let start = self.encoder.position();
        let time = HrlTime::from(time);
        let written = match change {
            Change::Write { data, .. } => self.write(extent, data, time),
            Change::WriteZeroes(_) | Change::Discard(_) => self.write_zeros(extent, time),
        };
        written.map_err(|source| self.failed("write", start, source))
    }

    fn write(&mut self, extent: Extent, data: &[u8], time: HrlTime) -> io::Result<()> {
        let parts = data.chunks(PAYLOAD_MAX.to_usize().unwrap_or(usize::MAX));
        for (piece, part) in extent.pieces(PAYLOAD_MAX).zip(parts) {
            self.write_piece(piece.start(), part, time)?;
        }
        Ok(())
    }

    fn write_zeros(&mut self, extent: Extent, time: HrlTime) -> io::Result<()> {
        let longest = extent.length().min(PAYLOAD_MAX);
        let zeros = vec![0; longest.to_usize().unwrap_or_default()];
        for piece in extent.pieces(PAYLOAD_MAX) {
            let length = piece.length().to_usize().unwrap_or_default();
            let data = zeros.get(..length).unwrap_or_default();
            self.write_piece(piece.start(), data, time)?;
        }
        Ok(())
    }

    fn write_piece(&mut self, offset: Offset, data: &[u8], time: HrlTime) -> io::Result<()> {
        self.file.write_all(data)?;
        match self.encoder.write(offset, data, time) {
            Some(block) => self.file.write_all(&block),
            None => Ok(()),
        }
    }

    fn check_room(&self, extent: Extent) -> Result<()> {
        if self.poisoned {
            return Err(Error::Poisoned);
        }
        let length = extent.length().get();
        let pieces = length.div_ceil(PAYLOAD_MAX.get());
        let needs = self.encoder.length_with(length, pieces);
        match self.quota.filter(|quota| needs > quota.get()) {
            Some(quota) => Err(Error::OverQuota { quota }.in_file(&self.path)),
            None => Ok(()),
        }
    }

    fn failed(&mut self, operation: &'static str, at: u64, source: io::Error) -> Error {
        self.poisoned = true;
        io_error(operation, &self.path, at, source)
    }

    /// Makes everything appended so far durable, and describes it in a metadata block of its own, so
    /// that it can be salvaged if the log is never closed.
    ///
    /// # Errors
    /// [`Error::Io`] poisons the log; [`Error::Poisoned`].
    pub fn sync(&mut self) -> Result<()> {
        if self.poisoned {
            return Err(Error::Poisoned);
        }
        let at = self.encoder.position();
        if let Some(block) = self.encoder.block() {
            let written = self.file.write_all(&block);
            written.map_err(|source| self.failed("write", at, source))?;
        }
        let synced = self.file.sync_data();
        synced.map_err(|source| self.failed("sync", at, source))
    }

    /// The length of the file so far.
    pub fn length(&self) -> Length {
        Length::new(self.encoder.position())
    }

    /// The number of entries so far.
    pub fn entries(&self) -> u64 {
        self.encoder.entries()
    }

    /// Ends the log at `time`: forces what it holds, and only then writes where it ends. Makes file
    /// and folder entry durable.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Poisoned`]. The file is left without an end.
    pub fn close(mut self, time: Timestamp) -> Result<HrlLog> {
        self.sync()?;
        let header = self.encoder.closed(time.into());
        let io = |operation| {
            let path = &self.path;
            move |source| io_error(operation, path, 0, source)
        };
        self.file
            .write_all_at(&header.encode(), 0)
            .map_err(io("write"))?;
        self.file.sync_all().map_err(io("sync"))?;
        sync_folder(&self.path).map_err(io("sync the folder of"))?;
        HrlLog::open(&self.path)
    }
}

/// The bytes that a change is to, `None` if there are none.
fn extent_of(change: Change<'_>) -> Result<Option<Extent>> {
    match change {
        Change::Write { offset, data } => Ok(check_range(
            offset,
            Length::of(data),
            Length::new(u64::MAX),
        )?),
        Change::WriteZeroes(extent) | Change::Discard(extent) => Ok(Some(extent)),
    }
}
