//! Encrypted machines: who has no key can neither read nor forge them, and learns little.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod history;

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use afterimage_block::{BlockWrite, Extent, Length, Offset, Sequence};
use afterimage_store::{Error, Key, Replica, Store};
use bytes::Bytes;
use futures::stream::TryStreamExt;
use history::Primary;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::Value;

const CANARY: &[u8] = b"canary in a disk";
const PASSPHRASE: &str = "correct horse battery staple";

async fn replica(objects: &Arc<InMemory>, key: impl Into<Option<Key>>) -> Replica {
    let store = Store::with_objects(Arc::clone(objects) as _).await;
    store.unwrap().with_key(key).replica("a".parse().unwrap())
}

/// The replica of a short history.
async fn lived(objects: &Arc<InMemory>, key: impl Into<Option<Key>>) -> Replica {
    let replica = replica(objects, key).await;
    history::live(&replica, 1, 2).await;
    replica
}

async fn all(objects: &InMemory) -> Vec<(Path, Bytes)> {
    let all: Vec<_> = objects.list(None).try_collect().await.unwrap();
    let mut contents = Vec::new();
    for meta in all {
        let found = objects.get(&meta.location).await.unwrap();
        contents.push((meta.location, found.bytes().await.unwrap()));
    }
    contents
}

fn file(content: &[u8]) -> (tempfile::NamedTempFile, PathBuf) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(content).unwrap();
    let path = file.path().to_owned();
    (file, path)
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

#[tokio::test]
async fn no_key_a_wrong_one_and_one_for_a_plain_machine_are_told_apart() {
    let sealed = Arc::new(InMemory::new());
    lived(&sealed, history::key(1)).await;
    let error = replica(&sealed, None).await.existing().await.unwrap_err();
    assert!(matches!(error, Error::KeyMissing(_)), "{error}");
    for wrong in [history::key(2), Key::from_passphrase(PASSPHRASE)] {
        let stranger = replica(&sealed, wrong).await;
        let error = stranger.existing().await.unwrap_err();
        let Error::KeyWrong { needs, .. } = error else {
            panic!("{error}");
        };
        assert_eq!(needs, "key file");
        assert!(!error.is_recoverable());
    }
    let plain = Arc::new(InMemory::new());
    lived(&plain, None).await;
    let keyed = replica(&plain, history::key(1)).await;
    let error = keyed.existing().await.unwrap_err();
    assert!(matches!(error, Error::KeyUnused(_)), "{error}");
    let manifest = Path::from("machines/a/manifest.json");
    let before = plain.get(&manifest).await.unwrap().bytes().await.unwrap();
    // Nobody continues it as what it is not.
    let claimed = history::settled(async || keyed.rewrap(&history::key(3)).await).await;
    assert!(matches!(claimed, Err(Error::KeyUnused(_))), "{claimed:?}");
    let after = plain.get(&manifest).await.unwrap().bytes().await.unwrap();
    assert_eq!(before, after);
}

#[tokio::test]
async fn a_forged_plain_machine_is_not_taken_for_the_encrypted_one() {
    let (sealed, plain) = (Arc::new(InMemory::new()), Arc::new(InMemory::new()));
    lived(&sealed, history::key(1)).await;
    lived(&plain, None).await;
    for (path, content) in all(&plain).await {
        sealed.put(&path, content.into()).await.unwrap();
    }
    let deceived = replica(&sealed, history::key(1)).await;
    let error = deceived.open_point(Sequence::new(2)).await.unwrap_err();
    assert!(matches!(error, Error::KeyUnused(_)), "{error}");
}

/// Also with the key: a machine's objects are that machine's.
#[tokio::test]
async fn a_machine_does_not_open_under_another_name() {
    let objects = Arc::new(InMemory::new());
    lived(&objects, history::key(1)).await;
    for (path, content) in all(&objects).await {
        let moved = path.as_ref().replace("machines/a/", "machines/b/");
        objects.put(&moved.into(), content.into()).await.unwrap();
    }
    let store = Store::with_objects(Arc::clone(&objects) as _).await;
    let store = store.unwrap().with_key(history::key(1));
    let moved = store.replica("b".parse().unwrap());
    assert!(matches!(
        moved.existing().await,
        Err(Error::KeyWrong { .. })
    ));
}

#[tokio::test]
async fn a_passphrase_opens_and_can_be_replaced_while_a_writer_runs() {
    let objects = Arc::new(InMemory::new());
    let old = Key::from_passphrase(PASSPHRASE);
    let running = replica(&objects, old.clone()).await;
    let mut primary = Primary::new(3);
    let writer = history::claim(&running).await;
    primary.copy(&writer).await;
    let log = primary.generation(2);
    primary.ship(&writer, &log, &Value::Null).await;

    let operator = replica(&objects, old.clone()).await;
    operator.rewrap(&history::key(7)).await.unwrap();
    let log = primary.generation(3);
    primary.ship(&writer, &log, &Value::Null).await;
    let error = replica(&objects, old).await.existing().await.unwrap_err();
    assert!(matches!(error, Error::KeyWrong { .. }), "{error}");
    let later = replica(&objects, history::key(7)).await;
    assert!(history::contents(&later, 3).await == primary.disk.contents());
}

