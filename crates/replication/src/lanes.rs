//! What is under way: a barrier, a transfer, a guest that is asked to hold still, a stop.

use afterimage_block::Length;
use afterimage_retry::Time;

use crate::State;
use crate::action::{Action, Barrier};
use crate::event::Task;
use crate::machine::Quiesce;

/// What is under way. Not durable: after a restart nothing is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lanes {
    /// Whether this run has claimed the replica.
    pub(crate) claimed: bool,
    /// The lengths of the open logs, where reported.
    pub(crate) open_lengths: Vec<Length>,
    pub(crate) barrier: Option<Ordered>,
    /// When a barrier may be tried again that failed.
    pub(crate) no_barrier_before: Option<Time>,
    /// How far the guest is in holding still for a barrier.
    pub(crate) quiesce: Quiesce,
    /// When the resynchronization that is required may begin by itself, if not now.
    pub(crate) window_opens: Option<Time>,
    /// Whether somebody waits for a barrier at which disks can change, and none is under way since.
    pub(crate) changes_disks: bool,
    /// Whether the last barrier found nothing written.
    pub(crate) quiet: bool,
    /// What the replica last heard of an idle machine, unless something was published since.
    pub(crate) told: Option<Told>,
    transfer: Option<Transfer>,
    pub(crate) closing: Closing,
}

/// A barrier under way.
#[derive(Clone, Debug)]
pub(crate) struct Ordered {
    pub(crate) barrier: Barrier,
    /// Whether the copy was consistent when it was ordered.
    pub(crate) eligible: bool,
    /// When it was ordered.
    pub(crate) at: Time,
}

/// That the replica was told that the machine is idle.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told {
    /// In which state.
    pub(crate) state: State,
    pub(crate) at: Time,
}

/// A transfer under way.
#[derive(Clone, Copy, Debug)]
struct Transfer {
    task: Task,
    started: Time,
    /// When it last moved on.
    moved: Time,
    /// Whether the driver was asked to give it up.
    aborted: bool,
}

/// How a transfer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Finished {
    pub(crate) started: Time,
    pub(crate) aborted: bool,
}

/// How far a requested stop is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Closing {
    #[default]
    No,
    /// The last barrier is still to be ordered.
    Sealing,
    /// The last barrier is under way.
    LastBarrier,
    /// The queue is being shipped.
    Draining,
    /// What can be shipped is shipped.
    GivenUp,
    Done,
}

impl Lanes {
    pub(crate) fn start_barrier(&mut self, barrier: Barrier, eligible: bool, at: Time) {
        self.no_barrier_before = None;
        self.changes_disks &= !barrier.changes_disks;
        self.barrier = Some(Ordered {
            barrier,
            eligible,
            at,
        });
    }

    pub(crate) fn finish_barrier(&mut self) -> Option<Ordered> {
        self.barrier.take()
    }

    /// The guest no longer holds still for the barrier under way.
    pub(crate) fn doubt_quiesced_barrier(&mut self) {
        if let Some(ordered) = &mut self.barrier {
            ordered.barrier.application_consistent = false;
        }
    }

    pub(crate) const fn is_free(&self) -> bool {
        self.transfer.is_none()
    }

    pub(crate) fn transfers(&self, task: Task) -> bool {
        self.transfer.is_some_and(|running| running.task == task)
    }

    pub(crate) fn start_transfer(&mut self, task: Task, now: Time) {
        self.transfer = Some(Transfer {
            task,
            started: now,
            moved: now,
            aborted: false,
        });
    }

    /// Ends the transfer, if it is `task`.
    pub(crate) fn finish_transfer(&mut self, task: Task) -> Option<Finished> {
        let transfer = self.transfer.take_if(|running| running.task == task)?;
        Some(Finished {
            started: transfer.started,
            aborted: transfer.aborted,
        })
    }

    /// The transfer, if it is `task`, has moved on; whether it is.
    pub(crate) fn moved(&mut self, task: Task, now: Time) -> bool {
        let running = self.transfer.as_mut();
        let running = running.filter(|running| running.task == task);
        running.map(|running| running.moved = now).is_some()
    }

    /// The transfer, unless it is given up, and when it last moved on.
    pub(crate) fn moving_since(&self) -> Option<(Task, Time)> {
        let running = self.transfer.filter(|running| !running.aborted)?;
        Some((running.task, running.moved))
    }

    /// Has the transfer given up, if it is one that `gives_up`. It stays under way until its answer
    /// comes, which may be that it was done before.
    pub(crate) fn abort(&mut self, gives_up: impl Fn(Task) -> bool) -> Option<Action> {
        let transfer = self.transfer.as_mut()?;
        if transfer.aborted || !gives_up(transfer.task) {
            return None;
        }
        transfer.aborted = true;
        Some(Action::Abort(transfer.task))
    }

    /// Whether a transfer is under way that a stop waits for. Copies and resynchronizations take
    /// long and go on where they were at the next start.
    pub(crate) fn waits_for_transfer(&self) -> bool {
        let waited_for = [Task::Claim, Task::Ship, Task::Prepare, Task::Heartbeat];
        waited_for.into_iter().any(|task| self.transfers(task))
    }

    pub(crate) fn close(&mut self) {
        if self.closing == Closing::No {
            self.closing = Closing::Sealing;
        }
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing != Closing::No
    }

    /// A barrier ended a generation; nothing is written after the last one.
    pub(crate) fn barrier_passed(&mut self) {
        if self.closing == Closing::LastBarrier {
            self.closing = Closing::Draining;
        }
    }

    /// A failure ends a stop: what is not shipped stays at the primary.
    pub(crate) fn give_up_closing(&mut self) {
        if matches!(self.closing, Closing::LastBarrier | Closing::Draining) {
            self.closing = Closing::GivenUp;
        }
    }
}
