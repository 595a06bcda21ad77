//! What a barrier makes of the generations.

use std::time::Duration;

use afterimage_block::Sequence;
use afterimage_retry::{Jitter, Time};

use super::{Machine, Phase, Sealed};
use crate::action::Action;
use crate::event::{BarrierReached, Ended, Tracking};
use crate::lanes::Ordered;
use crate::{ResyncReason, Scope};

impl Machine {
    /// When the next barrier is due: at most an interval from now.
    pub(super) fn barrier_after(&self, now: Time) -> Time {
        let interval = self.policy.interval;
        let Some(seed) = self.seed else {
            return now + interval;
        };
        let own = Jitter::FULL.of(interval, seed, 0);
        let since = now
            .since_origin()
            .saturating_add(interval)
            .saturating_sub(own);
        let over = since.as_nanos().checked_rem(interval.as_nanos());
        let over = u64::try_from(over.unwrap_or_default()).unwrap_or_default();
        now + interval.saturating_sub(Duration::from_nanos(over))
    }

    pub(super) fn quiet(&mut self, now: Time) -> Vec<Action> {
        let Some(Ordered { barrier, at, .. }) = self.lanes.finish_barrier() else {
            return Vec::new();
        };
        self.lanes.barrier_passed();
        self.lanes.quiet = true;
        self.next_barrier = self.barrier_after(now);
        let mut actions = self.thaw_after(&barrier);
        actions.extend(self.unchanged_since(at, now));
        actions
    }

    pub(super) fn barrier_reached(&mut self, reached: &BarrierReached, now: Time) -> Vec<Action> {
        let Some(Ordered {
            barrier,
            eligible,
            at,
        }) = self.lanes.finish_barrier()
        else {
            return Vec::new();
        };
        self.open = barrier.next;
        self.tracking = reached.tracking;
        self.next_barrier = self.barrier_after(now);
        self.lanes.barrier_passed();
        self.lanes.quiet = false;
        self.lanes.open_lengths.clear();
        self.queue
            .retain(|sealed| !barrier.dropped.contains(&sealed.sequence));
        let mut actions = self.thaw_after(&barrier);
        if !barrier.dropped.is_empty() {
            actions.push(Action::Discard(barrier.dropped));
        }
        if barrier.snapshot {
            actions.extend(self.snapshot_taken(barrier.ends, reached, at));
            return actions;
        }
        if !self.has_base() {
            // It is no longer protected: nothing counts before the next base.
            actions.push(Action::Discard(vec![barrier.ends]));
            return actions;
        }
        self.note_losses(reached);
        let point = eligible && self.nothing_in_doubt() && self.follows(barrier.ends);
        let application = point && barrier.application_consistent;
        if let (true, Some(application)) = (application, self.policy.application_consistent) {
            self.next_application = at + application.every;
        }
        let queued = self.enqueue(barrier.ends, reached, point, application, at);
        // Where a log with nothing in it was lost, the barrier is no point, but the one before may be.
        self.settled = point && (queued || self.settled);
        let reason = match barrier.tracking {
            Tracking::MapOnly => ResyncReason::LogOverflow,
            Tracking::Logging => ResyncReason::LogLost,
        };
        if barrier.next == barrier.ends.next() {
            actions.extend(self.require_resync(reason));
        } else {
            actions.extend(self.start_resync(barrier.ends.next(), now));
        }
        actions
    }

    /// Whether generation `sequence` comes right after the newest that waits or is shipped. Where logs
    /// with nothing in them were lost or dropped nothing is in doubt, and yet no replica makes a
    /// recovery point across the gap that they leave.
    pub(crate) fn follows(&self, sequence: Sequence) -> bool {
        let base = match &self.phase {
            Phase::Copying(copying) => copying.base,
            _ => None,
        };
        let newest = self.queue.back().map(|sealed| sealed.sequence);
        newest.or(self.durable).or(base).map(Sequence::next) == Some(sequence)
    }

    pub(super) fn doubt_again(&mut self, scopes: &[Scope]) {
        for (doubt, scope) in self.doubt.iter_mut().zip(scopes) {
            doubt.merge(scope);
        }
    }

    pub(super) fn note_losses(&mut self, reached: &BarrierReached) {
        self.doubt_again(&reached.dropped);
        for (doubt, ended) in self.doubt.iter_mut().zip(&reached.disks) {
            if let Ended::Lost(scope) = ended {
                doubt.merge(scope);
            }
        }
    }

    /// Queues what was sealed at barrier `sequence`, unless no disk's log was; whether it did.
    pub(super) fn enqueue(
        &mut self,
        sequence: Sequence,
        reached: &BarrierReached,
        point: bool,
        application: bool,
        ordered: Time,
    ) -> bool {
        let length = |ended: &Ended| match ended {
            Ended::Sealed(length) => Some(*length),
            Ended::Lost(_) => None,
        };
        let any = reached.disks.iter().any(|ended| length(ended).is_some());
        if any {
            self.queue.push_back(Sealed {
                sequence,
                time: reached.time,
                lengths: reached
                    .disks
                    .iter()
                    .map(|e| length(e).unwrap_or_default())
                    .collect(),
                point,
                application,
                ordered: Some(ordered),
            });
        }
        any
    }
}
