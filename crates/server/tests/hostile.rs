//! What a client with a good certificate and bad intentions gets, and one without any.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use afterimage_server::{Issued, Limits};
use bytes::Bytes;
use common::{Running, Site};
use futures::stream::{self, StreamExt};
use http::{Request, StatusCode};
use http_body_util::StreamBody;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Frame;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A client that sends what it likes.
async fn raw(running: &Running, issued: &Issued) -> SendRequest<Body> {
    let identity = &issued.identity;
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(&identity.authority).unwrap())
        .unwrap();
    let certificate = CertificateDer::from_pem_file(&identity.certificate).unwrap();
    let key = PrivateKeyDer::from_pem_file(&identity.key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![certificate], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".into()];
    let stream = TcpStream::connect(("127.0.0.1", running.port))
        .await
        .unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("localhost").unwrap();
    let stream = connector.connect(name, stream).await.unwrap();
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(16 << 10)
        .initial_connection_window_size(64 << 10)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

fn whole(bytes: &'static [u8]) -> Body {
    Full::new(Bytes::from_static(bytes)).boxed_unsync()
}

/// A body that does not say how long it is, and goes on for ever.
fn endless(pause: Duration) -> Body {
    let part = move |()| async move {
        tokio::time::sleep(pause).await;
        Ok(Frame::data(Bytes::from_static(&[0; 16])))
    };
    StreamBody::new(stream::repeat(()).then(part)).boxed_unsync()
}

fn limits() -> Limits {
    Limits {
        patience: Duration::from_millis(400),
        rate_min: 1 << 30,
        object: 1 << 20,
        memory: 1 << 20,
        ..Limits::default()
    }
}

async fn status(sender: &mut SendRequest<Body>, request: Request<Body>) -> Option<StatusCode> {
    sender.ready().await.ok()?;
    let answer = tokio::time::timeout(Duration::from_secs(10), sender.send_request(request));
    Some(answer.await.unwrap().ok()?.status())
}

/// What is put where nothing may be, and the status that answers it.
const BAD_PATHS: [(&str, u16); 14] = [
    ("/", 400),
    ("/2/objects/machines/a/x", 400),
    ("/1/objects/", 400),
    ("/1/objects/../secret", 400),
    ("/1/objects/machines/a/../b/x", 400),
    ("/1/objects/machines/a/%2e%2e/b/x", 400),
    ("/1/objects/machines/a/%00", 400),
    ("/1/objects/machines//a", 400),
    ("/1/objects/machines/../machines/a/x", 400),
    ("/1/objects/manifest.lock", 403),
    ("/1/objects/machines/a", 403),
    ("/1/objects/replaced/machines/a/x/1", 403),
    ("/1/uploads/machines/b/x", 403),
    ("/1/uploads/machines/a/x", 400),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_end_in_an_error() {
    let mut site = Site::new();
    let host = site.client("host", "machines = ['a']");
    let objects = Arc::new(InMemory::new());
    let running = site.serve(Arc::clone(&objects) as _, limits()).await;
    let request = |method: &str, path: &str| {
        let uri = format!("https://localhost{path}");
        Request::builder().method(method).uri(uri)
    };
    let mut sender = raw(&running, &host).await;
    for (path, expected) in BAD_PATHS {
        let put = request("PUT", path).body(whole(b"1")).unwrap();
        let found = status(&mut sender, put).await;
        assert_eq!(
            found.map(|status| status.as_u16()),
            Some(expected),
            "{path}"
        );
    }
    let name = "/1/objects/machines/a/x";
    let put = || request("PUT", name);
    for (name, expected, request) in [
        ("no length", 411, put().body(endless(Duration::ZERO))),
        (
            "too long",
            413,
            put()
                .header("content-length", u64::MAX)
                .body(endless(Duration::ZERO)),
        ),
        (
            "too slow",
            408,
            put()
                .header("content-length", "1000")
                .body(endless(Duration::from_secs(1))),
        ),
        (
            "contradictory",
            400,
            put()
                .header("if-match", "1")
                .header("if-none-match", "*")
                .body(whole(b"1")),
        ),
        (
            "unknown method",
            405,
            request("PATCH", name).body(whole(b"1")),
        ),
        (
            "no such upload",
            410,
            request("PUT", "/1/uploads/machines/a/x")
                .header("afterimage-upload", "1")
                .header("afterimage-part", "0")
                .body(whole(b"1")),
        ),
        (
            "bad part",
            400,
            request("PUT", "/1/uploads/machines/a/x")
                .header("afterimage-upload", "1")
                .header("afterimage-part", "-1")
                .body(whole(b"1")),
        ),
    ] {
        // What was refused may have its stream reset before its answer is read.
        let found = status(&mut sender, request.unwrap()).await;
        assert!(
            found.is_none_or(|found| found.as_u16() == expected),
            "{name}: {found:?}"
        );
    }
    // Where it says more or less than it sends, or sends large headers, its stream or connection ends.
    let more = put()
        .header("content-length", "3")
        .body(endless(Duration::ZERO))
        .unwrap();
    assert!(
        status(&mut sender, more)
            .await
            .is_none_or(|status| !status.is_success())
    );
    let mut sender = raw(&running, &host).await;
    let large = put()
        .header("x", "y".repeat(20 << 10))
        .body(whole(b"1"))
        .unwrap();
    assert!(
        status(&mut sender, large)
            .await
            .is_none_or(|status| !status.is_success())
    );
    assert_eq!(objects.list(None).count().await, 0, "nothing is stored");
    let good = running.client(&host);
    good.put(&Path::from("machines/a/x"), "1".into())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_slow_or_speaks_something_else_is_cut_off() {
    let mut site = Site::new();
    let host = site.client("host", "machines = ['a']");
    let limits = Limits {
        connections: 2,
        ..limits()
    };
    let running = site.serve(Arc::new(InMemory::new()), limits).await;
    let begun = Instant::now();
    for said in [
        &b""[..],
        b"GET / HTTP/1.1\r\n\r\n",
        &[0x16, 3, 1, 0xff, 0xff, 1],
    ] {
        let mut stream = TcpStream::connect(("127.0.0.1", running.port))
            .await
            .unwrap();
        stream.write_all(said).await.unwrap();
        let mut heard = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut heard));
        assert!(ended.await.is_ok(), "{said:?} keeps its connection");
    }
    assert!(begun.elapsed() < Duration::from_secs(5));
    let client = running.client(&host);
    let path = Path::from("machines/a/x");
    client.put(&path, vec![0; 1 << 20].into()).await.unwrap();
    // Who asks and does not listen holds memory until its connection is ended for it.
    let mut idle = raw(&running, &host).await;
    let uri = "https://localhost/1/objects/machines/a/x";
    let get = Request::builder().uri(uri).body(whole(b"")).unwrap();
    idle.ready().await.unwrap();
    let unheard = idle.send_request(get).await.unwrap();
    while client.put(&path, vec![0; 1 << 20].into()).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
    assert!(unheard.into_body().collect().await.is_err());
}
