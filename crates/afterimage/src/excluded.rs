//! Disks of a machine that are never replicated.

use std::path::PathBuf;

use afterimage_block::{Access, BlockRead, Length, RawDisk};
use afterimage_store::MachineName;
use serde::{Deserialize, Serialize};

use crate::state::{SavedDisk, canonical, stem};
use crate::{Error, Result};

/// A disk of a machine that is never replicated, such as one for swap: after a failover it is missing.
/// Its primary tells of it with every report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExcludedDisk {
    /// Its name: the stem of its file's name.
    pub name: MachineName,
    /// Its size, which an empty one in its place should have.
    pub size: Length,
}

/// The disks at `paths`, none of which is among the `protected`.
pub(crate) fn excluded(paths: &[PathBuf], protected: &[SavedDisk]) -> Result<Vec<ExcludedDisk>> {
    if paths.is_empty() {
        return Ok(Vec::new());
    }
    let mut excluded: Vec<ExcludedDisk> = Vec::new();
    for path in canonical(paths)? {
        let (name, shown) = (stem(&path)?, path.display());
        if protected.iter().any(|disk| disk.path == path) {
            let reason = format!("`{shown}` is protected, and excluded as well: it can be but one");
            return Err(Error::Disks(reason));
        }
        let protected = protected.iter().map(|disk| &disk.name);
        let mut names = protected.chain(excluded.iter().map(|disk| &disk.name));
        if names.any(|other| *other == name) {
            let reason = format!("`{shown}` has the name of another disk: rename one of them");
            return Err(Error::Disks(reason));
        }
        let size = RawDisk::open(&path, Access::ReadOnly)?.size();
        excluded.push(ExcludedDisk { name, size });
    }
    Ok(excluded)
}
