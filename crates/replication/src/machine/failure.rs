//! What fails: tried again by the schedule, or left to a person.

use afterimage_retry::{Class, Decision, Retry, Time};

use super::{Hold, Machine, Phase};
use crate::action::{Action, Report};
use crate::event::{Failure, Task};

impl Machine {
    pub(super) fn failed(&mut self, task: Task, failure: Failure, now: Time) -> Vec<Action> {
        match task {
            Task::Barrier => return self.barrier_failed(failure, now),
            Task::Quiesce => return self.quiesce_failed(failure, now),
            _ => {}
        }
        let Some(ended) = self.end_transfer(task) else {
            return Vec::new();
        };
        let mut actions = self.cut_short(task);
        if !ended.aborted {
            actions.extend(self.retry_or_give_up(task, failure, ended.started, now));
        }
        actions
    }

    /// A transfer was given up, as it was asked to be.
    pub(super) fn aborted(&mut self, task: Task) -> Vec<Action> {
        match self.end_transfer(task) {
            Some(_) => self.cut_short(task),
            None => Vec::new(),
        }
    }

    fn cut_short(&mut self, task: Task) -> Vec<Action> {
        if task == Task::Resync {
            // The differences may be published and only the answer lost: a claim tells.
            self.lanes.claimed = false;
        }
        if let (Task::Copy, Phase::Copying(copying)) = (task, &mut self.phase) {
            // A snapshot grows for as long as it is held; the next attempt takes a new one.
            copying.snapshot = None;
            return vec![Action::ReleaseSnapshot];
        }
        Vec::new()
    }

    pub(super) fn barrier_failed(&mut self, failure: Failure, now: Time) -> Vec<Action> {
        let Some(ordered) = self.lanes.finish_barrier() else {
            return Vec::new();
        };
        self.count_failed(&failure, now);
        self.lanes.give_up_closing();
        self.next_barrier = self.barrier_after(now);
        self.lanes.no_barrier_before = Some(self.next_barrier);
        self.lanes.changes_disks |= ordered.barrier.changes_disks;
        let mut actions = self.thaw_after(&ordered.barrier);
        actions.push(Action::Report(Report::RetryAt {
            task: Task::Barrier,
            failure,
            attempt: 2,
            due: self.next_barrier,
        }));
        actions
    }

    pub(super) fn retry_or_give_up(
        &mut self,
        task: Task,
        failure: Failure,
        started: Time,
        now: Time,
    ) -> Vec<Action> {
        self.lanes.give_up_closing();
        self.count_failed(&failure, now);
        let first = Retry::begin(started).seeded(self.seed.unwrap_or_default());
        let retry = self.retry.get_or_insert(first);
        let (class, pause) = (failure.class, failure.retry_after);
        match retry.failed(&self.policy.retry, class, pause, now) {
            Decision::RetryAt(due) => vec![Action::Report(Report::RetryAt {
                task,
                failure,
                attempt: retry.attempt(),
                due,
            })],
            Decision::GiveUp(_) => self.become_critical(task, failure),
        }
    }

    fn count_failed(&mut self, failure: &Failure, now: Time) {
        let recoverable = failure.class == Class::Recoverable;
        self.monitor
            .failed(recoverable, now, self.policy.monitoring_window);
    }

    pub(super) fn give_up(&mut self, task: Task, message: &str) -> Vec<Action> {
        self.lanes.give_up_closing();
        let failure = Failure {
            class: Class::NonRecoverable,
            retry_after: None,
            message: message.into(),
        };
        self.become_critical(task, failure)
    }

    /// Nothing is sent from now on; the replica has to be claimed anew before anything is again.
    pub(super) fn become_critical(&mut self, task: Task, failure: Failure) -> Vec<Action> {
        self.retry = None;
        self.lanes.claimed = false;
        self.hold = Some(Hold::Critical {
            task,
            failure: failure.clone(),
        });
        vec![Action::Report(Report::GaveUp { task, failure })]
    }
}
