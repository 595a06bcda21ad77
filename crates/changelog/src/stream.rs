//! A log that is written to whatever takes bytes.

use std::borrow::Cow;
use std::io::{self, IoSlice, Write};
use std::path::PathBuf;

use afterimage_block::{Change, ContentDigest, Extent, Length, Lsn, Timestamp};
use bytes::Bytes;

use crate::digest::Digester;
use crate::encoder::{Encoded, Encoder};
use crate::header::Head;
use crate::{
    BarrierMark, Error, Form, LogHeader, PAYLOAD_MAX, Packing, Piece, Provenance, Record,
    RecordHeader, Result, Summary,
};

/// The most records in one vectored write: Linux takes 1024 pieces of memory.
const GROUP: usize = 512;

/// Limits of a log, and how it is stored.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WriterOptions {
    /// The longest the log may grow before it is sealed, with what is written counted in full even if
    /// it is to be compressed. Default none.
    pub quota: Option<Length>,
    /// The most pieces that the index in memory may have: 64 bytes each, roughly. Default 1 048 576.
    pub pieces_max: usize,
    /// Space of a file is reserved this much at a time, within the quota, so that a file is in few parts, a force need not write
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

/// A log that is written to a pipe, a buffer, an object under way to a store: to any [`Write`]. It is
/// only ever appended to, so nothing needs a place in it to be written to.
///
/// A change is one vectored write of a record's header and the borrowed payload, and so are many
/// changes at once ([`append_batch`](Self::append_batch)); no payload is copied that is stored as it
/// is. The content is digested as it goes, once there is a megabyte of it on a thread of its own. What
/// is durable, and when, is the business of what is written to. After a write that failed the log takes
/// no more.
///
/// [`FileWriter`](crate::FileWriter) writes the same bytes to a file, and forces them.
///
/// ```
/// use afterimage_block::*;
/// use afterimage_changelog::*;
///
/// let header = LogHeader {
///     disk: DiskId::random(),
///     disk_size: Length::mib(1),
///     epoch: Epoch::new(1),
///     first: Sequence::new(1),
///     last: Sequence::new(1),
///     created: Timestamp::default(),
/// };
/// let mut log = StreamWriter::new(Vec::new(), header, WriterOptions::default())?;
/// log.append(Change::Write { offset: Offset::new(512), data: b"after" }, Timestamp::default())?;
/// let (bytes, summary) = log.seal(ContentDigest::NONE)?;
/// assert_eq!(bytes.len() as u64, summary.file_length.get());
///
/// let record = Reader::new(bytes.into())?.next().expect("what was appended");
/// assert_eq!(&record.payload[..], b"after");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct StreamWriter<W> {
    to: W,
    encoder: Encoder,
    options: WriterOptions,
    poisoned: bool,
    /// The digest of what was appended, if it is kept.
    digest: Option<Digester>,
}

impl<W: Write> StreamWriter<W> {
    /// Begins a log with what is written to `to`, which takes nothing else meanwhile.
    /// [`WriterOptions::reserve`] is for files.
    ///
    /// # Errors
    /// [`Error::Io`], its path empty, as in all errors of this type; [`Error::NoRandomness`] if it is
    /// to be encrypted.
    pub fn new(to: W, header: LogHeader, options: WriterOptions) -> Result<Self> {
        Ok(Self::undigested(to, header, options)?.digesting())
    }

    /// The same for something that can be read again when the log is sealed.
    pub(crate) fn undigested(to: W, header: LogHeader, options: WriterOptions) -> Result<Self> {
        let (encoder, head) = Encoder::packed(header, &options.packing)?;
        let mut log = Self {
            to,
            encoder,
            options,
            poisoned: false,
            digest: None,
        };
        let written = log.to.write_all(&head);
        written.map_err(|source| failed("create", 0, source))?;
        Ok(log)
    }

    /// Digests what is appended from now on. It makes each append slower, and a long log is digested
    /// on a thread.
    pub(crate) fn digesting(mut self) -> Self {
        debug_assert_eq!(self.records(), 0, "nothing was appended before");
        let mut digest = Digester::new();
        digest.add_slices(&[IoSlice::new(&self.head().bytes)]);
        self.digest = Some(digest);
        self
    }

