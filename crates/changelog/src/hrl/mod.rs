//! Hyper-V Replica logs, after [MS-HRL]. Specified as implemented in `HRL.md`.
//!
//! ```text
//! header (4096) | empty block | data .. data | block | data .. data | block
//!                      ^---------- back ---------'^-------- back -------'  ^-- EOLLocation
//! ```

mod block;
mod chain;
mod checksum;
mod encoder;
mod entry;
mod header;
mod id;
mod log;
mod merge;
mod salvage;
mod time;
mod walk;
mod writer;

pub use encoder::HrlOptions;
pub use entry::HrlEntry;
pub(crate) use header::begins_as_hrl;
pub use header::{HrlHeader, HrlVersion};
pub use id::HrlId;
pub use log::{HrlLog, HrlRecord, HrlSummary};
pub use merge::merge_hrl;
pub use salvage::HrlSalvaged;
pub use time::HrlTime;
pub use writer::HrlWriter;
