//! One of the disks is at the other end of a stream.

use std::time::Instant;

use afterimage_block::Length;
use afterimage_resync::protocol::Role;
use afterimage_resync::remote::RemoteProgress;
use afterimage_resync::{Algorithm, BlockSize, Limit, LimitedDisk, LimitedSource};
use anyhow::{Result, ensure};

use super::end::{Disk, End};
use super::{Cache, Display, Peer, Place, Report, Speeds, State};

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
        let (limit, read_limit) = (self.limit.follow(), self.read_limit.follow());
        let limit = limit.limit();
        if self.role == Role::Source {
            let disk = self.disk.open_to_read()?;
            let disk = LimitedSource::new(disk.as_ref(), read_limit.limit());
            return self.exchange(Disk::Source(&disk), &limit, display);
        }
        // It must be there and of the right size: how large the other disk is, is not known here.
        let disk = self.disk.open_target(Length::ZERO, false)?;
        let disk = LimitedDisk::new(disk.as_ref(), limit);
        self.exchange(Disk::Target(&disk), &Limit::default(), display)
    }

    /// Runs this end, and once more to verify; what is sent keeps to `limit`.
    fn exchange(&self, disk: Disk<'_>, limit: &Limit, display: &mut Display) -> Result<Report> {
        let end = End {
            place: &self.disk,
            disk,
            state: self.state.as_ref(),
            cache: self.cache.as_ref(),
            is_afresh: self.verify,
        };
        let begun = Instant::now();
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
        if self.verify {
            self.verify(&end, limit, display)?;
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

    /// Has both ends read their disks once more.
    fn verify(&self, end: &End<'_>, limit: &Limit, display: &mut Display) -> Result<()> {
        let terms = end.terms(self.block_size, self.algorithm);
        let observe = |progress: RemoteProgress| display.remote(progress);
        let found = self.peer.converse(limit, |streams| match self.role {
            Role::Source => end.compare(terms, observe, streams),
            Role::Target => end.run(terms, None, observe, streams),
        })?;
        let differing = found.sent.saturating_add(found.zeroed);
        ensure!(
            differing.is_zero(),
            "the disks differed in {differing} after the resync: one was written meanwhile, or fails"
        );
        Ok(())
    }
}
