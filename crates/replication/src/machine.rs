//! The protected machine: its state, and what each event makes of it.

use std::collections::VecDeque;

use afterimage_block::{Epoch, Length, Sequence, Timestamp};
use afterimage_retry::{Class, Decision, Retry, Time};
use serde::{Deserialize, Serialize};

use crate::action::{Action, Report};
use crate::event::{
    BarrierReached, Ended, Event, Failure, Position, Refused, Request, Task, Tracking,
};
use crate::plan::Lanes;
use crate::{Policy, ResyncReason, Scope};

/// One protected machine on its primary side: all its disks, which share barriers and recovery
/// points.
///
/// A pure value: [`request`](Self::request), [`handle`](Self::handle) and
/// [`handle_timeout`](Self::handle_timeout) take what happened and the time, and return what is to
/// be done; nothing else changes it. It serializes whole. The driver makes it durable after each
/// call and before it carries the actions out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    pub(crate) policy: Policy,
    pub(crate) sizes: Vec<Length>,
    pub(crate) epoch: Epoch,
    pub(crate) phase: Phase,
    pub(crate) hold: Option<Hold>,
    pub(crate) tracking: Tracking,
    /// The generation that takes the writes.
    pub(crate) open: Sequence,
    /// Sealed generations that the replica does not have yet, oldest first.
    pub(crate) queue: VecDeque<Sealed>,
    /// The newest generation that the replica has.
    pub(crate) durable: Option<Sequence>,
    /// What may differ for reasons other than the queue and the open logs, for each disk.
    pub(crate) doubt: Vec<Scope>,
    /// Whether the newest barrier is, or will be, a recovery point.
    pub(crate) settled: bool,
    pub(crate) retry: Option<Retry>,
    pub(crate) next_barrier: Time,
    #[serde(skip)]
    pub(crate) lanes: Lanes,
}

/// What the machine is working towards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Phase {
    Disabled,
    Enabling,
    Copying(Copying),
    Delta,
    ResyncRequired {
        reason: ResyncReason,
        approved: bool,
    },
    Resyncing {
        reason: ResyncReason,
        /// The number kept free for the log of differences.
        sequence: Sequence,
        scopes: Vec<Scope>,
    },
    Prepared,
}

/// How far initial replication is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Copying {
    /// The barrier of the first snapshot: the deltas go on from it.
    pub(crate) base: Option<Sequence>,
    /// The barrier of the snapshot that is held now: the copy is consistent from it on.
    pub(crate) snapshot: Option<(Sequence, Timestamp)>,
}

/// Why nothing is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Hold {
    Suspended,
    Critical { task: Task, failure: Failure },
}

/// A sealed generation that waits to be shipped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sealed {
    pub(crate) sequence: Sequence,
    pub(crate) time: Timestamp,
    pub(crate) lengths: Vec<Length>,
    pub(crate) point: bool,
}

impl Machine {
    /// A machine with disks of these sizes, not yet protected.
    pub fn new(policy: Policy, sizes: Vec<Length>) -> Self {
        Self {
            doubt: vec![Scope::NOTHING; sizes.len()],
            policy,
            sizes,
            epoch: Epoch::ZERO,
            phase: Phase::Disabled,
            hold: None,
            tracking: Tracking::MapOnly,
            open: Sequence::ZERO.next(),
            queue: VecDeque::new(),
            durable: None,
            settled: false,
            retry: None,
            next_barrier: Time::ZERO,
            lanes: Lanes::default(),
        }
    }

    /// Goes on after the process ended: `self` as it was last made durable. After an unclean end,
    /// `recovered` tells what became of the open generation, whose writes were read from the disks
    /// again; after a clean one there was nothing in it. What had failed is tried again at once, also
    /// what made it Critical: somebody who starts a machine again has acted.
    pub fn restart(mut self, recovered: Option<BarrierReached>, now: Time) -> (Self, Vec<Action>) {
        self.lanes = Lanes::default();
        self.next_barrier = now + self.policy.interval;
        self.retry = None;
        self.hold
            .take_if(|hold| matches!(hold, Hold::Critical { .. }));
        match &mut self.phase {
            Phase::Copying(copying) => copying.snapshot = None,
            // The machine runs again, so there is more to ship than the last delta.
            Phase::Prepared => self.phase = Phase::Delta,
            _ => {}
        }
        let mut actions = Vec::new();
        if let Some(reached) = recovered {
            let barrier = self.plain_barrier();
            self.lanes.start_barrier(barrier, self.phase.follows_base());
            actions = self.barrier_reached(&reached, now);
        }
        actions.extend(self.plan(now));
        (self, actions)
    }

