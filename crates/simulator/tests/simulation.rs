//! A bounded number of seeds in every test run; `.ci/run` and the example `simulate` run more.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use afterimage_simulator::{Simulation, Violation};

const STEPS: u32 = 600;

/// `AFTERIMAGE_SEEDS` asks for more.
fn seeds(default: u64) -> u64 {
    let seeds = std::env::var("AFTERIMAGE_SEEDS");
    seeds.map_or(default, |seeds| seeds.parse().expect("a number"))
}

/// Calls `work` with each number below `count`, on all cores.
fn on_all_cores(count: u64, work: impl Fn(u64) + Sync) {
    let next = AtomicU64::new(0);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    match next.fetch_add(1, Ordering::Relaxed) {
                        number if number < count => work(number),
                        _ => return,
                    }
                }
            });
        }
    });
}

#[test]
fn everything_holds_in_the_first_seeds() {
    let simulation = Simulation::new(STEPS);
    let violations: Mutex<Vec<Violation>> = Mutex::default();
    on_all_cores(seeds(60), |seed| {
        if let Err(violation) = simulation.run(seed) {
            violations.lock().unwrap().push(violation);
        }
    });
    let violations = violations.into_inner().unwrap();
    let shown: Vec<_> = violations.iter().map(ToString::to_string).collect();
    assert!(shown.is_empty(), "{}", shown.join("\n"));
}

#[test]
fn a_seed_is_one_history() {
    let simulation = Simulation::new(STEPS);
    for seed in 0..5 {
        let coverage = |()| simulation.run(seed).map(|report| report.coverage);
        assert_eq!(coverage(()), coverage(()), "seed {seed}");
    }
}
