//! Jobs, as users know them: what runs, how far it is, and what became of it.

mod actions;
mod error;

use std::collections::VecDeque;
use std::time::Duration;

use afterimage_block::{Length, Timestamp};
use serde::{Deserialize, Serialize};

pub use actions::JobAction;
pub use error::{ErrorCode, JobError};

/// What a job is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum JobKind {
    /// Prerequisites are checked and the replica is claimed.
    EnableProtection,
    /// A disk is copied.
    InitialReplication,
    /// The first copy becomes a recovery point.
    FinalizeProtection,
    /// A delta is shipped.
    Delta,
    /// What may differ of a disk is compared, and kept to be sent where it does.
    Resynchronize,
    /// The machine is stopped: its last delta is recorded as such at the replica.
    PrepareFailover,
    /// The replica is failed over to that.
    PlannedFailover,
    /// The replica is failed over without its primary.
    UnplannedFailover,
    /// A recovery point is opened, and nothing changes.
    TestFailover,
    /// What a test failover made is thrown away.
    CleanUpTestFailover,
    /// A failover is made final.
    Commit,
    /// A failover is taken back.
    CancelFailover,
    /// The machine that was failed over is protected in the other direction.
    ReverseReplication,
    /// The machine goes back to where it was.
    Failback,
    /// Protection ends.
    Disable,
}

impl JobKind {
    /// Its tasks, in their order.
    pub const fn tasks(self) -> &'static [&'static str] {
        match self {
            Self::EnableProtection => &["check the prerequisites", "claim the replica"],
            Self::InitialReplication => &["copy the disk"],
            Self::FinalizeProtection => &["publish the copy"],
            Self::Delta => &["send the logs", "publish them"],
            Self::Resynchronize => &["compare with the replica and keep what differs"],
            Self::PrepareFailover => &["record the last delta"],
            Self::PlannedFailover | Self::UnplannedFailover => {
                &["fence the primary off", "make the disks"]
            }
            Self::TestFailover => &["make the disks"],
            Self::CleanUpTestFailover => &["remove the disks"],
            Self::Commit | Self::CancelFailover => &["record it"],
            Self::ReverseReplication => &["claim the replica", "mark what may differ"],
            Self::Failback => &[
                "resynchronize the disks",
                "ship the last delta",
                "fail over",
            ],
            Self::Disable => &["release the replica"],
        }
    }

    /// What is done, as people say it.
    pub const fn description(self) -> &'static str {
        match self {
            Self::EnableProtection => "Enable protection",
            Self::InitialReplication => "Initial replication",
            Self::FinalizeProtection => "Finalize protection",
            Self::Delta => "Delta",
            Self::Resynchronize => "Resynchronize",
            Self::PrepareFailover => "Prepare failover",
            Self::PlannedFailover => "Planned failover",
            Self::UnplannedFailover => "Unplanned failover",
            Self::TestFailover => "Test failover",
            Self::CleanUpTestFailover => "Clean up test failover",
            Self::Commit => "Commit",
            Self::CancelFailover => "Cancel failover",
            Self::ReverseReplication => "Reverse replication",
            Self::Failback => "Failback",
            Self::Disable => "Disable",
        }
    }
}

/// How a job or one of its tasks stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum JobState {
    /// It has not begun.
    NotStarted,
    /// It runs.
    InProgress,
    /// It is done.
    Succeeded,
    /// It failed; the error says what can be done.
    Failed,
    /// It was cancelled: what it had done is taken back, or does no harm.
    Cancelled,
    /// What came before it failed or was cancelled.
    Skipped,
}

/// A step of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobTask {
    /// What is done.
    pub name: String,
    /// How it stands.
    pub state: JobState,
    /// When it began.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub ended: Option<Timestamp>,
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
    /// Its number, counted from 1 within one run, or within all that operators did to a replica.
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
    /// Its tasks, in their order; none where an earlier release stored it.
    #[serde(default)]
    pub tasks: Vec<JobTask>,
    /// Why it failed.
    pub error: Option<JobError>,
}

