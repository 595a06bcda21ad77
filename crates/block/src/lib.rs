//! Offsets, extents, block devices, snapshots and write tracking for virtual disks.
//!
//! What it is: the vocabulary that the Afterimage crates share, and what turns a raw image or block
//! device into a disk of which every write is known afterwards. What it is not: a block layer. There
//! is no cache, no scheduler, no partition table, and no async runtime.
//!
//! ```text
//! write --> gate --> range lock --> region marked --> old contents kept --> disk --> change log
//!          (barrier)               (IntentLog)       (Snapshot)                     (ChangeSink)
//! ```
//!
//! ```
//! use std::sync::Arc;
//! use afterimage_block::*;
//!
//! let folder = tempfile::tempdir()?;
//! let size = Length::mib(8);
//! let generation = |name: &str| -> Result<Generation> {
//!     let path = folder.path().join(name);
//!     let intent = IntentLog::create(&path, DiskId::random(), size, IntentLog::REGION)?;
//!     Ok(Generation { intent, sink: None })
//! };
//! let gate = WriteGate::new();
//! let disk = TrackedDisk::new(Arc::new(MemoryDisk::new(size)), gate.clone(), generation("1")?);
//! disk.write_at(Offset::new(4096), b"after-image")?;
//!
//! let finished = disk.rotate(&gate.close(), generation("2")?);
//! let first_region = Extent::new(Offset::ZERO, IntentLog::REGION)?;
//! assert_eq!(finished.intent.doubt(), Doubt::Extents(first_region.into()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Architecture
//!
//! *Intents, one file a generation.* The regions written between two barriers are listed in one
//! append-only file, which is deleted once the generation's log is sealed and the disk is flushed.
//! There is nothing to clear, memory and file are proportional to what was written since the last
//! barrier, and after a crash exactly the files that are left say what to read again. A bitmap would
//! have to be as large as the disk, and a torn page of it would put gigabytes in doubt.
//!
//! *The log needs no flush.* A record is appended after the write, without being forced: the region
//! is marked already, so what the log loses in a crash is read from the disk again.
//!
//! *A disk can be used before it is here.* [`HydratingDisk`] reads from its source what is not local
//! yet, and takes writes at once. What is local is forced first and recorded then, whole extents at a
//! time, so that memory and file are proportional to the runs and no write waits for the source.
//!
//! *Copy before write* rather than a filesystem's reflink: it works everywhere, and costs only what
//! is overwritten while the snapshot is held.

mod device;
mod digest;
mod durable;
mod error;
mod extent;
mod extent_map;
mod extent_set;
mod growth;
mod hydration;
mod id;
mod intent;
mod layers;
mod memory;
mod offset;
mod overlay;
mod range_lock;
mod raw;
mod snapshot;
mod space;
mod tracked;

pub use device::{BlockRead, BlockWrite, Change, Run, RunKind, SECTOR, Zeroing, check_range};
pub use digest::{ContentDigest, InvalidDigest};
pub use error::{Error, Result};
pub use extent::{Extent, InvalidExtent};
pub use extent_map::{ExtentMap, Slice};
pub use extent_set::ExtentSet;
pub use growth::Growth;
pub use hydration::HydratingDisk;
pub use id::{DiskId, Epoch, InvalidId, Lsn, MachineId, Sequence, SessionId, Timestamp};
pub use intent::{Doubt, IntentLog};
pub use memory::MemoryDisk;
pub use offset::{Length, Offset, ParseLengthError};
pub use overlay::Overlay;
pub use raw::{Access, RawDisk};
pub use snapshot::Snapshot;
pub use space::free_space;
pub use tracked::{
    Barrier, ChangeSink, Finished, Generation, MapOnly, Outcome, SinkError, TrackedDisk, WriteGate,
};
