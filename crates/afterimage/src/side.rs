//! How one side of a machine stands, as its state folder tells.

use std::path::{Path, PathBuf};

use afterimage_block::{Epoch, Sequence};
use afterimage_replication::{Health, State};
use afterimage_store::MachineName;
use serde::Serialize;

use crate::Result;
use crate::divergence::Divergence;
use crate::state::{Saved, Side, StateFolder};

/// How one side of a machine stands, as its state folder tells.
#[derive(Clone, Debug, Serialize)]
pub struct SideStatus {
    /// The machine's name.
    pub name: MachineName,
    /// What the side is.
    pub standing: Standing,
    /// The epoch in which it last was the primary, or is failed over to.
    pub epoch: Epoch,
    /// Its disks.
    pub disks: Vec<PathBuf>,
    /// What it alone may hold.
    pub alone: Divergence,
}

/// What one side of a machine is.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Standing {
    /// The primary, or one that was.
    Primary {
        /// Its state, when it last saved it.
        state: State,
        /// Its health.
        health: Health,
        /// The newest generation that the replica has acknowledged.
        durable: Option<Sequence>,
        /// Why it is Critical, if it is.
        problem: Option<String>,
    },
    /// The replica is failed over to its disks, or was to be.
    FailedOver {
        /// The recovery point.
        point: Sequence,
        /// Whether the disks are at it, all of them.
        complete: bool,
    },
    /// Its disks follow the replica.
    Following {
        /// The recovery point that they are at; `None` while they are of no state.
        at: Option<Sequence>,
    },
}

/// How the side of a machine stands whose state folder is `folder`. Nothing is changed there, and a
/// process may be at work.
///
/// # Errors
/// [`Error::File`](crate::Error::File) where no state can be read there,
/// [`Error::State`](crate::Error::State) where it cannot be used.
pub fn side_status(folder: &Path) -> Result<SideStatus> {
    let saved = StateFolder::peek(folder)?;
    Ok(SideStatus {
        standing: standing(&saved),
        epoch: saved.own_epoch(),
        alone: Divergence::of(folder, &saved)?,
        disks: saved.disks.into_iter().map(|disk| disk.path).collect(),
        name: saved.name,
    })
}

fn standing(saved: &Saved) -> Standing {
    let machine = &saved.replication;
    match &saved.side {
        Side::Primary => Standing::Primary {
            state: machine.state(),
            health: machine.health(),
            durable: machine.durable(),
            problem: machine
                .problem()
                .map(|(_, failure)| failure.message.clone()),
        },
        Side::FailedOver(target) => Standing::FailedOver {
            point: target.point,
            complete: target.complete,
        },
        Side::Standby(following) => Standing::Following {
            at: following.standby.through(),
        },
    }
}