impl Job {
    /// Begins the next task: the one before is done.
    fn step(&mut self, now: Timestamp) {
        self.end_task(JobState::Succeeded, now);
        let next = self.tasks.iter_mut();
        let mut next = next.filter(|task| task.state == JobState::NotStarted);
        if let Some(task) = next.next() {
            task.state = JobState::InProgress;
            task.started = Some(now);
        }
    }

    fn end(&mut self, state: JobState, now: Timestamp) {
        self.state = state;
        self.ended = Some(now);
        self.end_task(state, now);
        let never_begun = self.tasks.iter_mut();
        for task in never_begun.filter(|task| task.state == JobState::NotStarted) {
            task.state = JobState::Skipped;
        }
    }

    fn end_task(&mut self, state: JobState, now: Timestamp) {
        let running = self.tasks.iter_mut();
        for task in running.filter(|task| task.state == JobState::InProgress) {
            task.state = state;
            task.ended = Some(now);
        }
    }
}

/// The newest jobs, the oldest first: of a run of a machine, or of all that operators did to a
/// replica, kept with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jobs {
    jobs: VecDeque<Job>,
    last: u64,
}

impl Jobs {
    /// How many are remembered.
    const KEPT: usize = 20;

    /// Starts a job.
    pub fn start(&mut self, kind: JobKind, subject: String, now: Timestamp) -> u64 {
        self.last += 1;
        if self.jobs.len() == Self::KEPT {
            self.jobs.pop_front();
        }
        let tasks = kind.tasks().iter().map(|name| JobTask {
            name: (*name).into(),
            state: JobState::NotStarted,
            started: None,
            ended: None,
        });
        let mut job = Job {
            id: self.last,
            kind,
            subject,
            state: JobState::InProgress,
            progress: Progress::default(),
            started: now,
            ended: None,
            tasks: tasks.collect(),
            error: None,
        };
        job.step(now);
        self.jobs.push_back(job);
        self.last
    }

    /// Notes how far job `id` is. Progress that would go back is not shown.
    pub fn progress(&mut self, id: u64, progress: Progress) {
        if let Some(job) = self.find(id)
            && progress.done >= job.progress.done
        {
            job.progress = progress;
        }
    }

    /// Begins the next task of job `id`.
    pub fn step(&mut self, id: u64, now: Timestamp) {
        if let Some(job) = self.find(id) {
            job.step(now);
        }
    }

    /// Ends job `id`, if it runs, and with it the task that runs: where it failed the later ones are
    /// skipped.
    pub fn end(&mut self, id: u64, result: Result<(), JobError>, now: Timestamp) {
        let running = self
            .find(id)
            .filter(|job| job.state == JobState::InProgress);
        let Some(job) = running else {
            return;
        };
        job.error = result.err();
        let state = match job.error {
            None => JobState::Succeeded,
            Some(_) => JobState::Failed,
        };
        job.end(state, now);
    }

    /// Ends job `id` as cancelled, if it runs: the task that runs is too, and the later ones are
    /// skipped.
    pub fn cancel(&mut self, id: u64, now: Timestamp) {
        if let Some(job) = self.find(id)
            && job.state == JobState::InProgress
        {
            job.end(JobState::Cancelled, now);
        }
    }

    /// Ends those of this kind that run: whoever ran them is gone.
    pub fn interrupt(&mut self, kind: JobKind, now: Timestamp) {
        let running = self.jobs.iter_mut();
        let running = running.filter(|job| job.state == JobState::InProgress);
        for job in running.filter(|job| job.kind == kind) {
            job.error = Some(JobError {
                code: ErrorCode::Interrupted,
                message: "it was cut short".into(),
            });
            job.end(JobState::Failed, now);
        }
    }

