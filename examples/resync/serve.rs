//! The other end of a stream, whose disk is made equal, or is the one that is right.

use std::fs::File;
use std::io::{Cursor, Read, Write, stdin, stdout};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::str::FromStr;
use std::time::{Duration, Instant};

use afterimage_resync::protocol::{Decoder, Hello, Message, Reason, Role};
use afterimage_resync::remote::Terms;
use afterimage_resync::{BlockSize, Error, Grid, LimitedSource};
use anyhow::{Context, Result, bail, ensure};
use bytes::BytesMut;

use super::end::{Disk, End};
use super::peer::SILENCE_MAX;
use super::{Cache, Place, Report, Speeds, State};

/// How long whoever connects may take to say who it is.
const HELLO_MAX: Duration = Duration::from_secs(30);

/// What the other end is reached by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// This process's standard streams.
    Stdio,
    /// A TCP address to listen on.
    Tcp(String),
}

impl FromStr for Transport {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("tcp", address)) => Ok(Self::Tcp(address.into())),
            None if text == "stdio" => Ok(Self::Stdio),
            _ => Err("serve on stdio or on tcp:ADDRESS:PORT".into()),
        }
    }
}

/// The end that waits for the other one.
#[derive(Clone, Debug)]
pub struct Server {
    /// The disk.
    pub disk: Place,
    /// Where to keep what is known of it.
    pub state: Option<State>,
    /// Where to keep what is known of it from one resync to the next.
    pub cache: Option<Cache>,
    /// Whether the disk is the one that is right, and only read.
    pub is_source: bool,
    /// On reads of it, if so.
    pub read_limit: Speeds,
    /// Make or extend the disk.
    pub create: bool,
    /// Tell outcomes as lines of JSON.
    pub json: bool,
}

impl Server {
    /// Serves the one at the other end of the standard streams, or on TCP one after the other for
    /// ever. Outcomes go to standard error.
    pub fn run(&self, transport: &Transport) -> Result<()> {
        match transport {
            Transport::Stdio => {
                // Not through the standard library's buffers, which would cost a copy.
                let reader = File::from(stdin().as_fd().try_clone_to_owned()?);
                let writer = File::from(stdout().as_fd().try_clone_to_owned()?);
                self.serve(reader, writer)
            }
            Transport::Tcp(address) => {
                let listener = TcpListener::bind(address)
                    .with_context(|| format!("cannot listen on {address}"))?;
                eprintln!("listening on tcp:{}", listener.local_addr()?);
                for stream in listener.incoming() {
                    if let Err(error) = stream.map_err(Into::into).and_then(|s| self.serve_tcp(s)) {
                        eprintln!("error: {error:#}");
                    }
                }
                Ok(())
            }
        }
    }

    fn serve_tcp(&self, stream: TcpStream) -> Result<()> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(HELLO_MAX))?;
        let mut reader = stream.try_clone()?;
        let (hello, said) = greet(&mut reader)?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        self.answer(&hello, Cursor::new(said).chain(reader), stream)
    }

    /// Serves the one at the other end of a stream.
    pub fn serve(
        &self,
        mut reader: impl Read + Send + 'static,
        writer: impl Write + Send + 'static,
    ) -> Result<()> {
        let (hello, said) = greet(&mut reader)?;
        self.answer(&hello, Cursor::new(said).chain(reader), writer)
    }

    /// Does what the other end, which said Hello, wants. It decides on what this end has no mind of
    /// its own about.
    fn answer(
        &self,
        hello: &Hello,
        reader: impl Read + Send + 'static,
        writer: impl Write + Send + 'static,
    ) -> Result<()> {
        if self.is_source {
            ensure!(hello.role == Role::Target, "this disk is only read");
            let disk = self.disk.open_to_read()?;
            let read_limit = self.read_limit.follow();
            let disk = LimitedSource::new(disk.as_ref(), read_limit.limit());
            return self.exchange(hello, Disk::Source(&disk), (reader, writer));
        }
        let disk = self.disk.open_target(hello.grid.size(), self.create)?;
        self.exchange(hello, Disk::Target(disk.as_ref()), (reader, writer))
    }

    fn exchange(
        &self,
        hello: &Hello,
        disk: Disk<'_>,
        streams: (impl Read + Send + 'static, impl Write + Send + 'static),
    ) -> Result<()> {
        let end = End {
            place: &self.disk,
            disk,
            state: self.state.as_ref(),
            cache: self.cache.as_ref(),
            is_afresh: false,
        };
        let terms = Terms {
            session: hello.session,
            epoch: hello.epoch,
            grid: Grid::new(end.disk.size(), hello.grid.block_size()),
            algorithm: hello.algorithm,
        };
        let kept = end.kept()?.filter(|cursor| *cursor.terms() == terms);
        let (begun, is_resumed) = (Instant::now(), kept.is_some());
        let progress = match end.run(terms, kept, |_| (), streams) {
            Err(error) if is_stop(&error) => {
                eprintln!("the other end stopped: {error:#}");
                // Nobody goes on with what this one kept.
                let is_kept = end.kept()?.is_some_and(|cursor| *cursor.terms() == terms);
                return match &self.state {
                    Some(state) if is_kept => state.clear(),
                    _ => Ok(()),
                };
            }
            ended => ended?,
        };
        if let Some(state) = &self.state {
            state.clear()?;
        }
        self.tell(&Report::of_remote(progress, begun).resumed(is_resumed))
    }

    fn tell(&self, report: &Report) -> Result<()> {
        if self.json {
            eprintln!("{}", serde_json::to_string(report)?);
        } else {
            eprintln!("{report}");
        }
        Ok(())
    }
}

/// Whether the other end ended the resync though nothing was wrong.
fn is_stop(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<Error>();
    matches!(error, Some(Error::Peer { farewell }) if farewell.reason == Reason::Stopped)
}

/// What the other end says first, and the bytes that were read for it.
fn greet(reader: &mut impl Read) -> Result<(Hello, Vec<u8>)> {
    let mut decoder = Decoder::new(BlockSize::MIN);
    let (mut said, mut unread) = (Vec::new(), BytesMut::new());
    let mut chunk = [0; 512];
    loop {
        match decoder.decode(&mut unread)? {
            Some(Message::Hello(hello)) => return Ok((hello, said)),
            Some(_) => bail!("the other end said something before Hello"),
            None => {}
        }
        let count = reader.read(&mut chunk)?;
        if count == 0 {
            return Err(Error::Closed.into());
        }
        let read = chunk.get(..count).unwrap_or_default();
        said.extend_from_slice(read);
        unread.extend_from_slice(read);
    }
}
