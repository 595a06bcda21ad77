//! The other end of a stream, whose disk is made equal, or is the one that is right.

use std::fs::File;
use std::io::{Cursor, Read, Write, stdin, stdout};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use afterimage_resync::protocol::{Hello, Role};
use afterimage_resync::remote::{self, Terms};
use afterimage_resync::{Grid, Limit, LimitedSource};
use anyhow::{Context, Result, ensure};

use super::end::{Disk, End};
use super::greeting::{answer_size, greet};
use super::peer::SILENCE_MAX;
use super::stop::is_stopped_there;
use super::target::Target;
use super::{Cache, Display, Place, Report, Speeds, State, Stop};

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
    /// Where to keep what differs, to write it at the end or not at all.
    pub stage: Option<PathBuf>,
    /// Ends it before its end.
    pub stop: Stop,
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
        let (hello, said) = self.greeted(&mut reader, &mut &stream)?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        self.answer(&hello, Cursor::new(said).chain(reader), stream)
    }

    /// What the other end says first but for how large the disk is, which it may ask before.
    fn greeted(&self, reader: &mut impl Read, writer: &mut impl Write) -> Result<(Hello, Vec<u8>)> {
        let (hello, said) = greet(reader)?;
        if !hello.grid.size().is_zero() {
            return Ok((hello, said));
        }
        ensure!(
            self.is_source,
            "this disk is to be made equal, and is as large as the other one"
        );
        answer_size(&hello, self.disk.open_to_read()?.size(), writer)?;
        greet(reader)
    }

    /// Serves the one at the other end of a stream.
    pub fn serve(
        &self,
        mut reader: impl Read + Send + 'static,
        mut writer: impl Write + Send + 'static,
    ) -> Result<()> {
        let (hello, said) = self.greeted(&mut reader, &mut writer)?;
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
        let target = Target {
            place: &self.disk,
            create: self.create.then(|| hello.grid.size()),
            stage: self.stage.as_deref(),
            is_kept: self.state.is_some(),
            limit: Limit::default(),
            stop: &self.stop,
        };
        let ended =
            target.change(|disk| self.exchange(hello, Disk::Target(disk), (reader, writer)));
        match ended {
            Err(error) if is_stopped_there(&error) => {
                eprintln!("the other end stopped: {error:#}");
                Ok(())
            }
            ended => ended,
        }
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
            reread: None,
        };
        let terms = Terms {
            session: hello.session,
            epoch: hello.epoch,
            grid: Grid::new(end.disk.size(), hello.grid.block_size()),
            algorithm: hello.algorithm,
        };
        let kept = end.kept()?.filter(|cursor| *cursor.terms() == terms);
        let resumed_at = kept.as_ref().map(remote::Cursor::resumes_at);
        let begun = Instant::now();
        let ended = end.run(terms, kept, &mut Display::silent(), streams);
        if let (Err(error), Some(state)) = (&ended, &self.state)
            && is_stopped_there(error)
            && end.kept()?.is_some_and(|cursor| *cursor.terms() == terms)
        {
            // Nobody goes on with what this one kept.
            state.clear()?;
        }
        let progress = ended?;
        if let Some(state) = &self.state {
            state.clear()?;
        }
        self.tell(&Report::of_remote(progress, begun).resumed(resumed_at))
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
