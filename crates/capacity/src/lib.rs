//! What replicating a machine will take, from change logs that were recorded before.
//!
//! What it is: arithmetic over recorded changes - how old the newest recovery point gets, what the
//! network carries, what the logs need on the primary's disk, what a store is asked for, keeps and
//! costs - for any interval and any number of machines. What it is not: a measurement. It has no clock
//! and opens no file; times are those in the logs.
//!
//! ```text
//! ChangeLog, ChangeLog, ... --> Recording --cut at each interval--> Plan --Prices--> Bill
//! ```
//!
//! ```
//! use afterimage_block::*;
//! use afterimage_capacity::*;
//! use std::time::Duration;
//!
//! let mut recording = Recording::new();
//! let disk = recording.add_disk(Length::gib(20));
//! for second in 0..600 {
//!     // The same 64 KiB once a second.
//!     let change = Change::Write { offset: Offset::new(1 << 20), data: &[1; 64 << 10] };
//!     recording.record(disk, Timestamp::from_nanos(second * 1_000_000_000), &change);
//! }
//! let assumptions = Assumptions { interval: Duration::from_secs(60), ..Assumptions::default() };
//! let plan = Plan::of(&recording, &assumptions);
//! assert_eq!(plan.intervals, 10);
//! // Of 60 writes to the same place one is sent.
//! assert!(plan.logged.mean > 50.0 * plan.shipped.mean);
//! let bill = Prices::default().bill(&plan, 100);
//! assert!(bill.total() > 0.0);
//! ```
//!
//! # Architecture
//!
//! *Lengths of logs are exact*: those of the native format, for the records as they were recorded and
//! for a log that holds each byte once, which a test compares with files.
//!
//! *Requests are those of the store's layout*, which a test compares with what a store is asked for
//! through a small recording.
//!
//! *Every interval is as in the recording*: a month is the recording over and over. Record when the
//! machine is as busy as it gets, and as long as its day is uneven.

mod budget;
mod cut;
mod log;
mod plan;
mod prices;
mod recording;
mod shipments;

pub use budget::Requests;
pub use plan::{Assumptions, Plan, Spread};
pub use prices::{Bill, Prices};
pub use recording::Recording;

use std::time::Duration;

/// A month, as bills are reckoned here: 30 days.
pub const MONTH: Duration = Duration::from_hours(30 * 24);

/// A number as it is reckoned with; what is lost beyond 2^53 is less than what is not known.
#[expect(clippy::cast_precision_loss, reason = "as said")]
fn real(number: u64) -> f64 {
    number as f64
}
