//! How much would be lost if the primary were lost now.

use std::time::Duration;

use afterimage_block::Sequence;
use afterimage_retry::Time;

use super::{Machine, Phase};
use crate::Statistics;
use crate::action::{Action, Report};

impl Machine {
    /// How old the newest state is that the replica can be failed over to, with all disks; `None`
    /// before the first one. Counted from when its barrier was ordered, so that it never flatters.
    /// Zero once the machine is stopped and its last delta is there.
    pub fn rpo(&self, now: Time) -> Option<Duration> {
        if self.phase == Phase::Prepared {
            return Some(Duration::ZERO);
        }
        self.recoverable.map(|recoverable| now.since(recoverable))
    }

    /// What came of the cycles within the policy's monitoring window.
    pub fn statistics(&self, now: Time) -> Statistics {
        let pending = self.unshipped_bytes_after(Sequence::ZERO);
        self.monitor
            .statistics(pending, now, self.policy.monitoring_window)
    }

    /// When the last cycle that succeeded is too long ago, unless that is known.
    pub(crate) fn overdue_at(&self) -> Option<Time> {
        let waits = self.has_base() && self.phase != Phase::Prepared && !self.lanes.is_closing();
        let last = self
            .monitor
            .last_success
            .filter(|_| waits && !self.alarms.ill_served)?;
        Some(last + Self::SUCCESS_MAX)
    }

    /// Looks at the statistics, for the health.
    pub(crate) fn check_statistics(&mut self, now: Time) {
        let last = self.monitor.last_success;
        let overdue = last.is_some_and(|last| now.since(last) >= Self::SUCCESS_MAX);
        self.alarms.ill_served = overdue || !self.statistics(now).is_normal();
    }

    /// The longest time between two cycles that succeed.
    const SUCCESS_MAX: Duration = Duration::from_hours(1);

    /// The replica can be failed over to the machine as it was at `time`.
    pub(super) fn recoverable_to(&mut self, time: Option<Time>, now: Time) -> Vec<Action> {
        self.recoverable = self.recoverable.max(time);
        let limit = self.policy.rpo_limit();
        let on_time = self.rpo(now) < limit || limit.is_none();
        if self.late && on_time {
            self.late = false;
            return vec![Action::Report(Report::RecoveryPointsOnTime)];
        }
        Vec::new()
    }

    /// Nothing was written between the last barrier and one that was ordered at `at`: the newest
    /// recovery point, at the replica or on its way there, shows that time as well.
    pub(super) fn unchanged_since(&mut self, at: Time, now: Time) -> Vec<Action> {
        if !self.settled || self.phase != Phase::Delta {
            return Vec::new();
        }
        if let Some(newest) = self.queue.back_mut() {
            newest.ordered = newest.ordered.max(Some(at));
            return Vec::new();
        }
        self.monitor
            .cycle_succeeded(now, self.policy.monitoring_window);
        self.recoverable_to(Some(at), now)
    }

    /// When recovery points are to be called late, unless they have been.
    pub(crate) fn late_at(&self) -> Option<Time> {
        let waits = !self.late && self.phase != Phase::Prepared && !self.lanes.is_closing();
        let limit = self.policy.rpo_limit().filter(|_| waits)?;
        self.recoverable.map(|recoverable| recoverable + limit)
    }

    /// Tells the owner once that recovery points are late.
    pub(crate) fn check_rpo(&mut self, now: Time) -> Option<Action> {
        if self.late_at().is_none_or(|at| now < at) {
            return None;
        }
        self.late = true;
        let rpo = self.rpo(now).unwrap_or_default();
        Some(Action::Report(Report::RecoveryPointsLate { rpo }))
    }
}
