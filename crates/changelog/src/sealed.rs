//! A log that is sealed and proved.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use afterimage_block::{BlockWrite, Extent, Length};

use crate::apply::{Applied, apply_pieces, apply_records};
use crate::codec::Codec;
use crate::digest::Digesting;
use crate::fields::all_zero;
use crate::file::{LogFile, ReadAt};
use crate::footer;
use crate::header::Head;
use crate::index::Stored;
use crate::pages::PIECE;
use crate::reader::{Record, StreamReader, Tail, label};
use crate::resolve::Resolver;
use crate::writer::io_error;
use crate::{
    BarrierMark, Error, Form, Index, IndexedLog, Keys, Kind, LogHeader, Piece, Result, Summary,
    Trailer,
};

/// The bytes of a footer that are read at a time: whole entries, behind a head.
const FOOTER_STEP: usize = 1 << 20;

/// A sealed log file. It exists only where every record, the content's digest and the index were
/// proved, or where it has just been sealed.
#[derive(Clone, Debug)]
pub struct SealedLog {
    path: PathBuf,
    header: LogHeader,
    form: Form,
    keys: Keys,
    summary: Summary,
}

impl SealedLog {
    pub(crate) fn trusted(path: PathBuf, head: &Head, keys: Keys, summary: Summary) -> Self {
        Self {
            path,
            header: head.header,
            form: head.form,
            keys,
            summary,
        }
    }

    /// Opens the sealed log at `path`, which is not encrypted, and proves all of it: every record's
    /// checksum, the content's digest, and that the index is what the records make of it. Reads the
    /// file once, in bounded memory but for the index.
    ///
    /// # Errors
    /// As [`open_with`](Self::open_with).
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_with(path, &Keys::none())
    }

    /// As [`open`](Self::open), of a log whose key is among `keys` if it has one: every record is
    /// decrypted, too. The log keeps the keys, for what is read of it later.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NotSealed`], [`Error::NewerVersion`], [`Error::Damaged`];
    /// [`Error::NoKey`]; [`Error::NoCipher`], [`Error::NoCompression`] if a feature is missing.
    pub fn open_with(path: &Path, keys: &Keys) -> Result<Self> {
        let file = LogFile::open(path)?;
        let (summary, index, footer_at) = read_footer(&file, keys)?;
        // Nothing was read but by position: the file stands at its beginning.
        let mut body = Digesting::new(file.into_source(), footer_at);
        let mut reader = StreamReader::with_keys(&mut body, keys)?;
        let (mut records, mut payload, mut bytes) = (0, Length::ZERO, Vec::new());
        let (mut proved, mut resized) = (Resolver::default(), None);
        while let Some((record, header)) = reader.read_into(&mut bytes)? {
            records += 1;
            payload = payload.saturating_add(header.payload);
            if resized.is_some() && (header.extent.is_some() || header.resized.is_some()) {
                return Err(Error::damaged(record, "a change follows a resize"));
            }
            resized = header.resized.or(resized);
            match header.kind {
                Kind::Barrier => drop(BarrierMark::parse(&bytes, record)?),
                Kind::Bookmark => drop(label(&bytes, record)?),
                _ => {}
            }
            if let Some(extent) = header.extent {
                let kind = header.kind;
                let skip = 0;
                proved.add(extent, Stored { kind, record, skip });
            }
        }
        match reader.tail() {
            Some(Tail::Torn { at, reason }) => {
                return Err(Error::damaged_record(records, at, reason));
            }
            _ if reader.position() != footer_at => {
                return Err(Error::damaged(
                    reader.position(),
                    "records end before the footer",
                ));
            }
            _ => {}
        }
        let head = reader.head().clone();
        let agrees = proved.finish().iter().eq(index.iter());
        let counted = (records, payload, resized);
        if !agrees || counted != (summary.records, summary.payload, summary.resized) {
            return Err(Error::damaged(
                footer_at,
                "the footer does not agree with the records",
            ));
        }
        // All of it was read: the records end where the footer begins.
        if body.finish() != summary.content {
            return Err(Error::damaged(
                footer_at,
                "the content's digest does not match",
            ));
        }
        Ok(Self::trusted(path.into(), &head, keys.clone(), summary))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it is of.
    pub fn header(&self) -> &LogHeader {
        &self.header
    }

    /// How its records are stored.
    pub fn form(&self) -> Form {
        self.form
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// What it holds.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Its index, read anew.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Damaged`] if the file was changed since it was proved.
    pub fn index(&self) -> Result<Index> {
        let (summary, index, footer_at) = read_footer(&LogFile::open(&self.path)?, &self.keys)?;
        self.check_same(&summary, footer_at)?;
        Ok(index)
    }

    /// Where the newest state of what it changes in `extent` is, cut to fit, in order: found without
    /// reading all of the index. For many lookups, or to read the bytes, see [`IndexedLog`].
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::InFile`] if the file was changed since it was proved.
    pub fn lookup(&self, extent: Extent) -> Result<Vec<Piece>> {
        let log = IndexedLog::open(&self.path, &self.keys)?;
        self.check_same(log.summary(), self.summary.file_length.get())?;
        log.lookup(extent)
    }

    /// Refuses a footer at `at` that is of another log.
    fn check_same(&self, found: &Summary, at: u64) -> Result<()> {
        if *found == self.summary {
            return Ok(());
        }
        let error = Error::damaged(at, "the log was replaced by another meanwhile");
        Err(error.in_file(&self.path))
    }

    /// Hands its records to `take`, in order, labels included.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::InFile`] if the file was changed since it was proved; what `take`
    /// returns.
    pub fn records(&self, mut take: impl FnMut(&Record) -> Result<()>) -> Result<()> {
        let file = File::open(&self.path);
        let file = file.map_err(|source| io_error("open", &self.path, 0, source))?;
        let file = BufReader::with_capacity(64 << 10, file);
        let mut reader =
            StreamReader::with_keys(file, &self.keys).map_err(|error| error.in_file(&self.path))?;
        let mut records = 0;
        loop {
            let record = reader.next_record();
            let Some(record) = record.map_err(|error| error.in_file(&self.path))? else {
                break;
            };
            records += 1;
            take(&record)?;
        }
        let changed = match reader.tail() {
            Some(Tail::Torn { at, reason }) => Error::damaged_record(records, at, reason),
            _ if records != self.summary.records => {
                Error::damaged(reader.position(), "records were lost meanwhile")
            }
            _ => return Ok(()),
        };
        Err(changed.in_file(&self.path))
    }

    /// Refuses a disk that is not of the size of the log's.
    ///
    /// # Errors
    /// [`Error::WrongDisk`].
    pub fn check_fits(&self, size: Length) -> Result<()> {
        if size == self.header.disk_size {
            return Ok(());
        }
        Err(Error::WrongDisk {
            found: self.header.disk,
            found_size: self.header.disk_size,
            size,
        })
    }

    /// Makes its changes on `disk`, each byte once, in the order of the disk. Making them again
    /// changes nothing. The disk is not flushed.
    ///
    /// # Errors
    /// [`Error::WrongDisk`] before anything is written if the size differs; [`Error::Io`],
    /// [`Error::Disk`]: some changes are then made, and it is to be applied again.
    pub fn apply(&self, disk: &(impl BlockWrite + ?Sized)) -> Result<Applied> {
        self.check_fits(disk.size())?;
        let index = self.index()?;
        if !self.form.is_plain() {
            return apply_records(self, &index, disk);
        }
        let pieces: Vec<_> = index.iter().collect();
        apply_pieces(&LogFile::open(&self.path)?, &pieces, disk)
    }

    /// The extents that it changes.
    ///
    /// # Errors
    /// As [`index`](Self::index).
    pub fn extents(&self) -> Result<Vec<Extent>> {
        Ok(self.index()?.iter().map(|piece| piece.extent).collect())
    }
}

