//! Changes that are kept beside a disk until all of them are there, and are then made such that they
//! can be taken back.
//!
//! ```text
//! begin --> StagedDisk --decide--> sealed log --make--> undo log, disk changed, both logs gone
//!              |                      |                     |
//!           discard                take_back <--------- take_back
//! ```

mod disk;

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use afterimage_block::{BlockWrite, Length};

use crate::apply::apply_pieces;
use crate::fetch::RecordFile;
use crate::file::LogFile;
use crate::writer::{io_error, sync_folder};
use crate::{
    Applied, Error, FileWriter, Keys, LogHeader, Result, SealedLog, WriterOptions, record_undo,
    recover,
};

pub use disk::StagedDisk;

/// A folder that keeps the changes of one disk, as the logs `staged.ailog` and `undo.ailog`, until
/// they are all made or given up.
///
/// The disk is as it was until [`make`](Self::make) has the before-images durable; whatever interrupts
/// that, [`staged`](Self::staged) finds the log again, and it can be made again or taken back.
///
/// ```
/// use std::ops::ControlFlow;
/// use afterimage_block::*;
/// use afterimage_changelog::*;
///
/// let folder = tempfile::tempdir()?;
/// let disk = MemoryDisk::new(Length::mib(1));
/// let header = LogHeader {
///     disk: DiskId::random(),
///     disk_size: disk.size(),
///     epoch: Epoch::ZERO,
///     first: Sequence::new(1),
///     last: Sequence::new(1),
///     created: Timestamp::default(),
/// };
/// let stage = Stage::at(folder.path());
/// let staged = stage.begin(&disk, header, WriterOptions::default())?;
/// staged.write_at(Offset::new(512), &[7; 512])?; // or whatever else writes to a disk
/// assert_eq!(disk.contents()[512], 0);
///
/// let log = staged.decide()?;
/// stage.make(&log, &disk, |_| ControlFlow::Continue(()))?;
/// assert_eq!(disk.contents()[512], 7);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Stage {
    folder: PathBuf,
}

/// What a [`Stage`] holds.
#[derive(Clone, Debug)]
pub enum Staged {
    /// No changes.
    Nothing,
    /// Changes to which more may come: the disk is as it was.
    Open(LogHeader),
    /// All changes, none, some or all of which are made: to be made, or to be taken back.
    Decided(Box<SealedLog>),
}

/// What became of changes that were to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// They are made and durable.
    All(Applied),
    /// Somebody stopped it: the disk is as it was.
    TakenBack,
}

