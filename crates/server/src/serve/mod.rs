//! The server: connections, and who is at their other end.

mod answer;
mod body;
mod grants;
mod limits;
mod listing;
mod quota;
mod service;
mod target;
mod uploads;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use object_store::ObjectStore;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

pub use grants::Grants;
pub use limits::Limits;

use crate::{Error, Identity, Result};
use service::{Caller, Service};

/// Headers of a request, all together.
const HEADERS_MAX: u32 = 16 << 10;
/// What is on its way to the server at a time: of one request, and of a connection.
const WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// A connection on which nothing comes is asked whether it is still there.
const PING_EVERY: Duration = Duration::from_secs(10);
/// After a failed accept, which may be for want of file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// Who is refused is listened to for so long, and so much of it.
const FAREWELL: Duration = Duration::from_secs(1);
const FAREWELL_MAX: u64 = 64 << 10;
/// How long requests may go on once the server is to stop.
const STOPPING_MAX: Duration = Duration::from_secs(10);

/// A server of an object store.
pub struct Server {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    shared: Arc<Shared>,
}

struct Shared {
    grants: Grants,
    limits: Limits,
    service: Service,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Server").field(&self.listener).finish()
    }
}

impl Server {
    /// A server of `objects` at `address`, which must honour conditions: serve `Store::objects` of a local
    /// folder, not the folder by itself. Connections are taken once it [runs](Self::run).
    ///
    /// # Errors
    /// [`Error::Listen`], [`Error::File`], [`Error::Pem`], [`Error::KeyExposed`],
    /// [`Error::Certificates`].
    pub async fn bind(
        address: &str,
        identity: &Identity,
        objects: Arc<dyn ObjectStore>,
        grants: Grants,
        limits: Limits,
    ) -> Result<Self> {
        let acceptor = TlsAcceptor::from(identity.server()?);
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|source| Error::Listen {
            address: address.into(),
            source,
        })?;
        let service = Service::new(objects, limits.clone());
        let shared = Arc::new(Shared {
            grants,
            limits,
            service,
        });
        Ok(Self {
            listener,
            acceptor,
            shared,
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// [`Error::Listen`].
    pub fn local_addr(&self) -> Result<SocketAddr> {
        let address = self.listener.local_addr();
        address.map_err(|source| Error::Listen {
            address: "its own address".into(),
            source,
        })
    }

    /// Serves until `stop`; then what was begun is ended, within 10 s.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let places = Arc::new(Semaphore::new(self.shared.limits.connections));
        let (stopping, stopped) = watch::channel(false);
        let mut connections = JoinSet::new();
        tokio::pin!(stop);
        loop {
            let accepted = async {
                let place = Arc::clone(&places).acquire_owned().await;
                (place, self.listener.accept().await)
            };
            let (place, stream) = tokio::select! {
                () = &mut stop => break,
                Some(_) = connections.join_next() => continue,
                (place, accepted) = accepted => match accepted {
                    Ok((stream, _)) => (place, stream),
                    Err(error) => {
                        tracing::warn!(%error, "a connection cannot be taken");
                        tokio::time::sleep(ACCEPT_AGAIN).await;
                        continue;
                    }
                },
            };
            let (acceptor, shared) = (self.acceptor.clone(), Arc::clone(&self.shared));
            let stopped = stopped.clone();
            connections.spawn(async move {
                let _place = place;
                shared.connection(&acceptor, stream, stopped).await;
            });
        }
        drop(self.listener);
        stopping.send_replace(true);
        let ended = async { while connections.join_next().await.is_some() {} };
        // What is not ended by then is cut off with the set.
        let _ = tokio::time::timeout(STOPPING_MAX, ended).await;
    }
}

/// Lets the other side hear why it is refused: what it has sent meanwhile is read, since a connection that
/// is closed over it is reset, and with it what was said last.
async fn farewell(mut stream: TcpStream) {
    let mut heard = Vec::new();
    let reading = async {
        stream.shutdown().await?;
        stream.take(FAREWELL_MAX).read_to_end(&mut heard).await
    };
    let _ = tokio::time::timeout(FAREWELL, reading).await;
}

impl Shared {
    async fn connection(
        self: Arc<Self>,
        acceptor: &TlsAcceptor,
        stream: TcpStream,
        stopped: watch::Receiver<bool>,
    ) {
        let peer = stream
            .peer_addr()
            .map_or_else(|_| "?".into(), |peer| peer.to_string());
        // Small answers are not held back for larger ones.
        let _ = stream.set_nodelay(true);
        let accepting = tokio::time::timeout(
            self.limits.patience,
            acceptor.accept(stream).into_fallible(),
        );
        let stream = match accepting.await {
            Ok(Ok(stream)) => stream,
            Ok(Err((error, stream))) => {
                tracing::warn!(peer, %error, "a connection is refused");
                return farewell(stream).await;
            }
            Err(_) => return tracing::warn!(peer, "a connection is refused: it came too slowly"),
        };
        let Some(client) = self.client(&stream) else {
            return tracing::warn!(
                peer,
                "a connection is refused: its certificate is not listed"
            );
        };
        let end = Arc::new(Notify::new());
        let caller = Caller {
            client,
            end: Arc::clone(&end),
        };
        self.serve(stream, caller, &end, stopped).await;
    }

    fn client(&self, stream: &TlsStream<TcpStream>) -> Option<Arc<grants::Client>> {
        let (_, session) = stream.get_ref();
        self.grants.of(session.peer_certificates()?.first()?)
    }

    async fn serve(
        self: Arc<Self>,
        stream: TlsStream<TcpStream>,
        caller: Caller,
        end: &Notify,
        mut stopped: watch::Receiver<bool>,
    ) {
        let name = caller.client.name.clone();
        let requests = self.limits.requests;
        let patience = self.limits.patience;
        let service = service_fn(move |request| {
            let (shared, caller) = (Arc::clone(&self), caller.clone());
            async move { Ok::<_, Infallible>(shared.service.answer(&caller, request).await) }
        });
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(requests)
            .max_header_list_size(HEADERS_MAX)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(patience)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = end.notified() => return tracing::warn!(client = name, "too slow: its connection is ended"),
            () = async { drop(stopped.wait_for(|stopped| *stopped).await) } => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(client = name, %error, "a connection ended");
        }
    }
}
