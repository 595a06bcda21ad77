//! The change log of a virtual disk: an append-only record of every write, sealed, verifiable and
//! searchable.
//!
//! What it is: a file format, [specified](https://github.com/afterimage-rs/afterimage/blob/main/crates/changelog/FORMAT.md)
//! so that others can implement it, with its writer and readers; and Hyper-V's format,
//! [as implemented](https://github.com/afterimage-rs/afterimage/blob/main/crates/changelog/HRL.md).
//! What it is not: a database journal. Nothing is read back while it is written, and nobody waits for
//! it to be forced.
//!
//! ```text
//! Change --> Encoder --> FileWriter --seal--> SealedLog --> apply, index, merge, ship
//!               |            |                    '--damage--> salvage: every record that is whole
//!               |            '--crash--> recover: every record up to the tear
//!               '------> StreamWriter: the same bytes to anything that takes them
//!
//! Change --> HrlWriter --close--> HrlLog      open_log, ChangeLog: either
//! ```
//!
//! ```
//! use afterimage_block::*;
//! use afterimage_changelog::*;
//!
//! let folder = tempfile::tempdir()?;
//! let header = LogHeader {
//!     disk: DiskId::random(),
//!     disk_size: Length::mib(1),
//!     epoch: Epoch::new(1),
//!     first: Sequence::new(1),
//!     last: Sequence::new(1),
//!     created: Timestamp::default(),
//! };
//! let path = folder.path().join("1.ailog");
//! let mut log = FileWriter::create(&path, header, WriterOptions::default())?;
//! log.append(Change::Write { offset: Offset::new(512), data: b"after" }, Timestamp::default())?;
//! let sealed = log.seal(ContentDigest::NONE)?;
//!
//! let replica = MemoryDisk::new(Length::mib(1));
//! assert_eq!(sealed.apply(&replica)?.written, Length::new(5));
//! assert_eq!(&replica.contents()[512..517], b"after");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Features
//!
//! None is on by default.
//!
//! | | |
//! | --- | --- |
//! | `aead` | logs that are encrypted: `Key`, `Packing::with_key` |
//! | `lz4` | logs that are compressed: `Packing::with_compression` |
//!
//! # Architecture
//!
//! *Each record proves itself*, and that it belongs to this file: its CRC-32 continues from the
//! header's. So a torn tail is found at the last whole record, and a record of another log or an
//! earlier use of the same blocks never passes.
//!
//! *An encrypted log has a key of its own*, derived from the user's and a random salt, so that the
//! records' numbers can be nonces and never come twice. The footer has a tag by that key, so that no
//! record is cut off and nothing of the index changed unseen.
//!
//! *The digest is computed when the log is sealed*, in one pass over the file, and not while it is
//! appended to: SHA-256 is slower than the writes that it would have to keep up with. A [`StreamWriter`]
//! alone has to, since what it wrote is gone. Sealing, opening, merging and streaming a long log compute
//! it on a thread beside the reading and writing; the only other threads are those of applying a log.
//! `Encoder`, `Reader` and `StreamReader` have none.
//!
//! *The index is resolved*: disjoint pieces, the newest record winning, so that applying a log
//! writes each byte once and a reader finds a range without looking at any payload. A long one is in
//! pages, each proved by itself, so that an [`IndexedLog`] reads only those that it needs.
//!
//! *Either format is a [`ChangeLog`]*: applied, converted and undone by the same code. Only the native
//! one says which disk and generation it is of; an HRL says which one it follows.
//!
//! *Before-images are durable first.* [`apply_with_undo`] seals the undo log before the disk's first
//! byte changes, so that whatever interrupts it can be taken back.
//!
//! *All or nothing.* A [`Stage`] keeps what is written to a disk beside it, until all of it is there and
//! is made as one change that can be taken back.
//!
//! *A folder's name is the truth.* A [`History`] keeps disks current with an undo log for each step; what is to
//! be done with the logs in a folder is said by its name, and changed by a rename.
//!
//! *The predecessor stands in the footer*, since the log before this one is sealed only after this
//! one has begun to take writes.

mod any;
mod apply;
mod barrier;
#[cfg_attr(not(feature = "aead"), path = "cipher_absent.rs")]
mod cipher;
mod codec;
#[cfg_attr(not(feature = "lz4"), path = "compress_absent.rs")]
mod compress;
mod convert;
mod digest;
mod durability;
mod encoder;
mod error;
mod fetch;
mod fields;
mod file;
mod footer;
mod gap;
mod header;
mod history;
mod hrl;
mod index;
mod keys;
mod lookup;
mod merge;
mod overlay;
mod packing;
mod pages;
mod past;
mod pool;
mod reader;
mod record;
mod recover;
mod resolve;
mod salvage;
mod sealed;
mod slab;
mod stage;
mod states;
mod stream;
mod trailer;
mod undo;
mod writer;

pub use any::{AnyLog, ChangeLog, open_log, open_log_with};
pub use apply::Applied;
pub use barrier::{BarrierMark, Consistency, GroupId};
pub use convert::{to_hrl, to_native};
pub use durability::{Durability, ForceSchedule};
pub use encoder::{Encoded, Encoder};
pub use error::{Error, Result};
pub use file::ReadAt;
pub use footer::Summary;
pub use gap::Gap;
pub use header::{Form, LogHeader};
pub use history::{History, HistoryDisk, HistoryStep};
pub use hrl::{
    HrlEntry, HrlHeader, HrlId, HrlLog, HrlOptions, HrlRecord, HrlSalvaged, HrlSummary, HrlTime,
    HrlVersion, HrlWriter, merge_hrl,
};
pub use index::{Index, Piece};
#[cfg(feature = "aead")]
pub use keys::Key;
pub use keys::{KeyId, Keys};
pub use lookup::IndexedLog;
pub use merge::merge;
pub use packing::Packing;
pub use past::PastDisk;
pub use reader::{Reader, Record, StreamReader, Tail};
pub use record::{Kind, PAYLOAD_MAX, RecordHeader};
pub use recover::{Recovered, recover, recover_with};
pub use salvage::{Salvaged, salvage, salvage_with};
pub use sealed::SealedLog;
pub use stage::{Made, Stage, Staged, StagedDisk};
pub use states::{DiskStates, Provenance, StateDigest};
pub use stream::{StreamWriter, WriterOptions};
pub use trailer::Trailer;
pub use undo::{Undoable, apply_with_undo, record_undo};
pub use writer::FileWriter;
