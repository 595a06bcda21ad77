//! The SHA-256 of a log's content, computed beside what else is done with the bytes.
//!
//! It takes about as long as copying them does. What has a megabyte or more of it is digested on a
//! thread of its own; of the bytes that wait for it there are never more than a few buffers.

use std::io::{self, IoSlice, Read, Take};
use std::panic::resume_unwind;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

use afterimage_block::ContentDigest;
use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};

use crate::Result;
use crate::file::{LogFile, ReadAt};
use crate::slab::Slabs;

/// What is read at a time: as much as stays in the cache until it is digested.
const BUFFER: usize = 128 << 10;
/// What is digested before a thread is begun, which costs as much as some of this.
const ALONE: u64 = 1 << 20;
/// The buffers that wait for the thread.
const WAITING: usize = 8;
/// The memory for what is copied: as much as waits.
const SLABS: usize = 4;

/// A SHA-256 in the making.
#[derive(Debug)]
pub(crate) struct Digester {
    length: u64,
    at: Place,
}

/// Where it is computed.
#[derive(Debug)]
enum Place {
    Here(Sha256),
    Beside {
        thread: JoinHandle<Sha256>,
        send: SyncSender<Vec<Bytes>>,
        /// A copy of bytes that were lent, until there are enough to send.
        copied: BytesMut,
        slabs: Slabs,
    },
}

impl Digester {
    /// The digest of nothing yet.
    pub(crate) fn new() -> Self {
        Self {
            length: 0,
            at: Place::Here(Sha256::new()),
        }
    }

    /// Adds bytes, one part behind the other, which may still be read.
    pub(crate) fn add(&mut self, parts: Vec<Bytes>) {
        self.length += parts.iter().map(|part| part.len() as u64).sum::<u64>();
        match &mut self.at {
            Place::Here(sha) => parts.iter().for_each(|part| sha.update(part)),
            // It ends before its sender does only if it panics, which finishing then tells.
            Place::Beside { send, copied, .. } => {
                if !copied.is_empty() {
                    drop(send.send(vec![copied.split().freeze()]));
                }
                drop(send.send(parts));
            }
        }
        if self.length >= ALONE {
            self.set_apart();
        }
    }

    /// Adds a copy of bytes that are lent only for now.
    pub(crate) fn add_slices(&mut self, slices: &[IoSlice<'_>]) {
        match &mut self.at {
            Place::Here(sha) => {
                for slice in slices {
                    sha.update(&**slice);
                    self.length += slice.len() as u64;
                }
                if self.length >= ALONE {
                    self.set_apart();
                }
            }
            Place::Beside {
                send,
                copied,
                slabs,
                ..
            } => {
                for slice in slices {
                    if copied.capacity() - copied.len() < slice.len() {
                        let next = slabs.part(BUFFER.max(slice.len()));
                        let full = std::mem::replace(copied, next);
                        drop(send.send(vec![full.freeze()]));
                    }
                    copied.extend_from_slice(slice);
                    self.length += slice.len() as u64;
                }
            }
        }
    }

    /// Goes on beside, if that is possible.
    fn set_apart(&mut self) {
        let Place::Here(sha) = &self.at else {
            return;
        };
        let mut sha = sha.clone();
        let (send, receive) = sync_channel::<Vec<Bytes>>(WAITING);
        let digest = move || {
            for part in receive.into_iter().flatten() {
                sha.update(&part);
            }
            sha
        };
        // Without a thread it is only slower.
        if let Ok(thread) = Builder::new().name("log digest".into()).spawn(digest) {
            self.at = Place::Beside {
                thread,
                send,
                copied: BytesMut::new(),
                slabs: Slabs::new(SLABS),
            };
        }
    }

    /// The digest of all that was added.
    pub(crate) fn finish(self) -> ContentDigest {
        let sha = match self.at {
            Place::Here(sha) => sha,
            Place::Beside {
                thread,
                send,
                copied,
                ..
            } => {
                drop(send.send(vec![copied.freeze()]));
                drop(send);
                thread.join().unwrap_or_else(|panic| resume_unwind(panic))
            }
        };
        ContentDigest::new(sha.finalize().into())
    }
}

/// The SHA-256 of the first `length` bytes of a file.
pub(crate) fn digest_of<S: ReadAt>(file: &LogFile<'_, S>, length: u64) -> Result<ContentDigest> {
    let mut digester = Digester::new();
    let mut at = 0;
    while at < length {
        let left = usize::try_from(length - at).unwrap_or(usize::MAX);
        let mut buffer = vec![0; left.min(BUFFER)];
        file.read(&mut buffer, at)?;
        at += buffer.len() as u64;
        digester.add(vec![buffer.into()]);
    }
    Ok(digester.finish())
}

/// A reader that digests what is read.
#[derive(Debug)]
pub(crate) struct Digesting<R> {
    from: Take<R>,
    digester: Digester,
    /// What was digested and not yet handed on.
    ready: Bytes,
}

impl<R: Read> Digesting<R> {
    /// Of the first `length` bytes of `from`.
    pub(crate) fn new(from: R, length: u64) -> Self {
        Self {
            from: from.take(length),
            digester: Digester::new(),
            ready: Bytes::new(),
        }
    }

    /// The SHA-256 of what was read.
    pub(crate) fn finish(self) -> ContentDigest {
        self.digester.finish()
    }
}

impl<R: Read> Read for Digesting<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.ready.is_empty() {
            let left = usize::try_from(self.from.limit()).unwrap_or(usize::MAX);
            let mut buffer = vec![0; left.min(BUFFER)];
            let read = self.from.read(&mut buffer)?;
            buffer.truncate(read);
            self.ready = buffer.into();
            self.digester.add(vec![self.ready.clone()]);
        }
        let handed = self.ready.split_to(into.len().min(self.ready.len()));
        let place = into.get_mut(..handed.len()).unwrap_or_default();
        place.copy_from_slice(&handed);
        Ok(handed.len())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Of lengths with and without a thread, in parts of any size.
    #[test]
    fn the_digest_is_that_of_all_bytes_in_order() {
        let bytes: Vec<u8> = (0..5_000_003_u32).map(|at| at.to_le_bytes()[1]).collect();
        for (length, step) in [(0, 1), (1000, 7), (1 << 20, 4096), (bytes.len(), 300_000)] {
            let source = &bytes;
            let bytes = &bytes[..length];
            let expected = ContentDigest::new(Sha256::digest(bytes).into());
            let (mut whole, mut slices) = (Digester::new(), Digester::new());
            for part in bytes.chunks(step) {
                whole.add(vec![Bytes::copy_from_slice(part)]);
                let (one, two) = part.split_at(part.len() / 3);
                slices.add_slices(&[IoSlice::new(one), IoSlice::new(two)]);
            }
            assert_eq!(whole.finish(), expected);
            assert_eq!(slices.finish(), expected);
            let mut reader = Digesting::new(&source[..], length as u64);
            let mut read = Vec::new();
            reader.read_to_end(&mut read).unwrap();
            assert!(read == bytes);
            assert_eq!(reader.finish(), expected);
        }
    }

    #[test]
    fn a_file_that_ends_early_says_so() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let file = LogFile::open(path.path()).unwrap();
        assert!(digest_of(&file, 0).is_ok());
        assert!(digest_of(&file, 1).is_err());
        assert_eq!(file.path(), Path::new(path.path()));
    }
}
