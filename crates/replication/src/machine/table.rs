//! The table of the machine: what each request and each event makes of each phase. What comes of it
//! for the states that users know is in `STATES.md`, which is generated.
//!
//! What is to be *done* is not in the table: it is derived from what the table makes of the machine
//! (see the module `plan`), so that no row can forget it.

use afterimage_block::Length;
use afterimage_retry::Time;

use super::{Copying, Hold, Machine, Phase, Quiesce};
use crate::action::Action;
use crate::event::{Event, Position, Request, Task};
use crate::{ResyncReason, Scope};

impl Machine {
    /// What a request that is allowed makes of the machine.
    pub(super) fn requested(&mut self, request: Request) -> Vec<Action> {
        match request {
            Request::Enable => self.phase = Phase::Enabling,
            Request::Disable => return self.disabled(),
            Request::Suspend => {
                self.hold = Some(Hold::Suspended);
                let long = |task| matches!(task, Task::Copy | Task::Resync);
                return self.lanes.abort(long).into_iter().collect();
            }
            Request::Resume => {
                self.hold = None;
                self.retry = None;
            }
            Request::Resync => self.resync_requested(),
            Request::ChangeDisks => self.change_disks(),
            Request::CancelResync => return self.cancel_resync(),
            Request::Stop => {
                self.lanes.close();
                // A guest that is stopped need not hold still.
                if self.lanes.quiesce != Quiesce::Idle {
                    return self.let_go();
                }
            }
        }
        Vec::new()
    }

    /// What an event makes of the machine.
    #[rustfmt::skip]
    #[expect(clippy::match_same_arms, reason = "each row stands for itself")]
    pub(super) fn transition(&mut self, event: Event, now: Time) -> Vec<Action> {
        use Event as E;
        use Phase as P;
        if event.answers().is_some_and(|task| !self.finish(task)) {
            return Vec::new();
        }
        if let Event::Claimed { epoch, .. } = event {
            self.epoch = epoch;
            self.lanes.claimed = self.phase != Phase::Disabled;
        }
        match (&self.phase, event) {
            (P::Disabled,         E::Claimed { .. })                             => Vec::new(),
            (P::Enabling,         E::Claimed { position: Position::Empty, .. })  => self.begin_copy(),
            (P::Enabling,         E::Claimed { position: Position::At(at), .. }) => self.existing_copy(at),
            (P::Copying(_),       E::Claimed { position: Position::Empty, .. })  => Vec::new(),
            (P::Copying(copying), E::Claimed { position: Position::At(at), .. }) => self.base_published(copying.base, at, now),
            (P::Prepared,         E::Claimed { position: Position::At(at), .. }) => self.runs_again(at, now),
            (_,                   E::Claimed { position: Position::Empty, .. })  => self.replica_gone(),
            (_,                   E::Claimed { position: Position::At(at), .. }) => self.reconcile(at, now),

            (_,                   E::Enlarged { disk, size, unproven }) => self.enlarged(disk, size, &unproven),
            (_,                   E::BarrierReached(reached))     => self.barrier_reached(&reached, now),
            (_,                   E::Quiet)                       => self.quiet(now),
            (_,                   E::Quiesced)                    => self.quiesced(),

            (P::Copying(_),       E::Copied)                      => self.copied(now),
            (_,                   E::Shipped)                     => self.shipped(now),
            (_,                   E::LogUnreadable { disk })      => self.log_unreadable(disk),
            (P::Resyncing { .. }, E::Resynchronized { left })     => self.resynchronized(&left, now),
            (P::Preparing,        E::Prepared)                    => self.prepared(),
            (_,                   E::Heard)                       => self.heard(now),

            (_,                   E::LogsGrew(lengths))           => self.logs_grew(lengths),
            (_,                   E::LogNearlyFull)               => self.log_nearly_full(now),
            (_,                   E::ChangedUntracked { disk })   => self.changed_untracked(disk),
            (P::Delta,            E::ReplicaDamaged { lacks })    => self.replica_damaged(&lacks),
            (_,                   E::ReplicaDamaged { .. })       => Vec::new(),
            (_,                   E::Failed { task, failure })    => self.failed(task, failure, now),

            (_,                   E::Progressed { task })         => self.progressed(task, now),
            (_,                   E::Aborted { task })            => self.aborted(task),

            // It was cancelled, and done before it could be given up: a claim tells where the replica is.
            (_, E::Copied | E::Resynchronized { .. } | E::Prepared) => self.done_in_vain(),
        }
    }

    /// Ends the attempt at `task`, if it is under way.
    fn finish(&mut self, task: Task) -> bool {
        let finished = self.end_transfer(task);
        if finished.is_some() {
            self.retry = None;
            self.lanes.told = None;
        }
        finished.is_some()
    }

    fn done_in_vain(&mut self) -> Vec<Action> {
        self.lanes.claimed = false;
        Vec::new()
    }

    fn begin_copy(&mut self) -> Vec<Action> {
        self.phase = Phase::Copying(Copying::default());
        Vec::new()
    }

    fn prepared(&mut self) -> Vec<Action> {
        self.phase = Phase::Prepared;
        Vec::new()
    }

    fn logs_grew(&mut self, lengths: Vec<Length>) -> Vec<Action> {
        self.lanes.open_lengths = lengths;
        Vec::new()
    }

    fn log_nearly_full(&mut self, now: Time) -> Vec<Action> {
        self.next_barrier = self.next_barrier.min(now);
        Vec::new()
    }

    fn replica_damaged(&mut self, lacks: &[Scope]) -> Vec<Action> {
        self.doubt_again(lacks);
        self.require_resync(ResyncReason::ReplicaDamaged)
    }

    fn changed_untracked(&mut self, disk: usize) -> Vec<Action> {
        if let Some(doubt) = self.doubt.get_mut(disk) {
            *doubt = Scope::Everything;
        }
        self.require_resync(ResyncReason::ChangedUntracked)
    }
}
