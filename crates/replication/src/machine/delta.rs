//! Sealed logs on their way to the replica.

use afterimage_block::{Length, Sequence};
use afterimage_retry::Time;

use super::{Machine, Sealed};
use crate::action::Action;
use crate::{ResyncReason, Scope};

impl Machine {
    pub(super) fn shipped(&mut self, now: Time) -> Vec<Action> {
        let Some(sealed) = self.queue.front() else {
            return Vec::new();
        };
        let sequence = sealed.sequence;
        self.durable = Some(sequence);
        self.shipped_through(sequence, now)
    }

    /// Nobody knows what the log held, so the whole disk is in doubt; and no barrier that would build
    /// on it is a recovery point.
    pub(super) fn log_unreadable(&mut self, disk: usize) -> Vec<Action> {
        for sealed in &mut self.queue {
            sealed.point = false;
        }
        let front = self.queue.front_mut();
        if let Some(length) = front.and_then(|sealed| sealed.lengths.get_mut(disk)) {
            *length = Length::ZERO;
        }
        if let Some(doubt) = self.doubt.get_mut(disk) {
            *doubt = Scope::Everything;
        }
        self.require_resync(ResyncReason::LogLost)
    }

    fn count_shipped(&mut self, sealed: &Sealed, now: Time) {
        let lengths = sealed.lengths.iter();
        let length = lengths.fold(Length::ZERO, |sum, length| sum.saturating_add(*length));
        if let Some(ordered) = sealed.ordered {
            let window = self.policy.monitoring_window;
            self.monitor
                .shipped(length, now.since(ordered), now, window);
        }
    }

    /// The replica has every generation up to `last`.
    pub(super) fn shipped_through(&mut self, last: Sequence, now: Time) -> Vec<Action> {
        let mut discarded = Vec::new();
        let mut recoverable = None;
        while let Some(sealed) = self.queue.pop_front_if(|sealed| sealed.sequence <= last) {
            self.count_shipped(&sealed, now);
            if sealed.point {
                recoverable = sealed.ordered;
                self.point = Some(sealed.sequence);
            }
            discarded.push(sealed.sequence);
        }
        if discarded.is_empty() {
            return Vec::new();
        }
        // Where a barrier is under way the cycle is the one that it began.
        if recoverable.is_some() && self.queue.is_empty() && self.lanes.barrier.is_none() {
            self.monitor
                .cycle_succeeded(now, self.policy.monitoring_window);
        }
        let mut actions = self.recoverable_to(recoverable, now);
        actions.insert(0, Action::Discard(discarded));
        actions
    }
}
