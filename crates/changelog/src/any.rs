//! Logs of either format.

use std::path::Path;

use afterimage_block::{BlockWrite, Change, ContentDigest, DiskId, Extent, Length, Timestamp};

use crate::file::LogFile;
use crate::hrl::begins_as_hrl;
use crate::{
    Applied, DiskStates, Error, Form, HrlLog, Keys, LogHeader, Piece, Result, SealedLog,
    StateDigest,
};

/// A log that was proved, of any format: what there is to know of a log in order to apply, convert
/// or undo it.
pub trait ChangeLog {
    /// Where it is.
    fn path(&self) -> &Path;

    /// The disk that it is of; `None` if the format does not say.
    fn disk(&self) -> Option<DiskId>;

    /// The digest that a log after it names as its predecessor; [`ContentDigest::NONE`] if the
    /// format has none.
    fn content(&self) -> ContentDigest;

    /// The states of the disk before and after, where they are known.
    fn states(&self) -> DiskStates;

    /// How its records are stored: as they are, unless the format knows more.
    fn form(&self) -> Form {
        Form::default()
    }

    /// Hands its changes and when each was made to `take`, in the order in which they were made.
    /// Writes come in pieces of at most [`PAYLOAD_MAX`](crate::PAYLOAD_MAX), which bounds the memory.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::InFile`] if the file was changed since it was proved; what `take`
    /// returns.
    fn changes(&self, take: &mut dyn FnMut(Timestamp, Change<'_>) -> Result<()>) -> Result<()>;

    /// Where the newest state of every changed byte is, in the order of the disk.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Damaged`], within [`Error::InFile`] or not, if the file was changed
    /// since it was proved.
    fn pieces(&self) -> Result<Vec<Piece>>;

    /// The extents that it changes, in the order of the disk.
    ///
    /// # Errors
    /// As [`pieces`](Self::pieces).
    fn extents(&self) -> Result<Vec<Extent>> {
        Ok(self.pieces()?.iter().map(|piece| piece.extent).collect())
    }

    /// Refuses a disk of `size` on which the log cannot be applied.
    ///
    /// # Errors
    /// [`Error::WrongDisk`] if the log's disk has another size; [`Error::OutOfRange`] within
    /// [`Error::InFile`] if it ends past the end and the format has no size; as
    /// [`pieces`](Self::pieces).
    fn check_fits(&self, size: Length) -> Result<()>;

    /// Makes its changes on `disk`, each byte once, in the order of the disk. Making them again
    /// changes nothing. The disk is not flushed.
    ///
    /// # Errors
    /// As [`check_fits`](Self::check_fits), before anything is written; [`Error::Io`],
    /// [`Error::Disk`]: some changes are then made, and it is to be applied again.
    fn apply(&self, disk: &dyn BlockWrite) -> Result<Applied>;

    /// Refuses a disk in the state `present` if the log is known to apply to another.
    ///
    /// # Errors
    /// [`Error::WrongState`] within [`Error::InFile`].
    fn check_state(&self, present: StateDigest) -> Result<()> {
        match self.states().before {
            Some(expected) if expected != present => {
                Err(Error::WrongState { expected, present }.in_file(self.path()))
            }
            _ => Ok(()),
        }
    }

    /// [Applies](Self::apply) it to `disk`, which is in the state `present`.
    ///
    /// # Errors
    /// As [`check_state`](Self::check_state), before anything is written; as [`apply`](Self::apply).
    /// Of an interrupted apply, the disk is in neither state: apply it again without saying one.
    fn apply_to_state(&self, present: StateDigest, disk: &dyn BlockWrite) -> Result<Applied> {
        self.check_state(present)?;
        self.apply(disk)
    }
}

impl ChangeLog for SealedLog {
    fn path(&self) -> &Path {
        self.path()
    }

    fn disk(&self) -> Option<DiskId> {
        Some(self.header().disk)
    }

    fn content(&self) -> ContentDigest {
        self.summary().content
    }

    fn states(&self) -> DiskStates {
        self.summary().states
    }

    fn form(&self) -> Form {
        self.form()
    }

    fn changes(&self, take: &mut dyn FnMut(Timestamp, Change<'_>) -> Result<()>) -> Result<()> {
        self.records(|record| match record.change() {
            Some(change) => take(record.time(), change),
            None => Ok(()),
        })
    }

    fn pieces(&self) -> Result<Vec<Piece>> {
        Ok(self.index()?.iter().collect())
    }

    fn check_fits(&self, size: Length) -> Result<()> {
        self.check_fits(size)
    }

    fn apply(&self, disk: &dyn BlockWrite) -> Result<Applied> {
        self.apply(disk)
    }
}

impl ChangeLog for HrlLog {
    fn path(&self) -> &Path {
        self.path()
    }

    fn disk(&self) -> Option<DiskId> {
        None
    }

    fn content(&self) -> ContentDigest {
        ContentDigest::NONE
    }

    fn states(&self) -> DiskStates {
        DiskStates::default()
    }

    fn changes(&self, take: &mut dyn FnMut(Timestamp, Change<'_>) -> Result<()>) -> Result<()> {
        self.writes(|time, offset, data| take(time, Change::Write { offset, data }))
    }

    fn pieces(&self) -> Result<Vec<Piece>> {
        self.index()
    }

    fn check_fits(&self, size: Length) -> Result<()> {
        self.check_fits(size)
    }

    fn apply(&self, disk: &dyn BlockWrite) -> Result<Applied> {
        self.apply(disk)
    }
}

/// A log of a format that was found out when it was opened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum AnyLog {
    /// Of the native format.
    Native(SealedLog),
    /// Of Hyper-V's.
    Hrl(HrlLog),
}

/// Opens the log at `path`, sealed or closed, of the format that it begins as, and proves all of it.
/// It is not encrypted.
///
/// ```
/// use afterimage_block::*;
/// use afterimage_changelog::*;
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("log");
/// let mut log = HrlWriter::create(&path, &HrlOptions::new(HrlId::random(), Timestamp::default()))?;
/// log.append(Change::Write { offset: Offset::new(512), data: b"after" }, Timestamp::default())?;
/// log.close(Timestamp::default())?;
///
/// let disk = MemoryDisk::new(Length::mib(1));
/// assert_eq!(open_log(&path)?.apply(&disk)?.written, Length::new(5));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// As [`open_log_with`].
pub fn open_log(path: &Path) -> Result<AnyLog> {
    open_log_with(path, &Keys::none())
}

/// As [`open_log`], of a log whose key is among `keys` if it has one.
///
/// # Errors
/// [`Error::Io`]; [`Error::InFile`] around [`Error::UnknownFormat`] or what
/// [`SealedLog::open_with`] or [`HrlLog::open`] refuse.
pub fn open_log_with(path: &Path, keys: &Keys) -> Result<AnyLog> {
    let mut magic = Vec::new();
    LogFile::open(path)?.read_up_to(&mut magic, 0, 8)?;
    if begins_as_hrl(&magic) {
        return HrlLog::open(path).map(AnyLog::Hrl);
    }
    let native = if LogHeader::begins(&magic) {
        SealedLog::open_with(path, keys).map(AnyLog::Native)
    } else {
        Err(Error::UnknownFormat)
    };
    native.map_err(|error| error.in_file(path))
}

impl AnyLog {
    fn log(&self) -> &dyn ChangeLog {
        match self {
            Self::Native(log) => log,
            Self::Hrl(log) => log,
        }
    }
}

impl ChangeLog for AnyLog {
    fn path(&self) -> &Path {
        self.log().path()
    }

    fn disk(&self) -> Option<DiskId> {
        self.log().disk()
    }

    fn content(&self) -> ContentDigest {
        self.log().content()
    }

    fn states(&self) -> DiskStates {
        self.log().states()
    }

    fn form(&self) -> Form {
        self.log().form()
    }

    fn changes(&self, take: &mut dyn FnMut(Timestamp, Change<'_>) -> Result<()>) -> Result<()> {
        self.log().changes(take)
    }

    fn pieces(&self) -> Result<Vec<Piece>> {
        self.log().pieces()
    }

    fn check_fits(&self, size: Length) -> Result<()> {
        self.log().check_fits(size)
    }

    fn apply(&self, disk: &dyn BlockWrite) -> Result<Applied> {
        self.log().apply(disk)
    }
}
