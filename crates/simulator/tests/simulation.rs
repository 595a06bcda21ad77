//! A bounded number of seeds in every test run; `.ci/run` and the example `simulate` run more.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use afterimage_simulator::{Plant, Simulation, Violation};

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

/// Ten that show soon; `simulate --plants` tries all of them.
#[test]
fn planted_bugs_are_caught() {
    let plants = [
        Plant::LyingFlush,
        Plant::IntentAfterWrite,
        Plant::WriteNotLogged,
        Plant::ZeroesNotLogged,
        Plant::LogReordered,
        Plant::BarrierSkewed,
        Plant::DroppedForgotten,
        Plant::CopyOfRunningDisk,
        Plant::DifferenceNotSent,
        Plant::NeverThawed,
    ];
    let missed: Mutex<Vec<Plant>> = Mutex::default();
    on_all_cores(plants.len() as u64, |number| {
        let plant = plants[usize::try_from(number).unwrap()];
        let simulation = Simulation::new(STEPS).plant(plant);
        if (0..200).all(|seed| simulation.run(seed).is_ok()) {
            missed.lock().unwrap().push(plant);
        }
    });
    let missed = missed.into_inner().unwrap();
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
