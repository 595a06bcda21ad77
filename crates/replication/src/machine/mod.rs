//! The protected machine: its state, and what each event makes of it.

mod barrier;
mod base;
mod delta;
mod disks;
mod failure;
mod heartbeat;
mod quiesce;
mod resync;
mod rpo;
mod stall;
mod table;

use std::collections::VecDeque;

use afterimage_block::{Epoch, Growth, Length, Sequence, Timestamp};
use afterimage_retry::{Retry, Time};
use serde::{Deserialize, Serialize};

use crate::action::Action;
use crate::event::{BarrierReached, Event, Failure, Request, Task, Tracking};
use crate::lanes::Lanes;
use crate::request::Refused;
use crate::statistics::Monitor;
use crate::{Grant, Policy, ResyncReason, Scope};

pub(crate) use quiesce::Quiesce;

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
    /// Where they grew, oldest first, as far back as anything waits to be shipped.
    #[serde(default)]
    pub(crate) growths: Vec<Growth>,
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
    /// When the next application-consistent point is due.
    #[serde(default)]
    pub(crate) next_application: Time,
    /// The replica could be failed over to the machine as it was then, with all disks.
    #[serde(default)]
    pub(crate) recoverable: Option<Time>,
    /// Whether the owner has been told that recovery points are late.
    #[serde(default)]
    pub(crate) late: bool,
    /// The newest recovery point that the replica has.
    #[serde(default)]
    pub(crate) point: Option<Sequence>,
    #[serde(default)]
    pub(crate) monitor: Monitor,
    #[serde(default)]
    pub(crate) alarms: Alarms,
    /// What tells it from others that live by the same policy.
    #[serde(default)]
    pub(crate) seed: Option<u64>,
    #[serde(skip)]
    pub(crate) lanes: Lanes,
}

/// What health was found to suffer from when it was last looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Alarms {
    /// Too many cycles were missed, or came too late, or the last that succeeded is too long ago.
    pub(crate) ill_served: bool,
    /// The transfer under way does not move, and the owner has been told.
    pub(crate) stalled: bool,
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
        #[serde(alias = "approved")]
        start: Start,
    },
    Resyncing {
        reason: ResyncReason,
        /// The number kept free for the log of differences.
        sequence: Sequence,
        scopes: Vec<Scope>,
    },
    /// The replica is being told that it has the last delta, or was and has not answered.
    Preparing,
    /// It knows, and may be failed over to without loss: until it is claimed again nothing may be written.
    Prepared,
}

/// When a resynchronization that is required begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StoredStart")]
pub(crate) enum Start {
    /// When the policy lets it.
    AsPolicy,
    /// Somebody approved it.
    AtOnce,
    /// It was cancelled, and waits for somebody to ask for it.
    OnRequest,
}

/// The first release stored whether it was approved.
#[derive(Deserialize)]
#[serde(untagged)]
enum StoredStart {
    Approved(bool),
    Named(NamedStart),
}

#[derive(Deserialize)]
enum NamedStart {
    AsPolicy,
    AtOnce,
    OnRequest,
}

impl From<StoredStart> for Start {
    fn from(stored: StoredStart) -> Self {
        match stored {
            StoredStart::Approved(false) | StoredStart::Named(NamedStart::AsPolicy) => {
                Self::AsPolicy
            }
            StoredStart::Approved(true) | StoredStart::Named(NamedStart::AtOnce) => Self::AtOnce,
            StoredStart::Named(NamedStart::OnRequest) => Self::OnRequest,
        }
    }
}

/// How far initial replication is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Copying {
    /// The barrier of the first snapshot: the deltas go on from it.
    pub(crate) base: Option<Sequence>,
    /// The barrier of the snapshot that is held now: the copy is consistent from it on.
    pub(crate) snapshot: Option<(Sequence, Timestamp)>,
    /// When that barrier was ordered.
    #[serde(default)]
    pub(crate) ordered: Option<Time>,
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
    /// Whether the guest was quiesced around the barrier.
    #[serde(default)]
    pub(crate) application: bool,
    /// When the barrier was ordered, or later if nothing was written since: every write that was
    /// acknowledged before is in this generation or an earlier one.
    #[serde(default)]
    pub(crate) ordered: Option<Time>,
}

