//! The laws that the fuzz targets assert, as functions of the fuzzer's bytes.
//!
//! What it is: one module a target, each with a `check` that panics where a law is broken. They are
//! functions of a library, and not bodies of the targets, so that the committed seeds are replayed by
//! `cargo test` on a stable toolchain as well. What it is not: a test of what the crates are for;
//! their own tests do that.

#![forbid(unsafe_code)]

pub mod changelog_apply;
pub mod changelog_reader;
mod changes;
mod reseal;

/// A folder in memory where there is one: logs are forced to their medium when they are sealed, and
/// a medium would be most of the fuzzer's time.
fn scratch() -> tempfile::TempDir {
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    folder.expect("a temporary folder can be made")
}
