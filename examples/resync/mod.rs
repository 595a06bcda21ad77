//! The parts of the `resync` example: two disks of one machine, or two ends of a stream.
//!
//! ```text
//! Arguments --> Local: both disks here, bytes compared                  --+
//!           \-> Push: a disk here --cmd: or tcp:--> Server: a disk there --+--> Report
//!           \-> Pull: a disk here <--cmd: or tcp:-- Server: a disk there --+
//! ```

mod arguments;
mod cache;
mod disk;
mod end;
mod fingerprint;
mod limit;
mod local;
mod peer;
mod pull;
mod push;
mod report;
mod serve;
mod state;

pub use arguments::{Arguments, Digest, Speed};
pub use cache::Cache;
pub use disk::Place;
pub use limit::{LimitedDisk, LimitedStream, Rate};
pub use local::Local;
pub use peer::Peer;
pub use pull::Pull;
pub use push::Push;
pub use report::{Display, Phase, Report};
pub use serve::{Server, Transport};
pub use state::State;
