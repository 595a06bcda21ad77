//! The replication state machine of a protected machine: sans-IO, serializable, testable in virtual
//! time.
//!
//! What it is: the decisions of continuous replication - when to rotate the logs, what to ship next,
//! when to copy or resynchronize, when to try again or to call for a person - as a pure value. What
//! it is not: it reads no disk, no clock and no network. A driver carries its [`Action`]s out and
//! tells it with [`Event`]s what came of them.
//!
//! ```text
//!              request, event, time                     actions
//! owner, driver ------------------> Machine (durable) ----------> driver
//!
//! Enable -> claim -> barrier + snapshot -> copy -> delta <-> resynchronize
//!                                                    |
//!                          Stop -> last delta -> prepared for failover
//! ```
//!
//! ```
//! use afterimage_block::{Epoch, Length};
//! use afterimage_replication::{Action, Event, Machine, Policy, Position, Request, State};
//! use afterimage_retry::Time;
//!
//! let mut machine = Machine::new(Policy::default(), vec![Length::gib(8)]);
//! let actions = machine.request(Request::Enable, Time::ZERO)?;
//! assert_eq!(actions, [Action::Claim]);
//! let claimed = Event::Claimed { epoch: Epoch::new(1), position: Position::Empty };
//! let actions = machine.handle(claimed, Time::ZERO);
//! assert!(matches!(&actions[..], [Action::Barrier(barrier)] if barrier.snapshot));
//! assert_eq!(machine.state(), State::WaitingForInitialReplication);
//! # Ok::<(), afterimage_replication::Refused>(())
//! ```
//!
//! # Architecture
//!
//! *Generations.* A machine's history is cut by barriers into generations, numbered by
//! [`Sequence`](afterimage_block::Sequence). Log `n` of a disk holds its writes between barriers
//! `n - 1` and `n`; recovery point `n` is the machine at barrier `n`.
//!
//! *Facts and plan.* Events only change facts (one table, [`Machine::handle`]). What is to be done
//! is derived from the facts alone, each time anew, so a restart needs no special case: the machine
//! is read back, nothing is under way, and the same plan is made.
//!
//! *Doubt.* Where a log is lost or dropped, its extents are put in doubt, and only they are compared.
//! A resynchronization keeps a sequence number free between two barriers for its differences; they
//! are read from the running disk, and the first barrier after the last read is a recovery point
//! again. Older points stay usable throughout. Where there is no room for all differences at once, what
//! is left takes another pass, with a number of its own. A pass whose answer is lost claims the replica
//! again, which tells whether its differences are there.
//!
//! *A restart is an attempt.* What had failed is tried again at once, also what had made the machine
//! Critical: whoever starts it again has acted.
//!
//! *Directions.* After a failover the machine that was failed over is the primary, by a [`Grant`], and
//! the former one can follow it as a [`Standby`] and be failed back to. Epochs tell histories apart; what
//! would be destroyed needs a [`DivergenceToken`].
//!
//! *Roles.* The replica's side is [`Role`], a second, smaller machine that lives in the replica's
//! manifest, where compare-and-swap and epochs keep two primaries apart.

mod action;
mod direction;
mod event;
mod job;
mod machine;
mod plan;
mod policy;
mod replica;
mod request;
mod scope;
mod state;
mod view;

pub use action::{Action, Barrier, Report, Shipment};
pub use direction::{DivergenceToken, Grant, InvalidToken, Standby};
pub use event::{BarrierReached, Ended, Event, Failure, Position, Request, Task, Tracking};
pub use job::{ErrorCode, Job, JobAction, JobError, JobKind, JobState, JobTask, Jobs, Progress};
pub use machine::Machine;
pub use policy::{
    ApplicationConsistent, Bandwidth, BandwidthRule, InvalidCalendar, InvalidPolicy, Pace, Policy,
    TimeOfDay, Weekday, Window, Zone,
};
pub use replica::{FailoverKind, NotAllowed, PrimaryReport, ReplicaRequest, ReplicaState, Role};
pub use request::{Condition, Refused};
pub use scope::Scope;
pub use state::{Health, ResyncReason, State};