/// Two machines with the same disk and key file, and one machine twice.
#[tokio::test]
async fn equal_contents_have_unequal_names_and_objects() {
    let mut seen = std::collections::BTreeSet::new();
    for name in ["a", "b", "b"] {
        let objects = Arc::new(InMemory::new());
        let store = Store::with_objects(Arc::clone(&objects) as _)
            .await
            .unwrap();
        let replica = store
            .with_key(history::key(1))
            .replica(name.parse().unwrap());
        let primary = Primary::new(1);
        primary.disk.write_at(Offset::ZERO, &[9; 4096]).unwrap();
        primary.copy(&history::claim(&replica).await).await;
        for (path, content) in all(&objects).await {
            if path.as_ref().contains("/disks/") {
                assert!(seen.insert(path.filename().unwrap().to_owned()));
                // Salts are not repeated.
                assert!(seen.insert(format!("{:?}", &content[..32])));
            }
        }
    }
    assert_eq!(seen.len(), 3 * 2 * 3, "root, page and chunk of each");
}

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn neither_keys_nor_contents_are_in_objects_errors_logs_or_debug_output() {
    let captured = Captured::default();
    let writer = captured.clone();
    let logged = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _logged = tracing::subscriber::set_default(logged);
    let digits = "c0ffee".repeat(11)[..64].to_owned();
    let raw: Vec<u8> = (0..32).map(|at| [0xc0, 0xff, 0xee][at % 3]).collect();
    let (_kept, path) = file(format!("{digits}\n").as_bytes());
    let keys = [
        Key::from_file(&path).unwrap(),
        Key::from_passphrase(PASSPHRASE),
    ];
    let mut shown = Vec::new();
    for key in keys {
        let objects = Arc::new(InMemory::new());
        let replica = replica(&objects, key.clone()).await;
        let mut primary = Primary::new(1);
        let writer = history::claim(&replica).await;
        primary.disk.write_at(Offset::ZERO, CANARY).unwrap();
        primary.copy(&writer).await;
        let log = primary.rewrite(2, Offset::new(1 << 20), CANARY);
        primary
            .ship(&writer, &log, &Value::from("canary of a state"))
            .await;
        let point = replica.open_point(Sequence::new(2)).await.unwrap();
        assert!(contains(&history::contents(&replica, 2).await, CANARY));
        let manifest = replica.existing().await.unwrap();
        let debug = format!("{key:?} {replica:?} {writer:?} {point:?}");
        shown.extend_from_slice(debug.as_bytes());
        assert!(!contains(
            format!("{manifest:?}").as_bytes(),
            digits.as_bytes()
        ));
        for (path, content) in all(&objects).await {
            let mut harmed = content.to_vec();
            let middle = harmed.len() / 2;
            harmed[middle] ^= 1;
            objects.put(&path, harmed.into()).await.unwrap();
            for error in [
                replica.open_point(Sequence::new(2)).await.err(),
                replica.existing().await.err(),
                point.disks[0].block_digest(Offset::ZERO).await.err(),
            ] {
                shown.extend_from_slice(format!("{error:?} {error:?}\n").as_bytes());
            }
            shown.extend_from_slice(path.as_ref().as_bytes());
            shown.extend_from_slice(&content);
            objects.put(&path, content.into()).await.unwrap();
        }
    }
    let (_kept, path) = file(&[digits.as_bytes(), b"0"].concat());
    let error = Key::from_file(&path).unwrap_err();
    shown.extend_from_slice(format!("{error} {error:?}").as_bytes());
    shown.extend_from_slice(&captured.0.lock().unwrap());
    assert!(contains(&shown, b"read again"), "logs are looked at, too");
    for secret in [
        digits.as_bytes(),
        &raw,
        PASSPHRASE.as_bytes(),
        CANARY,
        b"canary of a state",
        b"\"points\"",
        b".ailog",
    ] {
        assert!(!contains(&shown, secret), "{}", secret.escape_ascii());
    }
}

#[test]
fn keys_are_read_from_files_that_hold_one() {
    let digits = "0123456789abcdefABCDEF0123456789".repeat(2);
    for good in [digits.clone(), format!("  {digits}\r\n")] {
        let (_kept, path) = file(good.as_bytes());
        assert!(Key::from_file(&path).is_ok());
    }
    for bad in [
        "",
        "00",
        &digits[1..],
        &format!("+{}", &digits[1..]),
        &"0".repeat(5000),
    ] {
        let (_kept, path) = file(bad.as_bytes());
        let error = Key::from_file(&path).unwrap_err();
        assert!(matches!(error, Error::KeyFile { .. }), "{error}");
    }
    for bad in ["", "\n"] {
        let (_kept, path) = file(bad.as_bytes());
        let error = Key::from_passphrase_file(&path).unwrap_err();
        assert!(matches!(error, Error::KeyFile { .. }), "{error}");
    }
    let missing = Key::from_file("/nonexistent/key".as_ref()).unwrap_err();
    assert!(
        missing.to_string().contains("/nonexistent/key"),
        "{missing}"
    );
}

