//! One of the disks is at the other end of a stream.

use std::path::PathBuf;
use std::time::Instant;

use afterimage_resync::protocol::Role;
use afterimage_resync::remote::RemoteProgress;
use afterimage_resync::{Algorithm, BlockSize, Limit, LimitedSource};
use anyhow::{Result, ensure};

use super::end::{Disk, End};
use super::target::Target;
use super::{Cache, Display, Peer, Place, Report, Speeds, State, Stop};

/// A resync of a disk here with one at the other end of a stream.
#[derive(Clone, Debug)]
pub struct Remote {
    /// The disk here.
    pub disk: Place,
    /// Whether it is the one that is right.
    pub role: Role,
    /// Who has the other one.
    pub peer: Peer,
    /// The unit of comparison.
    pub block_size: BlockSize,
    /// What blocks are compared by.
    pub algorithm: Algorithm,
    /// On what is sent, or on what is written, which holds back what is sent.
    pub limit: Speeds,
    /// On reads of the source, if it is here.
    pub read_limit: Speeds,
    /// Where to keep what differs, to write it at the end or not at all, if the target is here.
    pub stage: Option<PathBuf>,
    /// Ends it before its end, if the target is here.
    pub stop: Stop,
    /// Where to keep how far it is.
    pub state: Option<State>,
    /// Where to keep what is known of the disk.
    pub cache: Option<Cache>,
    /// Only tell what differs.
    pub dry_run: bool,
    /// Have both ends hash all of their disks, whatever they know, and once more at the end.
    pub verify: bool,
}

impl Remote {
    /// Runs it to its end.
    pub fn run(&self, display: &mut Display) -> Result<Report> {
        let begun = Instant::now();
        let (progress, is_resumed) = self.exchange(Self::make_equal, display)?;
        if self.verify {
            let (found, _) = self.exchange(Self::read_again, display)?;
            let differing = found.sent.saturating_add(found.zeroed);
            ensure!(
                differing.is_zero(),
                "the disks differed in {differing} after the resync: one was written meanwhile, or fails"
            );
        }
        if let Some(state) = &self.state {
            state.clear()?;
        }
        Ok(Report {
            dry_run: self.dry_run,
            verified: self.verify,
            ..Report::of_remote(progress, begun).resumed(is_resumed)
        })
    }

    /// Opens the disk, and runs this end.
    fn exchange(&self, run: Run, display: &mut Display) -> Result<(RemoteProgress, bool)> {
        let (limit, read_limit) = (self.limit.follow(), self.read_limit.follow());
        if self.role == Role::Source {
            let disk = self.disk.open_to_read()?;
            let disk = LimitedSource::new(disk.as_ref(), read_limit.limit());
            return run(
                self,
                &self.end(Disk::Source(&disk)),
                &limit.limit(),
                display,
            );
        }
        let target = Target {
            place: &self.disk,
            // How large the other disk is, is not known here.
            create: None,
            stage: self.stage.as_deref(),
            is_kept: self.state.is_some(),
            limit: limit.limit(),
            stop: &self.stop,
        };
        let unlimited = Limit::default();
        target.change(|disk| run(self, &self.end(Disk::Target(disk)), &unlimited, display))
    }

    fn end<'e>(&'e self, disk: Disk<'e>) -> End<'e> {
        End {
            place: &self.disk,
            disk,
            state: self.state.as_ref(),
            cache: self.cache.as_ref(),
            is_afresh: self.verify,
        }
    }

    /// Makes the target equal, or tells what differs; how that went, and whether it was gone on with.
    fn make_equal(
        &self,
        end: &End<'_>,
        limit: &Limit,
        display: &mut Display,
    ) -> Result<(RemoteProgress, bool)> {
        let new = end.terms(self.block_size, self.algorithm);
        let kept = end.kept_like(new)?;
        let is_resumed = kept.is_some();
        let observe = |progress: RemoteProgress| display.remote(progress);
        let progress = self.peer.converse(limit, |streams| {
            if self.dry_run {
                return end.compare(new, observe, streams);
            }
            let terms = kept.as_ref().map_or(new, |cursor| *cursor.terms());
            end.run(terms, kept, observe, streams)
        })?;
        Ok((progress, is_resumed))
    }

    /// Has both ends read their disks once more.
    fn read_again(
        &self,
        end: &End<'_>,
        limit: &Limit,
        display: &mut Display,
    ) -> Result<(RemoteProgress, bool)> {
        let terms = end.terms(self.block_size, self.algorithm);
        let observe = |progress: RemoteProgress| display.remote(progress);
        let progress = self.peer.converse(limit, |streams| match self.role {
            Role::Source => end.compare(terms, observe, streams),
            Role::Target => end.run(terms, None, observe, streams),
        })?;
        Ok((progress, false))
    }
}

/// What an end does once its disk is open.
type Run = fn(&Remote, &End<'_>, &Limit, &mut Display) -> Result<(RemoteProgress, bool)>;