/// Summary, index and the footer's position of a sealed log, whose key is among `keys` if it has one.
pub(crate) fn read_footer(file: &LogFile<'_>, keys: &Keys) -> Result<(Summary, Index, u64)> {
    let mut head = Vec::new();
    file.read_up_to(&mut head, 0, LogHeader::LEN)?;
    if file.length() < (LogHeader::LEN + Trailer::LEN) as u64 {
        return Err(Error::NotSealed);
    }
    let codec = Codec::of(&head, keys)?;
    let trailer = read_trailer(file)?;
    let length = trailer.footer_length.to_usize().unwrap_or(usize::MAX);
    let mut footer = Vec::new();
    read_entries(file, &mut footer, trailer.footer_at, length)?;
    let (size, cipher) = (codec.header().disk_size, codec.footer_cipher());
    let (index, summary) = Index::parse_with(&footer, &trailer, size, cipher)?;
    Ok((summary, index, trailer.footer_at))
}

pub(crate) fn read_trailer<S: ReadAt>(file: &LogFile<'_, S>) -> Result<Trailer> {
    let mut tail = Vec::new();
    let tail_at = file.length().saturating_sub(Trailer::LEN as u64);
    file.read_up_to(&mut tail, tail_at, Trailer::LEN)?;
    Trailer::parse(&tail, Length::new(file.length()))
}

/// Reads the first `length` bytes of the footer at `at`, of which some may be in `footer` already. What
/// is announced may be the hole of a sparse file, so memory grows with what is really there: no entry
/// of an index is all zeros, nor are two of a fence table.
pub(crate) fn read_entries<S: ReadAt>(
    file: &LogFile<'_, S>,
    footer: &mut Vec<u8>,
    at: u64,
    length: usize,
) -> Result<()> {
    footer.truncate(length);
    while footer.len() < length {
        let start = footer.len();
        let at = at + start as u64;
        footer.resize(length.min(start + FOOTER_STEP), 0);
        let part = footer.get_mut(start..).unwrap_or_default();
        file.read(part, at)?;
        // The head is no entry, and may be zeros in part.
        let head = if start == 0 { footer::Head::LEN_MAX } else { 0 };
        let entries = part.get(head..).unwrap_or_default();
        if entries.chunks(PIECE).any(all_zero) {
            return Err(Error::damaged(at, "the index has an empty entry"));
        }
    }
    Ok(())
}
