//! Error classification and retry schedules, as values: no clock, no sleep, no runtime.
//!
//! What it is: the decision "try again, when, or not at all" for work that must get done some day,
//! such as shipping a disk's changes to a replica. What it is not: a loop around a function. The
//! caller owns the clock and the waiting, so the same code runs in production, in a simulator and in
//! a test that lives through a week in a millisecond.
//!
//! ```text
//! error --Classify--> Class --+
//!                             v
//! Schedule ------------> Retry::failed(now) --> RetryAt(time) | GiveUp(why)
//! ```
//!
//! ```
//! use std::io;
//! use std::time::Duration;
//! use afterimage_retry::{Decision, Retry, Schedule, Time};
//!
//! let schedule = Schedule::default(); // 1, 2, 4, 8, 10 min from the first start, then every 30 min
//! let mut now = Time::ZERO;
//! let mut retry = Retry::begin(now);
//! let mut minutes = Vec::new();
//! for _ in 0..7 {
//!     let error = io::Error::from(io::ErrorKind::ConnectionRefused);
//!     let Decision::RetryAt(due) = retry.failed_with(&schedule, &error, now) else { break };
//!     now = due; // virtual time: nobody waits
//!     minutes.push(now.since_origin().as_secs() / 60);
//! }
//! assert_eq!(minutes, [1, 2, 4, 8, 10, 40, 70]);
//! ```
//!
//! # Architecture
//!
//! Times are counted from the start of the first attempt rather than from the last failure: an
//! attempt that hangs for three minutes must not push every later one back. [`Retry`] serializes, so
//! that a process that restarts in the middle goes on where it was.

mod class;
mod retry;
mod schedule;
mod time;

pub use class::{Class, Classify};
pub use retry::{Decision, GiveUp, Retry};
pub use schedule::{Budget, InvalidSchedule, Schedule};
pub use time::Time;
