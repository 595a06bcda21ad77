//! The laws that the fuzz targets assert, as functions of the fuzzer's bytes.
//!
//! What it is: one module a target, each with a `check` that panics where a law is broken. They are
//! functions of a library, and not bodies of the targets, so that the committed seeds are replayed by
//! `cargo test` on a stable toolchain as well. What it is not: a test of what the crates are for;
//! their own tests do that.

#![forbid(unsafe_code)]

use afterimage_changelog::{Key, Keys};
use arbitrary::{Arbitrary, Unstructured};

pub mod changelog_apply;
pub mod changelog_merge;
pub mod changelog_reader;
pub mod changelog_salvage;
mod changes;
pub mod hrl_reader;
pub mod intent_log;
pub mod nbd_server;
pub mod replication_events;
mod reseal;
pub mod resync_messages;
pub mod store_manifest;

/// A folder in memory where there is one: logs are forced to their medium when they are sealed, and
/// a medium would be most of the fuzzer's time.
fn scratch() -> tempfile::TempDir {
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    folder.expect("a temporary folder can be made")
}

/// The key of the change log's golden files: the bytes 0 to 31.
fn keys() -> Keys {
    Keys::from(Key::new(&std::array::from_fn(|at| at.to_le_bytes()[0])))
}

/// A head, and as many parts, up to `limit`, as the rest of `input` has bytes for. What `arbitrary`
/// makes of a vector ends at every second byte, which is too short for a history.
fn head_and_parts<'a, H: Arbitrary<'a>, P: Arbitrary<'a>>(
    input: &'a [u8],
    limit: usize,
) -> Option<(H, Vec<P>)> {
    let mut bytes = Unstructured::new(input);
    let head = H::arbitrary(&mut bytes).ok()?;
    let mut parts = Vec::new();
    while !bytes.is_empty() && parts.len() < limit {
        parts.push(P::arbitrary(&mut bytes).ok()?);
    }
    Some((head, parts))
}