/// Two logs were put for one generation, since the first could not be published; somebody puts the
/// first in the place of the second, before and after the point is opened.
#[tokio::test]
async fn a_log_that_is_rolled_back_is_damage_also_in_the_middle_of_a_read() {
    for key in [None, Some(history::key(1))] {
        let is_sealed = key.is_some();
        let objects = Arc::new(InMemory::new());
        let replica = replica(&objects, key).await;
        let mut primary = Primary::new(1);
        let writer = history::claim(&replica).await;
        primary.copy(&writer).await;
        let unpublished = primary.rewrite(2, Offset::ZERO, &vec![1; 40_960]);
        writer.put_log(0, &unpublished).await.unwrap();
        let is_log = |path: &Path| path.as_ref().contains("/logs/");
        let logs = |all: Vec<(Path, Bytes)>| all.into_iter().find(|(path, _)| is_log(path));
        let (first, old) = logs(all(&objects).await).unwrap();
        std::fs::remove_file(unpublished.path()).unwrap();
        let log = primary.rewrite(2, Offset::ZERO, &vec![2; 40_960]);
        primary.ship(&writer, &log, &Value::Null).await;
        let (path, _) = logs(all(&objects).await).unwrap();
        assert_ne!(path, first, "a name is of one content");
        let opened = replica.open_point(Sequence::new(2)).await.unwrap();
        objects.put(&path, old.into()).await.unwrap();
        let extent = Extent::new(Offset::ZERO, Length::new(4096)).unwrap();
        // What is plain is proved by checksums only once it is open.
        let mut errors = vec![replica.open_point(Sequence::new(2)).await.err()];
        if is_sealed {
            errors.push(opened.disks[0].read(extent).await.err());
        }
        for error in errors {
            assert!(matches!(error, Some(Error::Damaged { .. })), "{error:?}");
        }
        let step = replica.scrub();
        assert_eq!(history::damaged(step).await, [path.to_string()]);
    }
}

#[tokio::test]
async fn a_manifest_that_is_rolled_back_is_noticed_by_who_remembers() {
    for key in [None, Some(history::key(1))] {
        let objects = Arc::new(InMemory::new());
        let replica = self::replica(&objects, key.clone()).await;
        let mut primary = Primary::new(1);
        let writer = history::claim(&replica).await;
        primary.copy(&writer).await;
        let path = Path::from("machines/a/manifest.json");
        let old = objects.get(&path).await.unwrap().bytes().await.unwrap();
        let log = primary.generation(2);
        primary.ship(&writer, &log, &Value::Null).await;
        let newest = replica.existing().await.unwrap().newness();
        objects.put(&path, old.clone().into()).await.unwrap();
        let stranger = self::replica(&objects, key.clone()).await;
        stranger.existing().await.unwrap();
        for error in [
            replica.existing().await.unwrap_err(),
            writer.set_state(&Value::Null).await.unwrap_err(),
            stranger.not_before(newest).existing().await.unwrap_err(),
        ] {
            assert!(matches!(error, Error::RolledBack { .. }), "{error}");
        }
        let present = objects.get(&path).await.unwrap().bytes().await.unwrap();
        assert_eq!(present, old, "nothing is built upon it");
    }
}

/// Parameters of a forged manifest cannot make a reader spend more than it has.
#[tokio::test]
async fn parameters_that_are_out_of_bounds_are_refused() {
    let objects = Arc::new(InMemory::new());
    let key = Key::from_passphrase(PASSPHRASE);
    history::claim(&replica(&objects, key.clone()).await).await;
    let path = Path::from("machines/a/manifest.json");
    let whole = objects.get(&path).await.unwrap().bytes().await.unwrap();
    let text = std::str::from_utf8(&whole[..whole.len() - 66]).unwrap();
    for (from, to) in [
        ("\"memory_kib\":65536", "\"memory_kib\":4294967295"),
        ("\"memory_kib\":65536", "\"memory_kib\":0"),
        ("\"passes\":3", "\"passes\":4000000000"),
        ("\"lanes\":1", "\"lanes\":0"),
    ] {
        let forged = text.replacen(from, to, 1);
        assert_ne!(forged, text);
        objects
            .put(&path, history::sealed(forged.as_bytes()).into())
            .await
            .unwrap();
        let error = replica(&objects, key.clone())
            .await
            .existing()
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
    }
    // Within bounds, but not those that the key was wrapped with.
    let forged = text.replacen("\"passes\":3", "\"passes\":2", 1);
    objects
        .put(&path, history::sealed(forged.as_bytes()).into())
        .await
        .unwrap();
    let error = replica(&objects, key).await.existing().await.unwrap_err();
    assert!(matches!(error, Error::KeyWrong { .. }), "{error}");
}
