//! Fixed-block checksum resynchronization of two disks.

mod comparer;
mod error;
mod grid;
mod line;
mod local;
mod scope;
mod session;
mod signature;
mod signer;
mod spans;
mod verdict;
mod zero;

pub use comparer::{Comparer, SignaturePage};
pub use error::{Error, Result, Side};
pub use grid::{BlockIndex, BlockSize, Grid, InvalidBlockSize};
pub use local::LocalResync;
pub use scope::Scope;
pub use session::{Progress, Session, Summary};
pub use signature::{Signature, sign};
pub use signer::Signer;
pub use zero::is_zero;
