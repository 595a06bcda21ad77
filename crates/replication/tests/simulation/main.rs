//! The machine against a model of disks, logs, replica, crashes and lost answers, from seeds.
//!
//! Safety: every recovery point that the replica publishes is the primary at that barrier, byte for
//! byte, across all disks. Liveness: once faults stop, the replica converges.

mod random;
mod world;

use random::Random;
use world::World;

/// `AFTERIMAGE_SEEDS` asks for more.
const SEEDS: u64 = 80;
const STEPS: usize = 600;

#[test]
fn points_are_barriers_and_faults_that_stop_are_forgotten() {
    let seeds = std::env::var("AFTERIMAGE_SEEDS");
    let seeds = seeds.map_or(SEEDS, |seeds| seeds.parse().expect("a number"));
    for seed in 0..seeds {
        let mut world = World::new(Random::new(seed));
        for _ in 0..STEPS {
            world.step();
        }
        world.calm_down();
        assert!(
            world.converged(),
            "seed {seed} does not converge: {}",
            world.describe()
        );
    }
}

#[test]
fn the_faults_that_the_model_can_make_all_happen() {
    let mut marks = std::collections::BTreeMap::new();
    for seed in 0..40 {
        let mut world = World::new(Random::new(seed));
        for _ in 0..STEPS {
            world.step();
        }
        for (mark, count) in &world.marks {
            *marks.entry(*mark).or_insert(0) += count;
        }
    }
    for expected in [
        "crash",
        "lost answer",
        "log lost",
        "overflow",
        "resync",
        "resnapshot",
        "second pass",
        "partial resync",
        "suspend",
        "stop",
        "taken back",
        "disable",
        "cancel resync",
        "enlarged",
        "enlarged with data",
        "found larger",
        "abort",
        "abort too late",
        "existing copy",
        "point",
        "application-consistent point",
        "crash-consistent only",
        "late",
        "on time again",
    ] {
        assert!(
            marks.contains_key(expected),
            "never happened: {expected} in {marks:?}"
        );
    }
}
