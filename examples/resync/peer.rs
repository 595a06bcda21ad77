//! The other end of a stream, and how it is reached.

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::time::Duration;

use afterimage_resync::{Limit, LimitedStream};
use anyhow::{Context, Result, bail, ensure};

use super::Place;

/// How long an end may say nothing, hashing a large disk for instance.
pub(super) const SILENCE_MAX: Duration = Duration::from_hours(1);

/// Where a disk is that is to be made equal, or that another one is to be made equal to.
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

impl Peer {
    /// The same, past the page cache if that is asked for and it is a disk of this machine.
    pub fn past_cache(self, is_direct: bool) -> Self {
        match self {
            Self::Disk(place) => Self::Disk(place.past_cache(is_direct)),
            other => other,
        }
    }

    /// Connects, and parts when `run` is done.
    pub(super) fn converse<T>(
        &self,
        limit: &Limit,
        run: impl FnOnce((Reader, LimitedStream<Writer>)) -> Result<T>,
    ) -> Result<T> {
        let (reader, writer, child) = connect(self)?;
        let ended = run((reader, LimitedStream::new(writer, limit.clone())));
        if let Some(child) = child {
            part(child, ended.is_ok())?;
        }
        ended
    }
}

pub(super) type Reader = Box<dyn Read + Send>;
pub(super) type Writer = Box<dyn Write + Send>;

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
