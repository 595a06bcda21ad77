//! The parts of the `resync` example: two disks of one machine, or two ends of a stream.
//!
//! ```text
//! Arguments --> Local: both disks here, bytes compared                  --+
//!           \-> Remote: a disk here <--cmd: or tcp:--> Server: a disk there --+--> Report
//! ```

mod arguments;
mod cache;
mod disk;
mod end;
mod fingerprint;
mod greeting;
mod limit;
mod local;
mod peer;
mod remote;
mod report;
mod serve;
mod state;
mod stop;
mod target;

pub use arguments::{Again, Arguments, Digest};
pub use cache::Cache;
pub use disk::Place;
pub use limit::{Followed, Speeds};
pub use local::Local;
pub use peer::Peer;
pub use remote::Remote;
pub use report::{Display, Phase, Report};
pub use serve::{Server, Transport};
pub use state::State;
pub use stop::Stop;
