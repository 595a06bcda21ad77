//! Error classification and retry schedules, as values: no clock, no sleep, no runtime.
//!
//! What it is: the decision "try again, when, or not at all" for work that must get done some day,
//! such as shipping a disk's changes to a replica. The caller owns the clock and the waiting, so the
//! same code runs in production, in a simulator and in a test that lives through a week in a
//! millisecond. [`Attempts`] is the loop around a function, blocking or async, for callers who want
//! one. What it is not: a runtime, a rate limiter or an HTTP client.
//!
//! ```text
//! error --Classify--> Class --+                                      Breaker: may anybody try?
//!                             v
//! Schedule ------------> Retry::failed(now) --> RetryAt(time) | GiveUp(why)
//! ```
//!
//! ```
//! use std::io;
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
//! | wanted | say |
//! | --- | --- |
//! | times of your own | [`Schedule::fixed`] |
//! | pauses that double up to a cap | [`Schedule::exponential`] |
//! | pauses after failures rather than times after the first start | [`Schedule::counted_from`] |
//! | clients that do not come back in step | [`Schedule::with_jitter`], [`Retry::seeded`] |
//! | an end | [`Schedule::with_budget`] |
//! | what a server asks for | [`Classify::retry_after`], always heeded up to a limit |
//! | a loop | [`Attempts::run`], [`Attempts::run_async`] |
//! | one service, many users | [`Breaker`] |
//!
//! # Architecture
//!
//! Times are counted from the start of the first attempt rather than from the last failure: an
//! attempt that hangs for three minutes must not push every later one back. [`Retry`] serializes, so
//! that a process that restarts in the middle goes on where it was. Jitter only puts attempts off,
//! never before their scheduled time, so that one attempt stays one attempt; and it follows from a
//! seed, so that a simulation replays.

mod attempts;
mod breaker;
mod class;
mod jitter;
mod retry;
mod schedule;
mod time;

pub use attempts::{Attempts, GivenUp};
pub use breaker::{Admission, Breaker, BreakerPolicy};
pub use class::{Class, Classified, Classify};
pub use jitter::{InvalidJitter, Jitter};
pub use retry::{Decision, GiveUp, Retry};
pub use schedule::{Budget, InvalidSchedule, Origin, Schedule};
pub use time::Time;
