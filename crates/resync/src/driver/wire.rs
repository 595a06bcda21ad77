//! Messages in and out of a stream's halves, each on a thread of its own.

use std::io::{self, BufWriter, Read, Write};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError, channel};
use std::thread::{Builder, JoinHandle};

use bytes::BytesMut;

use super::Event;
use crate::protocol::{Decoder, Frame, Message};
use crate::{BlockSize, Error, Result};

/// How much is read of the stream at once.
const READ: usize = 128 << 10;

/// How much before it is known what comes: many messages that are small, little beside one of data.
const FIRST: usize = 16 << 10;

/// The way out. The way in gives its messages as events.
pub(super) struct Wire {
    frames: Option<Sender<Frame>>,
    writer: JoinHandle<io::Result<()>>,
    queued: usize,
}

impl Wire {
    pub(super) fn open(
        reader: impl Read + Send + 'static,
        writer: impl Write + Send + 'static,
        block_size: BlockSize,
        events: &SyncSender<Event>,
    ) -> Result<Self> {
        let (frames, queue) = channel();
        let failed = |source| Error::Transport {
            operation: "start a thread for",
            source,
        };
        let (incoming, sent) = (events.clone(), events.clone());
        let writer = Builder::new()
            .name("resync-send".into())
            .spawn(move || send_all(writer, &queue, &sent))
            .map_err(failed)?;
        Builder::new()
            .name("resync-receive".into())
            .spawn(move || receive_all(reader, Decoder::new(block_size), &incoming))
            .map_err(failed)?;
        Ok(Self {
            frames: Some(frames),
            writer,
            queued: 0,
        })
    }

    /// Bytes that wait to be written.
    pub(super) const fn queued(&self) -> usize {
        self.queued
    }

    /// So many are written.
    pub(super) const fn sent(&mut self, bytes: usize) {
        self.queued = self.queued.saturating_sub(bytes);
    }

    pub(super) fn send(&mut self, message: &Message) {
        let frame = message.encode();
        self.queued = self.queued.saturating_add(frame.len());
        // A writer that is gone has said why.
        let _ = self.frames.as_ref().map(|frames| frames.send(frame));
    }

    /// Waits until all is written.
    pub(super) fn close(mut self) -> Result<()> {
        self.frames = None;
        let ended = self.writer.join();
        let ended = ended.unwrap_or_else(|_| Err(io::Error::other("the stream panicked")));
        ended.map_err(|source| Error::Transport {
            operation: "send to",
            source,
        })
    }

    /// Tells the other end why this one gives up, and waits for nothing.
    pub(super) fn part(&mut self, error: &Error) {
        if let Some(farewell) = error.farewell() {
            self.send(&Message::Error(farewell));
        }
        self.frames = None;
    }
}

/// Writes frames until there are no more to come.
fn send_all(
    writer: impl Write,
    frames: &Receiver<Frame>,
    events: &SyncSender<Event>,
) -> io::Result<()> {
    let mut writer = BufWriter::with_capacity(64 << 10, writer);
    let ended = send_each(&mut writer, frames, events);
    if let Err(source) = &ended {
        let source = io::Error::new(source.kind(), source.to_string());
        let operation = "send to";
        let _ = events.send(Event::Unsendable(Error::Transport { operation, source }));
    }
    ended
}

fn send_each(
    writer: &mut impl Write,
    frames: &Receiver<Frame>,
    events: &SyncSender<Event>,
) -> io::Result<()> {
    loop {
        let frame = match frames.try_recv() {
            Ok(frame) => frame,
            Err(TryRecvError::Disconnected) => return writer.flush(),
            Err(TryRecvError::Empty) => {
                writer.flush()?;
                let Ok(frame) = frames.recv() else {
                    return Ok(());
                };
                frame
            }
        };
        writer.write_all(&frame.head)?;
        writer.write_all(&frame.payload)?;
        // The end may have stopped listening and still have something to say.
        let _ = events.send(Event::Sent(frame.len()));
    }
}

/// Reads messages until the last one, the end of the stream, or an error.
fn receive_all(mut reader: impl Read, mut decoder: Decoder, events: &SyncSender<Event>) {
    let lost = loop_over(&mut reader, &mut decoder, events);
    if let Err(error) = lost {
        let _ = events.send(Event::Lost(error));
    }
}

fn loop_over(
    reader: &mut impl Read,
    decoder: &mut Decoder,
    events: &SyncSender<Event>,
) -> Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        while let Some(message) = decoder.decode(&mut buffer)? {
            let is_last = matches!(message, Message::Done { .. } | Message::Error(_));
            if events.send(Event::Message(message)).is_err() || is_last {
                return Ok(());
            }
        }
        let held = buffer.len();
        // Room for the rest of a message and no more, since its data keeps alive all that is allocated
        // with it.
        let missing = decoder.missing(&buffer);
        buffer.reserve(missing);
        let chunk = if held == 0 { FIRST } else { missing.min(READ) };
        buffer.resize(held.saturating_add(chunk), 0);
        let read = reader.read(buffer.get_mut(held..).unwrap_or_default());
        buffer.truncate(held.saturating_add(*read.as_ref().unwrap_or(&0)));
        match read {
            Ok(0) => return Err(Error::Closed),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => {
                let operation = "receive from";
                return Err(Error::Transport { operation, source });
            }
        }
    }
}