    /// Appends a change that was made at `time`; returns the number of its first record.
    ///
    /// # Errors
    /// [`Error::OverQuota`], [`Error::IndexFull`], [`Error::Resized`] and [`Error::OutOfRange`] leave
    /// the log as it was; [`Error::Io`] poisons it; [`Error::Poisoned`].
    pub fn append(&mut self, change: Change<'_>, time: Timestamp) -> Result<Lsn> {
        self.room_for([payload_of(change)])?;
        let (first, start) = (Lsn::new(self.records()), self.position());
        let Self {
            to,
            encoder,
            digest,
            ..
        } = self;
        let mut records = encoder.change(change, time)?;
        let written = records.try_for_each(|record| write_record(to, digest, &record));
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
        self.room_for(changes.iter().map(|(change, _)| payload_of(*change)))?;
        for (change, _) in changes {
            self.encoder.check(*change)?;
        }
        let (first, start) = (Lsn::new(self.records()), self.position());
        let mut records = Vec::with_capacity(changes.len());
        for (change, time) in changes {
            records.extend(self.encoder.change(*change, *time)?);
        }
        let mut groups = records.chunks(GROUP);
        let (to, digest) = (&mut self.to, &mut self.digest);
        let written = groups.try_for_each(|group| write_group(to, digest, group));
        self.written(start, written)?;
        Ok(first)
    }

    /// The same of changes of at most [`PAYLOAD_MAX`], the data of each of which lie in the bytes with it:
    /// they need not be copied to be digested.
    pub(crate) fn append_shared(
        &mut self,
        changes: &[(Change<'_>, Timestamp, &Bytes)],
    ) -> Result<()> {
        self.room_for(changes.iter().map(|(change, ..)| payload_of(*change)))?;
        for (change, ..) in changes {
            self.encoder.check(*change)?;
        }
        let start = self.position();
        let mut headers = Vec::with_capacity(changes.len() * RecordHeader::LEN);
        let mut payloads = Vec::with_capacity(changes.len());
        for (change, time, data) in changes {
            for record in self.encoder.change(*change, *time)? {
                headers.extend_from_slice(&record.header);
                payloads.push(match record.payload {
                    Cow::Borrowed(payload) => data.slice_ref(payload),
                    Cow::Owned(payload) => payload.into(),
                });
            }
        }
        let mut headers = Bytes::from(headers);
        let records = payloads.into_iter();
        let records = records.flat_map(|payload| [headers.split_to(RecordHeader::LEN), payload]);
        let records: Vec<_> = records.filter(|part| !part.is_empty()).collect();
        let mut slices: Vec<_> = records.iter().map(|part| IoSlice::new(part)).collect();
        let mut groups = slices.chunks_mut(2 * GROUP);
        let written = groups.try_for_each(|group| write_slices(&mut self.to, group));
        if let Some(digest) = &mut self.digest {
            digest.add(records);
        }
        self.written(start, written)
    }

    /// Appends a label.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn bookmark(&mut self, label: &str, time: Timestamp) -> Result<Lsn> {
        self.room_for([label.len() as u64])?;
        let start = self.position();
        let record = self.encoder.bookmark(label, time);
        self.write(start, &record)
    }

    /// Appends a barrier. Those of all logs of a machine have the same group.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn barrier(&mut self, mark: &BarrierMark<'_>, time: Timestamp) -> Result<Lsn> {
        self.room_for([mark.length()])?;
        let start = self.position();
        let payload = mark.encode();
        let record = self.encoder.barrier(&payload, time);
        self.write(start, &record)
    }

    /// Appends that the disk now has `size`. The log takes no more changes: those of the disk as it
    /// is now go to the next one, whose header has the new size.
    ///
    /// # Errors
    /// As [`append`](Self::append); [`Error::NotASize`], [`Error::Resized`].
    pub fn resize(&mut self, size: Length, time: Timestamp) -> Result<Lsn> {
        self.room_for([0])?;
        let start = self.position();
        let record = self.encoder.resize(size, time)?;
        self.write(start, &record)
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

    /// Ends the log with its index and digests, and flushes what it was written to, which is given
    /// back.
    ///
    /// `provenance` says what it follows: the content digest of the disk's log before this one, or
    /// [`ContentDigest::NONE`] if there is none; and which states of the disk it leads from and to.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Poisoned`]. What was written is then an open log, or a torn one.
    pub fn seal(mut self, provenance: impl Into<Provenance>) -> Result<(W, Summary)> {
        let content = self.content().ok_or(Error::Poisoned)?;
        self.seal_as(content, provenance)
    }

    /// Ends the log, whose content has this digest.
    pub(crate) fn seal_as(
        mut self,
        content: ContentDigest,
        provenance: impl Into<Provenance>,
    ) -> Result<(W, Summary)> {
        self.check_sound()?;
        let end = self.position();
        let (bytes, summary) = self.encoder.seal(content, provenance);
        let written = self.to.write_all(&bytes).and_then(|()| self.to.flush());
        written.map_err(|source| failed("write", end, source))?;
        Ok((self.to, summary))
    }

    /// The digest of all that was appended, if it was kept. It is asked for once.
    pub(crate) fn content(&mut self) -> Option<ContentDigest> {
        self.digest.take().map(Digester::finish)
    }

    /// How far the log reaches at most once changes with `payloads` are appended, all of which there
    /// must be room for.
    pub(crate) fn room_for(&mut self, payloads: impl IntoIterator<Item = u64>) -> Result<u64> {
        self.check_sound()?;
        let (mut needs, mut changes) = (self.position(), 0);
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
        Ok(needs)
    }

    fn write(&mut self, start: u64, record: &Encoded<'_>) -> Result<Lsn> {
        let written = write_record(&mut self.to, &mut self.digest, record);
        self.written(start, written)?;
        Ok(record.lsn)
    }

    /// Poisons the log if `written` failed.
    fn written(&mut self, start: u64, written: io::Result<()>) -> Result<()> {
        self.poisoned |= written.is_err();
        written.map_err(|source| failed("write", start, source))
    }
}

impl<W> StreamWriter<W> {
    /// What it is of.
    pub fn header(&self) -> &LogHeader {
        self.encoder.header()
    }

