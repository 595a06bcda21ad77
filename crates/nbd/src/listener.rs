//! The listening end of a server's socket.

use std::fs::{self, Permissions};
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};

use crate::stream::Stream;
use crate::{Error, ListenAddress, Result};

/// A listening socket that can be told to stop.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: Socket,
    /// Readable, by its end, once the [`Waker`] is dropped.
    wake: UnixStream,
}

/// Ends the wait of its [`Listener`] when it is dropped.
#[derive(Debug)]
pub(crate) struct Waker {
    _wake: UnixStream,
}

#[derive(Debug)]
enum Socket {
    Unix(UnixSocket),
    Tcp(TcpListener),
}

impl Listener {
    /// Listens on `address`; also the address that it really has.
    pub(crate) fn bind(address: &ListenAddress) -> Result<(Self, Waker, ListenAddress)> {
        let failed = |source| io_error(address, source);
        let (socket, actual) = match address {
            ListenAddress::Tcp(socket) if !socket.ip().is_loopback() => {
                return Err(Error::NotLoopback(*socket));
            }
            ListenAddress::Tcp(socket) => {
                let listener = TcpListener::bind(socket).map_err(failed)?;
                listener.set_nonblocking(true).map_err(failed)?;
                let actual = listener.local_addr().map_err(failed)?;
                (Socket::Tcp(listener), ListenAddress::Tcp(actual))
            }
            ListenAddress::Unix(path) => {
                make_way(path)?;
                let socket = UnixSocket::bind(path).map_err(failed)?;
                (Socket::Unix(socket), address.clone())
            }
        };
        let (wake, waker) = UnixStream::pair().map_err(failed)?;
        Ok((Self { socket, wake }, Waker { _wake: waker }, actual))
    }

    /// The next connection; `None` once the waker is dropped.
    pub(crate) fn accept(&self) -> io::Result<Option<Stream>> {
        loop {
            if self.wait()? {
                return Ok(None);
            }
            let accepted = match &self.socket {
                Socket::Unix(socket) => socket.listener.accept().map(|(s, _)| Stream::Unix(s)),
                Socket::Tcp(listener) => listener.accept().and_then(|(s, _)| Stream::tcp(s)),
            };
            match accepted {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                accepted => {
                    let stream = accepted?;
                    stream.set_blocking()?;
                    return Ok(Some(stream));
                }
            }
        }
    }

    /// Waits for a connection or for the waker; whether it was the waker.
    fn wait(&self) -> io::Result<bool> {
        let mut ready = [
            PollFd::new(&self.socket, PollFlags::IN),
            PollFd::new(&self.wake, PollFlags::IN),
        ];
        match poll(&mut ready, None) {
            Ok(_) => Ok(ready.iter().skip(1).any(|wake| !wake.revents().is_empty())),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(socket) => socket.listener.as_fd(),
            Self::Tcp(listener) => listener.as_fd(),
        }
    }
}

/// A Unix socket whose file is removed when it is dropped, unless another server has put its own
/// there meanwhile.
#[derive(Debug)]
struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
    identity: (u64, u64),
}

impl UnixSocket {
    /// Makes the socket in a folder that only its owner can enter and renames it into place, so that
    /// nobody else can ever connect, and so that whoever sees the file finds a server.
    fn bind(path: &Path) -> io::Result<Self> {
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        let private = tempfile::Builder::new()
            .prefix(".")
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(folder.unwrap_or(Path::new(".")))?;
        let inside = private.path().join("s");
        let listener = UnixListener::bind(&inside)?;
        listener.set_nonblocking(true)?;
        fs::set_permissions(&inside, Permissions::from_mode(0o600))?;
        let identity = identity(&inside)?;
        fs::rename(&inside, path)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            identity,
        })
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

/// Refuses `path` if a server listens there, or if it is anything but a socket without one.
fn make_way(path: &Path) -> Result<()> {
    let failed = |source| io_error(&ListenAddress::Unix(path.into()), source);
    match UnixStream::connect(path) {
        Ok(_) => Err(Error::InUse(path.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            let found = fs::symlink_metadata(path).map_err(failed)?;
            if found.file_type().is_socket() {
                return Ok(());
            }
            Err(Error::NotASocket(path.into()))
        }
        Err(error) => Err(failed(error)),
    }
}

fn io_error(address: &ListenAddress, source: io::Error) -> Error {
    Error::Io {
        operation: "listen on",
        peer: address.to_string(),
        source,
    }
}
