//! Offsets, extents, block devices, snapshots and write tracking for virtual disks.

mod device;
mod digest;
mod error;
mod extent;
mod extent_map;
mod extent_set;
mod id;
mod offset;

pub use device::{BlockRead, BlockWrite, Change, Run, RunKind, SECTOR, Zeroing, check_range};
pub use digest::{ContentDigest, InvalidDigest};
pub use error::{Error, Result};
pub use extent::{Extent, InvalidExtent};
pub use extent_map::{ExtentMap, Slice};
pub use extent_set::ExtentSet;
pub use id::{DiskId, Epoch, InvalidId, Lsn, MachineId, Sequence, SessionId, Timestamp};
pub use offset::{Length, Offset, ParseLengthError};
