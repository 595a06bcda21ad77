//! A way to a server on which every connection breaks after so many bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

pub(crate) struct Cuts {
    pub(crate) port: u16,
    count: Arc<AtomicUsize>,
    running: JoinHandle<()>,
}

impl Cuts {
    /// To the server at `port`; from 1 to `bytes` bytes pass, both ways together.
    pub(crate) async fn start(port: u16, bytes: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let count = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&count);
        let running = tokio::spawn(async move {
            let mut random = fastrand::Rng::with_seed(bytes as u64);
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(("127.0.0.1", port)).await else {
                    continue;
                };
                let (counted, left) = (Arc::clone(&counted), random.usize(bytes / 2..bytes));
                tokio::spawn(async move {
                    if !pass(near, far, left).await {
                        counted.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        Self {
            port: own,
            count,
            running,
        }
    }

    /// How many connections were cut.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }
}

impl Drop for Cuts {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// Lets so many bytes pass; whether that was all that was sent.
async fn pass(mut near: TcpStream, mut far: TcpStream, mut left: usize) -> bool {
    let (mut to, mut from) = (vec![0; 16 << 10], vec![0; 16 << 10]);
    loop {
        let (read, there) = tokio::select! {
            read = near.read(&mut to) => (read.unwrap_or(0), true),
            read = far.read(&mut from) => (read.unwrap_or(0), false),
        };
        if read == 0 {
            return true;
        }
        let passed = read.min(left);
        left -= passed;
        let written = if there {
            far.write_all(&to[..passed]).await
        } else {
            near.write_all(&from[..passed]).await
        };
        if left == 0 || written.is_err() {
            return false;
        }
    }
}
