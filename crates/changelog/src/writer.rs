//! A log file that is being written.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use afterimage_block::{Change, Extent, Length, Lsn, Timestamp};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::digest::{Digester, digest_of};
use crate::encoder::{Encoded, Encoder};
use crate::file::LogFile;
use crate::{
    BarrierMark, Error, Form, LogHeader, PAYLOAD_MAX, Packing, Piece, Provenance, Record,
    RecordHeader, Result, SealedLog,
};

/// The most records in one vectored write: Linux takes 1024 pieces of memory.
const GROUP: usize = 512;

/// Limits of a log, and how it is stored.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WriterOptions {
    /// The longest the file may grow before it is sealed, with what is written counted in full even if
    /// it is to be compressed. Default none.
    pub quota: Option<Length>,
    /// The most pieces that the index in memory may have: 64 bytes each, roughly. Default 1 048 576.
    pub pieces_max: usize,
    /// Space is reserved this much at a time, within the quota, so that a file is in few parts, a force need not write
    /// its length each time, and a full disk is found before a record is torn. Default not at all.
    pub reserve: Option<Length>,
    /// How its records are stored. Default as they are.
    pub packing: Packing,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self {
            quota: None,
            pieces_max: 1 << 20,
            reserve: None,
            packing: Packing::default(),
        }
    }
}

impl WriterOptions {
    /// With a quota.
    pub fn with_quota(mut self, quota: Length) -> Self {
        self.quota = Some(quota);
        self
    }

    /// With space reserved `step` at a time.
    pub fn with_reserve(mut self, step: Length) -> Self {
        self.reserve = Some(step);
        self
    }

    /// With records stored as `packing` says.
    pub fn with_packing(mut self, packing: Packing) -> Self {
        self.packing = packing;
        self
    }
}

