//! What is in doubt, and how it is settled.

use afterimage_block::Sequence;
use afterimage_retry::{Class, Time};

use super::{Machine, Phase, Start};
use crate::action::{Action, Report};
use crate::event::{Failure, Task, Tracking};
use crate::{ResyncReason, Scope};

impl Machine {
    pub(super) fn resync_requested(&mut self) {
        if let Phase::ResyncRequired { start, .. } = &mut self.phase {
            *start = Start::AtOnce;
            return;
        }
        self.doubt.fill(Scope::Everything);
        self.phase = Phase::ResyncRequired {
            reason: ResyncReason::Requested,
            start: Start::AtOnce,
        };
    }

    /// What was in doubt stays so, and waits until somebody asks for it. Differences that are on
    /// their way may still be published: they make the replica no worse.
    pub(super) fn cancel_resync(&mut self) -> Vec<Action> {
        match &mut self.phase {
            Phase::ResyncRequired { start, .. } => *start = Start::OnRequest,
            Phase::Resyncing { reason, scopes, .. } => {
                let (reason, scopes) = (*reason, std::mem::take(scopes));
                self.doubt_again(&scopes);
                self.phase = Phase::ResyncRequired {
                    reason,
                    start: Start::OnRequest,
                };
            }
            _ => {}
        }
        self.lanes
            .abort(|task| task == Task::Resync)
            .into_iter()
            .collect()
    }

    /// Leaves delta replication if its logs do not suffice.
    pub(super) fn require_resync(&mut self, reason: ResyncReason) -> Vec<Action> {
        if self.phase != Phase::Delta || self.logs_suffice() {
            return Vec::new();
        }
        self.settled = false;
        self.phase = Phase::ResyncRequired {
            reason,
            start: Start::AsPolicy,
        };
        vec![Action::Report(Report::ResyncRequired(reason))]
    }

    /// The barrier of a resynchronization was reached, and `sequence` is kept free for it.
    pub(super) fn start_resync(&mut self, sequence: Sequence, now: Time) -> Vec<Action> {
        let Phase::ResyncRequired { reason, start } = self.phase else {
            return Vec::new();
        };
        if start == Start::OnRequest {
            // It was cancelled while the barrier was under way.
            return Vec::new();
        }
        if self.tracking == Tracking::MapOnly {
            let failure = Failure {
                class: Class::Recoverable,
                retry_after: None,
                message: "cannot open change logs to cover the resynchronization: free space in \
                          the log folder"
                    .into(),
            };
            return self.retry_or_give_up(Task::Resync, failure, now, now);
        }
        let scopes = std::mem::take(&mut self.doubt);
        self.doubt = vec![Scope::NOTHING; self.sizes.len()];
        self.phase = Phase::Resyncing {
            reason,
            sequence,
            scopes,
        };
        Vec::new()
    }

    pub(super) fn resynchronized(&mut self, left: &[Scope], now: Time) -> Vec<Action> {
        if let Phase::Resyncing { sequence, .. } = self.phase {
            self.durable = Some(sequence);
        }
        self.doubt_again(left);
        self.end_resync();
        self.next_barrier = now;
        Vec::new()
    }

    /// What was in doubt is settled; what came to be in doubt meanwhile takes another pass.
    pub(super) fn end_resync(&mut self) {
        let Phase::Resyncing { reason, .. } = self.phase else {
            return;
        };
        self.phase = if self.logs_suffice() {
            Phase::Delta
        } else {
            Phase::ResyncRequired {
                reason,
                start: Start::AtOnce,
            }
        };
    }

    /// Whether the logs, shipped and to come, hold everything that the replica lacks.
    pub(super) fn logs_suffice(&self) -> bool {
        self.tracking == Tracking::Logging && self.nothing_in_doubt()
    }

    pub(crate) fn nothing_in_doubt(&self) -> bool {
        self.doubt.iter().all(Scope::is_nothing)
    }
}
