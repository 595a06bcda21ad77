//! What operators do to a replica: jobs that it keeps, so that its status shows them.

use std::convert::Infallible;
use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use afterimage_block::Length;
use afterimage_replication::{Job, JobKind, JobState, Progress};
use afterimage_store::Replica;

use crate::notes::{self, Notes};
use crate::{Clock, Error, Result};

/// How often the replica hears how far a job is.
const TOLD_EVERY: Duration = Duration::from_mins(1);

/// How far the work of a job is, noted by who does it.
#[derive(Debug, Default)]
pub(crate) struct Far {
    done: AtomicU64,
    total: AtomicU64,
}

impl Far {
    pub(crate) fn set(&self, done: Length, total: Length) {
        self.done.store(done.get(), Ordering::Relaxed);
        self.total.store(total.get(), Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> (Length, Length) {
        let length = |of: &AtomicU64| Length::new(of.load(Ordering::Relaxed));
        (length(&self.done), length(&self.total))
    }
}

/// Does the work of job `id`, and keeps with the replica meanwhile how `far` it is: bytes done, of how many.
pub(crate) async fn watch<T>(
    replica: &Replica,
    id: u64,
    far: impl Fn() -> (Length, Length),
    work: impl Future<Output = T>,
) -> T {
    tokio::select! {
        done = work => done,
        never = tell(replica, id, far) => match never {},
    }
}

async fn tell(replica: &Replica, id: u64, far: impl Fn() -> (Length, Length)) -> Infallible {
    loop {
        tokio::time::sleep(TOLD_EVERY).await;
        let (done, total) = far();
        let progress = Progress {
            done,
            total,
            sent: done,
        };
        let tell = |notes: &mut Notes| notes.operations.progress(id, progress);
        if let Err(error) = notes::change(replica, tell).await {
            tracing::debug!(%error, "the status does not show how far a job is");
        }
    }
}

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

    /// Ends the job of this kind that runs as done, by the change that records it; where none runs, notes one.
    pub(crate) fn complete(&mut self, kind: JobKind, subject: impl Display) {
        let Some(id) = self.running(kind).map(|job| job.id) else {
            return self.done(kind, subject);
        };
        let now = Clock::timestamp();
        (1..kind.tasks().len()).for_each(|_| self.operations.step(id, now));
        self.operations.end(id, Ok(()), now);
    }

    /// The job of this kind that runs.
    pub(crate) fn running(&self, kind: JobKind) -> Option<&Job> {
        let mut jobs = self.operations.iter();
        jobs.find(|job| job.kind == kind && job.state == JobState::InProgress)
    }

    /// Whether job `id` runs, and has done none of its tasks.
    pub(crate) fn is_at_first_task(&self, id: u64) -> bool {
        let first = self.operations.get(id).and_then(|job| job.tasks.first());
        first.is_some_and(|task| task.state == JobState::InProgress)
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

#[cfg(test)]
mod tests {
    use afterimage_block::{DiskId, MachineId, SessionId};
    use afterimage_store::{Claim, ReplicaDisk, Store};

    use super::*;
    use crate::status;

    #[tokio::test(start_paused = true)]
    async fn the_status_shows_how_far_a_job_is() {
        let store = Store::open("memory://operations").await.unwrap();
        let replica = store.replica("vm".parse().unwrap());
        let claim = Claim {
            machine: MachineId::random(),
            session: SessionId::random(),
            disks: vec![ReplicaDisk {
                id: DiskId::random(),
                name: "disk".parse().unwrap(),
                size: Length::mib(8),
            }],
        };
        replica.claim(claim, |kept| Ok(kept.clone())).await.unwrap();
        let begin = |notes: &mut Notes| notes.begin(JobKind::UnplannedFailover, "it", 0);
        let id = notes::change(&replica, begin).await.unwrap();
        let far = Far::default();
        let shown = async || {
            let status = status(&replica, Clock::timestamp()).await.unwrap();
            status.operations[0].job.clone()
        };
        let work = async {
            for mib in 1..=3 {
                far.set(Length::mib(mib), Length::mib(8));
                tokio::time::sleep(TOLD_EVERY + Duration::from_secs(1)).await;
                assert_eq!(shown().await.progress.done, Length::mib(mib));
            }
            Ok(())
        };
        let done = watch(&replica, id, || far.get(), work).await;
        end(&replica, id, done).await.unwrap();
        assert_eq!(shown().await.state, JobState::Succeeded);
    }
}
