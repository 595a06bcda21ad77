//! A log file that is being written.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use afterimage_block::{Change, Extent, Length, Lsn, Timestamp};
use bytes::Bytes;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::digest::digest_of;
use crate::file::LogFile;
use crate::stream::payload_of;
use crate::{
    BarrierMark, Error, Form, LogHeader, Piece, Provenance, Record, Result, SealedLog,
    StreamWriter, WriterOptions,
};

/// A log file that is being written, by appending: a [`StreamWriter`] with a place on a disk.
///
/// Nothing is durable before [`sync`](Self::sync) or [`seal`](Self::seal). After a write or force that
/// failed, the log takes no more: what it holds can still be recovered.
#[derive(Debug)]
pub struct FileWriter {
    log: StreamWriter<File>,
    path: PathBuf,
    /// The step by which space is reserved, if it is, and how far.
    reserve: Option<Length>,
    reserved: u64,
}

impl FileWriter {
    /// Begins a log at `path`, replacing a file that is there.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::NoRandomness`] if it is to be encrypted.
    pub fn create(path: &Path, header: LogHeader, options: WriterOptions) -> Result<Self> {
        let mut open = OpenOptions::new();
        open.create(true).truncate(true);
        Self::begin(path, header, options, &mut open)
    }

    /// Begins a log at `path`, where no file may be.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn create_new(path: &Path, header: LogHeader, options: WriterOptions) -> Result<Self> {
        let mut open = OpenOptions::new();
        open.create_new(true);
        Self::begin(path, header, options, &mut open)
    }

    fn begin(
        path: &Path,
        header: LogHeader,
        options: WriterOptions,
        open: &mut OpenOptions,
    ) -> Result<Self> {
        let file = open.read(true).write(true).open(path);
        let file = file.map_err(|source| io_error("create", path, 0, source))?;
        let reserve = options.reserve;
        let log = StreamWriter::undigested(file, header, options);
        Ok(Self {
            log: log.map_err(|error| error.named(path))?,
            path: path.into(),
            reserve,
            reserved: 0,
        })
    }

    /// Digests what is appended from now on, so that sealing need not read it again. For a log that
    /// nobody waits for.
    pub(crate) fn digesting(mut self) -> Self {
        self.log = self.log.digesting();
        self
    }

    /// Appends a change that was made at `time`; returns the number of its first record.
    ///
    /// # Errors
    /// [`Error::OverQuota`], [`Error::IndexFull`], [`Error::Resized`] and [`Error::OutOfRange`] leave
    /// the log as it was; [`Error::Io`] does where space could not be reserved, and else poisons it;
    /// [`Error::Poisoned`].
    pub fn append(&mut self, change: Change<'_>, time: Timestamp) -> Result<Lsn> {
        self.put([payload_of(change)], |log| log.append(change, time))
    }

    /// Appends changes, each with the time at which it was made, in one vectored write for 512
    /// records: all of them or, after an error, none. Returns the number of the first record.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn append_batch(&mut self, changes: &[(Change<'_>, Timestamp)]) -> Result<Lsn> {
        let payloads = changes.iter().map(|(change, _)| payload_of(*change));
        self.put(payloads, |log| log.append_batch(changes))
    }

    /// The same of changes of at most [`PAYLOAD_MAX`](crate::PAYLOAD_MAX), the data of each of which lie
    /// in the bytes with it.
    pub(crate) fn append_shared(
        &mut self,
        changes: &[(Change<'_>, Timestamp, &Bytes)],
    ) -> Result<()> {
        let payloads = changes.iter().map(|(change, ..)| payload_of(*change));
        self.put(payloads, |log| log.append_shared(changes))
    }

    /// Appends a label.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn bookmark(&mut self, label: &str, time: Timestamp) -> Result<Lsn> {
        self.put([label.len() as u64], |log| log.bookmark(label, time))
    }

    /// Appends a barrier. Those of all logs of a machine have the same group.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn barrier(&mut self, mark: &BarrierMark<'_>, time: Timestamp) -> Result<Lsn> {
        self.put([mark.length()], |log| log.barrier(mark, time))
    }

    /// Appends that the disk now has `size`. The log takes no more changes: those of the disk as it
    /// is now go to the next one, whose header has the new size.
    ///
    /// # Errors
    /// As [`append`](Self::append); [`Error::NotASize`], [`Error::Resized`].
    pub fn resize(&mut self, size: Length, time: Timestamp) -> Result<Lsn> {
        self.put([0], |log| log.resize(size, time))
    }

    /// Appends what a record of another log says, at its time.
    ///
    /// # Errors
    /// As [`append`](Self::append) and [`resize`](Self::resize); [`Error::Damaged`] if it is a
    /// barrier or a bookmark that makes no sense; [`Error::WouldExpose`] if it comes from an encrypted
    /// log and this one is not, unless plain text is allowed.
    pub fn append_record(&mut self, record: &Record) -> Result<Lsn> {
        let payload = record.payload.len() as u64;
        self.put([payload], |log| log.append_record(record))
    }

    /// Appends what has these payloads where there is space for it, and cuts off, where that is
    /// possible, what a write that failed has left of it.
    fn put<T>(
        &mut self,
        payloads: impl IntoIterator<Item = u64>,
        append: impl FnOnce(&mut StreamWriter<File>) -> Result<T>,
    ) -> Result<T> {
        self.reserve(payloads)?;
        let start = self.log.position();
        append(&mut self.log).map_err(|error| {
            if matches!(error, Error::Io { .. }) {
                // Best effort: a reader finds the tear by itself.
                let _ = self.log.get_ref().set_len(start);
            }
            error.named(&self.path)
        })
    }

    /// Sees that space for `payloads` is reserved, if it is to be. What is reserved reads as zeros,
    /// which end the records of a log that was not sealed.
    fn reserve(&mut self, payloads: impl IntoIterator<Item = u64>) -> Result<()> {
        let Some(step) = self.reserve else {
            return Ok(());
        };
        let end = self.log.room_for(payloads)?;
        if end <= self.reserved {
            return Ok(());
        }
        let from = self.log.position();
        let quota = self.log.options().quota.map_or(u64::MAX, Length::get);
        let length = end.saturating_add(step.get()).min(quota) - from;
        match fallocate(self.log.get_ref(), FallocateFlags::empty(), from, length) {
            Ok(()) => self.reserved = from.saturating_add(length),
            // Without it, all is as without the option.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.reserve = None,
            Err(error) => return Err(io_error("reserve space of", &self.path, from, error.into())),
        }
        Ok(())
    }

    /// Makes everything appended so far durable.
    ///
    /// # Errors
    /// [`Error::Io`] poisons the log: what was appended since the last force may be lost, and a later
    /// success would not bring it back. [`Error::Poisoned`].
    pub fn sync(&mut self) -> Result<()> {
        self.log.check_sound()?;
        self.log.get_ref().sync_data().map_err(|source| {
            self.log.poison();
            io_error("sync", &self.path, self.log.position(), source)
        })
    }

    /// Makes everything appended so far durable, and the file, in the same folder, that at `path`.
    pub(crate) fn place(&mut self, path: &Path) -> Result<()> {
        self.sync()?;
        let placed = fs::rename(&self.path, path).and_then(|()| sync_folder(path));
        placed.map_err(|source| io_error("place", path, 0, source))?;
        self.path = path.into();
        Ok(())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The newest state of the bytes of `extent` that were changed, in order.
    pub(crate) fn newest_within(&mut self, extent: Extent) -> impl Iterator<Item = Piece> {
        self.log.newest_within(extent)
    }

    /// Refuses what comes from an encrypted log if it would be stored as plain text.
    pub(crate) fn check_source(&self, encrypted: bool) -> Result<()> {
        self.log.check_source(encrypted)
    }

    /// How its records are stored.
    pub fn form(&self) -> Form {
        self.log.form()
    }

    /// What it is of.
    pub fn header(&self) -> &LogHeader {
        self.log.header()
    }

    /// The length of the file so far.
    pub fn length(&self) -> Length {
        self.log.length()
    }

    /// The number of records so far.
    pub fn records(&self) -> u64 {
        self.log.records()
    }

    /// The share of its limits that the log has used, 0 to 100 percent: of its index' pieces.
    pub fn index_used_percent(&self) -> usize {
        self.log.index_used_percent()
    }

    /// Ends the log: appends its index and digests, and makes file and folder entry durable.
    ///
    /// `provenance` says what it follows: the content digest of the disk's log before this one, or
    /// [`ContentDigest::NONE`](afterimage_block::ContentDigest::NONE) if there is none; and which states of the disk it leads from and to.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Poisoned`]. The file is left as it is: open, or torn.
    pub fn seal(mut self, provenance: impl Into<Provenance>) -> Result<SealedLog> {
        self.log.check_sound()?;
        let head = self.log.head().clone();
        let keys = self.log.options().packing.keys().clone();
        let end = self.log.position();
        let content = match self.log.content() {
            Some(content) => content,
            None => digest_of(&LogFile::over(self.log.get_ref(), &*self.path)?, end)?,
        };
        let sealed = self.log.seal_as(content, provenance);
        let (file, summary) = sealed.map_err(|error| error.named(&self.path))?;
        let io = |operation| {
            let path = &self.path;
            move |source| io_error(operation, path, end, source)
        };
        // What was reserved and not needed.
        file.set_len(summary.file_length.get()).map_err(io("cut"))?;
        file.sync_all().map_err(io("sync"))?;
        sync_folder(&self.path).map_err(io("sync the folder of"))?;
        Ok(SealedLog::trusted(self.path, &head, keys, summary))
    }
}

pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

pub(crate) fn io_error(operation: &'static str, path: &Path, at: u64, source: io::Error) -> Error {
    Error::Io {
        operation,
        path: path.into(),
        at,
        source,
    }
}