    /// What the owner asks.
    ///
    /// # Errors
    /// [`Refused`] where the state does not admit it; nothing is changed.
    pub fn request(&mut self, request: Request, now: Time) -> Result<Vec<Action>, Refused> {
        if !self.allowed().contains(&request) {
            return Err(Refused {
                request,
                state: self.state(),
                allowed: self.allowed(),
            });
        }
        match request {
            Request::Enable => self.phase = Phase::Enabling,
            Request::Suspend => self.hold = Some(Hold::Suspended),
            Request::Resume => {
                self.hold = None;
                self.retry = None;
            }
            Request::Resync => self.resync_requested(),
            Request::Stop => self.lanes.close(),
        }
        Ok(self.plan(now))
    }

    /// The requests that the present state admits.
    pub fn allowed(&self) -> Vec<Request> {
        let mut allowed = Vec::new();
        if self.phase == Phase::Disabled {
            allowed.push(Request::Enable);
        }
        match self.hold {
            None if self.phase != Phase::Disabled => allowed.push(Request::Suspend),
            None => {}
            Some(_) => allowed.push(Request::Resume),
        }
        if matches!(self.phase, Phase::Delta | Phase::ResyncRequired { .. }) {
            allowed.push(Request::Resync);
        }
        if !self.lanes.is_closing() {
            allowed.push(Request::Stop);
        }
        allowed
    }

    /// What happened. An answer to an action that is not under way is ignored.
    pub fn handle(&mut self, event: Event, now: Time) -> Vec<Action> {
        let mut actions = self.transition(event, now);
        actions.extend(self.plan(now));
        actions
    }

    /// The time of [`next_timeout`](Self::next_timeout) has come.
    pub fn handle_timeout(&mut self, now: Time) -> Vec<Action> {
        self.plan(now)
    }

    /// The table: what each event makes of each phase.
    fn transition(&mut self, event: Event, now: Time) -> Vec<Action> {
        if event.answers().is_some_and(|task| !self.finish(task)) {
            return Vec::new();
        }
        match (&self.phase, event) {
            (_, Event::Claimed { epoch, position }) => self.claimed(epoch, position),
            (_, Event::BarrierReached(reached)) => self.barrier_reached(&reached, now),
            (_, Event::Quiet) => self.quiet(now),
            (Phase::Copying(_), Event::Copied) => self.copied(),
            (_, Event::Shipped) => self.shipped(),
            (Phase::Resyncing { .. }, Event::Resynchronized { left }) => {
                self.resynchronized(&left, now)
            }
            (Phase::Delta, Event::Prepared) => {
                self.phase = Phase::Prepared;
                Vec::new()
            }
            (_, Event::LogsGrew(lengths)) => {
                self.lanes.open_lengths = lengths;
                Vec::new()
            }
            (_, Event::LogUnreadable { disk }) => self.log_unreadable(disk),
            (_, Event::LogNearlyFull) => {
                self.next_barrier = self.next_barrier.min(now);
                Vec::new()
            }
            (_, Event::ChangedUntracked { disk }) => {
                if let Some(doubt) = self.doubt.get_mut(disk) {
                    *doubt = Scope::Everything;
                }
                self.require_resync(ResyncReason::ChangedUntracked)
            }
            (_, Event::Failed { task, failure }) => self.failed(task, failure, now),
            (_, Event::Copied | Event::Resynchronized { .. } | Event::Prepared) => Vec::new(),
        }
    }

    /// Ends the attempt at `task`, if it is under way.
    fn finish(&mut self, task: Task) -> bool {
        let finished = self.lanes.finish_transfer(task);
        if finished.is_some() {
            self.retry = None;
        }
        finished.is_some()
    }

    fn claimed(&mut self, epoch: Epoch, position: Position) -> Vec<Action> {
        self.epoch = epoch;
        self.lanes.claimed = true;
        match (&self.phase, position) {
            (Phase::Enabling, Position::Empty) => {
                self.phase = Phase::Copying(Copying::default());
                Vec::new()
            }
            (Phase::Copying(_), Position::Empty) => Vec::new(),
            (
                Phase::Copying(Copying {
                    base: Some(base), ..
                }),
                Position::At(at),
            ) if at >= *base => {
                let mut actions = self.copied();
                actions.extend(self.reconcile(at));
                actions
            }
            (Phase::Enabling | Phase::Copying(_), Position::At(_)) => self.give_up(
                Task::Claim,
                "the replica already holds this machine and the state folder does not know of it: \
                 use the state folder that belongs to it, or another replica name",
            ),
            (_, Position::Empty) => self.give_up(
                Task::Claim,
                "the replica is gone: bring it back, or protect the machine anew with an empty \
                 state folder",
            ),
            (_, Position::At(at)) => self.reconcile(at),
        }
    }

