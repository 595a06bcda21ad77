//! A disk that is made larger while it is protected.

use afterimage_block::{Access, BlockRead, Extent, ExtentSet, Length, Offset, RawDisk, RunKind};
use afterimage_replication::Scope;
use tokio::sync::oneshot;

use crate::generations::Disk;
use crate::{Error, Result};

/// A disk whose file is long enough, and that is to grow at a barrier.
pub(crate) struct Growing {
    /// Its number.
    pub(crate) disk: usize,
    pub(crate) size: Length,
    /// What of its new part nothing proves to be zeros.
    pub(crate) unproven: Scope,
    /// Whether that barrier was reached.
    pub(crate) has_grown: bool,
    /// Hears of it once it is recorded.
    pub(crate) answer: oneshot::Sender<Result<()>>,
}

/// What of `disk` behind its former size `was` is not known to be zeros: all but its holes.
pub(crate) fn unproven(disk: &dyn BlockRead, was: Length) -> Result<Scope> {
    let mut unproven = ExtentSet::new();
    let mut at = Offset::new(was.get());
    while let Some(run) = disk.next_run(at)? {
        at = run.extent.end();
        if run.kind == RunKind::Data {
            unproven.insert(run.extent);
        }
    }
    Ok(unproven.into())
}

/// Makes the file of `disk` long enough for `size`; what of its new part nothing proves to be zeros.
///
/// # Errors
/// [`Error::Shrunk`] if it is larger already, [`Error::Disk`].
pub(crate) fn lengthen(disk: &Disk, size: Length) -> Result<Scope> {
    let was = disk.tracked.size();
    if size < was {
        return Err(Error::Shrunk {
            path: disk.path.clone(),
            was,
            is: size,
        });
    }
    disk.lengthen(size)?;
    // As it is on its medium, whatever the size is that it is open with.
    let seen = RawDisk::open(&disk.path, Access::ReadOnly)?;
    let Scope::Extents(mut unproven) = unproven(&seen, was)? else {
        return Ok(Scope::Everything);
    };
    let behind = Extent::between(Offset::new(size.get()), Offset::new(seen.size().get()));
    if let Some(behind) = behind {
        unproven.remove(behind);
    }
    Ok(unproven.into())
}
