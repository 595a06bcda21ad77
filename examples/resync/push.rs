//! The disk to be made equal is at the other end of a stream.

use std::time::Instant;

use afterimage_resync::remote::RemoteProgress;
use afterimage_resync::{Algorithm, BlockSize};
use anyhow::{Result, ensure};

use super::end::{Disk, End};
use super::{Cache, Display, Peer, Place, Report, Speed, State};

/// A resync from here to the other end of a stream.
#[derive(Clone, Debug)]
pub struct Push {
    /// The disk that is right.
    pub source: Place,
    /// Who makes the other disk equal.
    pub peer: Peer,
    /// The unit of comparison.
    pub block_size: BlockSize,
    /// What blocks are compared by.
    pub algorithm: Algorithm,
    /// On what is sent.
    pub limit: Option<Speed>,
    /// Where to keep how far it is.
    pub state: Option<State>,
    /// Where to keep what is known of the disk.
    pub cache: Option<Cache>,
    /// Only tell what differs.
    pub dry_run: bool,
    /// Have both ends hash all of their disks, whatever they know, and once more at the end.
    pub verify: bool,
}

impl Push {
    /// Runs it to its end.
    pub fn run(&self, display: &mut Display) -> Result<Report> {
        let end = End {
            place: &self.source,
            disk: Disk::Source(self.source.open_to_read()?),
            state: self.state.as_ref(),
            cache: self.cache.as_ref(),
            is_afresh: self.verify,
        };
        let begun = Instant::now();
        let new = end.terms(self.block_size, self.algorithm);
        let kept = end.kept_like(new)?;
        let is_resumed = kept.is_some();
        let observe = |progress: RemoteProgress| display.remote(progress);
        let progress = self.peer.converse(self.limit, |streams| {
            if self.dry_run {
                return end.compare(new, observe, streams);
            }
            let terms = kept.as_ref().map_or(new, |cursor| *cursor.terms());
            end.run(terms, kept, observe, streams)
        })?;
        if self.verify {
            let terms = end.terms(self.block_size, self.algorithm);
            let observe = |progress: RemoteProgress| display.remote(progress);
            let found = self
                .peer
                .converse(self.limit, |streams| end.compare(terms, observe, streams))?;
            let differing = found.sent.saturating_add(found.zeroed);
            ensure!(
                differing.is_zero(),
                "the disks differ in {differing} after the resync: one was written meanwhile, or fails"
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
}
