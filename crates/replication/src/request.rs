//! What the owner of a machine may ask of it, and when: one table for requests, refusals and what is
//! allowed.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::machine::{Machine, Phase, Start};
use crate::{Request, State};

/// What must hold for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Condition {
    /// The machine is not protected.
    NotProtected,
    /// It is protected.
    Protected,
    /// It is neither suspended nor Critical.
    Sending,
    /// It is suspended or Critical.
    Held,
    /// The replica has its first copy, and no resynchronization is under way, nor is the machine
    /// prepared for failover.
    Replicating,
    /// A resynchronization runs, or waits and was not cancelled.
    Resynchronizing,
    /// It is not being stopped.
    NotStopping,
    /// Its replica is not prepared for failover, or was taken back by a claim.
    NotPrepared,
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotProtected => "the machine is not protected yet",
            Self::Protected => "the machine is protected",
            Self::Sending => "it is neither suspended nor critical",
            Self::Held => "it is suspended or critical",
            Self::Replicating => "the first copy is done and no resynchronization runs",
            Self::Resynchronizing => "a resynchronization runs or is to begin",
            Self::NotStopping => "it is not being stopped",
            Self::NotPrepared => "its replica is not prepared for failover",
        })
    }
}

/// A request that the machine's state does not admit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "cannot {request:?} in state {state}, which needs that {}; allowed now: {allowed:?}",
    list(failed)
)]
pub struct Refused {
    /// What was asked.
    pub request: Request,
    /// The state it was asked in.
    pub state: State,
    /// What would have to hold, and does not.
    pub failed: Vec<Condition>,
    /// What could be asked instead.
    pub allowed: Vec<Request>,
}

fn list(conditions: &[Condition]) -> String {
    let texts: Vec<_> = conditions.iter().map(ToString::to_string).collect();
    texts.join(" and that ")
}

impl Request {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Enable,
        Self::Disable,
        Self::Suspend,
        Self::Resume,
        Self::Resync,
        Self::CancelResync,
        Self::ChangeDisks,
        Self::Stop,
    ];

    /// What must hold for it.
    pub const fn conditions(self) -> &'static [Condition] {
        match self {
            Self::Enable => &[Condition::NotProtected, Condition::NotStopping],
            Self::Suspend => &[
                Condition::Protected,
                Condition::Sending,
                Condition::NotStopping,
            ],
            Self::Disable => &[
                Condition::Protected,
                Condition::NotPrepared,
                Condition::NotStopping,
            ],
            Self::CancelResync => &[Condition::Resynchronizing, Condition::NotStopping],
            Self::Resume => &[Condition::Held],
            Self::Resync | Self::ChangeDisks => &[Condition::Replicating, Condition::NotStopping],
            Self::Stop => &[Condition::NotStopping],
        }
    }
}

impl Machine {
    /// The requests that the present state admits.
    pub fn allowed(&self) -> Vec<Request> {
        let admitted = |request: &Request| self.failed_conditions(*request).is_empty();
        Request::ALL.into_iter().filter(admitted).collect()
    }

    /// What would have to hold for `request`, and does not; nothing where it is allowed.
    pub fn failed_conditions(&self, request: Request) -> Vec<Condition> {
        let conditions = request.conditions().iter().copied();
        conditions
            .filter(|condition| !self.holds(*condition))
            .collect()
    }

    fn holds(&self, condition: Condition) -> bool {
        match condition {
            Condition::NotProtected => self.phase == Phase::Disabled,
            Condition::Protected => self.phase != Phase::Disabled,
            Condition::Sending => self.hold.is_none(),
            Condition::Held => self.hold.is_some(),
            Condition::Replicating => {
                matches!(self.phase, Phase::Delta | Phase::ResyncRequired { .. })
            }
            Condition::Resynchronizing => match self.phase {
                Phase::Resyncing { .. } => true,
                Phase::ResyncRequired { start, .. } => start != Start::OnRequest,
                _ => false,
            },
            Condition::NotStopping => !self.lanes.is_closing(),
            Condition::NotPrepared => !self.must_claim_first(),
        }
    }
}
