//! Which side is the primary: reversing, coming back, and what a side that lost may do.
//!
//! ```text
//!  A --ships--> replica        B failed over, committed        A standby <--pulls-- replica <--ships-- B
//!       epoch 1        epochs 2, 3       reverse: lineage 3          token: losing epoch 1
//! ```
//!
//! A primary is admitted by what it knows: the epoch of its last claim, which is durable before it
//! publishes anything in it. Whoever published last, and nobody else, knows the replica's lineage. A
//! former primary after a failover does not, nor a second copy of one, nor one whose state was
//! restored from an old copy.

use std::fmt;
use std::str::FromStr;

use afterimage_block::{Epoch, Sequence};
use serde::{Deserialize, Serialize};

use crate::replica::{NotAllowed, ReplicaState, Role};

/// What a machine that was failed over needs to replicate in the other direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The epoch that it knows from now on.
    pub lineage: Epoch,
    /// The newest generation that the replica has.
    pub last: Sequence,
}

/// Somebody's word that the writes of one primary since its last acknowledged log may be destroyed:
/// it names the epoch that lost, so that it serves for no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DivergenceToken {
    /// The epoch of the primary that lost.
    pub losing: Epoch,
}

impl fmt::Display for DivergenceToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "discard-epoch-{}", self.losing.get())
    }
}

/// A text that is no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no token such as discard-epoch-7")]
pub struct InvalidToken(String);

impl FromStr for DivergenceToken {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let number = text.strip_prefix("discard-epoch-");
        let losing = number.and_then(|number| number.parse().ok());
        let losing = losing.ok_or_else(|| InvalidToken(text.into()))?;
        Ok(Self {
            losing: Epoch::new(losing),
        })
    }
}

impl ReplicaState {
    /// Whether a primary may ship to it that last claimed a replica in epoch `known`.
    ///
    /// # Errors
    /// [`NotAllowed`] while it is failed over, and for a primary whose history is not the replica's.
    pub fn admits(&self, known: Epoch) -> Result<(), NotAllowed> {
        self.role.admits_primary()?;
        if known < self.lineage {
            let (known, lineage) = (known.get(), self.lineage.get());
            return Err(NotAllowed::new(
                format!(
                    "this primary last had the replica in epoch {known}, and another one published \
                     in epoch {lineage}"
                ),
                "stop this side; to take what the replica holds and lose what this side wrote since, \
                 follow it with the token of this side's epoch",
            ));
        }
        Ok(())
    }

    /// A primary that last claimed in epoch `known` has the replica from now on: it runs, so nothing is
    /// prepared for a failover any more. To be recorded by the compare-and-swap that begins its epoch.
    ///
    /// # Errors
    /// As [`admits`](Self::admits); nothing is changed.
    pub fn claimed(&mut self, known: Epoch) -> Result<(), NotAllowed> {
        self.admits(known)?;
        self.role = Role::Replica;
        Ok(())
    }

    /// Lets the machine that was failed over be the primary: what it is to know. `committed` is the
    /// epoch that the commit of its failover began, `epoch` the replica's present one, `last` its
    /// newest generation. Asked for again before that machine has claimed the replica, it answers the
    /// same.
    ///
    /// # Errors
    /// [`NotAllowed`] unless the failover is committed, and if another one has come since.
    pub fn reverse(
        &mut self,
        committed: Epoch,
        epoch: Epoch,
        last: Sequence,
    ) -> Result<Grant, NotAllowed> {
        match self.role {
            Role::FailedOver { .. } | Role::Reversed { .. } if committed != epoch => {
                let (committed, epoch) = (committed.get(), epoch.get());
                return Err(NotAllowed::new(
                    format!(
                        "this failover was committed in epoch {committed}, and the replica was failed \
                         over again in epoch {epoch}"
                    ),
                    "reverse from the machine that was failed over last",
                ));
            }
            Role::FailedOver { point } => {
                self.role = Role::Reversed { point };
                self.lineage = epoch;
            }
            Role::Reversed { .. } => {}
            _ => {
                return Err(NotAllowed::new(
                    "no failover is committed",
                    "fail over and commit first; then reverse",
                ));
            }
        }
        Ok(Grant {
            lineage: self.lineage,
            last,
        })
    }

    /// Lets a machine have it that was made of another copy of its disks: what that machine is to know.
    /// `epoch` is the one that this begins, which fences off whoever made it, and `last` its newest
    /// generation. Until it is claimed, who asks last has it.
    ///
    /// # Errors
    /// [`NotAllowed`] unless whoever made it is stopped, with its last delta shipped.
    pub fn adopt(&mut self, epoch: Epoch, last: Sequence) -> Result<Grant, NotAllowed> {
        let (Role::PreparedForFailover { through: point } | Role::Adopted { point }) = self.role
        else {
            return Err(NotAllowed::new(
                "the replica is not that of a copy that was stopped with its last delta shipped",
                "stop what protects the copy there; to follow a machine of its own, fail over to it",
            ));
        };
        *self = Self {
            role: Role::Adopted { point },
            primary: None,
            lineage: epoch,
        };
        Ok(Grant {
            lineage: epoch,
            last,
        })
    }
}

/// A former primary that follows the replica with its own disks, so that it can be failed back to.
/// While it pulls its disks are of no state; the primary and the replica's recovery points do not
/// depend on them, so that it can be given up at any moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Standby {
    /// The generation that its disks are at; `None` while they are of no state.
    through: Option<Sequence>,
}

impl Standby {
    /// Begins to follow with the disks of a primary that last claimed in epoch `known`.
    ///
    /// # Errors
    /// [`NotAllowed`] without the token of `known` where the replica has another history, so that
    /// following it destroys what only these disks hold; and where this side is the primary itself.
    pub fn follow(
        replica: &ReplicaState,
        known: Epoch,
        token: Option<DivergenceToken>,
    ) -> Result<Self, NotAllowed> {
        if known >= replica.lineage {
            return Err(NotAllowed::new(
                "this side is the replica's primary",
                "fail over to the other side first",
            ));
        }
        let needed = DivergenceToken { losing: known };
        if token != Some(needed) {
            return Err(NotAllowed::new(
                format!("its own writes would be destroyed without the token `{needed}`"),
                "see what only this side holds, then give the token",
            ));
        }
        Ok(Self { through: None })
    }

    /// Follows with disks that hold nothing of their own: those of another machine, or of a failover
    /// that was taken back.
    pub const fn alternate() -> Self {
        Self { through: None }
    }

    /// The generation that its disks are at; `None` while they are of no state.
    pub const fn through(&self) -> Option<Sequence> {
        self.through
    }

    /// A pull begins: the disks are of no state until it is done.
    pub fn pulling(&mut self) {
        self.through = None;
    }

    /// The disks are the replica's generation `through`.
    pub fn pulled(&mut self, through: Sequence) {
        self.through = Some(through);
    }

    /// The generation to fail back to, without loss.
    ///
    /// # Errors
    /// [`NotAllowed`] unless the primary is stopped, and its last delta is both at the replica and on
    /// these disks.
    pub fn fail_back(&self, replica: &ReplicaState) -> Result<Sequence, NotAllowed> {
        match (replica.role, self.through) {
            (Role::PreparedForFailover { through }, Some(at)) if at == through => Ok(at),
            (Role::PreparedForFailover { .. }, _) => Err(NotAllowed::new(
                "the disks here are not at the last delta",
                "pull once more",
            )),
            _ => Err(NotAllowed::new(
                "the primary has not been stopped with its last delta shipped",
                "stop the primary first",
            )),
        }
    }
}
