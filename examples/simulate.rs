//! Runs the simulator: many seeds at once, or one of them step by step.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use afterimage_simulator::{Coverage, Plant, Simulation, Violation};
use anyhow::Result;
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};

/// Run seeds of the simulated world. Exit code 1 if an invariant is violated in one.
#[derive(Parser)]
struct Arguments {
    /// How many seeds, from --from on.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// This seed only.
    #[arg(long, conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// Steps of a seed before the faults stop.
    #[arg(long, default_value_t = 1500)]
    steps: u32,
    /// Print everything that happens; needs --seed.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Plant a bug, to see it caught.
    #[arg(long)]
    plant: Option<Plant>,
    /// Plant each bug in turn, and tell which seed catches it; --seeds is how many may be needed.
    #[arg(long, conflicts_with_all = ["seed", "plant", "coverage"])]
    plants: bool,
    /// Print how often each thing happened, and fail if one never did.
    #[arg(long)]
    coverage: bool,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let mut simulation = Simulation::new(arguments.steps);
    if let Some(plant) = arguments.plant {
        simulation = simulation.plant(plant);
    }
    if let Some(seed) = arguments.seed {
        let mut print = |line: &str| println!("{line}");
        let ran = if arguments.trace {
            simulation.trace(seed, &mut print)
        } else {
            simulation.run(seed)
        };
        return Ok(finish(ran.map(|report| report.coverage), &arguments));
    }
    if arguments.plants {
        return Ok(catch_all(&arguments));
    }
    let bar = ProgressBar::new(arguments.seeds);
    bar.set_style(ProgressStyle::with_template(
        "{wide_bar} {pos}/{len} seeds {per_sec} {eta}",
    )?);
    let started = Instant::now();
    let ran = run_all(&simulation, &arguments, &bar);
    bar.finish_and_clear();
    let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let done = bar.position();
    if ran.is_ok() {
        let steps = arguments.steps;
        let took = humantime::format_duration(Duration::from_millis(millis.max(1)));
        let rate = done * 1000 / millis.max(1);
        println!("{done} seeds of {steps} steps held in {took}: {rate} a second");
    }
    Ok(finish(ran, &arguments))
}

/// Worlds for each core: while one waits for a thread that reads a log for it, another goes on.
const WORLDS: usize = 2;

/// Runs the seeds on all cores, up to the first violation.
fn run_all(
    simulation: &Simulation,
    arguments: &Arguments,
    bar: &ProgressBar,
) -> Result<Coverage, Violation> {
    let end = arguments.from.saturating_add(arguments.seeds);
    let next = AtomicU64::new(arguments.from);
    let found: Mutex<Result<Coverage, Violation>> = Mutex::new(Ok(Coverage::default()));
    let work = || loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return;
        }
        let ran = simulation.run(seed);
        bar.inc(1);
        let mut found = found
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        match (&mut *found, ran) {
            (Ok(coverage), Ok(report)) => coverage.add(&report.coverage),
            (Ok(_), Err(violation)) => {
                *found = Err(violation);
                next.store(end, Ordering::Relaxed);
            }
            // The lowest seed of those that are under way is told.
            (Err(first), Err(violation)) if violation.seed < first.seed => *first = violation,
            _ => {}
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..cores * WORLDS {
            scope.spawn(work);
        }
    });
    found
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Whether each planted bug is caught.
fn catch_all(arguments: &Arguments) -> ExitCode {
    let mut missed = Vec::new();
    for plant in Plant::ALL {
        let simulation = Simulation::new(arguments.steps).plant(*plant);
        match run_all(&simulation, arguments, &ProgressBar::hidden()) {
            Ok(_) => missed.push(plant.name()),
            Err(Violation {
                seed, invariant, ..
            }) => {
                println!("{plant:<28} seed {seed:>5}: {invariant:?}");
            }
        }
    }
    if missed.is_empty() {
        return ExitCode::SUCCESS;
    }
    eprintln!(
        "not caught in {} seeds: {}",
        arguments.seeds,
        missed.join(", ")
    );
    ExitCode::FAILURE
}

fn finish(ran: Result<Coverage, Violation>, arguments: &Arguments) -> ExitCode {
    let coverage = match ran {
        Ok(coverage) => coverage,
        Err(violation) => {
            eprintln!("{violation}");
            return ExitCode::FAILURE;
        }
    };
    if !arguments.coverage {
        return ExitCode::SUCCESS;
    }
    print!("{coverage}");
    let missing: Vec<_> = coverage.missing().collect();
    if missing.is_empty() {
        return ExitCode::SUCCESS;
    }
    eprintln!("never happened: {missing:?}");
    ExitCode::FAILURE
}
