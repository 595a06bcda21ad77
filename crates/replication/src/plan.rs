//! What to do next, from the state alone.
//!
//! Two lanes run side by side: barriers, which the interval paces, and transfers, one at a time in
//! the order of history. After every event the free lanes are filled anew, so that a lost answer, a
//! crash or a request in between never leaves the machine waiting for something that nobody does.

use afterimage_block::Sequence;
use afterimage_retry::Time;

use crate::Machine;
use crate::action::{Action, Barrier, Shipment};
use crate::event::{Task, Tracking};
use crate::lanes::Closing;
use crate::machine::{Copying, Hold, Phase, Quiesce, Start};

impl Machine {
    /// Fills the free lanes.
    pub(crate) fn plan(&mut self, now: Time) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.lanes.barrier.is_none() {
            actions.extend(self.order_barrier(now));
        }
        if self.lanes.is_free()
            && self.may_send(now)
            && let Some((task, action)) = self.wanted(now)
        {
            if task == Task::Prepare {
                self.phase = Phase::Preparing;
            }
            self.lanes.start_transfer(task, now);
            actions.push(action);
        }
        actions.extend(self.stopped());
        actions.extend(self.check_rpo(now));
        actions.extend(self.check_progress(now));
        self.check_statistics(now);
        self.lanes.window_opens = self.window_opens(now);
        actions
    }

    /// The next time at which [`handle_timeout`](Self::handle_timeout) has something to do.
    pub fn next_timeout(&self) -> Option<Time> {
        let closing = self.lanes.is_closing();
        let quiesce = self.lanes.quiesce.deadline();
        let idle = self.lanes.barrier.is_none() && quiesce.is_none();
        let again = self.lanes.no_barrier_before.filter(|_| !closing);
        let barrier = (idle && self.rotates() && !closing).then_some(self.next_barrier);
        let barrier = again.or(barrier);
        let waits = self.hold.is_none() && self.lanes.is_free() && !closing;
        let retry = self
            .retry
            .as_ref()
            .map(afterimage_retry::Retry::due)
            .filter(|due| waits && self.awaits_retry(*due));
        let window = self.lanes.window_opens;
        let times = [
            barrier,
            retry,
            quiesce,
            window,
            self.late_at(),
            self.overdue_at(),
            self.stalls_at(),
            self.heartbeat_at(),
        ];
        times.into_iter().flatten().min()
    }

    /// The next barrier, or what comes before it.
    fn order_barrier(&mut self, now: Time) -> Option<Action> {
        let closing = self.lanes.is_closing();
        if self.lanes.no_barrier_before.is_some_and(|at| now < at) && !closing {
            return None;
        }
        self.lanes.no_barrier_before = None;
        let barrier = match self.lanes.closing {
            Closing::No => match self.wanted_barrier(now) {
                Some(barrier) => barrier,
                None if self.is_due(now) => {
                    if let Some(quiesce) = self.begin_quiesce(now) {
                        return Some(quiesce);
                    }
                    self.plain_barrier()
                }
                None => return None,
            },
            Closing::Sealing if self.rotates() => {
                self.lanes.closing = Closing::LastBarrier;
                self.plain_barrier()
            }
            Closing::Sealing => {
                self.lanes.closing = Closing::Draining;
                return None;
            }
            Closing::Draining if self.lacks_last_point() => {
                self.lanes.closing = Closing::LastBarrier;
                self.plain_barrier()
            }
            _ => return None,
        };
        if !barrier.snapshot && !closing {
            self.begin_cycle(now);
        }
        let eligible = self.phase.follows_base();
        self.lanes.start_barrier(barrier.clone(), eligible, now);
        Some(Action::Barrier(barrier))
    }

    /// Whether the last barrier of a stop is no recovery point, and one more would be: it was ordered before
    /// a resynchronization ended, or came right after a gap.
    fn lacks_last_point(&self) -> bool {
        let consistent = self.phase == Phase::Delta && self.nothing_in_doubt();
        consistent && !self.settled && self.rotates() && self.follows(self.open)
    }

    /// A cycle begins, unless there is nothing to serve yet or the owner wants none.
    fn begin_cycle(&mut self, now: Time) {
        let served = matches!(
            self.phase,
            Phase::Delta | Phase::ResyncRequired { .. } | Phase::Resyncing { .. }
        );
        if served && self.hold != Some(Hold::Suspended) {
            self.monitor
                .cycle_begins(now, self.policy.monitoring_window);
        } else {
            self.monitor.cycle_dropped();
        }
    }

    /// Whether the interval is over, and nobody is asked to hold still yet.
    fn is_due(&self, now: Time) -> bool {
        self.awaits_no_guest() && self.rotates() && now >= self.next_barrier
    }

    fn wanted_barrier(&self, now: Time) -> Option<Barrier> {
        if self.logs_for_nothing() || (self.rotates() && self.overflows()) {
            return Some(self.degrading_barrier());
        }
        if self.lanes.changes_disks && self.follows_logs() {
            return Some(self.changing_barrier());
        }
        if self.lanes.claimed
            && self.may_send(now)
            && let Some(barrier) = self.barrier_for_transfer(now)
        {
            return Some(barrier);
        }
        let held = matches!(self.lanes.quiesce, Quiesce::Held(_));
        (held && self.rotates()).then(|| self.quiesced_barrier())
    }

    /// The barrier without which the next transfer cannot begin.
    fn barrier_for_transfer(&self, now: Time) -> Option<Barrier> {
        match self.phase {
            Phase::Copying(Copying { snapshot: None, .. }) => {
                (now >= self.policy.begins_at()).then(|| self.snapshot_barrier())
            }
            Phase::ResyncRequired { start, .. } if self.may_start(start, now) => {
                Some(self.resync_barrier())
            }
            _ => None,
        }
    }

    fn may_start(&self, start: Start, now: Time) -> bool {
        match start {
            Start::AtOnce => true,
            Start::AsPolicy => self.policy.automatic_resync && self.window_is_open(now),
            Start::OnRequest => false,
        }
    }

    fn window_is_open(&self, now: Time) -> bool {
        let window = self.policy.resync_window.as_ref();
        window.is_none_or(|window| window.is_open(now))
    }

    /// When initial replication or a resynchronization begins that waits for nothing but its hours.
    fn window_opens(&self, now: Time) -> Option<Time> {
        let idle = self.lanes.claimed && self.hold.is_none() && !self.lanes.is_closing();
        let retry = self.retry.as_ref();
        let due = retry.map_or(now, |retry| retry.due().max(now));
        let opens = match self.phase {
            Phase::Copying(Copying { snapshot: None, .. }) => self.policy.begins_at(),
            Phase::ResyncRequired {
                start: Start::AsPolicy,
                ..
            } if self.policy.automatic_resync => {
                self.policy.resync_window.as_ref()?.next_opening(due)
            }
            _ => return None,
        };
        (idle && opens > due).then_some(opens)
    }

    /// Whether anything is begun when a retry is due. If not, it is the answer to a barrier or the
    /// next generation that goes on, and a timeout would come again and again for nothing.
    fn awaits_retry(&self, due: Time) -> bool {
        let idle = self.lanes.barrier.is_none() && self.lanes.no_barrier_before.is_none();
        self.wanted(due).is_some()
            || (idle && self.lanes.claimed && self.barrier_for_transfer(due).is_some())
    }

    /// Whether the interval ends generations: there are logs, and a base that they follow.
    fn rotates(&self) -> bool {
        let based = match &self.phase {
            Phase::Disabled | Phase::Enabling | Phase::Preparing | Phase::Prepared => false,
            Phase::Copying(copying) => copying.base.is_some(),
            Phase::Delta | Phase::ResyncRequired { .. } | Phase::Resyncing { .. } => true,
        };
        based && self.tracking == Tracking::Logging
    }

    /// Whether there are logs, which grow, and no base that they follow: it is no longer protected, or
    /// not yet again.
    fn logs_for_nothing(&self) -> bool {
        let unprotected = matches!(self.phase, Phase::Disabled | Phase::Enabling);
        unprotected && self.tracking == Tracking::Logging
    }

    /// Whether any disk's unshipped logs have outgrown the policy's share of it.
    fn overflows(&self) -> bool {
        self.sizes.iter().enumerate().any(|(disk, size)| {
            let open = self
                .lanes
                .open_lengths
                .get(disk)
                .copied()
                .unwrap_or_default();
            let queued = self
                .queue
                .iter()
                .filter_map(|sealed| sealed.lengths.get(disk));
            let total = queued.fold(open, |sum, length| sum.saturating_add(*length));
            total > self.policy.log_quota(*size)
        })
    }

    pub(crate) fn plain_barrier(&self) -> Barrier {
        Barrier {
            ends: self.open,
            next: self.open.next(),
            tracking: self.tracking,
            snapshot: false,
            dropped: Vec::new(),
            application_consistent: false,
            changes_disks: false,
            may_be_quiet: self.settled || !self.phase.follows_base(),
        }
    }

    /// Drops the logs, but for one in transit, and keeps only regions from here on.
    fn degrading_barrier(&self) -> Barrier {
        let shipping = self.lanes.transfers(Task::Ship);
        Barrier {
            tracking: Tracking::MapOnly,
            dropped: self.unshipped().skip(usize::from(shipping)).collect(),
            may_be_quiet: false,
            ..self.plain_barrier()
        }
    }

    /// Whether nothing is being compared or copied that would then be of another size.
    fn follows_logs(&self) -> bool {
        matches!(self.phase, Phase::Delta | Phase::ResyncRequired { .. })
    }

    fn changing_barrier(&self) -> Barrier {
        Barrier {
            changes_disks: true,
            may_be_quiet: false,
            ..self.plain_barrier()
        }
    }

    /// Made even if nothing was written, since it proves more than the last one.
    fn quiesced_barrier(&self) -> Barrier {
        Barrier {
            application_consistent: true,
            may_be_quiet: false,
            ..self.plain_barrier()
        }
    }

    fn snapshot_barrier(&self) -> Barrier {
        Barrier {
            tracking: Tracking::Logging,
            snapshot: true,
            may_be_quiet: false,
            ..self.plain_barrier()
        }
    }

    /// Begins to log again, and keeps a number free for the differences: they come after all that
    /// was written before the barrier and before all that is written after it.
    fn resync_barrier(&self) -> Barrier {
        Barrier {
            next: self.open.next().next(),
            tracking: Tracking::Logging,
            may_be_quiet: false,
            ..self.plain_barrier()
        }
    }

    fn may_send(&self, now: Time) -> bool {
        let due = self.retry.as_ref().is_none_or(|retry| retry.due() <= now);
        match self.lanes.closing {
            Closing::No => self.hold.is_none() && due,
            // A stop tries once, whatever the schedule says.
            Closing::Draining => self.hold.is_none(),
            _ => false,
        }
    }

    fn wanted(&self, now: Time) -> Option<(Task, Action)> {
        self.wanted_transfer()
            .or_else(|| self.wanted_heartbeat(now))
    }

    fn wanted_transfer(&self) -> Option<(Task, Action)> {
        let closing = self.lanes.is_closing();
        if !self.lanes.claimed {
            let useful = if closing {
                self.phase == Phase::Delta
            } else {
                self.phase != Phase::Disabled
            };
            return useful.then_some((Task::Claim, Action::Claim));
        }
        match &self.phase {
            Phase::Copying(copying) if !closing => copy(*copying),
            // A planned failover is to a recovery point.
            Phase::Delta if closing && self.queue.is_empty() => {
                self.settled.then_some((Task::Prepare, Action::Prepare))
            }
            Phase::Delta | Phase::ResyncRequired { .. } => self.ship(),
            Phase::Resyncing { sequence, .. } if self.ships_before(*sequence) => self.ship(),
            Phase::Resyncing {
                sequence,
                scopes,
                reason,
            } if !closing => {
                let action = Action::Resync {
                    sequence: *sequence,
                    scopes: scopes.clone(),
                    reason: *reason,
                    sizes: self.sizes_at(*sequence),
                };
                Some((Task::Resync, action))
            }
            _ => None,
        }
    }

    /// Ships the oldest sealed generation, unless the barrier under way drops it.
    fn ship(&self) -> Option<(Task, Action)> {
        let sealed = self.queue.front()?;
        let barrier = self.lanes.barrier.as_ref();
        if barrier.is_some_and(|ordered| ordered.barrier.dropped.contains(&sealed.sequence)) {
            return None;
        }
        let shipment = Shipment {
            sequence: sealed.sequence,
            time: sealed.time,
            present: sealed
                .lengths
                .iter()
                .map(|length| !length.is_zero())
                .collect(),
            sizes: self.sizes_at(sealed.sequence),
            after_loss: self.durable.map(Sequence::next) != Some(sealed.sequence),
            point: sealed.point,
            application_consistent: sealed.point && sealed.application,
        };
        Some((Task::Ship, Action::Ship(shipment)))
    }

    /// Whether a log from before `sequence` waits.
    fn ships_before(&self, sequence: Sequence) -> bool {
        self.queue
            .front()
            .is_some_and(|sealed| sealed.sequence < sequence)
    }

    /// The end of a requested stop, once nothing more can be done.
    fn stopped(&mut self) -> Option<Action> {
        let waits = self.lanes.barrier.is_some() || self.lanes.waits_for_transfer();
        let stops = matches!(self.lanes.closing, Closing::Draining | Closing::GivenUp);
        if !stops || waits {
            return None;
        }
        self.lanes.closing = Closing::Done;
        // What came to be in doubt since was changed while the machine was stopped.
        let complete =
            self.phase == Phase::Prepared && self.queue.is_empty() && self.nothing_in_doubt();
        Some(Action::Stopped { complete })
    }
}

impl Phase {
    /// Whether the replica follows the logs: a barrier ordered now is a recovery point once its logs
    /// are there, unless something is in doubt.
    pub(crate) fn follows_base(&self) -> bool {
        match self {
            Self::Delta | Self::Preparing | Self::Prepared => true,
            Self::Copying(copying) => copying.snapshot.is_some(),
            _ => false,
        }
    }
}

fn copy(copying: Copying) -> Option<(Task, Action)> {
    let (base, (snapshot, time)) = (copying.base?, copying.snapshot?);
    let point = (snapshot == base).then_some(time);
    Some((Task::Copy, Action::Copy { base, point }))
}
