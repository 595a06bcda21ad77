//! How the target is changed: as the differences come, or all at once at the end.

use std::cell::Cell;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::SystemTime;

use afterimage_block::{BlockWrite, DiskId, Epoch, Length, Sequence, Timestamp};
use afterimage_changelog::{LogHeader, Made, Stage, Staged, StagedDisk, WriterOptions};
use afterimage_resync::{Error, Limit, LimitedDisk};
use anyhow::{Context, Result, bail, ensure};

use super::fingerprint::Fingerprint;
use super::stop::is_stopped_there;
use super::{Display, Place, Stop};

/// A disk that is to be changed.
pub(super) struct Target<'t> {
    pub(super) place: &'t Place,
    /// How large it is to be, if it is made or extended.
    pub(super) create: Option<Length>,
    /// Where to keep what differs until all of it is there.
    pub(super) stage: Option<&'t Path>,
    /// Whether what is staged is kept for the next run when this one is stopped.
    pub(super) is_kept: bool,
    pub(super) limit: Limit,
    pub(super) stop: &'t Stop,
}

/// The disk while it is changed.
pub(super) struct Changing<'c> {
    pub(super) disk: &'c dyn BlockWrite,
    staging: Option<Staging<'c>>,
    /// Whether anything was changed, or is about to be.
    is_touched: Cell<bool>,
    is_concluded: Cell<bool>,
    pub(super) stop: &'c Stop,
}

struct Staging<'c> {
    stage: Stage,
    staged: &'c StagedDisk<'c>,
    below: &'c dyn BlockWrite,
    is_resumed: bool,
}

impl Target<'_> {
    /// Has `change` change the disk, and conclude it. What fails says what has become of the disk.
    pub(super) fn change<T>(&self, change: impl FnOnce(&Changing<'_>) -> Result<T>) -> Result<T> {
        let size = self.create.unwrap_or_default();
        let disk = self.place.open_target(size, self.create.is_some())?;
        let disk = LimitedDisk::new(disk.as_ref(), self.limit.clone());
        self.stop.during(|| match self.stage {
            Some(folder) => self.staged(folder, &disk, change),
            None => self.plain(&disk, change),
        })
    }

    fn plain<T>(
        &self,
        disk: &dyn BlockWrite,
        change: impl FnOnce(&Changing<'_>) -> Result<T>,
    ) -> Result<T> {
        let changing = Changing {
            disk,
            staging: None,
            is_touched: Cell::new(false),
            is_concluded: Cell::new(false),
            stop: self.stop,
        };
        let place = self.place;
        change(&changing).with_context(|| {
            if changing.is_touched.get() {
                format!(
                    "{place} is mixed, in part as the source and in part as it was: run it again"
                )
            } else {
                format!("{place} is as it was")
            }
        })
    }

    fn staged<T>(
        &self,
        folder: &Path,
        disk: &dyn BlockWrite,
        change: impl FnOnce(&Changing<'_>) -> Result<T>,
    ) -> Result<T> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let stage = Stage::at(folder);
        let (staged, is_resumed) = self.open(&stage, folder, disk)?;
        let limited = LimitedDisk::new(&staged, self.limit.clone());
        let changing = Changing {
            disk: &limited,
            staging: Some(Staging {
                stage: stage.clone(),
                staged: &staged,
                below: disk,
                is_resumed,
            }),
            is_touched: Cell::new(false),
            is_concluded: Cell::new(false),
            stop: self.stop,
        };
        let changed = change(&changing);
        let place = self.place;
        if changed.is_ok() || changing.is_concluded.get() {
            return changed;
        }
        if changing.is_touched.get() {
            let folder = folder.display();
            return changed.with_context(|| {
                format!(
                    "{place} may be mixed, and what mends it is in {folder}: run it again with --stage"
                )
            });
        }
        let is_over = self.stop.is_asked() && !self.is_kept;
        let is_of_no_use = |error| is_over || is_stopped_there(error);
        if changed.as_ref().is_err_and(is_of_no_use) {
            stage.discard(staged)?;
        }
        changed.with_context(|| format!("{place} is as it was"))
    }

    /// The stage, once what an earlier run had decided is made, and whether it holds what an earlier
    /// run had staged.
    fn open<'d>(
        &self,
        stage: &Stage,
        folder: &Path,
        disk: &'d dyn BlockWrite,
    ) -> Result<(StagedDisk<'d>, bool)> {
        let id = Fingerprint::of_target(self.place, None)?.id()?;
        let check = |found: DiskId| {
            let of_other = format!("{} holds changes of another disk", folder.display());
            ensure!(found == id, of_other);
            Ok(())
        };
        match stage.staged()? {
            Staged::Open(header) => {
                check(header.disk)?;
                return Ok((stage.resume(disk, WriterOptions::default())?, true));
            }
            Staged::Decided(log) => {
                check(log.header().disk)?;
                eprintln!("what an earlier run had decided is put in its place first");
                stage.make(&log, disk, |_| ControlFlow::Continue(()))?;
            }
            Staged::Nothing => {}
        }
        let header = LogHeader {
            disk: id,
            disk_size: disk.size(),
            epoch: Epoch::ZERO,
            first: Sequence::ZERO,
            last: Sequence::ZERO,
            created: SystemTime::now().into(),
        };
        Ok((stage.begin(disk, header, WriterOptions::default())?, false))
    }
}

impl Changing<'_> {
    /// Notes that something is changed, in so many bytes, where it is not staged.
    pub(super) fn note(&self, changed: Length) {
        if self.staging.is_none() && !changed.is_zero() {
            self.is_touched.set(true);
        }
    }

    /// When the stage was begun that holds what is written, if one does.
    pub(super) fn staged(&self) -> Option<Timestamp> {
        let staging = self.staging.as_ref();
        staging.map(|staging| staging.staged.header().created)
    }

    /// Whether the disk reads otherwise than the one below, because of what an earlier run staged.
    pub(super) fn is_resumed(&self) -> bool {
        self.staging
            .as_ref()
            .is_some_and(|staging| staging.is_resumed)
    }

    /// Whether the disk itself, and not what is staged, is what was read and written.
    pub(super) fn is_real(&self) -> bool {
        self.staging.is_none() || self.is_concluded.get()
    }

    /// The disk is equal, or will be once what is staged is made: now.
    pub(super) fn conclude(&self, display: &mut Display) -> Result<()> {
        if let Some(staging) = &self.staging {
            if self.stop.is_asked() {
                bail!(Error::Stopped);
            }
            let log = staging.staged.decide()?;
            self.is_touched.set(true);
            let pieces = log.index()?;
            let lengths = pieces.iter().map(|piece| piece.extent.length());
            let total = lengths.fold(Length::ZERO, Length::saturating_add);
            let made = staging.stage.make(&log, staging.below, |made| {
                display.placing(made, total);
                self.stop.flow()
            })?;
            if made == Made::TakenBack {
                self.is_touched.set(false);
                bail!(Error::Stopped);
            }
        }
        self.is_concluded.set(true);
        Ok(())
    }
}
