//! Positioned reads of a log file.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::writer::io_error;
use crate::{Error, Result};

/// The bytes of a sealed log, wherever they are: a file, or anything else that is read by position.
pub trait ReadAt {
    /// How many there are.
    ///
    /// # Errors
    /// What the source says.
    fn length(&self) -> io::Result<u64>;

    /// Fills `into` from `at` on.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if there are not as many; what the source says.
    fn fill_at(&self, into: &mut [u8], at: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn fill_at(&self, into: &mut [u8], at: u64) -> io::Result<()> {
        self.read_exact_at(into, at)
    }
}

impl<S: ReadAt + ?Sized> ReadAt for &S {
    fn length(&self) -> io::Result<u64> {
        (**self).length()
    }

    fn fill_at(&self, into: &mut [u8], at: u64) -> io::Result<()> {
        (**self).fill_at(into, at)
    }
}

/// A log file, open for reading.
#[derive(Debug)]
pub(crate) struct LogFile<'a, S = File> {
    source: S,
    path: Cow<'a, Path>,
    length: u64,
}

impl<'a> LogFile<'a> {
    pub(crate) fn open(path: &'a Path) -> Result<Self> {
        let file = File::open(path).map_err(|source| io_error("open", path, 0, source))?;
        Self::over(file, path)
    }
}

impl<'a, S: ReadAt> LogFile<'a, S> {
    /// The log in `source`, which is called `path`.
    pub(crate) fn over(source: S, path: impl Into<Cow<'a, Path>>) -> Result<Self> {
        let path = path.into();
        let length = source.length();
        let length = length.map_err(|source| io_error("open", &path, 0, source))?;
        Ok(Self {
            source,
            path,
            length,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn into_source(self) -> S {
        self.source
    }

    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// How many bytes there are from `at` on.
    pub(crate) fn left(&self, at: u64) -> usize {
        usize::try_from(self.length.saturating_sub(at)).unwrap_or(usize::MAX)
    }

    /// Fills `into` from `at` on.
    pub(crate) fn read(&self, into: &mut [u8], at: u64) -> Result<()> {
        self.source.fill_at(into, at).map_err(|source| {
            if source.kind() == io::ErrorKind::UnexpectedEof {
                Error::damaged(at, "the file ends before its log does").in_file(&self.path)
            } else {
                io_error("read", &self.path, at, source)
            }
        })
    }

    /// Fills `buffer` with what is at `at`, up to `most` bytes.
    pub(crate) fn read_up_to(&self, buffer: &mut Vec<u8>, at: u64, most: usize) -> Result<()> {
        buffer.resize(most.min(self.left(at)), 0);
        self.read(buffer, at)
    }
}
