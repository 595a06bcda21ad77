//! The connection to a server, made anew when it broke.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;

/// How long it may take until there is a connection, and until an answer begins behind the time that the
/// request's body takes.
const PATIENCE: Duration = Duration::from_secs(30);
/// The slowest that a body is taken to go, in bytes a second.
const RATE_MIN: u64 = 16 << 10;
/// What is on its way to the client at a time: of one answer, and of the connection.
const WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// A connection on which nothing comes is asked whether it is still there, and given up after so long.
const PING_EVERY: Duration = Duration::from_secs(10);

type Sender = SendRequest<Full<Bytes>>;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    #[error("no connection: {0}")]
    Connect(io::Error),
    /// One side's certificate is not the other's to accept.
    #[error("the certificate is refused: {0}")]
    Certificate(Box<dyn StdError + Send + Sync>),
    #[error("the connection was lost: {0}")]
    Broken(hyper::Error),
    #[error("no answer in time")]
    Late,
}

/// Connects when something is sent, and again when that broke.
pub(super) struct Connection {
    /// Host and port.
    address: String,
    name: ServerName<'static>,
    connector: TlsConnector,
    sender: Mutex<Option<Sender>>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connection").field(&self.address).finish()
    }
}

impl Connection {
    pub(super) fn new(
        address: String,
        name: ServerName<'static>,
        config: Arc<rustls::ClientConfig>,
    ) -> Self {
        Self {
            address,
            name,
            connector: TlsConnector::from(config),
            sender: Mutex::default(),
        }
    }

    /// The answer to `request`, whose body is `length` bytes long and paced by whoever made it.
    pub(super) async fn send(
        &self,
        request: Request<Full<Bytes>>,
        length: usize,
    ) -> Result<Response<Incoming>, Lost> {
        let mut sender = self.sender().await?;
        let patience = PATIENCE + Duration::from_secs(length as u64 / RATE_MIN);
        let answer = async {
            sender.ready().await?;
            sender.send_request(request).await
        };
        match tokio::time::timeout(patience, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                self.forget().await;
                Err(broken(error))
            }
            Err(_) => Err(Lost::Late),
        }
    }

    /// The next request gets a connection of its own.
    async fn forget(&self) {
        let mut sender = self.sender.lock().await;
        sender.take_if(|sender| sender.is_closed());
    }

    async fn sender(&self) -> Result<Sender, Lost> {
        let mut present = self.sender.lock().await;
        if let Some(sender) = present.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let connecting = tokio::time::timeout(PATIENCE, self.connect()).await;
        let sender = connecting.map_err(|_| Lost::Late)??;
        *present = Some(sender.clone());
        Ok(sender)
    }

    async fn connect(&self) -> Result<Sender, Lost> {
        let stream = TcpStream::connect(&self.address)
            .await
            .map_err(Lost::Connect)?;
        stream.set_nodelay(true).map_err(Lost::Connect)?;
        let stream = self.connector.connect(self.name.clone(), stream).await;
        let stream = stream.map_err(|error| {
            if certificate(&error) {
                return Lost::Certificate(error.into());
            }
            Lost::Connect(error)
        })?;
        let made = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PATIENCE)
            .handshake(TokioIo::new(stream))
            .await;
        let (sender, connection) = made.map_err(broken)?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to the replica server ended");
            }
        });
        Ok(sender)
    }
}

fn broken(error: hyper::Error) -> Lost {
    if certificate(&error) {
        return Lost::Certificate(error.into());
    }
    Lost::Broken(error)
}

/// Whether it is a certificate that `error` comes from: one's own refused by the other side, which is
/// only told once the connection is there, or the other's.
fn certificate(error: &(dyn StdError + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let within = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        let tls = within.and_then(|error| error.downcast_ref::<rustls::Error>());
        let tls = tls.or_else(|| error.downcast_ref());
        if let Some(error) = tls {
            return matches!(
                error,
                rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_)
            );
        }
        cause = error.source();
    }
    false
}
