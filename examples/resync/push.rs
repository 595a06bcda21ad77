//! The disk to be made equal is at the other end of a stream.

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use afterimage_block::{Epoch, SessionId};
use afterimage_resync::remote::{Cursor, RemoteProgress, Terms};
use afterimage_resync::{Algorithm, BlockSize, Grid};
use anyhow::{Context, Result, bail, ensure};

use super::end::{Disk, End};
use super::limit::LimitedStream;
use super::{Cache, Display, Place, Report, Speed, State};

/// How long an end may say nothing, hashing a large disk for instance.
pub(super) const SILENCE_MAX: Duration = Duration::from_hours(1);

/// Where the disk to be made equal is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// On this machine.
    Disk(Place),
    /// At the other end of what this shell command reads and writes.
    Command(String),
    /// Behind this address.
    Tcp(String),
}

impl FromStr for Peer {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text.split_once(':') {
            Some(("cmd", command)) => Self::Command(command.into()),
            Some(("tcp", address)) => Self::Tcp(address.into()),
            _ => Self::Disk(text.parse()?),
        })
    }
}

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
        let new = self.terms(&end);
        let kept = self.kept(&end, new)?;
        let is_resumed = kept.is_some();
        let observe = |progress: RemoteProgress| display.remote(progress);
        let progress = self.converse(|streams| {
            if self.dry_run {
                return end.compare(new, observe, streams);
            }
            let terms = kept.as_ref().map_or(new, |cursor| *cursor.terms());
            end.run(terms, kept, observe, streams)
        })?;
        if self.verify {
            let terms = self.terms(&end);
            let observe = |progress: RemoteProgress| display.remote(progress);
            let found = self.converse(|streams| end.compare(terms, observe, streams))?;
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

    fn converse(
        &self,
        run: impl FnOnce((Reader, LimitedStream<Writer>)) -> Result<RemoteProgress>,
    ) -> Result<RemoteProgress> {
        let (reader, writer, child) = connect(&self.peer)?;
        let ended = run((reader, LimitedStream::new(writer, self.limit)));
        if let Some(child) = child {
            part(child, ended.is_ok())?;
        }
        ended
    }

    /// A session of its own.
    fn terms(&self, end: &End<'_>) -> Terms {
        Terms {
            session: SessionId::random(),
            epoch: Epoch::ZERO,
            grid: Grid::new(end.disk.size(), self.block_size),
            algorithm: self.algorithm,
        }
    }

    /// What was kept, if it is of this disk and these options.
    fn kept(&self, end: &End<'_>, new: Terms) -> Result<Option<Cursor>> {
        let Some(state) = &self.state else {
            return Ok(None);
        };
        let cursor = end.kept()?.filter(|cursor| {
            let session = cursor.terms().session;
            *cursor.terms() == Terms { session, ..new }
        });
        if cursor.is_none() && state.load()?.is_some() {
            eprintln!("what is kept is of another disk or of before a change: beginning anew");
        }
        Ok(cursor)
    }
}

type Reader = Box<dyn Read + Send>;
type Writer = Box<dyn Write + Send>;

fn connect(peer: &Peer) -> Result<(Reader, Writer, Option<Child>)> {
    match peer {
        Peer::Disk(_) => bail!("a disk of this machine needs no stream"),
        Peer::Tcp(address) => {
            let stream = TcpStream::connect(address)
                .with_context(|| format!("cannot connect to {address}"))?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(SILENCE_MAX))?;
            Ok((Box::new(stream.try_clone()?), Box::new(stream), None))
        }
        Peer::Command(command) => {
            let mut child = Command::new("sh")
                .args(["-c", command])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .with_context(|| format!("cannot run {command}"))?;
            let (Some(reader), Some(writer)) = (child.stdout.take(), child.stdin.take()) else {
                bail!("{command} has no standard streams");
            };
            Ok((Box::new(reader), Box::new(writer), Some(child)))
        }
    }
}

/// Waits for the other end, which must have come to the same end; one that is of no more use is
/// ended.
fn part(mut child: Child, succeeded: bool) -> Result<()> {
    if !succeeded {
        // It may be gone by itself.
        let _ = child.kill();
    }
    let status = child.wait()?;
    ensure!(!succeeded || status.success(), "the other end: {status}");
    Ok(())
}
