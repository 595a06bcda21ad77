//! The first copy, and what a claim of the replica tells about it.

use afterimage_block::Sequence;
use afterimage_retry::Time;

use super::{Alarms, Copying, Machine, Phase, Quiesce, Start};
use crate::action::{Action, Report};
use crate::event::{BarrierReached, Task};
use crate::statistics::Monitor;
use crate::{ResyncReason, Scope};

impl Machine {
    /// The base was published after all, and the answer lost.
    pub(super) fn base_published(
        &mut self,
        base: Option<Sequence>,
        at: Sequence,
        now: Time,
    ) -> Vec<Action> {
        if base.is_none_or(|base| at < base) {
            return self.unknown_replica();
        }
        let mut actions = self.copied(now);
        actions.extend(self.reconcile(at, now));
        actions
    }

    /// The replica holds the machine from when it was protected before: only what differs is sent, and
    /// its recovery points stay.
    pub(super) fn existing_copy(&mut self, at: Sequence) -> Vec<Action> {
        if at >= self.open {
            return self.unknown_replica();
        }
        self.durable = Some(at);
        self.doubt.fill(Scope::Everything);
        let reason = ResyncReason::ExistingCopy;
        self.phase = Phase::ResyncRequired {
            reason,
            start: Start::AtOnce,
        };
        vec![Action::Report(Report::ResyncRequired(reason))]
    }

    /// Protection ends: nothing is sent or kept for the replica any more, which keeps its recovery
    /// points.
    pub(super) fn disabled(&mut self) -> Vec<Action> {
        let mut actions: Vec<_> = self.lanes.abort(|_| true).into_iter().collect();
        if self.lanes.quiesce != Quiesce::Idle {
            actions.extend(self.let_go());
        }
        if matches!(self.phase, Phase::Copying(_)) {
            actions.push(Action::ReleaseSnapshot);
        }
        let logs: Vec<_> = self.queue.drain(..).map(|sealed| sealed.sequence).collect();
        if !logs.is_empty() {
            actions.push(Action::Discard(logs));
        }
        if self.lanes.claimed {
            actions.push(Action::Release);
        }
        (self.lanes.claimed, self.lanes.changes_disks) = (false, false);
        self.growths.clear();
        self.doubt.fill(Scope::NOTHING);
        self.phase = Phase::Disabled;
        (self.hold, self.retry, self.durable, self.recoverable) = (None, None, None, None);
        (self.settled, self.late, self.point) = (false, false, None);
        self.alarms = Alarms::default();
        self.monitor = Monitor::default();
        actions
    }

    pub(super) fn unknown_replica(&mut self) -> Vec<Action> {
        self.give_up(
            Task::Claim,
            "the replica already holds this machine and the state folder does not know of it: \
             use the state folder that belongs to it, or another replica name",
        )
    }

    pub(super) fn replica_gone(&mut self) -> Vec<Action> {
        self.give_up(
            Task::Claim,
            "the replica is gone: bring it back, or protect the machine anew with an empty \
             state folder",
        )
    }

    /// Brings the queue in line with what the replica really has: answers may have been lost.
    pub(super) fn reconcile(&mut self, at: Sequence, now: Time) -> Vec<Action> {
        if at >= self.open {
            return self.give_up(
                Task::Claim,
                "the replica is ahead of this state folder, which must be an old copy: use the \
                 newest one",
            );
        }
        let behind = self.durable.is_some_and(|durable| at < durable);
        self.durable = Some(at);
        let mut actions = self.shipped_through(at, now);
        if let Phase::Resyncing {
            sequence, scopes, ..
        } = &mut self.phase
            && at >= *sequence
        {
            // The differences are there, but whether they are all was in the answer that was lost.
            let scopes = std::mem::take(scopes);
            self.doubt_again(&scopes);
            self.end_resync();
        }
        if behind {
            self.doubt.fill(Scope::Everything);
            actions.extend(self.require_resync(ResyncReason::ReplicaBehind));
        }
        actions
    }

    /// A machine that was stopped has the replica again, which is no longer prepared for failover. What
    /// came to be in doubt meanwhile was changed by somebody else.
    pub(super) fn runs_again(&mut self, at: Sequence, now: Time) -> Vec<Action> {
        self.phase = Phase::Delta;
        let mut actions = self.reconcile(at, now);
        actions.extend(self.require_resync(ResyncReason::ChangedUntracked));
        actions
    }

    /// A snapshot of initial replication stands at barrier `ended`.
    pub(super) fn snapshot_taken(
        &mut self,
        ended: Sequence,
        reached: &BarrierReached,
        ordered: Time,
    ) -> Vec<Action> {
        let Phase::Copying(copying) = &mut self.phase else {
            return vec![Action::ReleaseSnapshot, Action::Discard(vec![ended])];
        };
        copying.snapshot = Some((ended, reached.time));
        copying.ordered = Some(ordered);
        if copying.base.is_none() {
            self.settled = true;
            // The copy is of this barrier: what came before does not matter.
            copying.base = Some(ended);
            self.doubt.fill(Scope::NOTHING);
            let mut moot: Vec<_> = self.queue.drain(..).map(|sealed| sealed.sequence).collect();
            moot.push(ended);
            return vec![Action::Discard(moot)];
        }
        // The copy began at an older snapshot: it is consistent only from this barrier on.
        self.queue
            .iter_mut()
            .for_each(|sealed| sealed.point = false);
        self.note_losses(reached);
        let point = self.nothing_in_doubt() && self.follows(ended);
        self.settled = self.enqueue(ended, reached, point, false, ordered) && point;
        Vec::new()
    }

    pub(super) fn copied(&mut self, now: Time) -> Vec<Action> {
        let mut actions = vec![Action::ReleaseSnapshot];
        if let Phase::Copying(Copying {
            base: Some(base),
            snapshot,
            ordered,
        }) = self.phase
        {
            self.durable = Some(base);
            if snapshot.is_some_and(|(snapshot, _)| snapshot == base) {
                self.point = Some(base);
                actions.extend(self.recoverable_to(ordered, now));
            }
        }
        self.phase = Phase::Delta;
        actions.extend(self.require_resync(ResyncReason::LogOverflow));
        actions
    }
}
