//! Reads and writes past the page cache.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::{Mutex, PoisonError};

use rustix::fs::OFlags;

/// What offsets, lengths and memory must be multiples of, wherever the disk is.
const ALIGNMENT: usize = 4096;

/// How much goes at once.
const CHUNK: usize = 1 << 20;

/// A file once more, open such that the page cache has no part in it.
#[derive(Debug)]
pub(super) struct Direct {
    file: File,
    /// Memory that nobody uses at the moment, each a chunk and what aligning it takes.
    free: Mutex<Vec<Vec<u8>>>,
}

impl Direct {
    /// The file that `file` is, whatever its name is now.
    pub(super) fn of(file: &File, writable: bool) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(writable)
            .custom_flags(OFlags::DIRECT.bits().cast_signed())
            .open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        let direct = Self {
            file,
            free: Mutex::default(),
        };
        // Some filesystems refuse it only when it is used.
        direct.with_memory(ALIGNMENT, |memory| direct.file.read_at(memory, 0))?;
        Ok(direct)
    }

    /// Whether so many bytes at `offset` can be moved.
    pub(super) const fn takes(offset: u64, length: usize) -> bool {
        offset.is_multiple_of(ALIGNMENT as u64) && length.is_multiple_of(ALIGNMENT)
    }

    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        for (part, at) in buf.chunks_mut(CHUNK).zip((offset..).step_by(CHUNK)) {
            self.with_memory(part.len(), |memory| {
                self.file.read_exact_at(memory, at)?;
                part.copy_from_slice(memory);
                Ok(())
            })?;
        }
        Ok(())
    }

    pub(super) fn write(&self, data: &[u8], offset: u64) -> io::Result<()> {
        for (part, at) in data.chunks(CHUNK).zip((offset..).step_by(CHUNK)) {
            self.with_memory(part.len(), |memory| {
                memory.copy_from_slice(part);
                self.file.write_all_at(memory, at)
            })?;
        }
        Ok(())
    }

    /// Has `run` use so many bytes of aligned memory, at most a chunk.
    fn with_memory<T>(
        &self,
        length: usize,
        run: impl FnOnce(&mut [u8]) -> io::Result<T>,
    ) -> io::Result<T> {
        let free = || self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let memory = free().pop();
        let mut memory = memory.unwrap_or_else(|| vec![0; CHUNK + ALIGNMENT]);
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        let aligned = memory.get_mut(start..start + length);
        let ran = run(aligned.ok_or(io::ErrorKind::InvalidInput)?);
        free().push(memory);
        ran
    }
}