    /// Brings the queue in line with what the replica really has: answers may have been lost.
    fn reconcile(&mut self, at: Sequence) -> Vec<Action> {
        if at >= self.open {
            return self.give_up(
                Task::Claim,
                "the replica is ahead of this state folder, which must be an old copy: use the \
                 newest one",
            );
        }
        let behind = self.durable.is_some_and(|durable| at < durable);
        self.durable = Some(at);
        let mut actions = self.discard_through(at);
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

    fn quiet(&mut self, now: Time) -> Vec<Action> {
        if self.lanes.finish_barrier().is_some() {
            self.lanes.barrier_passed();
            self.next_barrier = now + self.policy.interval;
        }
        Vec::new()
    }

    fn barrier_reached(&mut self, reached: &BarrierReached, now: Time) -> Vec<Action> {
        let Some((barrier, eligible)) = self.lanes.finish_barrier() else {
            return Vec::new();
        };
        self.open = barrier.next;
        self.tracking = reached.tracking;
        self.next_barrier = now + self.policy.interval;
        self.lanes.barrier_passed();
        self.lanes.open_lengths.clear();
        self.queue
            .retain(|sealed| !barrier.dropped.contains(&sealed.sequence));
        let mut actions = Vec::new();
        if !barrier.dropped.is_empty() {
            actions.push(Action::Discard(barrier.dropped));
        }
        if barrier.snapshot {
            actions.extend(self.snapshot_taken(barrier.ends, reached));
            return actions;
        }
        self.note_losses(reached);
        self.settled = eligible && self.nothing_in_doubt();
        self.enqueue(barrier.ends, reached, self.settled);
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

    /// A snapshot of initial replication stands at barrier `ended`.
    fn snapshot_taken(&mut self, ended: Sequence, reached: &BarrierReached) -> Vec<Action> {
        let Phase::Copying(copying) = &mut self.phase else {
            return Vec::new();
        };
        copying.snapshot = Some((ended, reached.time));
        self.settled = true;
        if copying.base.is_none() {
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
        self.enqueue(ended, reached, self.nothing_in_doubt());
        Vec::new()
    }

    fn doubt_again(&mut self, scopes: &[Scope]) {
        for (doubt, scope) in self.doubt.iter_mut().zip(scopes) {
            doubt.merge(scope);
        }
    }

    fn note_losses(&mut self, reached: &BarrierReached) {
        self.doubt_again(&reached.dropped);
        for (doubt, ended) in self.doubt.iter_mut().zip(&reached.disks) {
            if let Ended::Lost(scope) = ended {
                doubt.merge(scope);
            }
        }
    }

    /// Queues what was sealed at barrier `sequence`, unless no disk's log was.
    fn enqueue(&mut self, sequence: Sequence, reached: &BarrierReached, point: bool) {
        let length = |ended: &Ended| match ended {
            Ended::Sealed(length) => Some(*length),
            Ended::Lost(_) => None,
        };
        if reached.disks.iter().any(|ended| length(ended).is_some()) {
            self.queue.push_back(Sealed {
                sequence,
                time: reached.time,
                lengths: reached
                    .disks
                    .iter()
                    .map(|e| length(e).unwrap_or_default())
                    .collect(),
                point,
            });
        }
    }

    fn copied(&mut self) -> Vec<Action> {
        if let Phase::Copying(Copying {
            base: Some(base), ..
        }) = self.phase
        {
            self.durable = Some(base);
        }
        self.phase = Phase::Delta;
        let mut actions = vec![Action::ReleaseSnapshot];
        actions.extend(self.require_resync(ResyncReason::LogOverflow));
        actions
    }

    fn shipped(&mut self) -> Vec<Action> {
        let Some(sealed) = self.queue.front() else {
            return Vec::new();
        };
        let sequence = sealed.sequence;
        self.durable = Some(sequence);
        self.discard_through(sequence)
    }

    /// Nobody knows what the log held, so the whole disk is in doubt; and no barrier that would build
    /// on it is a recovery point.
    fn log_unreadable(&mut self, disk: usize) -> Vec<Action> {
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

    fn discard_through(&mut self, last: Sequence) -> Vec<Action> {
        let mut discarded = Vec::new();
        while let Some(sealed) = self.queue.pop_front_if(|sealed| sealed.sequence <= last) {
            discarded.push(sealed.sequence);
        }
        if discarded.is_empty() {
            return Vec::new();
        }
        vec![Action::Discard(discarded)]
    }

    fn resync_requested(&mut self) {
        if let Phase::ResyncRequired { approved, .. } = &mut self.phase {
            *approved = true;
            return;
        }
        self.doubt.fill(Scope::Everything);
        self.phase = Phase::ResyncRequired {
            reason: ResyncReason::Requested,
            approved: true,
        };
    }

    /// Leaves delta replication if its logs do not suffice.
    fn require_resync(&mut self, reason: ResyncReason) -> Vec<Action> {
        if self.phase != Phase::Delta || self.logs_suffice() {
            return Vec::new();
        }
        self.settled = false;
        self.phase = Phase::ResyncRequired {
            reason,
            approved: false,
        };
        vec![Action::Report(Report::ResyncRequired(reason))]
    }

    /// The barrier of a resynchronization was reached, and `sequence` is kept free for it.
    fn start_resync(&mut self, sequence: Sequence, now: Time) -> Vec<Action> {
        let Phase::ResyncRequired { reason, .. } = self.phase else {
            return Vec::new();
        };
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

    fn resynchronized(&mut self, left: &[Scope], now: Time) -> Vec<Action> {
        if let Phase::Resyncing { sequence, .. } = self.phase {
            self.durable = Some(sequence);
        }
        self.doubt_again(left);
        self.end_resync();
        self.next_barrier = now;
        Vec::new()
    }

    /// What was in doubt is settled; what came to be in doubt meanwhile takes another pass.
    fn end_resync(&mut self) {
        let Phase::Resyncing { reason, .. } = self.phase else {
            return;
        };
        self.phase = if self.logs_suffice() {
            Phase::Delta
        } else {
            Phase::ResyncRequired {
                reason,
                approved: true,
            }
        };
    }

    fn failed(&mut self, task: Task, failure: Failure, now: Time) -> Vec<Action> {
        if task == Task::Barrier {
            return self.barrier_failed(failure, now);
        }
        let Some(started) = self.lanes.finish_transfer(task) else {
            return Vec::new();
        };
        let mut actions = Vec::new();
        if let (Task::Copy, Phase::Copying(copying)) = (task, &mut self.phase) {
            // A snapshot grows for as long as it is held; the next attempt takes a new one.
            copying.snapshot = None;
            actions.push(Action::ReleaseSnapshot);
        }
        if task == Task::Resync {
            // The differences may be published and only the answer lost: a claim tells.
            self.lanes.claimed = false;
        }
        actions.extend(self.retry_or_give_up(task, failure, started, now));
        actions
    }

    fn barrier_failed(&mut self, failure: Failure, now: Time) -> Vec<Action> {
        if self.lanes.finish_barrier().is_none() {
            return Vec::new();
        }
        self.lanes.give_up_closing();
        self.next_barrier = now + self.policy.interval;
        vec![Action::Report(Report::RetryAt {
            task: Task::Barrier,
            failure,
            attempt: 2,
            due: self.next_barrier,
        })]
    }

    fn retry_or_give_up(
        &mut self,
        task: Task,
        failure: Failure,
        started: Time,
        now: Time,
    ) -> Vec<Action> {
        self.lanes.give_up_closing();
        let retry = self.retry.get_or_insert(Retry::begin(started));
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

    fn give_up(&mut self, task: Task, message: &str) -> Vec<Action> {
        self.lanes.give_up_closing();
        let failure = Failure {
            class: Class::NonRecoverable,
            retry_after: None,
            message: message.into(),
        };
        self.become_critical(task, failure)
    }

    /// Nothing is sent from now on; the replica has to be claimed anew before anything is again.
    fn become_critical(&mut self, task: Task, failure: Failure) -> Vec<Action> {
        self.retry = None;
        self.lanes.claimed = false;
        self.hold = Some(Hold::Critical {
            task,
            failure: failure.clone(),
        });
        vec![Action::Report(Report::GaveUp { task, failure })]
    }

    /// Whether the logs, shipped and to come, hold everything that the replica lacks.
    fn logs_suffice(&self) -> bool {
        self.tracking == Tracking::Logging && self.nothing_in_doubt()
    }

    fn nothing_in_doubt(&self) -> bool {
        self.doubt.iter().all(Scope::is_nothing)
    }

    /// Puts another policy in force from the next barrier on.
    ///
    /// # Errors
    /// [`InvalidPolicy`](crate::InvalidPolicy) if a value is out of range; nothing is changed.
    pub fn set_policy(&mut self, policy: Policy) -> Result<(), crate::InvalidPolicy> {
        policy.validate()?;
        self.policy = policy;
        Ok(())
    }
}
