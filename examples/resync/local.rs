//! Both disks are on this machine.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use afterimage_block::{BlockRead, Length, Offset, SessionId};
use afterimage_resync::{
    BlockSize, Error, Grid, LimitedSource, LocalResync, Progress, Reread, Scope, Session, Summary,
};
use anyhow::{Result, bail, ensure};

use super::cache::Proof;
use super::fingerprint::Fingerprint;
use super::state::Kept;
use super::target::{Changing, Target};
use super::{Display, Phase, Place, Report, Speeds, State, Stop};

/// How often the state is kept, the target being flushed first.
const INTERVAL: Duration = Duration::from_secs(1);

/// A resync of two disks of this machine.
#[derive(Clone, Debug)]
pub struct Local {
    /// The disk that is right.
    pub source: Place,
    /// The disk to be made equal.
    pub target: Place,
    /// The unit of comparison.
    pub block_size: BlockSize,
    /// On writes.
    pub limit: Speeds,
    /// On reads of the source.
    pub read_limit: Speeds,
    /// Where to keep how far it is.
    pub state: Option<State>,
    /// Where to keep that the disks were equal.
    pub cache: Option<State>,
    /// Only tell what differs.
    pub dry_run: bool,
    /// Read both disks once more.
    pub verify: bool,
    /// How much of both is read once more, if not all.
    pub reread: Option<Reread>,
    /// Make or extend the target.
    pub create: bool,
    /// Where to keep what differs, to write it at the end or not at all.
    pub stage: Option<PathBuf>,
    /// Ends it before its end.
    pub stop: Stop,
}

impl Local {
    /// Runs it to its end.
    pub fn run(&self, display: &mut Display) -> Result<Report> {
        self.source.ensure_other_than(&self.target)?;
        let of_source = Fingerprint::of_source(&self.source)?;
        let source = self.source.open_to_read()?;
        let (read_limit, limit) = (self.read_limit.follow(), self.limit.follow());
        let source = &LimitedSource::new(source.as_ref(), read_limit.limit());
        let begun = Instant::now();
        if self.are_known_to_be_equal()? {
            return Ok(Report {
                total: source.size(),
                skipped: source.size(),
                equal: source.size(),
                seconds: begun.elapsed().as_secs_f64(),
                dry_run: self.dry_run,
                ..Report::default()
            });
        }
        let before = self
            .cache
            .as_ref()
            .map(|_| Proof::of(&self.source))
            .transpose()?;
        if self.dry_run {
            let target = self.target.open_to_read()?;
            let scope = Scope::whole(source.size(), self.block_size);
            let found = compare(source, &*target, scope, Phase::Comparing, display)?;
            let report = Report::of_local(found, begun);
            let dry_run = true;
            return Ok(Report { dry_run, ..report });
        }
        let target = Target {
            place: &self.target,
            create: self.create.then(|| source.size()),
            stage: self.stage.as_deref(),
            is_kept: self.state.is_some(),
            limit: limit.limit(),
            stop: &self.stop,
        };
        let ((resumed_at, saved), found) =
            target.change(|target| self.change(source, of_source, target, display))?;
        let reread = self.reread.or(self.verify.then_some(Reread::Full));
        if let Some(reread) = reread {
            self.read_again(reread, source, display)?;
        }
        if let Some(state) = &self.state {
            state.clear()?;
        }
        self.keep(before.flatten().as_ref())?;
        let report = Report::of_local(found, begun);
        let verified = self.verify;
        Ok(Report {
            resumed_at,
            saved,
            verified,
            reread: self.reread.is_some(),
            ..report
        })
    }

    /// Makes the target equal; where an earlier run was and what that saved, and what was found.
    fn change(
        &self,
        source: &dyn BlockRead,
        of_source: Fingerprint,
        target: &Changing<'_>,
        display: &mut Display,
    ) -> Result<((Option<Offset>, Length), Progress)> {
        let of_target = Fingerprint::of_target(&self.target, target.staged())?;
        let disks = (of_source, of_target);
        let mut session = self.session(source.size(), &disks)?;
        let saved = session.summary().compared;
        let resumed_at = (!saved.is_zero()).then_some(session.cursor());
        while !session.is_complete() {
            if self.stop.is_asked() {
                bail!(Error::Stopped);
            }
            let stepped = self.step(source, target, &mut session, &disks, display);
            let Summary { sent, zeroed, .. } = session.summary();
            target.note(sent.saturating_add(zeroed));
            stepped?;
        }
        target.conclude(display)?;
        Ok(((resumed_at, saved), session.progress()))
    }

