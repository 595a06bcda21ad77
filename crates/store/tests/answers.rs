//! What a cloud's server can answer: repeated, refused, throttled and cut requests, and none of the
//! credentials in what is said about them.

#![allow(
    clippy::unwrap_used,
    clippy::format_push_string,
    reason = "a test fails by panicking, and need not be fast"
)]

mod server;

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use afterimage_block::{DiskId, Length, MachineId, SessionId};
use afterimage_store::{Claim, Error, Replica, ReplicaDisk, Store, Writer};
use serde_json::Value;
use server::{Answer, Request, Server};

const CANARY: &str = "Y2FuYXJ5c2VjcmV0Y2FuYXJ5";
const BUCKET: &str = "s3://bucket/folder";

fn settings(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter()
        .map(|(name, value)| ((*name).into(), (*value).into()))
        .collect()
}

fn s3(server: &Server) -> Vec<(String, String)> {
    settings(&[
        ("AWS_ENDPOINT_URL", &server.endpoint),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_ACCESS_KEY_ID", "id"),
        ("AWS_SECRET_ACCESS_KEY", CANARY),
        ("AWS_SESSION_TOKEN", CANARY),
        // Of another cloud, and of other programs: they must not matter.
        ("AZURE_STORAGE_USE_EMULATOR", "true"),
        ("ENDPOINT", "http://127.0.0.1:1"),
        ("AWS_PAGER", "less"),
    ])
}

async fn replica(server: &Server) -> Replica {
    let store = Store::open_with(BUCKET, s3(server)).await.unwrap();
    store.replica("web-01".parse().unwrap())
}

async fn claim(replica: &Replica) -> Result<Writer, Error> {
    let disk = ReplicaDisk {
        id: DiskId::from_bytes([1; 16]),
        name: "root".parse().unwrap(),
        size: Length::mib(1),
    };
    let claim = Claim {
        machine: MachineId::from_bytes([2; 16]),
        session: SessionId::random(),
        disks: vec![disk],
    };
    replica.claim(claim, |kept| Ok(kept.clone())).await
}

fn writes_manifest(request: &Request) -> bool {
    request.method == "PUT" && request.path.ends_with("manifest.json")
}

#[tokio::test]
async fn an_own_write_that_is_answered_by_412_is_known_again() {
    // Done, but the answer is an error, and `object_store` asks again: each conditional put of all.
    let server = Server::start(|request, objects| {
        let answer = objects.answer(request);
        match (request.is_conditional(), answer.status) {
            (true, 200) => Answer::status(500),
            _ => answer,
        }
    });
    let replica = replica(&server).await;
    let writer = claim(&replica).await.unwrap();
    assert_eq!(writer.epoch().get(), 1, "claimed once");
    writer.set_state(&Value::from(7)).await.unwrap();
    assert_eq!(replica.existing().await.unwrap().state, 7);
    assert_eq!(server.count(writes_manifest), 4, "two puts, each repeated");
}

#[tokio::test]
async fn of_409_and_412_only_a_change_by_others_is_a_conflict() {
    let busy = Arc::new(AtomicUsize::new(0));
    let left = Arc::clone(&busy);
    let server = Server::start(move |request, objects| {
        let is_busy = writes_manifest(request)
            && left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
                .is_ok();
        if is_busy {
            Answer::status(409)
        } else {
            objects.answer(request)
        }
    });
    let replica = replica(&server).await;
    // Create is not repeated on 409, and there is nothing: not a conflict, but worth another try.
    busy.store(1, Ordering::SeqCst);
    let error = claim(&replica).await.unwrap_err();
    assert!(
        matches!(error, Error::Store { .. }) && error.is_recoverable(),
        "{error}"
    );
    let writer = claim(&replica).await.unwrap();
    busy.store(2, Ordering::SeqCst);
    writer.set_state(&Value::from(1)).await.unwrap();
    busy.store(1000, Ordering::SeqCst);
    let before = server.count(writes_manifest);
    let error = writer.set_state(&Value::from(2)).await.unwrap_err();
    assert!(
        matches!(error, Error::Store { .. }) && error.is_recoverable(),
        "{error}"
    );
    assert!(
        server.count(writes_manifest) - before <= 4,
        "no storm of requests"
    );
    busy.store(0, Ordering::SeqCst);
    assert_eq!(replica.existing().await.unwrap().state, 1);
}

