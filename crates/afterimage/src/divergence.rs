//! What only one side holds.

use std::fmt;
use std::path::Path;

use afterimage_block::{Epoch, ExtentSet, Length};
use afterimage_changelog::SealedLog;
use afterimage_replication::{DivergenceToken, Scope};
use afterimage_store::MachineName;
use serde::Serialize;

use crate::driver::sum;
use crate::generations;
use crate::state::{Saved, SavedDisk, Side, logs_in};
use crate::{Error, Result};

/// Extents that are shown of each disk.
const SHOWN: usize = 4;

/// What only one side holds, as far as it is known there: what was written to its disks and is not
/// known to be at the replica. It is lost when these disks follow the replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Divergence {
    /// The epoch of the primary that this side was.
    pub losing: Epoch,
    /// What of each disk.
    pub disks: Vec<DivergentDisk>,
}

/// What of one disk only one side holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DivergentDisk {
    /// The disk.
    pub name: MachineName,
    /// At most this of it, in whole regions where no log says more.
    pub scope: Scope,
    /// Its size.
    pub size: Length,
}

impl Divergence {
    /// As the state folder `folder` and the disks tell, whoever may be at work on them.
    pub(crate) fn of(folder: &Path, saved: &Saved) -> Result<Self> {
        let doubts = saved.replication.doubt();
        let disks = saved.disks.iter().zip(doubts);
        let disks = disks.map(|(disk, doubt)| {
            Ok(DivergentDisk {
                name: disk.name.clone(),
                scope: own_writes(folder, saved, disk, doubt)?,
                size: disk.size,
            })
        });
        Ok(Self {
            losing: saved.own_epoch(),
            disks: disks.collect::<Result<_>>()?,
        })
    }

    /// Whether nothing is held here alone.
    pub fn is_nothing(&self) -> bool {
        self.disks.iter().all(|disk| disk.scope.is_nothing())
    }

    /// The sum of what is held here alone, at most.
    pub fn bytes(&self) -> Length {
        sum(self.disks.iter().map(DivergentDisk::bytes))
    }

    /// The word that all of it may be destroyed.
    pub fn token(&self) -> DivergenceToken {
        let losing = self.losing;
        DivergenceToken { losing }
    }
}

impl DivergentDisk {
    fn bytes(&self) -> Length {
        self.scope.extents(self.size).total()
    }
}

fn own_writes(folder: &Path, saved: &Saved, disk: &SavedDisk, doubt: Scope) -> Result<Scope> {
    match &saved.side {
        // In the middle of a pull it is of no state.
        Side::Standby(following) if following.standby.through().is_none() => {
            return Ok(Scope::NOTHING);
        }
        _ if saved.clean && disk.may_have_changed() => return Ok(Scope::Everything),
        Side::Primary => {}
        Side::FailedOver(_) | Side::Standby(_) => return Ok(Scope::NOTHING),
    }
    let (logs, mut scope) = (logs_in(folder, disk.id), doubt);
    for sequence in saved.replication.unshipped() {
        let path = generations::log_path(&logs, sequence);
        if !path.exists() {
            continue; // it was lost, and what it held is in doubt already
        }
        let extents = SealedLog::open(&path).and_then(|log| log.extents());
        scope.merge(&extents.map_or(Scope::Everything, |extents| ExtentSet::from(extents).into()));
    }
    if !saved.clean {
        scope.merge(&generations::doubt_since(
            &logs,
            disk,
            saved.replication.open(),
        )?);
    }
    Ok(scope)
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "this side was the primary in epoch {} and holds alone",
            self.losing
        )?;
        let mut mark = "";
        for disk in self.disks.iter().filter(|disk| !disk.scope.is_nothing()) {
            write!(f, "{mark} {disk}")?;
            mark = ";";
        }
        Ok(())
    }
}

impl fmt::Display for DivergentDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Scope::Extents(extents) = &self.scope else {
            return write!(f, "any of the {} of `{}`", self.size, self.name);
        };
        let (bytes, runs) = (extents.total(), extents.runs());
        write!(f, "{bytes} of `{}` at", self.name)?;
        for extent in extents.iter().take(SHOWN) {
            write!(f, " {extent}")?;
        }
        if runs > SHOWN {
            write!(f, " and in {} extents more", runs - SHOWN)?;
        }
        Ok(())
    }
}

impl From<Divergence> for Error {
    fn from(divergence: Divergence) -> Self {
        Self::Diverges(Box::new(divergence))
    }
}
