//! What the driver of a machine and its tasks have in common.

use std::sync::{Mutex, MutexGuard, PoisonError};

use afterimage_block::{Epoch, Length, MachineId, SessionId};
use afterimage_replication::{NotAllowed, Pace, Policy, PrimaryReport, ReplicaState, Role};
use afterimage_store::{Key, MachineName, Manifest, Replica, ReplicaDisk, Transition};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::excluded::ExcludedDisk;
use crate::extend::Extended;
use crate::generations::Generations;
use crate::notes::Notes;
use crate::notice::Notice;
use crate::quiesce::QuiesceHook;
use crate::state::StateFolder;
use crate::{Clock, Error};
use afterimage_replication::{Job, JobKind, JobState, Jobs, Progress};

/// What the driver and its tasks have in common.
pub(crate) struct Shared {
    pub(crate) name: MachineName,
    pub(crate) machine: MachineId,
    pub(crate) replica_url: String,
    pub(crate) key: Option<Key>,
    pub(crate) disks: Vec<ReplicaDisk>,
    pub(crate) excluded: Vec<ExcludedDisk>,
    pub(crate) clock: Clock,
    pub(crate) folder: StateFolder,
    pub(crate) generations: Generations,
    pub(crate) notices: broadcast::Sender<Notice>,
    pub(crate) policy: Policy,
    pub(crate) quiesce: Option<QuiesceHook>,
    pub(crate) pace: Mutex<Pace>,
    pub(crate) jobs: Mutex<Jobs>,
}

/// How far a job is that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Running {
    id: u64,
    pub(crate) kind: JobKind,
    progress: Progress,
    steps: usize,
}

/// What the engine keeps with a replica: the state that its manifest carries for us.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Kept {
    #[serde(flatten)]
    pub(crate) replica: ReplicaState,
    #[serde(default)]
    pub(crate) jobs: Vec<Job>,
    /// The name of the failover that the role is about.
    #[serde(default)]
    pub(crate) failover: Option<SessionId>,
    /// The machine's disks that are not replicated, as its primary last told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) excluded: Vec<ExcludedDisk>,
    /// The replica that feeds it, where that is not a primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) extended: Option<Extended>,
    /// What others than the primary keep there: it is under [`afterimage_store::NOTES`].
    #[serde(default, skip_serializing_if = "Notes::is_empty")]
    pub(crate) notes: Notes,
}

/// Changes what is kept with `replica`, and fences every writer of before off where `fences` says so.
/// Where `change` refuses, nothing is changed.
pub(crate) async fn change_kept<T: Send>(
    replica: &Replica,
    fences: bool,
    change: impl Fn(&Manifest, &mut Kept) -> Result<T, NotAllowed> + Send + Sync,
) -> crate::Result<(Manifest, T)> {
    // It may be asked again and again, for as long as others come in between: the last answer counts.
    let answer = Mutex::new(None);
    let changed = |manifest: &Manifest| {
        let mut kept = Kept::parse(&manifest.state)?;
        let result = change(manifest, &mut kept);
        let refused = result.as_ref().err().map(ToString::to_string);
        *answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        match refused {
            Some(refusal) => Err(afterimage_store::Error::Refused(refusal)),
            None => Ok(Transition {
                state: kept.encode(),
                fences,
            }),
        }
    };
    let changed = replica.transition(changed).await;
    match answer.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(Err(refusal)) if changed.is_err() => Err(refusal.into()),
        Some(Ok(answer)) => Ok((changed?, answer)),
        _ => Err(changed.err().map_or(Error::NotRunning, Error::from)),
    }
}

impl Kept {
    /// What a manifest carries; the beginning of everything where it carries nothing yet.
    pub(crate) fn parse(state: &serde_json::Value) -> Result<Self, afterimage_store::Error> {
        if state.is_null() {
            return Ok(Self::default());
        }
        serde_json::from_value(state.clone()).map_err(|error| afterimage_store::Error::Damaged {
            object: "manifest.json".into(),
            reason: format!("its state cannot be read: {error}"),
        })
    }

    /// What is kept once a primary that knows of epoch `known` claims the replica, if it may.
    pub(crate) fn claimed(&mut self, known: Epoch) -> Result<(), NotAllowed> {
        if self.extended.is_some() {
            return Err(NotAllowed {
                reason: "it is fed by another replica".into(),
                advice: "replicate to that one, or to another store",
            });
        }
        self.replica.claimed(known)?;
        self.notes.forget(known);
        Ok(())
    }

