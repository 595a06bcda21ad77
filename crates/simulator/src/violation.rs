//! What must hold, and how it is told that it did not.

use std::fmt;

use crate::plant::Plant;

/// What must hold in every run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Invariant {
    /// Where a disk and the newest published state differ is known, also after a crash.
    ChangesAreTracked,
    /// After a crash no more is in doubt than what was marked: never a whole disk, unless the marks were lost.
    Proportional,
    /// A recovery point is all disks at one barrier, byte for byte.
    PointsAreBarriers,
    /// A published point stays as it is, until retention drops it from the oldest end.
    PointsAreImmutable,
    /// One primary, and nobody publishes who is fenced off.
    OnePrimary,
    /// The replica only goes on; epochs only grow.
    Monotone,
    /// Nothing is lost for no reason: no log is unreadable that was not damaged, nothing is acknowledged
    /// that is not there.
    NothingIsLost,
    /// What is stopped and complete, failed over or failed back, holds every acknowledged write.
    PlannedLosesNothing,
    /// The recovery point objective that is told never flatters.
    RpoIsHonest,
    /// Files of the past are deleted.
    Bounded,
    /// Once faults stop, the replica comes to hold what the primary does.
    Converges,
    /// No part of the program panics.
    NoPanic,
}

/// A seed that shows an invariant violated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The seed.
    pub seed: u64,
    /// How many steps were asked for before the faults stop.
    pub steps: u32,
    /// The bug that was planted.
    pub plant: Option<Plant>,
    /// The step at which it showed.
    pub step: u32,
    /// What did not hold.
    pub invariant: Invariant,
    /// How it showed.
    pub message: String,
}

impl Violation {
    /// The command that shows it again, step by step.
    pub fn replay(&self) -> String {
        let plant = self.plant.map(|plant| format!(" --plant {plant}"));
        format!(
            "cargo run --release --example simulate -- --seed {} --steps {}{} --trace",
            self.seed,
            self.steps,
            plant.unwrap_or_default()
        )
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            seed,
            step,
            invariant,
            message,
            ..
        } = self;
        let replay = self.replay();
        write!(
            f,
            "seed {seed}, step {step}: {invariant:?} violated: {message}\n{replay}"
        )
    }
}

impl std::error::Error for Violation {}

/// What did not hold, before it is known in which run.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) invariant: Invariant,
    pub(crate) message: String,
}

impl Broken {
    pub(crate) fn new(invariant: Invariant, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { invariant, message }
    }
}

/// The violation of `invariant`, unless `holds`.
pub(crate) fn ensure(
    holds: bool,
    invariant: Invariant,
    message: impl FnOnce() -> String,
) -> Result<(), Broken> {
    if holds {
        return Ok(());
    }
    Err(Broken::new(invariant, message()))
}