#[tokio::test]
async fn a_long_pause_is_told_and_a_short_one_is_kept() {
    let pause = Arc::new(Mutex::new(None::<(u16, &str, &str)>));
    let asked = Arc::clone(&pause);
    let server = Server::start(move |request, objects| {
        let asked = if request.method == "GET" {
            *asked.lock().unwrap()
        } else {
            None
        };
        match asked {
            Some((status, name, value)) => Answer::status(status).with(
                if name == "retry-after" {
                    "retry-after"
                } else {
                    "x-ms-retry-after-ms"
                },
                value,
            ),
            None => objects.answer(request),
        }
    });
    let replica = replica(&server).await;
    for (status, name, value, expected) in [
        (503, "retry-after", "60", 60_000),
        (429, "retry-after", "7", 7_000),
        (503, "x-ms-retry-after-ms", "2500", 2_500),
        (503, "retry-after", "18446744073709551615", 3_600_000),
    ] {
        *pause.lock().unwrap() = Some((status, name, value));
        let before = server.requests.lock().unwrap().len();
        let error = replica.manifest().await.unwrap_err();
        assert_eq!(
            error.retry_after(),
            Some(Duration::from_millis(expected)),
            "{error}"
        );
        assert!(error.is_recoverable(), "{error}");
        assert_eq!(
            server.requests.lock().unwrap().len(),
            before + 1,
            "it is left alone"
        );
    }
    *pause.lock().unwrap() = Some((503, "retry-after", "1"));
    let end = Arc::clone(&pause);
    let began = Instant::now();
    let lifts = async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        *end.lock().unwrap() = None;
    };
    let (found, ()) = tokio::join!(replica.manifest(), lifts);
    assert!(found.unwrap().is_none());
    assert!(began.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn a_cut_answer_is_not_damage() {
    let cuts = Arc::new(AtomicUsize::new(0));
    let left = Arc::clone(&cuts);
    let server = Server::start(move |request, objects| {
        let mut answer = objects.answer(request);
        let cut = request.path.ends_with("manifest.json") && request.method == "GET";
        if cut
            && answer.body.len() > 8
            && left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
                .is_ok()
        {
            answer.sent = Some(answer.body.len() / 2);
        }
        answer
    });
    let replica = replica(&server).await;
    claim(&replica).await.unwrap();
    cuts.store(1, Ordering::SeqCst);
    assert!(
        replica.manifest().await.unwrap().is_some(),
        "the rest is asked for"
    );
    cuts.store(1000, Ordering::SeqCst);
    let error = replica.manifest().await.unwrap_err();
    assert!(
        matches!(error, Error::Store { .. }) && error.is_recoverable(),
        "{error}"
    );
}

#[tokio::test]
async fn a_store_that_ignores_conditions_is_refused() {
    let server = Server::start(|request, objects| {
        let mut plain = request.clone();
        plain.headers.remove("if-match");
        plain.headers.remove("if-none-match");
        objects.answer(&plain)
    });
    let error = Store::open_with(BUCKET, s3(&server)).await.unwrap_err();
    assert!(matches!(error, Error::NoConditions(_)), "{error}");
    let server = Server::start(|request, objects| {
        let mut only_create = request.clone();
        only_create.headers.remove("if-match");
        objects.answer(&only_create)
    });
    let error = Store::open_with(BUCKET, s3(&server)).await.unwrap_err();
    assert!(matches!(error, Error::NoConditions(_)), "{error}");
}

/// What `error` and all its causes say, in every form.
fn said(error: &Error) -> String {
    let mut said = format!("{error} {error:?} {error:#?}");
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        said += &format!(" {error} {error:?}");
        cause = error.source();
    }
    said
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Servers that quote all of the request, one that nobody listens at, and every kind of credential.
#[tokio::test]
async fn credentials_are_in_no_error_no_log_and_no_debug_output() {
    let log = Log::default();
    let into = log.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || into.clone())
        .init();
    let sas = format!("sv=2024&sig={CANARY}");
    let mut said_all = String::new();
    let mut quoted = String::new();
    for status in [200, 400, 401, 403, 404, 409, 412, 500, 503] {
        let server = Server::start(move |request, _| Answer {
            body: format!("<Code>sig={CANARY}</Code>{}", request.text).into_bytes(),
            ..Answer::status(status)
        });
        let endpoints: &[&str] = match status {
            500 => &[&server.endpoint, "http://127.0.0.1:1"],
            _ => &[&server.endpoint],
        };
        for endpoint in endpoints {
            let azure = |name, value| {
                let common = [
                    ("AZURE_STORAGE_ENDPOINT", *endpoint),
                    ("AZURE_ALLOW_HTTP", "true"),
                    ("AZURE_STORAGE_ACCOUNT_NAME", "account"),
                ];
                settings(&[&common[..], &[(name, value)]].concat())
            };
            let mut aws = s3(&server);
            aws[0].1 = (*endpoint).into();
            for (url, settings) in [
                (BUCKET, aws),
                (
                    "az://container/x",
                    azure("AZURE_STORAGE_ACCOUNT_KEY", CANARY),
                ),
                ("az://container/x", azure("AZURE_STORAGE_SAS_TOKEN", &sas)),
                ("az://container/x", azure("AZURE_STORAGE_TOKEN", CANARY)),
            ] {
                let error = Store::open_with(url, settings).await.unwrap_err();
                said_all += &said(&error);
            }
        }
        quoted += &format!("{:?}", server.requests.lock().unwrap());
    }
    assert!(quoted.contains(CANARY), "the servers did get some of it");
    let server = Server::start(|request, objects| objects.answer(request));
    let replica = replica(&server).await;
    let writer = claim(&replica).await.unwrap();
    said_all += &format!("{replica:?} {writer:#?}");
    said_all += &String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let at = said_all
        .find(CANARY)
        .map(|at| &said_all[at.saturating_sub(300)..at + 30]);
    assert_eq!(at, None);
    assert!(
        said_all.contains("Encountered server error"),
        "the log was listened to"
    );
}

#[tokio::test]
async fn settings_that_do_not_do_are_told_without_their_secrets() {
    let key = format!("\"{CANARY}\"");
    for (url, settings) in [
        (
            "az://container",
            settings(&[("AZURE_STORAGE_ACCOUNT_KEY", CANARY)]),
        ),
        (
            "az://container",
            settings(&[
                ("AZURE_STORAGE_ACCOUNT_NAME", "a"),
                ("AZURE_STORAGE_ACCOUNT_KEY", &format!("-{CANARY}")),
            ]),
        ),
        ("abfss://file@system@x", Vec::new()),
        (
            "gs://bucket",
            settings(&[("GOOGLE_SERVICE_ACCOUNT_KEY", &key)]),
        ),
        (
            "gs://bucket",
            settings(&[("GOOGLE_SERVICE_ACCOUNT", &format!("/{CANARY}"))]),
        ),
    ] {
        let error = Store::open_with(url, settings).await.unwrap_err();
        let named = matches!(error, Error::Settings { .. } | Error::Url { .. });
        assert!(named && !error.is_recoverable(), "{error}");
        assert!(!said(&error).contains(CANARY), "{error}");
    }
}