/// A log file that is being written, by appending.
///
/// A change is one vectored write of a record's header and the borrowed payload, and so are many
/// changes at once ([`append_batch`](Self::append_batch)); no payload is copied that is stored as it is. Nothing is durable before [`sync`](Self::sync) or [`seal`](Self::seal). After a write or
/// force that failed, the log takes no more: what it holds can still be recovered.
#[derive(Debug)]
pub struct FileWriter {
    file: File,
    path: PathBuf,
    encoder: Encoder,
    options: WriterOptions,
    poisoned: bool,
    /// How far space is reserved.
    reserved: u64,
    /// The digest of what was appended, if it is kept.
    digest: Option<Digester>,
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
        let (encoder, bytes) = Encoder::packed(header, &options.packing)?;
        let file = open
            .read(true)
            .write(true)
            .open(path)
            .and_then(|mut file| file.write_all(&bytes).map(|()| file))
            .map_err(|source| io_error("create", path, 0, source))?;
        Ok(Self {
            file,
            path: path.into(),
            encoder,
            options,
            poisoned: false,
            reserved: 0,
            digest: None,
        })
    }

    /// Digests what is appended from now on, so that sealing need not read it again. For a log that
    /// nobody waits for: it makes each append slower, and a long log is digested on a thread.
    pub(crate) fn digesting(mut self) -> Self {
        debug_assert_eq!(self.records(), 0, "nothing was appended before");
        let mut digest = Digester::new();
        digest.add_slices(&[IoSlice::new(&self.encoder.head().bytes)]);
        self.digest = Some(digest);
        self
    }

    /// Appends a change that was made at `time`; returns the number of its first record.
    ///
    /// # Errors
    /// [`Error::OverQuota`], [`Error::IndexFull`], [`Error::Resized`] and [`Error::OutOfRange`] leave
    /// the log as it was; [`Error::Io`] does where space could not be reserved, and else poisons it;
    /// [`Error::Poisoned`].
    pub fn append(&mut self, change: Change<'_>, time: Timestamp) -> Result<Lsn> {
        self.check_room([payload_of(change)])?;
        let first = Lsn::new(self.encoder.records());
        let start = self.encoder.position();
        let Self {
            file,
            encoder,
            digest,
            ..
        } = self;
        let mut records = encoder.change(change, time)?;
        let written = records.try_for_each(|record| write_record(file, digest, &record));
        drop(records);
        self.written(start, written)?;
        Ok(first)
    }

    /// Appends changes, each with the time at which it was made, in one vectored write for 512
    /// records: all of them or, after an error, none. Returns the number of the first record.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn append_batch(&mut self, changes: &[(Change<'_>, Timestamp)]) -> Result<Lsn> {
        self.check_room(changes.iter().map(|(change, _)| payload_of(*change)))?;
        for (change, _) in changes {
            self.encoder.check(*change)?;
        }
        let first = Lsn::new(self.encoder.records());
        let start = self.encoder.position();
        let mut records = Vec::with_capacity(changes.len());
        for (change, time) in changes {
            records.extend(self.encoder.change(*change, *time)?);
        }
        let mut groups = records.chunks(GROUP);
        let written =
            groups.try_for_each(|group| write_group(&mut self.file, &mut self.digest, group));
        self.written(start, written)?;
        Ok(first)
    }

    /// Appends a label.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn bookmark(&mut self, label: &str, time: Timestamp) -> Result<Lsn> {
        self.check_room([label.len() as u64])?;
        let start = self.encoder.position();
        let record = self.encoder.bookmark(label, time);
        let written = write_record(&mut self.file, &mut self.digest, &record);
        self.written(start, written)?;
        Ok(record.lsn)
    }

    /// Appends a barrier. Those of all logs of a machine have the same group.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn barrier(&mut self, mark: &BarrierMark<'_>, time: Timestamp) -> Result<Lsn> {
        let payload = mark.encode();
        self.check_room([payload.len() as u64])?;
        let start = self.encoder.position();
        let record = self.encoder.barrier(&payload, time);
        let written = write_record(&mut self.file, &mut self.digest, &record);
        self.written(start, written)?;
        Ok(record.lsn)
    }

    /// Appends that the disk now has `size`. The log takes no more changes: those of the disk as it
    /// is now go to the next one, whose header has the new size.
    ///
    /// # Errors
    /// As [`append`](Self::append); [`Error::NotASize`], [`Error::Resized`].
    pub fn resize(&mut self, size: Length, time: Timestamp) -> Result<Lsn> {
        self.check_room([0])?;
        let start = self.encoder.position();
        let record = self.encoder.resize(size, time)?;
        let written = write_record(&mut self.file, &mut self.digest, &record);
        self.written(start, written)?;
        Ok(record.lsn)
    }

    /// Appends what a record of another log says, at its time.
    ///
    /// # Errors
    /// As [`append`](Self::append) and [`resize`](Self::resize); [`Error::Damaged`] if it is a
    /// barrier or a bookmark that makes no sense; [`Error::WouldExpose`] if it comes from an encrypted
    /// log and this one is not, unless plain text is allowed.
    pub fn append_record(&mut self, record: &Record) -> Result<Lsn> {
        self.check_source(record.header.encrypted)?;
        let time = record.time();
        if let Some(change) = record.change() {
            return self.append(change, time);
        }
        if let Some(size) = record.header.resized {
            return self.resize(size, time);
        }
        if let Some(mark) = record.barrier()? {
            return self.barrier(&mark, time);
        }
        self.bookmark(record.label()?.unwrap_or_default(), time)
    }

    /// Refuses what comes from an encrypted log if it would be stored as plain text.
    pub(crate) fn check_source(&self, encrypted: bool) -> Result<()> {
        self.options.packing.check_source(encrypted)
    }

    /// Refuses changes with `payloads` unless there is room for all of them.
    fn check_room(&mut self, payloads: impl IntoIterator<Item = u64>) -> Result<()> {
        if self.poisoned {
            return Err(Error::Poisoned);
        }
        let (mut needs, mut changes) = (self.encoder.position(), 0);
        let overhead = (RecordHeader::LEN + self.encoder.overhead()) as u64;
        for payload in payloads {
            let records = payload.div_ceil(PAYLOAD_MAX.get()).max(1);
            needs = needs.saturating_add(payload + records * overhead);
            changes += 1;
        }
        if let Some(quota) = self.options.quota.filter(|quota| needs > quota.get()) {
            return Err(Error::OverQuota { quota });
        }
        let limit = self.options.pieces_max;
        if !self.encoder.has_room((limit + 1).saturating_sub(changes)) {
            return Err(Error::IndexFull { limit });
        }
        self.reserve(needs)
    }

    /// Sees that space up to `end` is reserved, if it is to be. What is reserved reads as zeros,
    /// which end the records of a log that was not sealed.
    fn reserve(&mut self, end: u64) -> Result<()> {
        let Some(step) = self.options.reserve.filter(|_| end > self.reserved) else {
            return Ok(());
        };
        let from = self.encoder.position();
        let quota = self.options.quota.map_or(u64::MAX, Length::get);
        let length = end.saturating_add(step.get()).min(quota) - from;
        match fallocate(&self.file, FallocateFlags::empty(), from, length) {
            Ok(()) => self.reserved = from.saturating_add(length),
            // Without it, all is as without the option.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.options.reserve = None,
            Err(error) => return Err(io_error("reserve space of", &self.path, from, error.into())),
        }
        Ok(())
    }

    /// Poisons the log if `written` failed, and cuts the torn record off where that is possible.
    fn written(&mut self, start: u64, written: io::Result<()>) -> Result<()> {
        written.map_err(|source| {
            self.poisoned = true;
            // Best effort: a reader finds the tear by itself.
            let _ = self.file.set_len(start);
            io_error("write", &self.path, start, source)
        })
    }

    /// Makes everything appended so far durable.
    ///
    /// # Errors
    /// [`Error::Io`] poisons the log: what was appended since the last force may be lost, and a later
    /// success would not bring it back. [`Error::Poisoned`].
    pub fn sync(&mut self) -> Result<()> {
        if self.poisoned {
            return Err(Error::Poisoned);
        }
        self.file.sync_data().map_err(|source| {
            self.poisoned = true;
            io_error("sync", &self.path, self.encoder.position(), source)
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
        self.encoder.newest_within(extent)
    }

    /// How its records are stored.
    pub fn form(&self) -> Form {
        self.encoder.form()
    }

    /// What it is of.
    pub fn header(&self) -> &LogHeader {
        self.encoder.header()
    }

    /// The length of the file so far.
    pub fn length(&self) -> Length {
        Length::new(self.encoder.position())
    }

    /// The number of records so far.
    pub fn records(&self) -> u64 {
        self.encoder.records()
    }

    /// The share of its limits that the log has used, 0 to 100 percent: of its index' pieces.
    pub fn index_used_percent(&self) -> usize {
        self.encoder.pieces().saturating_mul(100) / self.options.pieces_max.max(1)
    }

    /// Ends the log: appends its index and digests, and makes file and folder entry durable.
    ///
    /// `provenance` says what it follows: the content digest of the disk's log before this one, or
    /// [`ContentDigest::NONE`](afterimage_block::ContentDigest::NONE) if there is none; and which states of the disk it leads from and to.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Poisoned`]. The file is left as it is: open, or torn.
    pub fn seal(mut self, provenance: impl Into<Provenance>) -> Result<SealedLog> {
        if self.poisoned {
            return Err(Error::Poisoned);
        }
        let (head, end) = (self.encoder.head().clone(), self.encoder.position());
        let content = match self.digest.take() {
            Some(digest) => digest.finish(),
            None => digest_of(&LogFile::over(&self.file, &*self.path)?, end)?,
        };
        let (bytes, summary) = self.encoder.seal(content, provenance);
        let io = |operation| {
            let path = &self.path;
            move |source| io_error(operation, path, end, source)
        };
        self.file.seek(SeekFrom::Start(end)).map_err(io("write"))?;
        self.file.write_all(&bytes).map_err(io("write"))?;
        self.file
            .set_len(summary.file_length.get())
            .map_err(io("cut"))?;
        self.file.sync_all().map_err(io("sync"))?;
        sync_folder(&self.path).map_err(io("sync the folder of"))?;
        let keys = self.options.packing.keys().clone();
        Ok(SealedLog::trusted(self.path, &head, keys, summary))
    }
}

/// The bytes of a change that go into its records.
fn payload_of(change: Change<'_>) -> u64 {
    match change {
        Change::Write { data, .. } => data.len() as u64,
        Change::WriteZeroes(_) | Change::Discard(_) => 0,
    }
}

fn write_record(
    file: &mut File,
    digest: &mut Option<Digester>,
    record: &Encoded<'_>,
) -> io::Result<()> {
    let mut slices = [IoSlice::new(&record.header), IoSlice::new(&record.payload)];
    let used = if record.payload.is_empty() { 1 } else { 2 };
    let slices = slices.get_mut(..used).unwrap_or_default();
    update(digest, slices);
    write_slices(file, slices)
}

/// Writes at most [`GROUP`] records.
fn write_group(
    file: &mut File,
    digest: &mut Option<Digester>,
    records: &[Encoded<'_>],
) -> io::Result<()> {
    let slices = records
        .iter()
        .flat_map(|record| [IoSlice::new(&record.header), IoSlice::new(&record.payload)]);
    let mut slices: Vec<_> = slices.filter(|slice| !slice.is_empty()).collect();
    update(digest, &slices);
    write_slices(file, &mut slices)
}

fn update(digest: &mut Option<Digester>, slices: &[IoSlice<'_>]) {
    if let Some(digest) = digest {
        digest.add_slices(slices);
    }
}

fn write_slices(file: &mut File, mut left: &mut [IoSlice<'_>]) -> io::Result<()> {
    while !left.is_empty() {
        match file.write_vectored(left) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut left, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
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
