//! What operators do to a replica: jobs that it keeps, so that its status shows them.

use std::fmt::Display;

use afterimage_replication::{JobKind, JobState};
use afterimage_store::Replica;

use crate::notes::{self, Notes};
use crate::{Clock, Error, Result};

impl Notes {
    /// Begins a job whose first `done` tasks are done by the change that records it. One of its kind that
    /// still ran was cut short.
    pub(crate) fn begin(&mut self, kind: JobKind, subject: impl Display, done: usize) -> u64 {
        let now = Clock::timestamp();
        self.operations.interrupt(kind, now);
        let id = self.operations.start(kind, subject.to_string(), now);
        (0..done).for_each(|_| self.operations.step(id, now));
        id
    }

    /// Notes a job that is done by the change that records it.
    pub(crate) fn done(&mut self, kind: JobKind, subject: impl Display) {
        let last = kind.tasks().len().saturating_sub(1);
        let id = self.begin(kind, subject, last);
        self.operations.end(id, Ok(()), Clock::timestamp());
    }

    /// Ends the failovers that still run: what they are about is taken back.
    pub(crate) fn cancel_failovers(&mut self) {
        let failovers = [JobKind::PlannedFailover, JobKind::UnplannedFailover];
        let running = self
            .operations
            .iter()
            .filter(|job| job.state == JobState::InProgress && failovers.contains(&job.kind));
        let running: Vec<_> = running.map(|job| job.id).collect();
        for id in running {
            self.operations.cancel(id, Clock::timestamp());
        }
    }
}

/// Ends job `id` as `result` did, and hands the result on. A replica that cannot be written to shows the job
/// as if it ran, until it is asked for again.
pub(crate) async fn end<T>(replica: &Replica, id: u64, result: Result<T>) -> Result<T> {
    let outcome = result.as_ref().map(drop).map_err(Error::job_error);
    let end = |notes: &mut Notes| {
        notes
            .operations
            .end(id, outcome.clone(), Clock::timestamp());
    };
    if let Err(error) = notes::change(replica, end).await {
        tracing::warn!(%error, "the status does not show how a job ended");
    }
    result
}
