//! Kills a process that protects two disks with SIGKILL, again and again, while clients write: in
//! initial replication, in deltas, while disks grow, in resynchronizations. Started again, it must go on without a full
//! copy or comparison, and every recovery point that it publishes must be a prefix of the writes.
//!
//! A life is one machine from its protection to a planned failover. `AFTERIMAGE_LIVES` says how many
//! are lived, by default one, and `AFTERIMAGE_SEED` with which random numbers.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod child;
mod guest;
mod life;
mod process;

use std::collections::BTreeMap;
use std::env;

/// Kills in each stage of a life.
const KILLS: usize = 4;

fn main() {
    if let Ok(folder) = env::var(child::FOLDER) {
        child::run(folder.as_ref());
        return;
    }
    let number = |name, default| env::var(name).map_or(default, |value| value.parse().unwrap());
    let (lives, seed) = (number("AFTERIMAGE_LIVES", 1), number("AFTERIMAGE_SEED", 1));
    let mut killed = BTreeMap::new();
    for life in 0..lives {
        println!("life {life} of {lives}, seed {}", seed + life);
        life::live(seed + life, &mut killed);
    }
    println!("killed in these states: {killed:?}");
    for state in [
        "InitialReplicationInProgress",
        "Replicating",
        "Resynchronizing",
    ] {
        assert!(killed.contains_key(state), "never killed in state {state}");
    }
}
