//! What can be done about a job.

use serde::{Deserialize, Serialize};

use super::{Job, JobKind, JobState};
use crate::{FailoverKind, Machine, ReplicaRequest, Request, Role, Task};

/// What an owner can do about a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum JobAction {
    /// Stop sending: the job goes on where it was once it is resumed.
    Suspend,
    /// Go on after that.
    Resume,
    /// Try again at once what has failed for good.
    Restart,
    /// Give it up, and take back what it had done.
    Cancel,
}

impl JobKind {
    /// The machine's task that it is a part of; `None` for an operator's.
    pub const fn task(self) -> Option<Task> {
        match self {
            Self::EnableProtection => Some(Task::Claim),
            Self::InitialReplication | Self::FinalizeProtection => Some(Task::Copy),
            Self::Delta => Some(Task::Ship),
            Self::Resynchronize => Some(Task::Resync),
            Self::PrepareFailover => Some(Task::Prepare),
            _ => None,
        }
    }

    /// The request to its machine that does `action` to a job of this kind; `None` where nothing does.
    pub const fn request(self, action: JobAction) -> Option<Request> {
        match (action, self) {
            (JobAction::Suspend, _) => Some(Request::Suspend),
            (JobAction::Resume | JobAction::Restart, _) => Some(Request::Resume),
            (
                JobAction::Cancel,
                Self::EnableProtection
                | Self::InitialReplication
                | Self::FinalizeProtection
                | Self::ReverseReplication,
            ) => Some(Request::Disable),
            (JobAction::Cancel, Self::Resynchronize) => Some(Request::CancelResync),
            (JobAction::Cancel, _) => None,
        }
    }
}

impl Machine {
    /// What can be done now about `job`, one of this machine's. Each is a request that the machine
    /// admits.
    pub fn job_actions(&self, job: &Job) -> Vec<JobAction> {
        let failed = self.problem().is_some() && job.state == JobState::Failed;
        let suspended = self.problem().is_none();
        let possible = match job.state {
            JobState::InProgress => {
                vec![JobAction::Suspend, JobAction::Resume, JobAction::Cancel]
            }
            JobState::Failed if failed => vec![JobAction::Restart, JobAction::Cancel],
            JobState::Failed if suspended => vec![JobAction::Resume, JobAction::Cancel],
            _ => Vec::new(),
        };
        let allowed = self.allowed();
        let admitted = |action: &JobAction| {
            let request = job.kind.request(*action);
            request.is_some_and(|request| allowed.contains(&request))
        };
        possible.into_iter().filter(admitted).collect()
    }
}

impl Role {
    /// What can be done now about `job`, one of an operator's on a replica in this role. A failover
    /// that was cut short is asked for again, and goes on where it was, or is taken back; also one that
    /// succeeded, until it is committed. A test failover is ended by its clean-up.
    pub fn job_actions(self, job: &Job) -> Vec<JobAction> {
        let kind = match job.kind {
            JobKind::PlannedFailover | JobKind::Failback => FailoverKind::Planned,
            JobKind::UnplannedFailover => FailoverKind::Unplanned,
            JobKind::TestFailover => {
                return match job.state {
                    JobState::InProgress => vec![JobAction::Cancel],
                    JobState::Failed => vec![JobAction::Restart],
                    _ => Vec::new(),
                };
            }
            _ => return Vec::new(),
        };
        let mut actions = Vec::new();
        let waits =
            matches!(self, Self::FailedOverWaitingCompletion { kind: of, .. } if of == kind);
        if waits && job.state == JobState::Failed {
            actions.push(JobAction::Restart);
        }
        let open = !matches!(job.state, JobState::Cancelled | JobState::Skipped);
        if waits && open && self.request(ReplicaRequest::Cancel).is_ok() {
            actions.push(JobAction::Cancel);
        }
        actions
    }
}

#[cfg(test)]
mod tests {
    use afterimage_block::{Length, Sequence, Timestamp};
    use afterimage_retry::{Class, Time};

    use super::*;
    use crate::{ErrorCode, Event, Failure, JobError, Jobs, Policy};

    fn at(nanos: u64) -> Timestamp {
        Timestamp::from_nanos(nanos)
    }

    fn refused() -> JobError {
        JobError {
            code: ErrorCode::Refused,
            message: "no".into(),
        }
    }

    #[test]
    fn what_can_be_done_about_a_job_is_admitted_by_its_machine() {
        let mut machine = Machine::new(Policy::default(), vec![Length::mib(1)]);
        machine.request(Request::Enable, Time::ZERO).unwrap();
        let mut jobs = Jobs::default();
        let id = jobs.start(JobKind::EnableProtection, "vm".into(), at(1));
        let can = |machine: &Machine, jobs: &Jobs| machine.job_actions(jobs.get(id).unwrap());
        assert_eq!(
            can(&machine, &jobs),
            [JobAction::Suspend, JobAction::Cancel]
        );
        machine.request(Request::Suspend, Time::ZERO).unwrap();
        assert_eq!(can(&machine, &jobs), [JobAction::Resume, JobAction::Cancel]);
        machine.request(Request::Resume, Time::ZERO).unwrap();
        let failure = Failure {
            class: Class::NonRecoverable,
            retry_after: None,
            message: "no".into(),
        };
        let task = Task::Claim;
        machine.handle(Event::Failed { task, failure }, Time::ZERO);
        jobs.end(id, Err(refused()), at(2));
        assert_eq!(
            can(&machine, &jobs),
            [JobAction::Restart, JobAction::Cancel]
        );
        let restart = JobKind::EnableProtection.request(JobAction::Restart);
        machine.request(restart.unwrap(), Time::ZERO).unwrap();
        assert_eq!(can(&machine, &jobs), [JobAction::Cancel]);
        let cancel = JobKind::EnableProtection.request(JobAction::Cancel);
        machine.request(cancel.unwrap(), Time::ZERO).unwrap();
        assert_eq!(can(&machine, &jobs), []);
    }

    #[test]
    fn a_failover_is_taken_back_until_it_is_committed() {
        let mut jobs = Jobs::default();
        let id = jobs.start(JobKind::UnplannedFailover, "vm".into(), at(1));
        let can = |role: Role, jobs: &Jobs| role.job_actions(jobs.get(id).unwrap());
        assert_eq!(can(Role::Replica, &jobs), [], "it has not begun");
        let point = Sequence::new(7);
        let failed_over = Role::Replica.request(ReplicaRequest::UnplannedFailover { point });
        let failed_over = failed_over.unwrap();
        assert_eq!(can(failed_over, &jobs), [JobAction::Cancel]);
        jobs.interrupt(JobKind::UnplannedFailover, at(2));
        let both = [JobAction::Restart, JobAction::Cancel];
        assert_eq!(can(failed_over, &jobs), both);
        let committed = failed_over.request(ReplicaRequest::Commit).unwrap();
        assert_eq!(can(committed, &jobs), []);
    }
}
