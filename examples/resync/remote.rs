//! One of the disks is at the other end of a stream.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::Instant;

use afterimage_block::Offset;
use afterimage_resync::protocol::Role;
use afterimage_resync::remote::{Cursor, RemoteProgress};
use afterimage_resync::{Algorithm, BlockSize, Limit, LimitedSource, Reread};
use anyhow::{Result, ensure};

use super::end::{Disk, End};
use super::greeting::ask_size;
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
    /// Make or extend the target, if it is here.
    pub create: bool,
    /// Only tell what differs.
    pub dry_run: bool,
    /// Have both ends hash all of their disks, whatever they know, and once more at the end.
    pub verify: bool,
    /// How much of the target is read again before it is taken for equal.
    pub reread: Option<Reread>,
}

impl Remote {
    /// Runs it to its end.
    pub fn run(&self, display: &mut Display) -> Result<Report> {
        let begun = Instant::now();
        if self.dry_run {
            let progress = self.compare(display)?;
            return Ok(Report::of_remote(progress, begun));
        }
        let (progress, resumed_at) = self.make_equal(display)?;
        if self.verify {
            let found = self.compare(display)?;
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
            verified: self.verify,
            reread: self.reread.is_some(),
            ..Report::of_remote(progress, begun).resumed(resumed_at)
        })
    }

    /// How making the target equal went, and where it was gone on with, if it was.
    fn make_equal(&self, display: &mut Display) -> Result<(RemoteProgress, Option<Offset>)> {
        let (limit, read_limit) = (self.limit.follow(), self.read_limit.follow());
        let limit = limit.limit();
        if self.role == Role::Source {
            let disk = self.disk.open_to_read()?;
            let disk = LimitedSource::new(disk.as_ref(), read_limit.limit());
            let end = self.end(Disk::Source(&disk));
            let run = |streams| self.go_on(&end, streams, display);
            return self.peer.converse(&limit, run);
        }
        self.peer
            .converse(&Limit::default(), |(mut reader, mut writer)| {
                // How large it is to be, only the other end can tell.
                let ask = || ask_size(self.block_size, self.algorithm, &mut reader, &mut writer);
                let target = Target {
                    place: &self.disk,
                    create: self.create.then(ask).transpose()?,
                    stage: self.stage.as_deref(),
                    is_kept: self.state.is_some(),
                    limit,
                    stop: &self.stop,
                };
                target.change(|disk| {
                    let end = self.end(Disk::Target(disk));
                    self.go_on(&end, (reader, writer), display)
                })
            })
    }

    /// Runs this end, from where an earlier run was.
    fn go_on(
        &self,
        end: &End<'_>,
        streams: (impl Read + Send + 'static, impl Write + Send + 'static),
        display: &mut Display,
    ) -> Result<(RemoteProgress, Option<Offset>)> {
        let new = end.terms(self.block_size, self.algorithm);
        let kept = end.kept_like(new)?;
        let resumed_at = kept.as_ref().map(Cursor::resumes_at);
        let terms = kept.as_ref().map_or(new, |cursor| *cursor.terms());
        let progress = end.run(terms, kept, display, streams)?;
        Ok((progress, resumed_at))
    }

    /// Finds out what differs, and changes nothing.
    fn compare(&self, display: &mut Display) -> Result<RemoteProgress> {
        let (limit, read_limit) = (self.limit.follow(), self.read_limit.follow());
        let disk = self.disk.open_to_read()?;
        let disk = LimitedSource::new(disk.as_ref(), read_limit.limit());
        let end = self.end(match self.role {
            Role::Source => Disk::DrySource(&disk),
            Role::Target => Disk::DryTarget(&disk),
        });
        let terms = end.terms(self.block_size, self.algorithm);
        let run = |streams| end.run(terms, None, display, streams);
        self.peer.converse(&limit.limit(), run)
    }

    fn end<'e>(&'e self, disk: Disk<'e>) -> End<'e> {
        End {
            place: &self.disk,
            disk,
            state: self.state.as_ref(),
            cache: self.cache.as_ref(),
            is_afresh: self.verify,
            reread: self.reread,
        }
    }
}
