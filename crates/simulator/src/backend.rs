//! The store that is tried.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::memory::InMemory;

/// Opens stores for runs. Implement it to try a backend of your own: each run begins with an empty
/// store, talks to it through an adapter that adds faults, and checks what comes back.
///
/// A run is repeatable as far as the backend is.
///
/// ```
/// use std::sync::Arc;
///
/// use afterimage_simulator::{Backend, Simulation};
/// use object_store::ObjectStore;
/// use object_store::memory::InMemory;
/// use object_store::prefix::PrefixStore;
///
/// /// One prefix for each run.
/// struct Prefixed(Arc<InMemory>);
///
/// impl Backend for Prefixed {
///     fn open(&self, seed: u64) -> Arc<dyn ObjectStore> {
///         Arc::new(PrefixStore::new(Arc::clone(&self.0), format!("run-{seed}")))
///     }
/// }
///
/// let simulation = Simulation::new(200).backend(Arc::new(Prefixed(Arc::default())));
/// simulation.run(1).expect("seed 1 holds");
/// ```
pub trait Backend: Send + Sync {
    /// An empty store for the run of `seed`.
    fn open(&self, seed: u64) -> Arc<dyn ObjectStore>;
}

/// Stores in memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory;

impl Backend for Memory {
    fn open(&self, _: u64) -> Arc<dyn ObjectStore> {
        Arc::new(InMemory::new())
    }
}
