//! The disk that is right is at the other end of a stream.

use std::time::Instant;

use afterimage_block::{BlockWrite, Length};
use afterimage_resync::remote::RemoteProgress;
use afterimage_resync::{Algorithm, BlockSize};
use anyhow::{Result, ensure};

use super::end::{Disk, End};
use super::limit::LimitedDisk;
use super::{Cache, Display, Peer, Place, Report, Speed, State};

/// A resync from the other end of a stream to here.
#[derive(Clone, Debug)]
pub struct Pull {
    /// Who has the disk that is right.
    pub peer: Peer,
    /// The disk to be made equal.
    pub target: Place,
    /// The unit of comparison.
    pub block_size: BlockSize,
    /// What blocks are compared by.
    pub algorithm: Algorithm,
    /// On what is written, which holds back what is sent.
    pub limit: Option<Speed>,
    /// Where to keep how far it is.
    pub state: Option<State>,
    /// Where to keep what is known of the disk.
    pub cache: Option<Cache>,
    /// Have both ends hash all of their disks, whatever they know, and once more at the end.
    pub verify: bool,
}

impl Pull {
    /// Runs it to its end.
    pub fn run(&self, display: &mut Display) -> Result<Report> {
        // It must be there and of the right size: how large the other disk is, is not known here.
        let target = self.target.open_target(Length::ZERO, false)?;
        let target: Box<dyn BlockWrite> = Box::new(LimitedDisk::new(target, self.limit));
        let end = End {
            place: &self.target,
            disk: Disk::Target(target),
            state: self.state.as_ref(),
            cache: self.cache.as_ref(),
            is_afresh: self.verify,
        };
        let begun = Instant::now();
        let new = end.terms(self.block_size, self.algorithm);
        let kept = end.kept_like(new)?;
        let is_resumed = kept.is_some();
        let observe = |progress: RemoteProgress| display.remote(progress);
        let terms = kept.as_ref().map_or(new, |cursor| *cursor.terms());
        let run = |streams| end.run(terms, kept, observe, streams);
        let progress = self.peer.converse(None, run)?;
        if self.verify {
            let terms = end.terms(self.block_size, self.algorithm);
            let observe = |progress: RemoteProgress| display.remote(progress);
            let run = |streams| end.run(terms, None, observe, streams);
            let found = self.peer.converse(None, run)?;
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
            verified: self.verify,
            ..Report::of_remote(progress, begun).resumed(is_resumed)
        })
    }
}
