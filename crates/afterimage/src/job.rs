//! Jobs, as users know them: what runs, how far it is, and what became of it.

use std::collections::VecDeque;
use std::time::Duration;

use afterimage_block::{Length, Timestamp};
use serde::{Deserialize, Serialize};

/// What a job is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum JobKind {
    /// Prerequisites are checked and the replica is claimed.
    EnableProtection,
    /// The disks are copied.
    InitialReplication,
    /// A delta is shipped.
    Delta,
    /// What may differ is compared and sent.
    Resynchronize,
    /// The last delta is recorded as such.
    PlannedFailover,
}

/// How a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobState {
    /// It runs.
    InProgress,
    /// It is done.
    Succeeded,
    /// It failed; the error says whether it will be tried again.
    Failed,
}

/// Exact bytes done, of how many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes dealt with: copied, compared or shipped. Never decreases within a job.
    pub done: Length,
    /// Bytes to deal with in all.
    pub total: Length,
    /// Bytes that went over to the replica.
    pub sent: Length,
}

impl Progress {
    /// The time that the rest takes at the mean rate of the `elapsed` time; `None` before anything
    /// is done.
    pub fn eta(&self, elapsed: Duration) -> Option<Duration> {
        let (done, total) = (u128::from(self.done.get()), u128::from(self.total.get()));
        let left = total.checked_sub(done)?;
        let millis = elapsed.as_millis().checked_mul(left)?.checked_div(done)?;
        Some(Duration::from_millis(u64::try_from(millis).ok()?))
    }
}

/// A job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its number, counted from 1 within one run.
    pub id: u64,
    /// What it is for.
    pub kind: JobKind,
    /// What it works on: a disk, a sequence number.
    pub subject: String,
    /// How it stands.
    pub state: JobState,
    /// How far it is.
    pub progress: Progress,
    /// When it started.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// Why it failed.
    pub error: Option<String>,
}

/// The newest jobs of a run, the oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Jobs {
    jobs: VecDeque<Job>,
    last: u64,
}

impl Jobs {
    /// How many are remembered.
    const KEPT: usize = 20;

    /// Starts a job.
    pub(crate) fn start(&mut self, kind: JobKind, subject: String, now: Timestamp) -> u64 {
        self.last += 1;
        if self.jobs.len() == Self::KEPT {
            self.jobs.pop_front();
        }
        self.jobs.push_back(Job {
            id: self.last,
            kind,
            subject,
            state: JobState::InProgress,
            progress: Progress::default(),
            started: now,
            ended: None,
            error: None,
        });
        self.last
    }

    /// Notes how far job `id` is.
    pub(crate) fn progress(&mut self, id: u64, progress: Progress) {
        if let Some(job) = self.find(id) {
            job.progress = progress;
        }
    }

    /// Ends job `id`.
    pub(crate) fn end(&mut self, id: u64, result: Result<(), String>, now: Timestamp) {
        if let Some(job) = self.find(id) {
            job.ended = Some(now);
            job.error = result.err();
            job.state = match job.error {
                None => JobState::Succeeded,
                Some(_) => JobState::Failed,
            };
        }
    }

    /// Job `id`, if it is remembered.
    pub(crate) fn get(&self, id: u64) -> Option<&Job> {
        self.jobs.iter().find(|job| job.id == id)
    }

    /// All that are remembered.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Job> {
        self.jobs.iter()
    }

    fn find(&mut self, id: u64) -> Option<&mut Job> {
        self.jobs.iter_mut().find(|job| job.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eta_follows_the_mean_rate() {
        let progress = |done, total| Progress {
            done: Length::new(done),
            total: Length::new(total),
            sent: Length::ZERO,
        };
        let second = Duration::from_secs(1);
        assert_eq!(progress(25, 100).eta(second), Some(3 * second));
        assert_eq!(progress(0, 100).eta(second), None);
        assert_eq!(progress(100, 100).eta(second), Some(Duration::ZERO));
    }

    #[test]
    fn only_the_newest_jobs_are_kept() {
        let mut jobs = Jobs::default();
        for _ in 0..50 {
            jobs.start(JobKind::Delta, String::new(), Timestamp::default());
        }
        assert_eq!(jobs.iter().count(), Jobs::KEPT);
        assert_eq!(jobs.get(1), None);
        jobs.end(50, Err("no".into()), Timestamp::default());
        assert_eq!(jobs.get(50).unwrap().state, JobState::Failed);
    }
}
