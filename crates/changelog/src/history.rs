//! Disks that are kept current, and the way back to what they were.
//!
//! ```text
//! recording --all sealed--> under-way --all applied, flushed--> FIRST-LAST --dropped--> gone
//!     |                         |  ^                                |
//!  removed                 taken back  '--------roll back-----------'
//! ```

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use afterimage_block::{BlockWrite, DiskId, Epoch, Sequence, Timestamp};

use crate::writer::{io_error, sync_folder};
use crate::{
    ChangeLog, Error, FileWriter, IndexedLog, Keys, LogHeader, PastDisk, Result, SealedLog,
    WriterOptions, record_undo,
};

const RECORDING: &str = "recording";
const UNDER_WAY: &str = "under-way";
const DROPPED: &str = "dropped";

/// A disk whose history is kept.
#[derive(Clone, Copy)]
pub struct HistoryDisk<'d> {
    /// Whose logs are applied to it.
    pub id: DiskId,
    /// The disk itself. Nobody else writes to it.
    pub disk: &'d dyn BlockWrite,
}

impl fmt::Debug for HistoryDisk<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HistoryDisk").field(&self.id).finish()
    }
}

/// Generations that a step of a [`History`] leads through, the first and the last of them included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HistoryStep {
    /// The first generation.
    pub first: Sequence,
    /// The last one: where the disks then are.
    pub last: Sequence,
}

impl HistoryStep {
    fn parse(name: &str) -> Option<Self> {
        let (first, last) = name.split_once('-')?;
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        let step = Self {
            first: Sequence::new(first),
            last: Sequence::new(last),
        };
        (first <= last && step.to_string() == name).then_some(step)
    }
}

impl fmt::Display for HistoryStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:020}-{:020}", self.first.get(), self.last.get())
    }
}

/// Disks of one machine that are kept current by applying logs, all of them at one generation or
/// none, and a folder that keeps undo logs, by which they become what they were before.
///
/// A step is a folder of one undo log a disk, and its name says what is true of the disks: the undo
/// logs are made in `recording`, where no disk was touched; from `under-way` they are to be taken
/// back; under the step's own name its changes are all made and durable. Each goes over to the next by
/// a rename, so after a crash at any moment [`open`](Self::open) finds what is to be done, and the
/// disks are never taken for what they are not.
///
/// The size of a disk does not change.
#[derive(Debug)]
pub struct History<'d> {
    folder: PathBuf,
    disks: Vec<HistoryDisk<'d>>,
    options: WriterOptions,
    keys: Keys,
    /// Locked while this lives.
    _lock: File,
}

impl<'d> History<'d> {
    /// The history in `folder`, which must be there, of `disks`, always in the same order. A step that
    /// was interrupted is taken back. Undo logs are made with `options`; if that encrypts them, the key
    /// is also to be in `keys`.
    ///
    /// # Errors
    /// [`Error::Io`], of the kind `WouldBlock` if another has the folder open;
    /// [`Error::NotConsecutive`] if a step is missing; as [`roll_back`](Self::roll_back).
    pub fn open(
        folder: impl Into<PathBuf>,
        disks: Vec<HistoryDisk<'d>>,
        options: WriterOptions,
        keys: Keys,
    ) -> Result<Self> {
        let folder = folder.into();
        let failed = |source| io_error("lock", &folder, 0, source);
        let lock = File::open(&folder).map_err(failed)?;
        lock.try_lock().map_err(|error| failed(error.into()))?;
        let history = Self {
            folder,
            disks,
            options,
            keys,
            _lock: lock,
        };
        history.settle()?;
        history.steps()?;
        Ok(history)
    }

