//! The committed seeds keep every law, without a fuzzer.

use std::path::Path;

use afterimage_fuzz as fuzz;

fn replay(target: &str, check: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    let mut seeds = 0;
    for entry in folder.read_dir().unwrap().map(Result::unwrap) {
        if entry.file_name().to_string_lossy().starts_with("seed-") {
            check(&std::fs::read(entry.path()).unwrap());
            seeds += 1;
        }
    }
    assert!(seeds > 0, "{target} has no seeds");
}

#[test]
fn changelog_reader() {
    replay("changelog_reader", fuzz::changelog_reader::check);
}

#[test]
fn changelog_apply() {
    replay("changelog_apply", fuzz::changelog_apply::check);
}

#[test]
fn changelog_salvage() {
    replay("changelog_salvage", fuzz::changelog_salvage::check);
}

#[test]
fn changelog_merge() {
    replay("changelog_merge", fuzz::changelog_merge::check);
}

#[test]
fn hrl_reader() {
    replay("hrl_reader", fuzz::hrl_reader::check);
}

#[test]
fn intent_log() {
    replay("intent_log", fuzz::intent_log::check);
}

#[test]
fn replication_events() {
    replay("replication_events", fuzz::replication_events::check);
}

#[test]
fn resync_messages() {
    replay("resync_messages", fuzz::resync_messages::check);
}

#[test]
fn nbd_server() {
    replay("nbd_server", fuzz::nbd_server::check);
}

#[test]
fn store_manifest() {
    replay("store_manifest", fuzz::store_manifest::check);
}
