//! The disk to be made equal is at the other end of a stream.

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::ops::ControlFlow;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use afterimage_block::{BlockRead, Epoch, SessionId};
use afterimage_resync::remote::{Cursor, RemoteProgress, Terms};
use afterimage_resync::{Algorithm, BlockSize, Driver, Grid};
use anyhow::{Context, Result, bail, ensure};

use super::fingerprint::Fingerprint;
use super::limit::LimitedStream;
use super::state::Kept;
use super::{Display, Place, Report, Speed, State};

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
    /// Only tell what differs.
    pub dry_run: bool,
    /// Have both ends hash their disks once more.
    pub verify: bool,
}

impl Push {
    /// Runs it to its end.
    pub fn run(&self, display: &mut Display) -> Result<Report> {
        let fingerprint = Fingerprint::of_source(&self.source)?;
        let source = self.source.open_to_read()?;
        let source = source.as_ref();
        let begun = Instant::now();
        let kept = self.kept(source, &fingerprint)?;
        let mut first = None;
        let observe = |progress: RemoteProgress| {
            first.get_or_insert(progress.hashed);
            display.remote(progress);
        };
        let progress = if self.dry_run {
            self.compare(source, observe)?
        } else {
            self.send(source, &fingerprint, kept, observe)?
        };
        if self.verify {
            let found = self.compare(source, |progress| display.remote(progress))?;
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
            saved: first.unwrap_or_default(),
            dry_run: self.dry_run,
            verified: self.verify,
            ..Report::of_remote(progress, begun)
        })
    }

    /// Sends what differs, from what was kept on if anything was.
    fn send(
        &self,
        source: &dyn BlockRead,
        fingerprint: &Fingerprint,
        kept: Option<Cursor>,
        observe: impl FnMut(RemoteProgress),
    ) -> Result<RemoteProgress> {
        let terms = kept.as_ref().map(|cursor| *cursor.terms());
        let terms = terms.unwrap_or_else(|| self.terms(source));
        let mut driver = observed(terms, observe);
        if let Some(cursor) = kept {
            driver = driver.resume(cursor);
        }
        if let Some(state) = &self.state {
            driver = driver.save(move |cursor| {
                let (source, cursor) = (fingerprint.clone(), cursor.clone());
                Ok(state.store(&Kept::Push { source, cursor })?)
            });
        }
        self.converse(|reader, writer| driver.run_source(source, reader, writer))
    }

    /// Finds out what differs.
    fn compare(
        &self,
        source: &dyn BlockRead,
        observe: impl FnMut(RemoteProgress),
    ) -> Result<RemoteProgress> {
        let driver = observed(self.terms(source), observe);
        self.converse(|reader, writer| driver.dry_run_source(source, reader, writer))
    }

    fn converse(
        &self,
        run: impl FnOnce(Reader, LimitedStream<Writer>) -> afterimage_resync::Result<RemoteProgress>,
    ) -> Result<RemoteProgress> {
        let (reader, writer, child) = connect(&self.peer)?;
        let ended = run(reader, LimitedStream::new(writer, self.limit));
        if let Some(child) = child {
            part(child, ended.is_ok())?;
        }
        Ok(ended?)
    }

    /// A session of its own.
    fn terms(&self, source: &dyn BlockRead) -> Terms {
        Terms {
            session: SessionId::random(),
            epoch: Epoch::ZERO,
            grid: Grid::new(source.size(), self.block_size),
            algorithm: self.algorithm,
        }
    }

    /// What was kept, if it is of this disk and these options.
    fn kept(&self, source: &dyn BlockRead, fingerprint: &Fingerprint) -> Result<Option<Cursor>> {
        let Some(kept) = self.state.as_ref().map(State::load).transpose()?.flatten() else {
            return Ok(None);
        };
        if let Kept::Push {
            source: disk,
            cursor,
        } = kept
            && disk == *fingerprint
        {
            let session = cursor.terms().session;
            let new = self.terms(source);
            if *cursor.terms() == (Terms { session, ..new }) {
                return Ok(Some(cursor));
            }
        }
        eprintln!("what is kept is of another disk or of before a change: beginning anew");
        Ok(None)
    }
}

fn observed<'o>(terms: Terms, mut observe: impl FnMut(RemoteProgress) + 'o) -> Driver<'o> {
    Driver::new(terms).observe(move |progress| {
        observe(progress);
        ControlFlow::Continue(())
    })
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