    /// The steps that can be taken back, oldest first.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::NotConsecutive`].
    pub fn steps(&self) -> Result<Vec<HistoryStep>> {
        let failed = |source| io_error("list", &self.folder, 0, source);
        let mut steps = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            steps.extend(name.to_str().and_then(HistoryStep::parse));
        }
        steps.sort_unstable();
        for pair in steps.windows(2) {
            if let [earlier, later] = pair {
                self.check_follows(*earlier, *later)?;
            }
        }
        Ok(steps)
    }

    /// Applies the logs of each disk, oldest first, or makes no change. The logs of all disks lead
    /// through `step`; a disk that was not changed has none.
    ///
    /// # Errors
    /// [`Error::NotConsecutive`] if `step` does not follow the newest one, or a log is not of it;
    /// [`Error::Resized`] if a log resizes its disk; [`Error::WrongDisk`]; as [`record_undo`]: no disk
    /// was touched then. As [`SealedLog::apply`]: the next call of anything takes back what was done. Where
    /// [`Error::Io`] comes of the very last rename, the step may stand: [`steps`](Self::steps) tells.
    ///
    /// # Panics
    /// If `logs` are not of as many disks.
    pub fn advance(
        &mut self,
        step: HistoryStep,
        created: Timestamp,
        logs: &[Vec<&SealedLog>],
    ) -> Result<()> {
        assert_eq!(logs.len(), self.disks.len(), "logs of each disk");
        self.settle()?;
        if let Some(newest) = self.steps()?.last() {
            self.check_follows(*newest, step)?;
        }
        for (disk, logs) in self.disks.iter().zip(logs) {
            self.check(*disk, step, logs)?;
        }
        if let Err(error) = self.record(step, created, logs) {
            // Where space is short, it is given back at once; else the next call does it.
            let _ = self.remove(RECORDING);
            return Err(error);
        }
        self.rename(RECORDING, UNDER_WAY)?;
        for (disk, logs) in self.disks.iter().zip(logs) {
            for log in logs {
                log.apply(disk.disk)?;
            }
            disk.disk.flush()?;
        }
        self.rename(UNDER_WAY, &step.to_string())
    }

    /// Takes the newest step back; which one it was, or `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Io`], also if an undo log is missing; [`Error::InFile`] if one is damaged, of another
    /// disk or of another step: no disk was touched then. [`Error::Disk`]: the next call of anything goes on with it.
    pub fn roll_back(&mut self) -> Result<Option<HistoryStep>> {
        self.settle()?;
        let Some(step) = self.steps()?.pop() else {
            return Ok(None);
        };
        let name = step.to_string();
        self.undo_logs(&self.path(&name), Some(step))?;
        self.rename(&name, UNDER_WAY)?;
        self.settle()?;
        Ok(Some(step))
    }

    /// The disks as they were before `step`, which is one of [`steps`](Self::steps): at once, without
    /// copying. The undo logs since then are proved as far as they are read.
    ///
    /// # Errors
    /// [`Error::NotConsecutive`] if `step` is none of those kept; [`Error::Io`]; [`Error::InFile`] if an
    /// undo log is damaged or of another disk; as [`roll_back`](Self::roll_back), of a step that was
    /// interrupted.
    pub fn before(&mut self, step: HistoryStep) -> Result<Vec<PastDisk<'_>>> {
        self.settle()?;
        let steps = self.steps()?;
        let Some(at) = steps.iter().position(|kept| *kept == step) else {
            return Err(Error::NotConsecutive {
                earlier: self.folder.clone(),
                later: self.path(&step.to_string()),
                reason: "the step is not kept",
            });
        };
        let since = steps.get(at..).unwrap_or_default();
        let disks = self.disks.iter().enumerate();
        let past = disks.map(|(number, disk)| {
            let undo = since.iter().rev().map(|step| {
                let path = undo_path(&self.path(&step.to_string()), number);
                let log = IndexedLog::open(&path, &self.keys)?;
                check_undo(log.header(), *disk, Some(*step))
                    .map_err(|error| error.in_file(&path))?;
                Ok(log)
            });
            Ok(PastDisk::new(disk.disk, undo.collect::<Result<_>>()?))
        });
        past.collect()
    }

    /// Keeps the `count` newest steps and drops those before them, oldest first.
    ///
    /// # Errors
    /// [`Error::Io`]; as [`roll_back`](Self::roll_back), of a step that was interrupted.
    pub fn keep(&mut self, count: usize) -> Result<()> {
        self.settle()?;
        let steps = self.steps()?;
        for step in steps.iter().take(steps.len().saturating_sub(count)) {
            self.rename(&step.to_string(), DROPPED)?;
            self.remove(DROPPED)?;
        }
        Ok(())
    }

    /// Writes the undo logs of a step, of which no change is made yet.
    fn record(
        &self,
        step: HistoryStep,
        created: Timestamp,
        logs: &[Vec<&SealedLog>],
    ) -> Result<()> {
        let recording = self.path(RECORDING);
        let made = fs::create_dir(&recording);
        made.map_err(|source| io_error("create", &recording, 0, source))?;
        for (number, (disk, logs)) in self.disks.iter().zip(logs).enumerate() {
            let header = LogHeader {
                disk: disk.id,
                disk_size: disk.disk.size(),
                epoch: logs.last().map_or(Epoch::ZERO, |log| log.header().epoch),
                first: step.first,
                last: step.last,
                created,
            };
            let path = undo_path(&recording, number);
            let undo = FileWriter::create_new(&path, header, self.options.clone())?;
            let logs: Vec<_> = logs.iter().map(|log| *log as &dyn ChangeLog).collect();
            record_undo(&logs, disk.disk, undo)?;
        }
        Ok(())
    }

    /// Does away with whatever was interrupted.
    fn settle(&self) -> Result<()> {
        self.remove(RECORDING)?;
        self.remove(DROPPED)?;
        let under_way = self.path(UNDER_WAY);
        let found = under_way.try_exists();
        if !found.map_err(|source| io_error("find", &under_way, 0, source))? {
            return Ok(());
        }
        let undo = self.undo_logs(&under_way, None)?;
        for (disk, undo) in self.disks.iter().zip(&undo) {
            undo.apply(disk.disk)?;
            disk.disk.flush()?;
        }
        // Not whole any more as soon as one is removed, so not from where they are to be taken back.
        self.rename(UNDER_WAY, DROPPED)?;
        self.remove(DROPPED)
    }

    /// The undo logs of all disks, proved, and known to fit.
    fn undo_logs(&self, folder: &Path, step: Option<HistoryStep>) -> Result<Vec<SealedLog>> {
        let disks = self.disks.iter().enumerate();
        let undo = disks.map(|(number, disk)| {
            let path = undo_path(folder, number);
            let proved = SealedLog::open_with(&path, &self.keys).and_then(|log| {
                check_undo(log.header(), *disk, step)?;
                Ok(log)
            });
            proved.map_err(|error| error.in_file(&path))
        });
        undo.collect()
    }

    /// Refuses logs that are not those of `step` for `disk`.
    fn check(&self, disk: HistoryDisk<'_>, step: HistoryStep, logs: &[&SealedLog]) -> Result<()> {
        let mut from = Some(step.first);
        for log in logs {
            let header = log.header();
            if header.disk != disk.id || header.disk_size != disk.disk.size() {
                return Err(wrong_disk(header, disk).in_file(log.path()));
            }
            if let Some(size) = log.summary().resized {
                return Err(Error::Resized { size }.in_file(log.path()));
            }
            if from.is_none_or(|from| header.first < from) || header.last > step.last {
                return Err(Error::NotConsecutive {
                    earlier: self.path(&step.to_string()),
                    later: log.path().into(),
                    reason: "its generations are not those of the step that follow",
                });
            }
            from = header.last.checked_next();
        }
        Ok(())
    }

    fn check_follows(&self, earlier: HistoryStep, later: HistoryStep) -> Result<()> {
        if earlier.last.checked_next() == Some(later.first) && later.first <= later.last {
            return Ok(());
        }
        Err(Error::NotConsecutive {
            earlier: self.path(&earlier.to_string()),
            later: self.path(&later.to_string()),
            reason: "its first generation is not the next one",
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Renames one of the folders durably, with what is in it.
    fn rename(&self, from: &str, to: &str) -> Result<()> {
        let (from, to) = (self.path(from), self.path(to));
        let renamed = sync_folder(&undo_path(&from, 0))
            .and_then(|()| fs::rename(&from, &to))
            .and_then(|()| sync_folder(&to));
        renamed.map_err(|source| io_error("rename", &from, 0, source))
    }

    /// Removes one of the folders durably, if it is there.
    fn remove(&self, name: &str) -> Result<()> {
        let path = self.path(name);
        let removed = match fs::remove_dir_all(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            removed => removed.and_then(|()| sync_folder(&path)),
        };
        removed.map_err(|source| io_error("remove", &path, 0, source))
    }
}

fn undo_path(folder: &Path, disk: usize) -> PathBuf {
    folder.join(format!("{disk}.ailog"))
}

/// Refuses an undo log of another disk, or of another step.
fn check_undo(header: &LogHeader, disk: HistoryDisk<'_>, step: Option<HistoryStep>) -> Result<()> {
    if header.disk != disk.id || header.disk_size != disk.disk.size() {
        return Err(wrong_disk(header, disk));
    }
    let (first, last) = (header.first, header.last);
    if step.is_some_and(|step| step != HistoryStep { first, last }) {
        return Err(Error::damaged(0, "the undo log is of another step"));
    }
    Ok(())
}

fn wrong_disk(header: &LogHeader, disk: HistoryDisk<'_>) -> Error {
    Error::WrongDisk {
        found: header.disk,
        found_size: header.disk_size,
        size: disk.disk.size(),
    }
}
