//! The file that says durably which extents of an image are local.
//!
//! # Format
//!
//! All integers are little-endian.
//!
//! | offset | size | field |
//! | --- | --- | --- |
//! | 0 | 8 | magic `AIHYDRAT` |
//! | 8 | 4 | version, 1 |
//! | 12 | 4 | 0 |
//! | 16 | 32 | the source: what its owner tells sources apart by |
//! | 48 | 8 | disk size |
//! | 56 | 4 | 0 |
//! | 60 | 4 | CRC-32 of bytes 0 to 60 |
//! | 64 | | records |
//!
//! A record is its number, from 0 (8 bytes), the number of its extents, 1 to 4096 (4 bytes), the
//! CRC-32, continued from the header's, of these 12 bytes and the extents (4 bytes), and the extents:
//! offset and length, 8 bytes each. Each record is forced before the next one is written, and what it
//! names was forced before it was written. So the one at the end may be torn, and stands for nothing;
//! one that does not verify before another that does is damage.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::failed;
use crate::{Error, Extent, ExtentSet, Length, Offset, Result, durable};

const MAGIC: &[u8; 8] = b"AIHYDRAT";
const VERSION: u32 = 1;
const HEADER: usize = 64;
const HEAD: usize = 16;
const EXTENT: usize = 16;
/// The most extents in a record.
const EXTENTS_MAX: usize = 4096;

/// The open file.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    path: PathBuf,
    salt: u32,
    next: u64,
    end: u64,
    poisoned: bool,
}

impl Journal {
    /// Makes the file, durably; one that is there is replaced.
    pub(super) fn create(path: &Path, source: [u8; 32], size: Length) -> Result<Self> {
        let (header, salt) = header(source, size);
        let file = durable::make(path, |file| file.write_all_at(&header, 0));
        let file = file.map_err(|source| failed("create", path, source))?;
        Ok(Self {
            file,
            path: path.into(),
            salt,
            next: 0,
            end: HEADER as u64,
            poisoned: false,
        })
    }

    /// Opens the file, which nobody else has open, and reads what is local.
    pub(super) fn open(path: &Path, source: [u8; 32], size: Length) -> Result<(Self, ExtentSet)> {
        let file = OpenOptions::new().read(true).write(true).open(path);
        let file = file.map_err(|source| failed("open", path, source))?;
        let (expected, salt) = header(source, size);
        let mut reader = Records {
            from: BufReader::new(&file),
            path,
            salt,
            next: 0,
            at: 0,
        };
        reader.check_header(&expected)?;
        let mut local = ExtentSet::new();
        while let Some(extents) = reader.next_record(size)? {
            local.extend(extents);
        }
        let (next, end) = (reader.next, reader.at);
        reader.refuse_damage()?;
        // What was torn must not be taken for something once more is appended.
        let cut = file.set_len(end).and_then(|()| file.sync_all());
        cut.map_err(|source| failed("cut", path, source))?;
        let journal = Self {
            file,
            path: path.into(),
            salt,
            next,
            end,
            poisoned: false,
        };
        Ok((journal, local))
    }

    /// Records that `extents` are local. They are durable at the image already.
    ///
    /// After an error of a write nothing is recorded, and it can be tried again; after one of a force
    /// nobody knows, and every later append fails.
    pub(super) fn append(&mut self, extents: &ExtentSet) -> Result<()> {
        if self.poisoned {
            let reason = io::Error::other("an earlier force failed");
            return Err(failed("sync", &self.path, reason));
        }
        let extents: Vec<_> = extents.iter().collect();
        for part in extents.chunks(EXTENTS_MAX) {
            let record = record(self.next, part, self.salt);
            if let Err(source) = self.file.write_all_at(&record, self.end) {
                // Best effort: what is torn stands for nothing.
                let _ = self.file.set_len(self.end);
                return Err(failed("write", &self.path, source));
            }
            self.file.sync_data().map_err(|source| {
                self.poisoned = true;
                failed("sync", &self.path, source)
            })?;
            self.end += record.len() as u64;
            self.next += 1;
        }
        Ok(())
    }
}

fn header(source: [u8; 32], size: Length) -> ([u8; HEADER], u32) {
    let mut bytes = [0; HEADER];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[16..48].copy_from_slice(&source);
    bytes[48..56].copy_from_slice(&size.get().to_le_bytes());
    let salt = crc32fast::hash(&bytes[..60]);
    bytes[60..].copy_from_slice(&salt.to_le_bytes());
    (bytes, salt)
}

