//! An idle machine publishes nothing. So that its replica does not take it for lost, and so that it hears what
//! became of its replica, it tells it that it is idle, and again after a heartbeat, which is far rarer than the
//! interval.

use afterimage_retry::Time;

use super::{Machine, Phase};
use crate::action::Action;
use crate::event::Task;
use crate::lanes::Told;

impl Machine {
    /// Whether nothing was written since the last barrier and nothing is to be sent.
    fn is_idle(&self) -> bool {
        let follows = matches!(self.phase, Phase::Delta | Phase::ResyncRequired { .. });
        let waits = self.lanes.claimed && self.lanes.barrier.is_none() && self.queue.is_empty();
        follows && waits && self.lanes.quiet
    }

    /// When the replica is to be told that the machine is idle; at once if it does not know.
    fn heartbeat_due(&self) -> Option<Time> {
        if !self.is_idle() {
            return None;
        }
        let state = self.state();
        let told = self.lanes.told.filter(|told| told.state == state);
        Some(told.map_or(Time::ZERO, |told| told.at + self.policy.heartbeat()))
    }

    /// The time of the next heartbeat, where nothing stands against it.
    pub(crate) fn heartbeat_at(&self) -> Option<Time> {
        let free = self.hold.is_none() && self.retry.is_none() && self.lanes.is_free();
        let free = free && !self.lanes.is_closing();
        self.heartbeat_due().filter(|_| free)
    }

    /// What is sent where nothing else is.
    pub(crate) fn wanted_heartbeat(&self, now: Time) -> Option<(Task, Action)> {
        let due = self.heartbeat_due().filter(|_| !self.lanes.is_closing());
        due.filter(|due| *due <= now)
            .map(|_| (Task::Heartbeat, Action::Heartbeat))
    }

    /// The replica knows that the machine is idle.
    pub(super) fn heard(&mut self, now: Time) -> Vec<Action> {
        let state = self.state();
        self.lanes.told = Some(Told { state, at: now });
        Vec::new()
    }
}