    /// Refuses disks that are not equal, reading so much of both once more.
    fn read_again(
        &self,
        reread: Reread,
        source: &dyn BlockRead,
        display: &mut Display,
    ) -> Result<()> {
        let target = self.target.open_to_read()?;
        let grid = Grid::new(source.size(), self.block_size);
        let scope = reread.scope(grid, SessionId::random());
        let compared = compare(source, &*target, scope, Phase::Verifying, display)?;
        let Summary { sent, zeroed, .. } = compared.summary;
        let differing = sent.saturating_add(zeroed);
        ensure!(
            differing.is_zero(),
            "the disks differ in {differing} after the resync: one was written meanwhile, or fails"
        );
        Ok(())
    }

    /// Whether they were when they were last written.
    fn are_known_to_be_equal(&self) -> Result<bool> {
        let Some(cache) = self.cache.as_ref().filter(|_| !self.verify) else {
            return Ok(false);
        };
        let kept = cache.load().unwrap_or_else(|error| {
            eprintln!("it is not used: {error:#}");
            None
        });
        let Some(Kept::Equal { source, target }) = kept else {
            return Ok(false);
        };
        Ok(Proof::of(&self.source)? == Some(source) && Proof::of(&self.target)? == Some(target))
    }

    /// Keeps that the disks are equal, if the source is what it was and both have a proof.
    fn keep(&self, before: Option<&Proof>) -> Result<()> {
        let Some(cache) = &self.cache else {
            return Ok(());
        };
        let source = Proof::of(&self.source)?.filter(|now| before == Some(now));
        let Some((source, target)) = source.zip(Proof::of(&self.target)?) else {
            eprintln!("nothing is kept: nothing proves that the disks were not written since");
            return Ok(());
        };
        cache.store(&Kept::Equal { source, target })
    }

    /// Goes on for a while, and keeps what that came to, even if it failed.
    fn step(
        &self,
        source: &dyn BlockRead,
        target: &Changing<'_>,
        session: &mut Session,
        (of_source, of_target): &(Fingerprint, Fingerprint),
        display: &mut Display,
    ) -> Result<()> {
        let begun = Instant::now();
        let resync = LocalResync::new(source, target.disk)?.threads(threads());
        let ran = resync.run(session, |progress| {
            display.local(Phase::Comparing, progress);
            if self.state.is_some() && begun.elapsed() >= INTERVAL {
                return ControlFlow::Break(());
            }
            self.stop.flow()
        });
        if let Some(state) = &self.state {
            state.store(&Kept::Local {
                source: of_source.clone(),
                target: of_target.clone(),
                session: session.clone(),
            })?;
        }
        Ok(ran?)
    }

    /// What was kept, if it is of these disks and blocks, or a new one.
    fn session(&self, size: Length, disks: &(Fingerprint, Fingerprint)) -> Result<Session> {
        let new = Session::whole(size, self.block_size);
        let Some(kept) = self.state.as_ref().map(State::load).transpose()?.flatten() else {
            return Ok(new);
        };
        if let Kept::Local {
            source,
            target,
            session,
        } = kept
            && (source, target) == *disks
            && session.scope() == new.scope()
        {
            return Ok(session);
        }
        eprintln!("what is kept is of other disks or of before a change: beginning anew");
        Ok(new)
    }
}

/// Compares all of `scope`, whatever was found before.
fn compare(
    source: &dyn BlockRead,
    target: &dyn BlockRead,
    scope: Scope,
    phase: Phase,
    display: &mut Display,
) -> Result<Progress> {
    let mut session = Session::new(scope);
    let resync = LocalResync::dry_run(source, target)?.threads(threads());
    resync.run(&mut session, |progress| {
        display.local(phase, progress);
        ControlFlow::Continue(())
    })?;
    Ok(session.progress())
}

fn threads() -> NonZeroUsize {
    thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}