fn record(number: u64, extents: &[Extent], salt: u32) -> Vec<u8> {
    let count = u32::try_from(extents.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(HEAD + extents.len() * EXTENT);
    bytes.extend(number.to_le_bytes());
    bytes.extend(count.to_le_bytes());
    bytes.extend([0; 4]);
    for extent in extents {
        bytes.extend(extent.start().get().to_le_bytes());
        bytes.extend(extent.length().get().to_le_bytes());
    }
    let checksum = checksum(&bytes, salt);
    bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

fn checksum(record: &[u8], salt: u32) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(&record[..12]);
    hasher.update(&record[HEAD..]);
    hasher.finalize()
}

/// Reads the records one after the other.
struct Records<'a> {
    from: BufReader<&'a File>,
    path: &'a Path,
    salt: u32,
    next: u64,
    /// Where the next record starts.
    at: u64,
}

impl Records<'_> {
    fn check_header(&mut self, expected: &[u8; HEADER]) -> Result<()> {
        let mut found = [0; HEADER];
        let read =
            fill(&mut self.from, &mut found).map_err(|source| failed("read", self.path, source))?;
        let known = read == HEADER && found[..8] == *MAGIC;
        if !known || crc32fast::hash(&found[..60]).to_le_bytes() != found[60..] {
            return Err(self.damaged(0, "this is no record of a hydration"));
        }
        if found[8..12] != expected[8..12] {
            return Err(self.damaged(8, "its version is of a newer release"));
        }
        if found != *expected {
            return Err(Error::OtherSource {
                path: self.path.into(),
            });
        }
        self.at = HEADER as u64;
        Ok(())
    }

    /// The extents of the next record; `None` where no whole record follows.
    fn next_record(&mut self, size: Length) -> Result<Option<Vec<Extent>>> {
        let mut bytes = vec![0; HEAD];
        let io = |source| failed("read", self.path, source);
        if fill(&mut self.from, &mut bytes).map_err(io)? < HEAD || number(&bytes) != self.next {
            return Ok(None);
        }
        let Some(length) = length(&bytes) else {
            return Ok(None);
        };
        bytes.resize(length, 0);
        let read = fill(&mut self.from, &mut bytes[HEAD..]).map_err(io)?;
        if read < length - HEAD || !verifies(&bytes, self.salt) {
            return Ok(None);
        }
        let mut extents = Vec::new();
        for bytes in bytes[HEAD..].chunks_exact(EXTENT) {
            let (offset, length) = (number(bytes), number(&bytes[8..]));
            match Extent::new(Offset::new(offset), Length::new(length)) {
                Ok(extent) if extent.end().get() <= size.get() => extents.push(extent),
                _ => return Err(self.damaged(self.at, "an extent is not on the disk")),
            }
        }
        self.at += length as u64;
        self.next += 1;
        Ok(Some(extents))
    }

    /// Refuses a file in which a record follows the first one that does not verify: it is not torn,
    /// and what the lost one named would be read from the source again.
    fn refuse_damage(self) -> Result<()> {
        let mut file = self.from.into_inner();
        let mut rest = Vec::new();
        let read = io::Seek::seek(&mut file, io::SeekFrom::Start(self.at))
            // Longer than one record that is torn, nothing but damage can be.
            .and_then(|_| {
                let longest = HEAD + EXTENTS_MAX * EXTENT;
                file.take(2 * longest as u64).read_to_end(&mut rest)
            });
        read.map_err(|source| failed("read", self.path, source))?;
        let later = (0..rest.len()).step_by(EXTENT).any(|at| {
            let bytes = &rest[at..];
            bytes.len() >= HEAD
                && number(bytes) > self.next
                && length(bytes)
                    .and_then(|length| bytes.get(..length))
                    .is_some_and(|record| verifies(record, self.salt))
        });
        if later {
            let reason = "a record does not verify, and another one follows";
            return Err(Error::Damaged {
                path: self.path.into(),
                at: self.at,
                reason,
            });
        }
        Ok(())
    }

    fn damaged(&self, at: u64, reason: &'static str) -> Error {
        Error::Damaged {
            path: self.path.into(),
            at,
            reason,
        }
    }
}

/// The 8 bytes at the beginning as a number.
fn number(bytes: &[u8]) -> u64 {
    bytes
        .first_chunk()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// The length of the record with this head; `None` if none has it.
fn length(head: &[u8]) -> Option<usize> {
    let count = u32::from_le_bytes(*head.get(8..)?.first_chunk()?);
    let count = usize::try_from(count).ok()?;
    (1..=EXTENTS_MAX)
        .contains(&count)
        .then_some(HEAD + count * EXTENT)
}

fn verifies(record: &[u8], salt: u32) -> bool {
    checksum(record, salt).to_le_bytes() == record[12..HEAD]
}

fn fill(from: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < into.len() {
        match from.read(&mut into[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