impl Stage {
    /// The stage in `folder`, which must be there.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        let folder = folder.into();
        Self { folder }
    }

    fn log(&self) -> PathBuf {
        self.folder.join("staged.ailog")
    }

    fn undo(&self) -> PathBuf {
        self.folder.join("undo.ailog")
    }

    /// What it holds; a log that was decided is proved.
    ///
    /// # Errors
    /// As [`SealedLog::open`] and [`recover`], but for a log that is not there or not sealed.
    pub fn staged(&self) -> Result<Staged> {
        let path = self.log();
        match found(SealedLog::open(&path)) {
            Ok(Some(log)) => Ok(Staged::Decided(Box::new(log))),
            Ok(None) => Ok(Staged::Nothing),
            Err(Error::NotSealed) => Ok(Staged::Open(
                *RecordFile::open(&path, &Keys::none())?.header(),
            )),
            Err(error) => Err(error.in_file(&path)),
        }
    }

    /// A disk that reads as `disk` and keeps here what is written to it.
    ///
    /// # Errors
    /// [`Error::WrongDisk`] if `header` is of another size; [`Error::Io`], also if changes are held
    /// already.
    pub fn begin<'d>(
        &self,
        disk: &'d dyn BlockWrite,
        header: LogHeader,
        options: WriterOptions,
    ) -> Result<StagedDisk<'d>> {
        check_size(&header, disk)?;
        let path = self.log();
        if path.exists() {
            let held = io::ErrorKind::AlreadyExists.into();
            return Err(io_error("begin", &path, 0, held));
        }
        // Of changes that were all made, or all taken back.
        remove(&self.undo())?;
        let mut log = FileWriter::create(&self.folder.join("staged.new"), header, options)?;
        log.place(&path)?;
        StagedDisk::over(disk, log)
    }

    /// The same with the changes that are held and not decided, up to the first that a crash tore.
    /// They are copied.
    ///
    /// # Errors
    /// [`Error::WrongDisk`] if they are of a disk of another size; as [`recover`] and
    /// [`FileWriter::append`].
    pub fn resume<'d>(
        &self,
        disk: &'d dyn BlockWrite,
        options: WriterOptions,
    ) -> Result<StagedDisk<'d>> {
        let path = self.log();
        let header = *RecordFile::open(&path, &Keys::none())?.header();
        check_size(&header, disk)?;
        let mut log = FileWriter::create(&self.folder.join("staged.new"), header, options)?;
        recover(&path, |record| log.append_record(record).map(drop))?;
        log.place(&path)?;
        StagedDisk::over(disk, log)
    }

    /// Makes the changes of `log`, which was decided, on `disk`, once what they overwrite is durable.
    /// `observe` is told how much is made before each piece; when it breaks, all is taken back.
    ///
    /// # Errors
    /// [`Error::WrongDisk`]; as [`record_undo`], the disk then being as it was; [`Error::Io`],
    /// [`Error::Disk`]: some changes may then be made, and both logs stay, so that it can be called
    /// again, or [`take_back`](Self::take_back).
    pub fn make(
        &self,
        log: &SealedLog,
        disk: &dyn BlockWrite,
        mut observe: impl FnMut(Length) -> ControlFlow<()>,
    ) -> Result<Made> {
        check_size(log.header(), disk)?;
        if self.durable_undo()?.is_none() {
            let undo = FileWriter::create_new(&self.undo(), *log.header(), undo_options())?;
            record_undo(&[log], disk, undo)?;
        }
        let (file, mut applied) = (LogFile::open(log.path())?, Applied::default());
        for piece in log.index()?.iter() {
            if observe(applied.total()).is_break() {
                self.take_back(log, disk)?;
                return Ok(Made::TakenBack);
            }
            applied += apply_pieces(&file, &[piece], disk)?;
        }
        disk.flush()?;
        self.clear()?;
        Ok(Made::All(applied))
    }

    /// Makes `disk` what it was before the changes of `log`, whether or not any were made, and drops
    /// them.
    ///
    /// # Errors
    /// [`Error::WrongDisk`]; [`Error::Io`], [`Error::Disk`]: both logs then stay, and it is to be
    /// called again.
    pub fn take_back(&self, log: &SealedLog, disk: &dyn BlockWrite) -> Result<()> {
        check_size(log.header(), disk)?;
        // Nothing is made before the undo log is durable.
        if let Some(undo) = self.durable_undo()? {
            undo.apply(disk)?;
            disk.flush()?;
        }
        self.clear()
    }

    /// Drops changes that were not decided.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn discard(&self, staged: StagedDisk<'_>) -> Result<()> {
        drop(staged);
        self.clear()
    }

    /// The undo log, if it is whole; one that is not is removed.
    fn durable_undo(&self) -> Result<Option<SealedLog>> {
        let path = self.undo();
        match found(SealedLog::open(&path)) {
            Err(Error::NotSealed) => remove(&path).map(|()| None),
            undo => undo.map_err(|error| error.in_file(&path)),
        }
    }

    /// The changes first: an undo log without them is of no more use.
    fn clear(&self) -> Result<()> {
        remove(&self.log())?;
        remove(&self.undo())
    }
}

/// As many pieces as it takes: there are no more than the log that is undone and the disk have.
fn undo_options() -> WriterOptions {
    WriterOptions {
        pieces_max: usize::MAX - 1,
        ..WriterOptions::default()
    }
}

fn check_size(header: &LogHeader, disk: &dyn BlockWrite) -> Result<()> {
    if header.disk_size == disk.size() {
        return Ok(());
    }
    Err(Error::WrongDisk {
        found: header.disk,
        found_size: header.disk_size,
        size: disk.size(),
    })
}

/// `None` if there is no such file.
fn found<T>(opened: Result<T>) -> Result<Option<T>> {
    match opened {
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some),
    }
}

/// Removes a file durably, if it is there.
fn remove(path: &Path) -> Result<()> {
    let removed = match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        removed => removed.and_then(|()| sync_folder(path)),
    };
    removed.map_err(|source| io_error("remove", path, 0, source))
}
