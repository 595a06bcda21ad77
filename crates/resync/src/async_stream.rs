//! The halves of an asynchronous stream as a driver on threads takes them.
//!
//! Hashing and disks block, so a driver has threads whatever the stream is. All that is asynchronous is
//! the stream, and the driver's logic is the same.

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
/// connection breaks.
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
    // Its receivers learn when it is dropped, with this future or at its end.
    let (_guard, dropped) = watch::channel(());
    let (reader, writer) = split(stream);
    let runtime = Runtime {
        handle: Handle::current(),
        dropped,
    };
    let reader = StreamReader {
        half: reader,
        runtime: runtime.clone(),
    };
    let writer = StreamWriter {
        half: writer,
        runtime,
    };
    match spawn_blocking(move || run(reader, writer)).await {
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

#[derive(Clone, Debug)]
struct Runtime {
    handle: Handle,
    dropped: watch::Receiver<()>,
}

impl Runtime {
    /// Waits for an operation of the stream, for as long as anybody waits for the resync.
    fn wait<T>(&mut self, operation: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let Self { handle, dropped } = self;
        handle.block_on(async {
            tokio::select! {
                done = operation => done,
                _ = dropped.changed() => {
                    Err(io::Error::new(io::ErrorKind::ConnectionAborted, "nobody waits for it"))
                }
            }
        })
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
