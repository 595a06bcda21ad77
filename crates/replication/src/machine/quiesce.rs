//! Quiescing the guest around a barrier, so that its applications find nothing half-written.
//!
//! ```text
//! Idle --due--> Asked --Quiesced--> Held --barrier--> Idle      (application-consistent point)
//!                 |                  |
//!                 '-- failed, late --'--> Idle, warned           (crash-consistent point)
//! ```
//!
//! A hook that is late is Overdue until it answers, and not asked again meanwhile: its answer would be
//! taken for that of the next request. Whatever happens the guest is let go on: after the barrier, after a failure, and when the policy's
//! time is over, whichever comes first.

use afterimage_retry::{Class, Time};

use super::{Machine, Phase};
use crate::action::{Action, Barrier, Report};
use crate::event::Failure;

/// How far quiescing is. Not durable: a restart lets the guest go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Quiesce {
    #[default]
    Idle,
    /// The guest was asked to hold still, until this time at the latest.
    Asked(Time),
    /// It does, until this time at the latest.
    Held(Time),
    /// It was asked, nobody waits for it any more, and no answer has come.
    Overdue,
}

impl Quiesce {
    pub(crate) const fn deadline(self) -> Option<Time> {
        match self {
            Self::Idle | Self::Overdue => None,
            Self::Asked(until) | Self::Held(until) => Some(until),
        }
    }
}

impl Machine {
    /// Whether nobody is waited for who is to hold still.
    pub(crate) fn awaits_no_guest(&self) -> bool {
        matches!(self.lanes.quiesce, Quiesce::Idle | Quiesce::Overdue)
    }

    /// Asks the guest to hold still, if an application-consistent point is due and the next barrier
    /// can be one.
    pub(crate) fn begin_quiesce(&mut self, now: Time) -> Option<Action> {
        let application = self.policy.application_consistent?;
        let possible = self.phase == Phase::Delta && self.nothing_in_doubt();
        if !possible || now < self.next_application {
            return None;
        }
        if self.lanes.quiesce == Quiesce::Overdue {
            self.next_application = now + application.every;
            return None;
        }
        let within = application.quiesce_max;
        self.lanes.quiesce = Quiesce::Asked(now + within);
        Some(Action::Quiesce { within })
    }

    pub(super) fn quiesced(&mut self) -> Vec<Action> {
        match self.lanes.quiesce {
            Quiesce::Asked(until) if self.phase == Phase::Delta => {
                self.lanes.quiesce = Quiesce::Held(until);
                Vec::new()
            }
            Quiesce::Held(_) => Vec::new(),
            // Nobody waits for it any more.
            Quiesce::Idle | Quiesce::Asked(_) | Quiesce::Overdue => self.let_go(),
        }
    }

    /// The guest goes on after the barrier that it held still for.
    pub(super) fn thaw_after(&mut self, barrier: &Barrier) -> Vec<Action> {
        let held = matches!(self.lanes.quiesce, Quiesce::Held(_));
        if held && barrier.application_consistent {
            return self.let_go();
        }
        Vec::new()
    }

    pub(super) fn quiesce_failed(&mut self, failure: Failure, now: Time) -> Vec<Action> {
        match self.lanes.quiesce {
            Quiesce::Asked(_) => self.warn_and_let_go(failure, now),
            Quiesce::Overdue => self.let_go(),
            Quiesce::Idle | Quiesce::Held(_) => Vec::new(),
        }
    }

    /// Lets the guest go on when its time is over.
    pub(super) fn quiesce_expired(&mut self, now: Time) -> Vec<Action> {
        if self
            .lanes
            .quiesce
            .deadline()
            .is_none_or(|until| now < until)
        {
            return Vec::new();
        }
        let message = match self.lanes.quiesce {
            Quiesce::Held(_) => "the barrier did not come while the guest held still",
            _ => "the quiesce hook did not answer in time",
        };
        let failure = Failure {
            class: Class::Recoverable,
            retry_after: None,
            message: message.into(),
        };
        let answered = matches!(self.lanes.quiesce, Quiesce::Held(_));
        let actions = self.warn_and_let_go(failure, now);
        if !answered {
            self.lanes.quiesce = Quiesce::Overdue;
        }
        actions
    }

    fn warn_and_let_go(&mut self, failure: Failure, now: Time) -> Vec<Action> {
        if let Some(application) = self.policy.application_consistent {
            self.next_application = now + application.every;
        }
        self.monitor
            .application_failed(now, self.policy.monitoring_window);
        let mut actions = vec![Action::Report(Report::CrashConsistentOnly { failure })];
        actions.extend(self.let_go());
        actions
    }

    /// Lets the guest go on. A barrier that is under way is no longer sure to find it still.
    pub(super) fn let_go(&mut self) -> Vec<Action> {
        self.lanes.doubt_quiesced_barrier();
        self.lanes.quiesce = Quiesce::Idle;
        vec![Action::Thaw]
    }
}