impl Machine {
    /// A machine with disks of these sizes, not yet protected.
    pub fn new(policy: Policy, sizes: Vec<Length>) -> Self {
        Self {
            doubt: vec![Scope::NOTHING; sizes.len()],
            policy,
            sizes,
            growths: Vec::new(),
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
            next_application: Time::ZERO,
            recoverable: None,
            late: false,
            point: None,
            monitor: Monitor::default(),
            alarms: Alarms::default(),
            seed: None,
            lanes: Lanes::default(),
        }
    }

    /// The same, out of step with others that have another seed. Its barriers are due at moments of the
    /// clock that lie an interval apart and follow from the seed, so that those of many are spread over
    /// the interval even if all are started at once; and so are retries, by the schedule's
    /// [jitter](afterimage_retry::Jitter). Without a seed a barrier is due an interval after the last.
    pub const fn seeded(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// A machine that was failed over, as the primary from now on: its disks are compared with the
    /// replica where they are in `doubt`, which is for each disk what may differ from the newest
    /// generation there, and then deltas go on. Begun by [`restart`](Self::restart).
    pub fn reversed(policy: Policy, sizes: Vec<Length>, grant: Grant, doubt: Vec<Scope>) -> Self {
        Self::granted(policy, sizes, grant, doubt, ResyncReason::Reversed)
    }

    /// A machine whose replica was made of another copy of its disks: all of them is compared with it, and
    /// then deltas go on. Begun by [`restart`](Self::restart).
    pub fn adopting(policy: Policy, sizes: Vec<Length>, grant: Grant) -> Self {
        let doubt = vec![Scope::Everything; sizes.len()];
        Self::granted(policy, sizes, grant, doubt, ResyncReason::ExistingCopy)
    }

    fn granted(
        policy: Policy,
        sizes: Vec<Length>,
        grant: Grant,
        doubt: Vec<Scope>,
        reason: ResyncReason,
    ) -> Self {
        let start = Start::AtOnce;
        Self {
            doubt,
            phase: Phase::ResyncRequired { reason, start },
            epoch: grant.lineage,
            durable: Some(grant.last),
            open: grant.last.next(),
            ..Self::new(policy, sizes)
        }
    }

    /// Goes on after the process ended: `self` as it was last made durable. After an unclean end,
    /// `recovered` tells what became of the open generation, whose writes were read from the disks
    /// again; after a clean one there was nothing in it. What had failed is tried again at once, also
    /// what made it Critical: somebody who starts a machine again has acted.
    pub fn restart(mut self, recovered: Option<BarrierReached>, now: Time) -> (Self, Vec<Action>) {
        self.lanes = Lanes::default();
        self.next_barrier = self.barrier_after(now);
        self.retry = None;
        self.alarms.stalled = false;
        self.hold
            .take_if(|hold| matches!(hold, Hold::Critical { .. }));
        match &mut self.phase {
            Phase::Copying(copying) => copying.snapshot = None,
            // Whether the replica was told is not known, so that it is taken for prepared.
            Phase::Preparing => self.phase = Phase::Prepared,
            _ => {}
        }
        let mut actions = Vec::new();
        if self.policy.application_consistent.is_some() {
            // The guest may have been quiesced when the process ended.
            actions.push(Action::Thaw);
        }
        if let Some(reached) = recovered {
            let barrier = self.plain_barrier();
            let eligible = self.phase.follows_base();
            self.lanes.start_barrier(barrier, eligible, now);
            actions.extend(self.barrier_reached(&reached, now));
        }
        actions.extend(self.plan(now));
        (self, actions)
    }

    /// What the owner asks.
    ///
    /// # Errors
    /// [`Refused`] where the state does not admit it; nothing is changed.
    pub fn request(&mut self, request: Request, now: Time) -> Result<Vec<Action>, Refused> {
        let failed = self.failed_conditions(request);
        if !failed.is_empty() {
            return Err(Refused {
                request,
                state: self.state(),
                failed,
                allowed: self.allowed(),
            });
        }
        let mut actions = self.requested(request);
        actions.extend(self.plan(now));
        Ok(actions)
    }

    /// What happened. An answer to an action that is not under way is ignored.
    pub fn handle(&mut self, event: Event, now: Time) -> Vec<Action> {
        let mut actions = self.transition(event, now);
        actions.extend(self.plan(now));
        actions
    }

    /// The time of [`next_timeout`](Self::next_timeout) has come.
    pub fn handle_timeout(&mut self, now: Time) -> Vec<Action> {
        let mut actions = self.quiesce_expired(now);
        actions.extend(self.plan(now));
        actions
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
