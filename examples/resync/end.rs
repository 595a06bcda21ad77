//! One end of a stream: a disk here, and what is kept of it.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::ops::ControlFlow;

use afterimage_block::{BlockRead, Epoch, Length, SessionId};
use afterimage_resync::protocol::Role;
use afterimage_resync::remote::{Cursor, RemoteProgress, Terms};
use afterimage_resync::{Algorithm, BlockSize, Driver, Grid, Reread};
use anyhow::Result;

use super::cache::Proof;
use super::fingerprint::Fingerprint;
use super::state::Kept;
use super::target::Changing;
use super::{Cache, Display, Place, State};

/// An end whose disk is open.
pub(super) struct End<'e> {
    pub(super) place: &'e Place,
    pub(super) disk: Disk<'e>,
    pub(super) state: Option<&'e State>,
    pub(super) cache: Option<&'e Cache>,
    /// Whether what is known from before is not looked at, at either end.
    pub(super) is_afresh: bool,
    /// How much of the target is read again before it is taken for equal.
    pub(super) reread: Option<Reread>,
}

/// The disk that is right, or the one to be made equal.
#[derive(Clone, Copy)]
pub(super) enum Disk<'d> {
    Source(&'d dyn BlockRead),
    Target(&'d Changing<'d>),
    /// Likewise, of which is only told what differs.
    DryTarget(&'d dyn BlockRead),
    DrySource(&'d dyn BlockRead),
}

impl Disk<'_> {
    pub(super) fn size(&self) -> Length {
        match self {
            Self::Source(disk) | Self::DrySource(disk) | Self::DryTarget(disk) => disk.size(),
            Self::Target(target) => target.disk.size(),
        }
    }

    /// Takes note of how far it is.
    fn note(&self, progress: RemoteProgress) -> ControlFlow<()> {
        let Self::Target(target) = self else {
            return ControlFlow::Continue(());
        };
        target.note(progress.sent.saturating_add(progress.zeroed));
        target.stop.flow()
    }

    fn is_staged_in_part(&self) -> bool {
        matches!(self, Self::Target(target) if target.is_resumed())
    }

    fn is_real(&self) -> bool {
        !matches!(self, Self::Target(target) if !target.is_real())
    }

    const fn is_dry(&self) -> bool {
        matches!(self, Self::DrySource(_) | Self::DryTarget(_))
    }

    fn role(&self) -> Role {
        match self {
            Self::Source(_) | Self::DrySource(_) => Role::Source,
            Self::Target(_) | Self::DryTarget(_) => Role::Target,
        }
    }
}

impl End<'_> {
    /// Runs it to its end, from `cursor` on.
    pub(super) fn run(
        &self,
        terms: Terms,
        cursor: Option<Cursor>,
        display: &mut Display,
        streams: (impl Read + Send + 'static, impl Write + Send + 'static),
    ) -> Result<RemoteProgress> {
        // Told of progress, and at the end of what is put in its place.
        let display = RefCell::new(display);
        let observe = |progress| display.borrow_mut().remote(progress);
        let mut driver = self.driver(terms, cursor.is_some(), observe)?;
        if let Some(cursor) = cursor {
            driver = driver.resume(cursor);
        }
        if let Some(state) = self.state.filter(|_| !self.disk.is_dry()) {
            let disk = self.fingerprint()?;
            driver = driver.save(move |cursor| {
                let (disk, cursor) = (disk.clone(), cursor.clone());
                Ok(state.store(&Kept::End { disk, cursor })?)
            });
        }
        let (reader, writer) = streams;
        let ended = match self.disk {
            Disk::Source(disk) => driver.run_source(disk, reader, writer),
            Disk::DrySource(disk) => driver.dry_run_source(disk, reader, writer),
            Disk::Target(target) => driver
                .conclude(|| Ok(target.conclude(&mut display.borrow_mut())?))
                .run_target(target.disk, reader, writer),
            Disk::DryTarget(disk) => driver.dry_run_target(disk, reader, writer),
        };
        Ok(ended?)
    }

    fn driver<'d>(
        &'d self,
        terms: Terms,
        is_resumed: bool,
        mut observe: impl FnMut(RemoteProgress) + 'd,
    ) -> Result<Driver<'d>> {
        let mut driver = Driver::new(terms).observe(move |progress| {
            observe(progress);
            self.disk.note(progress)
        });
        if self.is_afresh {
            driver = driver.afresh();
        }
        if let Some(reread) = self.reread {
            driver = driver.reread(reread);
        }
        let Some(cache) = self.cache else {
            return Ok(driver);
        };
        let before = Proof::of(self.place)?;
        // What an earlier run staged is not in the cache.
        let is_looked_at = !self.is_afresh && !is_resumed && !self.disk.is_staged_in_part();
        let known = is_looked_at.then(|| cache.load(&terms, before.as_ref()));
        if let Some(digests) = known.flatten() {
            driver = driver.knowing(digests);
        }
        Ok(driver.keep(move |digests| {
            if self.disk.is_real() {
                cache.store(digests, self.proof_after(before.as_ref()));
            }
        }))
    }

    /// What proves the disk to be as it was hashed or written.
    fn proof_after(&self, before: Option<&Proof>) -> Result<Option<Proof>> {
        let after = Proof::of(self.place)?;
        // A source that was written meanwhile may have been hashed before.
        let is_right = self.disk.role() == Role::Target || after.as_ref() == before;
        Ok(after.filter(|_| is_right))
    }

    /// How far this end of a resync of this disk was; the caller sees whether it is that resync.
    pub(super) fn kept(&self) -> Result<Option<Cursor>> {
        let kept = self.state.map(State::load).transpose()?.flatten();
        let fingerprint = self.fingerprint()?;
        Ok(match kept {
            Some(Kept::End { disk, cursor })
                if disk == fingerprint && cursor.role() == self.disk.role() =>
            {
                Some(cursor)
            }
            _ => None,
        })
    }

    /// What was kept of a resync that is one on these terms but for its session. Says so if it is of
    /// another one.
    pub(super) fn kept_like(&self, new: Terms) -> Result<Option<Cursor>> {
        let cursor = self.kept()?.filter(|cursor| {
            let session = cursor.terms().session;
            *cursor.terms() == Terms { session, ..new }
        });
        let is_other = cursor.is_none() && self.state.is_some_and(State::is_there);
        if is_other {
            eprintln!("what is kept is of another disk or of before a change: beginning anew");
        }
        Ok(cursor)
    }

    /// A session of its own.
    pub(super) fn terms(&self, block_size: BlockSize, algorithm: Algorithm) -> Terms {
        Terms {
            session: SessionId::random(),
            epoch: Epoch::ZERO,
            grid: Grid::new(self.disk.size(), block_size),
            algorithm,
        }
    }

    fn fingerprint(&self) -> Result<Fingerprint> {
        match self.disk {
            Disk::Source(_) | Disk::DrySource(_) => Fingerprint::of_source(self.place),
            Disk::Target(target) => Fingerprint::of_target(self.place, target.staged()),
            Disk::DryTarget(_) => Fingerprint::of_target(self.place, None),
        }
    }
}
