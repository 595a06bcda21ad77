//! The other end of a stream, whose disk is made equal.

use std::fs::File;
use std::io::{Cursor, Read, Write, stdin, stdout};
use std::net::{TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::str::FromStr;
use std::time::{Duration, Instant};

use afterimage_resync::protocol::{Decoder, Hello, Message, Reason};
use afterimage_resync::remote::{self, Terms};
use afterimage_resync::{BlockSize, Driver, Error, Grid};
use anyhow::{Context, Result, bail};
use bytes::BytesMut;

use super::fingerprint::Fingerprint;
use super::push::SILENCE_MAX;
use super::state::Kept;
use super::{Place, Report, State};

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

/// The end whose disk is made equal.
#[derive(Clone, Debug)]
pub struct Server {
    /// The disk.
    pub disk: Place,
    /// Where to keep what is known of it.
    pub state: Option<State>,
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

    /// Serves the source at the other end of a stream.
    pub fn serve(
        &self,
        mut reader: impl Read + Send + 'static,
        writer: impl Write + Send + 'static,
    ) -> Result<()> {
        let (hello, said) = greet(&mut reader)?;
        self.answer(&hello, Cursor::new(said).chain(reader), writer)
    }

    /// Does what the source of this Hello wants. The source decides on what this end has no mind of
    /// its own about.
    fn answer(
        &self,
        hello: &Hello,
        reader: impl Read + Send + 'static,
        writer: impl Write + Send + 'static,
    ) -> Result<()> {
        let disk = self.disk.open_target(hello.grid.size(), self.create)?;
        let terms = Terms {
            session: hello.session,
            epoch: hello.epoch,
            grid: Grid::new(disk.size(), hello.grid.block_size()),
            algorithm: hello.algorithm,
        };
        let (begun, mut first) = (Instant::now(), None);
        let mut driver = Driver::new(terms).observe(|progress| {
            first.get_or_insert(progress.hashed);
            ControlFlow::Continue(())
        });
        if let Some(cursor) = self.kept(&terms)? {
            driver = driver.resume(cursor);
        }
        if let Some(state) = &self.state {
            let fingerprint = Fingerprint::of_target(&self.disk)?;
            driver = driver.save(move |cursor| {
                let (target, cursor) = (fingerprint.clone(), cursor.clone());
                Ok(state.store(&Kept::Serve { target, cursor })?)
            });
        }
        let progress = match driver.run_target(&*disk, reader, writer) {
            Err(Error::Peer { farewell }) if farewell.reason == Reason::Stopped => {
                eprintln!("the source stopped: {:?}", farewell.text);
                return self.forget(&terms);
            }
            ended => ended?,
        };
        if let Some(state) = &self.state {
            state.clear()?;
        }
        let report = Report::of_remote(progress, begun);
        let saved = first.unwrap_or_default();
        self.tell(&Report { saved, ..report })
    }

    /// What was kept, if it is of this disk and resync.
    fn kept(&self, terms: &Terms) -> Result<Option<remote::Cursor>> {
        let kept = self.state.as_ref().map(State::load).transpose()?.flatten();
        match kept {
            Some(Kept::Serve { target, cursor })
                if cursor.terms() == terms && target == Fingerprint::of_target(&self.disk)? =>
            {
                Ok(Some(cursor))
            }
            _ => Ok(None),
        }
    }

    /// Clears what is kept of a resync that nobody goes on with.
    fn forget(&self, terms: &Terms) -> Result<()> {
        match &self.state {
            Some(state) if self.kept(terms)?.is_some() => state.clear(),
            _ => Ok(()),
        }
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

/// What the source says first, and the bytes that were read for it.
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
