//! No transfer hangs unseen: one that does not move for two intervals is reported.

use std::time::Duration;

use afterimage_retry::Time;

use super::Machine;
use crate::action::{Action, Report};
use crate::event::Task;
use crate::lanes::Finished;

impl Machine {
    /// A transfer has moved on.
    pub(super) fn progressed(&mut self, task: Task, now: Time) -> Vec<Action> {
        let stalled = self.lanes.moved(task, now) && std::mem::take(&mut self.alarms.stalled);
        let again = stalled.then_some(Action::Report(Report::MovesAgain { task }));
        again.into_iter().collect()
    }

    /// Ends the transfer under way, if it is `task`.
    pub(super) fn end_transfer(&mut self, task: Task) -> Option<Finished> {
        let finished = self.lanes.finish_transfer(task)?;
        self.alarms.stalled = false;
        Some(finished)
    }

    fn patience(&self) -> Duration {
        self.policy.interval.saturating_mul(2)
    }

    /// When the transfer under way is to be called stalled, unless it has been.
    pub(crate) fn stalls_at(&self) -> Option<Time> {
        let (_, moved) = self.lanes.moving_since().filter(|_| !self.alarms.stalled)?;
        Some(moved + self.patience())
    }

    /// Tells the owner once that a transfer does not move.
    pub(crate) fn check_progress(&mut self, now: Time) -> Option<Action> {
        let (task, moved) = self.lanes.moving_since().filter(|_| !self.alarms.stalled)?;
        let idle = now.since(moved);
        if idle < self.patience() {
            return None;
        }
        self.alarms.stalled = true;
        Some(Action::Report(Report::Stalled { task, idle }))
    }
}