    /// Job `id`, if it is remembered.
    pub fn get(&self, id: u64) -> Option<&Job> {
        self.jobs.iter().find(|job| job.id == id)
    }

    /// All that are remembered.
    pub fn iter(&self) -> impl Iterator<Item = &Job> {
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
        jobs.end(50, Err(refused()), Timestamp::default());
        assert_eq!(jobs.get(50).unwrap().state, JobState::Failed);
    }

    fn refused() -> JobError {
        JobError {
            code: ErrorCode::Refused,
            message: "no".into(),
        }
    }

    fn at(nanos: u64) -> Timestamp {
        Timestamp::from_nanos(nanos)
    }

    #[test]
    fn tasks_run_one_after_the_other_and_what_never_began_is_skipped() {
        let mut jobs = Jobs::default();
        let id = jobs.start(JobKind::Failback, "vm".into(), at(1));
        jobs.step(id, at(2));
        jobs.end(id, Err(refused()), at(3));
        let tasks = &jobs.get(id).unwrap().tasks;
        let states: Vec<_> = tasks.iter().map(|task| task.state).collect();
        let wanted = [JobState::Succeeded, JobState::Failed, JobState::Skipped];
        assert_eq!(states, wanted);
        assert_eq!(
            (tasks[0].started, tasks[0].ended),
            (Some(at(1)), Some(at(2)))
        );
        assert_eq!(
            (tasks[1].started, tasks[1].ended),
            (Some(at(2)), Some(at(3)))
        );
        assert_eq!(tasks[2].started, None);
    }

    #[test]
    fn progress_does_not_go_back() {
        let mut jobs = Jobs::default();
        let id = jobs.start(JobKind::InitialReplication, "vm".into(), at(1));
        for (told, shown) in [(512, 512), (0, 512), (1024, 1024)] {
            let done = Length::new(told);
            jobs.progress(
                id,
                Progress {
                    done,
                    ..Progress::default()
                },
            );
            assert_eq!(jobs.get(id).unwrap().progress.done.get(), shown);
        }
    }

    #[test]
    fn what_the_first_release_stored_is_read() {
        let stored = r#"{"id":3,"kind":"delta","subject":"7","state":"failed","progress":{"done":0,"total":0,"sent":0},"started":5,"ended":6,"error":"cannot reach it"}"#;
        let job: Job = serde_json::from_str(stored).unwrap();
        assert_eq!(job.error.as_ref().unwrap().message, "cannot reach it");
        assert!(job.tasks.is_empty());
        let again = serde_json::to_string(&job).unwrap();
        assert_eq!(serde_json::from_str::<Job>(&again).unwrap(), job);
    }

    #[test]
    fn what_is_cancelled_or_cut_short_ends_once() {
        let mut jobs = Jobs::default();
        let cancelled = jobs.start(JobKind::UnplannedFailover, "vm".into(), at(1));
        jobs.cancel(cancelled, at(2));
        let running = jobs.start(JobKind::TestFailover, "vm".into(), at(3));
        jobs.interrupt(JobKind::Commit, at(3));
        jobs.interrupt(JobKind::TestFailover, at(4));
        jobs.cancel(running, at(5));
        let stored = serde_json::to_string(&jobs).unwrap();
        let mut jobs: Jobs = serde_json::from_str(&stored).unwrap();
        let [first, second] = [cancelled, running].map(|id| jobs.get(id).unwrap().clone());
        assert_eq!(
            (first.state, first.ended),
            (JobState::Cancelled, Some(at(2)))
        );
        assert_eq!(first.tasks[1].state, JobState::Skipped);
        assert_eq!(
            (second.state, second.ended),
            (JobState::Failed, Some(at(4)))
        );
        assert_eq!(second.error.unwrap().code, ErrorCode::Interrupted);
        let next = jobs.start(JobKind::Commit, "vm".into(), at(6));
        assert_eq!(next, running + 1, "numbers go on");
    }
}