    /// How its records are stored.
    pub fn form(&self) -> Form {
        self.encoder.form()
    }

    /// The length of the log so far.
    pub fn length(&self) -> Length {
        Length::new(self.position())
    }

    /// The number of records so far.
    pub fn records(&self) -> u64 {
        self.encoder.records()
    }

    /// The share of its limits that the log has used, 0 to 100 percent: of its index' pieces.
    pub fn index_used_percent(&self) -> usize {
        self.encoder.pieces().saturating_mul(100) / self.options.pieces_max.max(1)
    }

    /// What it is written to.
    pub fn get_ref(&self) -> &W {
        &self.to
    }

    pub(crate) fn head(&self) -> &Head {
        self.encoder.head()
    }

    pub(crate) fn options(&self) -> &WriterOptions {
        &self.options
    }

    pub(crate) fn position(&self) -> u64 {
        self.encoder.position()
    }

    /// The newest state of the bytes of `extent` that were changed, in order.
    pub(crate) fn newest_within(&mut self, extent: Extent) -> impl Iterator<Item = Piece> {
        self.encoder.newest_within(extent)
    }

    /// Refuses what comes from an encrypted log if it would be stored as plain text.
    pub(crate) fn check_source(&self, encrypted: bool) -> Result<()> {
        self.options.packing.check_source(encrypted)
    }

    /// Refuses a log of which a write failed.
    pub(crate) fn check_sound(&self) -> Result<()> {
        if self.poisoned {
            return Err(Error::Poisoned);
        }
        Ok(())
    }

    /// Lets it take no more.
    pub(crate) fn poison(&mut self) {
        self.poisoned = true;
    }
}

/// The bytes of a change that go into its records.
pub(crate) fn payload_of(change: Change<'_>) -> u64 {
    match change {
        Change::Write { data, .. } => data.len() as u64,
        Change::WriteZeroes(_) | Change::Discard(_) => 0,
    }
}

fn failed(operation: &'static str, at: u64, source: io::Error) -> Error {
    Error::Io {
        operation,
        path: PathBuf::new(),
        at,
        source,
    }
}

fn write_record(
    to: &mut impl Write,
    digest: &mut Option<Digester>,
    record: &Encoded<'_>,
) -> io::Result<()> {
    let mut slices = [IoSlice::new(&record.header), IoSlice::new(&record.payload)];
    let used = if record.payload.is_empty() { 1 } else { 2 };
    let slices = slices.get_mut(..used).unwrap_or_default();
    update(digest, slices);
    write_slices(to, slices)
}

/// Writes at most [`GROUP`] records.
fn write_group(
    to: &mut impl Write,
    digest: &mut Option<Digester>,
    records: &[Encoded<'_>],
) -> io::Result<()> {
    let slices = records
        .iter()
        .flat_map(|record| [IoSlice::new(&record.header), IoSlice::new(&record.payload)]);
    let mut slices: Vec<_> = slices.filter(|slice| !slice.is_empty()).collect();
    update(digest, &slices);
    write_slices(to, &mut slices)
}

fn update(digest: &mut Option<Digester>, slices: &[IoSlice<'_>]) {
    if let Some(digest) = digest {
        digest.add_slices(slices);
    }
}

fn write_slices(to: &mut impl Write, mut left: &mut [IoSlice<'_>]) -> io::Result<()> {
    while !left.is_empty() {
        match to.write_vectored(left) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut left, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