    pub(crate) fn encode(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

impl Shared {
    /// Tells whoever listens.
    pub(crate) fn tell(&self, notice: Notice) {
        // Without listeners there is nobody to tell.
        let _ = self.notices.send(notice);
    }

    /// Waits until more may be sent than the `sent` bytes that have just been.
    pub(crate) async fn keep_pace(&self, sent: Length) {
        let free = {
            let now = self.clock.now();
            let limit = self.policy.bandwidth.limit_at(now);
            let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
            pace.sent(sent, limit, now)
        };
        self.clock.sleep_until(free).await;
    }

    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far the job is that runs.
    pub(crate) fn running(&self) -> Option<Running> {
        let jobs = self.jobs();
        let running = jobs.iter().find(|job| job.state == JobState::InProgress)?;
        let begun = running.tasks.iter();
        Some(Running {
            id: running.id,
            kind: running.kind,
            progress: running.progress,
            steps: begun.filter(|task| task.started.is_some()).count(),
        })
    }

    /// What is kept with the replica from now on, which is published in `epoch`.
    pub(crate) fn kept(
        &self,
        role: Role,
        report: PrimaryReport,
        epoch: Epoch,
    ) -> serde_json::Value {
        let kept = Kept {
            replica: ReplicaState {
                role,
                primary: Some(report),
                lineage: epoch,
            },
            jobs: self.ended_jobs(),
            failover: None,
            excluded: self.excluded.clone(),
            extended: None,
            notes: Notes::default(),
        };
        kept.encode()
    }

    /// What is kept with the replica, of which `kept` is the present, once its primary has told how it stands.
    ///
    /// # Errors
    /// [`afterimage_store::Error::Refused`] where something newer is kept.
    pub(crate) fn told(
        &self,
        mut kept: Kept,
        report: &PrimaryReport,
    ) -> Result<Kept, afterimage_store::Error> {
        let present = kept.replica.primary.as_ref();
        let is_newer = present.is_none_or(|present| present.time < report.time);
        if kept.replica.role != Role::Replica || !is_newer {
            let reason = "what the replica knows of its primary is newer";
            return Err(afterimage_store::Error::Refused(reason.into()));
        }
        kept.replica.primary = Some(report.clone());
        kept.jobs = self.all_jobs();
        kept.excluded.clone_from(&self.excluded);
        Ok(kept)
    }

    /// The newest jobs, the oldest first.
    pub(crate) fn all_jobs(&self) -> Vec<Job> {
        self.jobs().iter().cloned().collect()
    }

    fn ended_jobs(&self) -> Vec<Job> {
        let ended = |job: &&Job| job.state != JobState::InProgress;
        self.jobs().iter().filter(ended).cloned().collect()
    }

    /// The disks with these sizes, as a replica knows them.
    pub(crate) fn disks_of(&self, sizes: &[Length]) -> Vec<ReplicaDisk> {
        let disks = self.disks.iter().zip(sizes);
        disks
            .map(|(disk, size)| ReplicaDisk {
                size: *size,
                ..disk.clone()
            })
            .collect()
    }

    /// Starts a job on disk `number`.
    pub(crate) fn disk_job(&self, kind: JobKind, number: usize) -> RunningJob<'_> {
        let name = self.disks.get(number).map(|disk| disk.name.to_string());
        self.job(kind, name.unwrap_or_default())
    }

    /// Starts a job.
    pub(crate) fn job(&self, kind: JobKind, subject: String) -> RunningJob<'_> {
        let id = self.jobs().start(kind, subject, Clock::timestamp());
        let job = RunningJob {
            shared: self,
            id,
            shown: None,
        };
        job.show();
        job
    }
}

/// A job that runs. Its owner is shown how far it is a few times a second.
///
/// One that is dropped before its end is cancelled.
pub(crate) struct RunningJob<'a> {
    shared: &'a Shared,
    id: u64,
    shown: Option<std::time::Instant>,
}

impl RunningJob<'_> {
    pub(crate) fn progress(&mut self, progress: Progress) {
        const OFTEN: std::time::Duration = std::time::Duration::from_millis(250);
        self.shared.jobs().progress(self.id, progress);
        if self.shown.is_none_or(|shown| shown.elapsed() >= OFTEN) {
            self.shown = Some(std::time::Instant::now());
            self.show();
        }
    }

    /// Begins the job's next task.
    pub(crate) fn step(&self) {
        self.shared.jobs().step(self.id, Clock::timestamp());
        self.show();
    }

    /// Ends the job as `result` did, and hands the result on.
    pub(crate) fn end<T>(self, result: Result<T, Error>) -> Result<T, Error> {
        let outcome = result.as_ref().map(drop).map_err(Error::job_error);
        self.shared.jobs().end(self.id, outcome, Clock::timestamp());
        self.show();
        result
    }

    fn show(&self) {
        if let Some(job) = self.shared.jobs().get(self.id) {
            self.shared.tell(Notice::Job(job.clone()));
        }
    }
}

impl Drop for RunningJob<'_> {
    fn drop(&mut self) {
        let running = |job: &Job| job.state == JobState::InProgress;
        if self.shared.jobs().get(self.id).is_some_and(running) {
            self.shared.jobs().cancel(self.id, Clock::timestamp());
            self.show();
        }
    }
}
