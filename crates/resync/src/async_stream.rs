//! The halves of an asynchronous stream as a driver on threads takes them.
//!
//! Hashing and disks block, so a driver has threads whatever the stream is. All that is asynchronous is
//! the stream, and the driver's logic is the same.

use std::future::pending;
use std::io::{self, Read, Write};
use std::panic::resume_unwind;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use crate::{Error, Result};

/// Runs one end, such as a [`Driver`](crate::Driver), over an asynchronous stream, on a thread for work
/// that blocks.
///
/// Dropped before it is ready, it makes the stream fail, at which the end gives up as it does when a
/// connection breaks. An end that gives up by itself still has its last word written.
///
/// ```
/// use std::sync::Arc;
/// use afterimage_block::{BlockWrite, Epoch, Length, MemoryDisk, Offset, SessionId};
/// use afterimage_resync::{Algorithm, BlockSize, Driver, Grid, over_stream, remote::Terms};
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
///
/// let [near, far] = [(); 2].map(|()| Arc::new(MemoryDisk::new(Length::gib(1))));
/// near.write_at(Offset::new(5 << 20), b"new")?;
/// let terms = Terms {
///     session: SessionId::random(),
///     epoch: Epoch::new(1),
///     grid: Grid::new(Length::gib(1), BlockSize::default()),
///     algorithm: Algorithm::default(),
/// };
/// let (here, there) = tokio::io::duplex(64 << 10); // or TCP, TLS, QUIC
/// let target = over_stream(there, move |from, to| Driver::new(terms).run_target(&*far, from, to));
/// let source = over_stream(here, move |from, to| Driver::new(terms).run_source(&*near, from, to));
/// let (sent, received) = tokio::try_join!(source, target)?;
/// assert_eq!((sent.sent, received.sent), (Length::kib(64), Length::kib(64)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// As `run`; [`Error::Stopped`] if the runtime is shut down before it began.
///
/// # Panics
/// Outside a tokio runtime, and where `run` panics.
pub async fn over_stream<S, T>(
    stream: S,
    run: impl FnOnce(StreamReader<S>, StreamWriter<S>) -> Result<T> + Send + 'static,
) -> Result<T>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
    T: Send + 'static,
{
    let (reader, writer) = split(stream);
    // Dropped with this future, too.
    let (reading, runtime) = Runtime::new();
    let reader = StreamReader {
        half: reader,
        runtime,
    };
    let (writing, runtime) = Runtime::new();
    let writer = StreamWriter {
        half: writer,
        runtime,
    };
    let ended = spawn_blocking(move || run(reader, writer)).await;
    drop(reading);
    // An end that gave up has not waited until its last word was written.
    let _ = writing.send(true);
    match ended {
        Ok(ended) => ended,
        Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
        Err(_) => Err(Error::Stopped),
    }
}

/// What [`over_stream`] gives to be read from, on any thread but the runtime's.
#[derive(Debug)]
pub struct StreamReader<S> {
    half: ReadHalf<S>,
    runtime: Runtime,
}

/// What [`over_stream`] gives to be written to, on any thread but the runtime's.
#[derive(Debug)]
pub struct StreamWriter<S> {
    half: WriteHalf<S>,
    runtime: Runtime,
}

/// The runtime, for as long as anybody waits for the resync.
#[derive(Debug)]
struct Runtime {
    handle: Handle,
    /// Its sender is dropped when nobody does any more; was it true by then, what there is still to do
    /// is done.
    released: watch::Receiver<bool>,
}

impl Runtime {
    fn new() -> (watch::Sender<bool>, Self) {
        let (guard, released) = watch::channel(false);
        let handle = Handle::current();
        (guard, Self { handle, released })
    }

    /// Waits for an operation of the stream.
    fn wait<T>(&mut self, operation: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let Self { handle, released } = self;
        handle.block_on(async {
            tokio::select! {
                done = operation => done,
                () = abandoned(released) => {
                    Err(io::Error::new(io::ErrorKind::ConnectionAborted, "nobody waits for it"))
                }
            }
        })
    }
}

async fn abandoned(released: &mut watch::Receiver<bool>) {
    while released.changed().await.is_ok() {}
    if *released.borrow() {
        pending::<()>().await;
    }
}

impl<S: AsyncRead> Read for StreamReader<S> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.runtime.wait(self.half.read(buf))
    }
}

impl<S: AsyncWrite> Write for StreamWriter<S> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.runtime.wait(self.half.write(buf))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.runtime.wait(self.half.flush())
    }
}
