//! Positioned reads of a log file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::writer::io_error;
use crate::{Error, Result};

/// A log file, open for reading.
#[derive(Debug)]
pub(crate) struct LogFile<'a> {
    file: File,
    path: &'a Path,
    length: u64,
}

impl<'a> LogFile<'a> {
    pub(crate) fn open(path: &'a Path) -> Result<Self> {
        let io = |source| io_error("open", path, 0, source);
        let file = File::open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        Ok(Self { file, path, length })
    }

    pub(crate) fn path(&self) -> &'a Path {
        self.path
    }

    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Fills `into` from `at` on.
    pub(crate) fn read(&self, into: &mut [u8], at: u64) -> Result<()> {
        self.file.read_exact_at(into, at).map_err(|source| {
            if source.kind() == io::ErrorKind::UnexpectedEof {
                Error::damaged(at, "the file ends before its log does").in_file(self.path)
            } else {
                io_error("read", self.path, at, source)
            }
        })
    }

    /// Fills `buffer` with what is at `at`, up to `most` bytes.
    pub(crate) fn read_up_to(&self, buffer: &mut Vec<u8>, at: u64, most: usize) -> Result<()> {
        let left = usize::try_from(self.length.saturating_sub(at)).unwrap_or(usize::MAX);
        buffer.resize(left.min(most), 0);
        self.read(buffer, at)
    }
}
