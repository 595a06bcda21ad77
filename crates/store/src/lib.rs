//! Replica storage on object stores: base, sealed logs, recovery points and a fenced manifest.
//!
//! What it is: where the replica of a machine lives - a local folder or any object store - such that
//! any recovery point can be read, and no two writers can both write. What it is not: a server. All
//! that a store must be able to do is put an object only if it is still the one that was read.
//!
//! ```text
//! claim --> Writer --put_log, copy_page--> objects --publish (compare-and-swap)--> manifest
//!                                                                                     |
//!                       open_point <-- checkpoint + logs up to the barrier <----------'
//! ```
//!
//! ```
//! use afterimage_block::*;
//! use afterimage_store::*;
//! use std::sync::Arc;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let replica = Store::open("memory://example").await?.replica("web-01".parse()?);
//! let size = Length::mib(2);
//! let disk = ReplicaDisk { id: DiskId::random(), name: "root".parse()?, size };
//! let (machine, session) = (MachineId::random(), SessionId::random());
//! let writer = replica.claim(Claim { machine, session, disks: vec![disk] }, |kept| Ok(kept.clone())).await?;
//!
//! let source = Arc::new(MemoryDisk::with_contents(&vec![7; 2 << 20]));
//! let mut base = writer.base(0, BaseProgress::default()).await?;
//! while base.next_page().is_some() {
//!     base.copy_page(source.clone()).await?;
//! }
//! let barrier = Sequence::new(1);
//! writer.publish_base(barrier, vec![base.finish().await?], None, &Default::default()).await?;
//!
//! let point = replica.open_point(barrier).await?;
//! let extent = Extent::new(Offset::new(4096), Length::new(3))?;
//! assert_eq!(point.disks[0].read(extent).await?, [7, 7, 7]);
//! # Ok(())
//! # }
//! ```
//!
//! # Architecture
//!
//! *One mutable object a machine.* Everything else is immutable and named by its content, so readers
//! need no locks, and a crash leaves nothing half-done. The manifest is small: it names roots and
//! logs, not chunks.
//!
//! *Chunks are named by position, birth and digest.* What is unused after logs were folded is the
//! difference of two trees, found where they were changed; no reference counts, no sweep over
//! everything. Since a birth - the barrier and epoch of the fold - never comes again, neither does a
//! name: a deletion that is late or was fenced off meanwhile can delete nothing that is needed. Chunks
//! of different places are not shared for it: disks hold little that is equal but zeros, and zeros
//! are not stored at all.
//!
//! *Digests of 64 KiB blocks are the index.* A resynchronization reads them instead of the data.
//!
//! *Compare-and-swap in a local folder* is by content under a file lock, since file systems have no
//! entity tags that could not repeat.
//!
//! *Encryption is the machine's, not the store's* ([`Store::with_key`]): its objects are sealed for their
//! place by its own key, which the manifest carries, wrapped by a [`Key`].
//!
//! # Features
//!
//! | feature | stores |
//! | --- | --- |
//! | none | `PATH`, `file:///PATH`, `memory://NAME` |
//! | `azure` | `az://CONTAINER/FOLDER`, `abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/FOLDER` |
//! | `aws` | `s3://BUCKET/FOLDER`: S3 and what is compatible with it |
//! | `gcp` | `gs://BUCKET/FOLDER` |
//! | `cloud` | all of these three |
//! | `server` | `afterimage://HOST:PORT/`: what a replica server of another host serves |
//!
//! Credentials come from the environment, by the names that each cloud's own tools read, and a replica
//! server's from files that it names. They are in no error, no log and no `Debug` output of this crate.
//!
//! The layout is specified in
//! [LAYOUT.md](https://github.com/afterimage-rs/afterimage/blob/main/crates/store/LAYOUT.md).

mod base;
mod cache;
mod cas;
mod cipher;
#[cfg(feature = "_http")]
mod cloud;
mod error;
mod folder;
#[cfg(feature = "_http")]
mod guard;
mod index;
mod key;
mod layout;
mod loss;
mod manifest;
mod objects;
mod pack;
mod point;
mod records;
#[cfg(feature = "server")]
mod remote;
mod replica;
mod retention;
mod scrub;
mod store;
mod sweep;
mod throttle;
mod upload;
mod wrapped;
mod writer;

pub use base::{BaseProgress, BaseWriter, PageCopied};
pub use error::{Error, Result};
pub use index::block_digest;
pub use key::Key;
pub use layout::MachineName;
pub use loss::{Loss, Part};
pub use manifest::{
    Checkpoint, Consistency, Fence, LogEntry, LogObject, Manifest, Newness, RecoveryPoint,
    ReplicaDisk, Retired,
};
pub use pack::Inlining;
pub use point::{BlockingDisk, Point, PointDisk, PointSelector};
pub use replica::{Claim, Replica, Transition};
pub use scrub::{Damage, Scrub, Scrubbed};
pub use store::Store;
pub use throttle::Throttled;
pub use writer::{NOTES, Publication, Writer};
