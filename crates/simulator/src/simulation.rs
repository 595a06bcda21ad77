//! Runs of the world.

use std::any::Any;
use std::cell::OnceCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use tokio::runtime::{Builder, Runtime};

use crate::backend::{Backend, Memory};
use crate::coverage::Coverage;
use crate::hub::Hub;
use crate::options::Options;
use crate::plant::Plant;
use crate::random::Random;
use crate::violation::{Broken, Invariant, Violation};
use crate::world::World;

thread_local! {
    static RUNTIME: OnceCell<Rc<Runtime>> = const { OnceCell::new() };
}

/// A folder in memory, where there is one: what a run keeps in files is gone with it.
const MEMORY: &str = "/dev/shm";

/// What is run: how long, with which store, with which bug.
#[derive(Clone)]
pub struct Simulation {
    steps: u32,
    plant: Option<Plant>,
    backend: Arc<dyn Backend>,
}

impl fmt::Debug for Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulation")
            .field("steps", &self.steps)
            .field("plant", &self.plant)
            .finish_non_exhaustive()
    }
}

/// A run in which everything held.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// What happened.
    pub coverage: Coverage,
}

impl Simulation {
    /// Runs of `steps` steps, after which the faults stop.
    pub fn new(steps: u32) -> Self {
        Self {
            steps,
            plant: None,
            backend: Arc::new(Memory),
        }
    }

    /// With a bug.
    pub fn plant(mut self, plant: Plant) -> Self {
        self.plant = Some(plant);
        self
    }

    /// On stores of `backend`.
    pub fn backend(mut self, backend: Arc<dyn Backend>) -> Self {
        self.backend = backend;
        self
    }

    /// Runs the world of `seed`: first with faults, then without, until all converges. Not to be
    /// called from within an async runtime.
    ///
    /// # Errors
    /// The first [`Violation`].
    pub fn run(&self, seed: u64) -> Result<Report, Violation> {
        self.go(seed, None)
    }

    /// As [`run`](Self::run), telling `trace` of everything that happens.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn trace(&self, seed: u64, trace: &mut dyn FnMut(&str)) -> Result<Report, Violation> {
        self.go(seed, Some(trace))
    }

    fn go(&self, seed: u64, trace: Option<&mut dyn FnMut(&str)>) -> Result<Report, Violation> {
        let mut random = Random::new(seed);
        let options = Options::draw(&mut random);
        let hub = Hub::new(random, options.rates.clone(), self.plant, trace.is_some());
        hub.trace(|| format!("{options:?}"));
        let mut step = 0;
        let ran = catch_unwind(AssertUnwindSafe(|| {
            self.live(seed, &hub, options, &mut step, trace)
        }));
        let ended =
            ran.unwrap_or_else(|panic| Err(Broken::new(Invariant::NoPanic, words(panic.as_ref()))));
        match ended {
            Ok(()) => Ok(Report {
                seed,
                coverage: hub.coverage(),
            }),
            Err(Broken { invariant, message }) => Err(Violation {
                seed,
                steps: self.steps,
                plant: self.plant,
                step,
                invariant,
                message,
            }),
        }
    }

    fn live(
        &self,
        seed: u64,
        hub: &Hub,
        options: Options,
        step: &mut u32,
        mut trace: Option<&mut dyn FnMut(&str)>,
    ) -> Result<(), Broken> {
        let memory = Path::new(MEMORY);
        let folder = if memory.is_dir() {
            tempfile::tempdir_in(memory)
        } else {
            tempfile::tempdir()
        };
        let folder = folder.expect("a temporary folder can be made");
        let runtime = RUNTIME.with(|cell| Rc::clone(cell.get_or_init(runtime)));
        let inner = self.backend.open(seed);
        let mut world = World::new(hub.clone(), options, runtime, inner, folder.path());
        let mut tell = |step: u32| {
            if let Some(trace) = &mut trace {
                for line in hub.take_trace() {
                    trace(&format!("{step:>5} {line}"));
                }
            }
        };
        let mut result = Ok(());
        while *step < self.steps && result.is_ok() {
            result = world.step();
            tell(*step);
            *step += 1;
        }
        let result = result.and_then(|()| world.settle());
        tell(*step);
        result
    }
}

fn runtime() -> Rc<Runtime> {
    let runtime = Builder::new_current_thread().enable_time().build();
    Rc::new(runtime.expect("a runtime can be made"))
}

/// What a panic said.
fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without words".into())
}
