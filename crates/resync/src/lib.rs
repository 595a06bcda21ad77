//! Fixed-block checksum resynchronization of two disks: find out which blocks differ, and move
//! nothing else.
//!
//! What it is: signatures of a disk's blocks, the comparison of a disk with another of the same
//! machine byte by byte ([`LocalResync`]), with signatures that are kept somewhere ([`Comparer`]), or
//! with one that is far away and answers ([`remote`], on threads as [`Driver`]), and a [`Session`]
//! that says what is in doubt, how far it is, and what it found. What it is not: a transport.
//! Signatures come from wherever they are kept, differences go to wherever the caller sends them, as
//! [`Change`](afterimage_block::Change)s, and messages go over any stream of bytes.
//!
//! ```text
//! source (BlockRead) --holes skipped--> blocks --+
//!                                                +-- equal? --> cursor moves on
//! target: bytes, or a page of signatures --------+         \--> Write | WriteZeroes --> sink
//! ```
//!
//! ```
//! use afterimage_block::{BlockRead, BlockWrite, MemoryDisk, Length, Offset};
//! use afterimage_resync::{BlockIndex, BlockSize, Comparer, Error, Scope, Session};
//! use afterimage_resync::{Signature, SignaturePage, Signer};
//! # type Failure = Box<dyn std::error::Error + Send + Sync>;
//!
//! let (near, far) = (MemoryDisk::new(Length::gib(64)), MemoryDisk::new(Length::gib(64)));
//! near.write_at(Offset::new(5 << 30), b"new")?;
//! let (size, block) = (near.size(), BlockSize::try_from(Length::mib(1))?);
//!
//! let signatures: Vec<Signature> = Signer::new(&far, Scope::whole(size, block), Offset::ZERO)?
//!     .map(|signed| signed.map(|(_, signature)| signature))
//!     .collect::<Result<_, _>>()?; // holes are not read
//! let mut comparer = Comparer::new(Session::whole(size, block));
//! let page = SignaturePage::new(BlockIndex::new(0), &signatures); // or many, one after the other
//! comparer.compare(&near, page, |change| change.apply_to(&far).map_err(Failure::from))?;
//! assert_eq!(comparer.session().summary().sent, Length::mib(1));
//! # Ok::<(), Failure>(())
//! ```
//!
//! # Architecture
//!
//! *The session is a value, drivers move it.* [`Session`] does no I/O, knows no clock and
//! serializes; it is the same whether bytes or signatures are compared, and goes on at its cursor
//! after a restart. The cursor passes a block only when the block is equal or its difference was
//! taken, so that stopping at any point forgets nothing and repeats no more than what was in flight.
//!
//! *Blocks in order, work on all threads.* Windows of 256 KiB are planned one after the other, read
//! and compared on all threads, and finished in the order planned: progress is monotone, the first
//! bad block is the one reported however many threads there are, and memory is bounded.
//!
//! *Zero is a word.* A block of zeros has the signature [`Zero`](Signature::Zero), is never hashed,
//! and goes out as an extent. Holes are not even read. Nothing else is ever taken for zeros: a block
//! that cannot be read is an error that names it.
//!
//! *A source may be written meanwhile* if something else, such as a tracked disk, remembers what was
//! written since the session began: each block is found as it was at some instant since then.
//!
//! *Digests decide equality only if nobody can forge them.* What a disk holds is chosen by its
//! guest, so a fast checksum will not do; SHA-256 is the default, any
//! [`Digest`](digest::Digest) can take its place. Two disks of one machine need none.
//!
//! *What was not written need not be read again.* The [`Digests`] that an end knows after a resync
//! are a value that serializes to a file (`CACHE.md`), forgets what a tracker says was written, and
//! begins the next resync; they are believed only for the disk and the moment that they were made of.
//!
//! *Far disks are compared top down.* Two ends that both can hash exchange the nodes of a hash tree
//! ([`tree`]) in messages that are specified byte by byte ([`protocol`], `PROTOCOL.md`). Equal disks
//! agree after one question, and a difference costs the nodes beside its path.
//!
//! *A limit is a shared value,* and so is the will to go on. What is sent, read or written goes no faster
//! than a [`Limit`], which whoever has a clock changes at any time; a [`Control`] pauses, resumes and
//! cancels.
//!
//! *What is equal can be read once more.* Both ends agree by their roots at the end; a medium that does
//! not hold what it took is found by reading a sample of it again, or all ([`Reread`]).
//!
//! | Feature | |
//! | --- | --- |
//! | `blake3` | [`Algorithm`] has BLAKE3 beside SHA-256 |
//! | `tokio` | `over_stream` runs a [`Driver`] over any `AsyncRead + AsyncWrite` |

mod algorithm;
#[cfg(feature = "tokio")]
mod async_stream;
mod buffer;
mod comparer;
mod control;
mod digests;
mod driver;
mod error;
mod grid;
mod limit;
mod line;
mod local;
mod pace;
pub mod protocol;
pub mod remote;
mod reread;
mod scope;
mod session;
mod signature;
mod signer;
mod spans;
pub mod tree;
mod verdict;
mod zero;

pub use algorithm::Algorithm;
#[cfg(feature = "tokio")]
pub use async_stream::{StreamReader, StreamWriter, over_stream};
pub use comparer::{Comparer, SignaturePage};
pub use control::Control;
pub use digests::{Digests, DigestsError};
pub use driver::Driver;
pub use error::{Error, Result, Side};
pub use grid::{BlockIndex, BlockSize, Grid, InvalidBlockSize};
pub use limit::{Limit, LimitedDisk, LimitedSource, LimitedStream};
pub use local::LocalResync;
pub use pace::{Pace, Pacer};
pub use reread::Reread;
pub use scope::Scope;
pub use session::{Progress, Session, Summary};
pub use signature::{Signature, sign};
pub use signer::Signer;
pub use zero::is_zero;
