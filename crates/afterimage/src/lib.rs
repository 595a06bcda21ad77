//! Continuous replication of virtual disks: a disk that can be lost without losing its data.
//!
//! What it is: the engine that runs the [state machine](afterimage_replication) of a protected
//! machine against real disks, stores and clocks. Every write to a protected disk is tracked, shipped
//! and readable at another place seconds later, at any recovery point. What it is not: a hypervisor's
//! plug-in or a service; it is a library, and `protect`, `failover` and `status` are examples of it.
//!
//! ```text
//! guest --NBD--> TrackedDisk --> open change log        Machine (sans-IO) <--events-- Driver
//!                                  | barrier, every interval     '--------actions------>'|
//!                                  v                                                     v
//!                                sealed log ---------- ship, publish ----------> replica store
//!                                                                                        |
//!                                image files <-------------- fail over ------------------+
//!                         former primary's disks <----- Follower pulls ------------------'
//! ```
//!
//! ```
//! use afterimage::block::{BlockWrite, Length, Offset, RawDisk};
//! use afterimage::{Failover, Notice, PointSelector, Protection, Store, fail_over};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = tempfile::tempdir()?;
//! let disk = folder.path().join("root.raw");
//! drop(RawDisk::create(&disk, Length::mib(8))?);
//!
//! let url = folder.path().join("replicas").display().to_string();
//! let protection = Protection::new("web-01".parse()?, vec![disk.clone()], &url);
//! let (machine, mut notices) = protection.start().await?;
//! machine.disks()[0].write_at(Offset::new(4096), b"hello")?;
//! while !matches!(notices.recv().await?, Notice::RecoveryPoint { .. }) {}
//! assert!(machine.stop().await?, "the last delta is at the replica");
//!
//! let replica = Store::open(&url).await?.replica("web-01".parse()?);
//! let out = folder.path().join("out");
//! fail_over(&replica, Failover::Planned, PointSelector::Latest, &out, |_, _| ()).await?;
//! assert_eq!(std::fs::read(out.join("root.raw"))?, std::fs::read(disk)?);
//! # Ok(())
//! # }
//! ```
//!
//! # Architecture
//!
//! *One task owns the machine* ([`ProtectedMachine`]). It makes the machine's state durable after
//! each event and before each action; actions run as tasks and answer with events. Guests' writes
//! pass through none of it: they go through the tracked disk on the NBD server's threads.
//!
//! *A barrier flushes the disks* before the generation's write intents are forgotten: from then on
//! nothing remembers which regions a power cut could have taken back.
//!
//! *What belongs to one state is saved with it.* The digest that the next log names as its predecessor
//! is saved with the barrier that made it, not when the log is sealed: a crash in between makes the
//! same generation anew, from the same predecessor.
//!
//! *A failover has a name,* and the side that it is to records it before the replica does. Whoever
//! finds the name at both may go on with it: make what is missing, be the primary once it is committed
//! ([`Protection::reverse`]), in the same identity as the primary before. So an answer that is lost is
//! asked for again, and no second side can mistake the failover for its own.
//!
//! *The way back is a pull.* The former primary's disks ([`Follow`]) are of no state while they are
//! pulled, which is recorded first; the replica and its primary know nothing of them until they are
//! failed back to. A pull that ended is marked by the files' times, so that the next one need take
//! only what the logs since then name.
//!
//! *An existing copy is a replica like any other* ([`Protection::adopt`]): images that were carried to its
//! site, or a backup there, are protected under the machine's name until they are stopped. The machine takes
//! that replica over in an epoch of its own, in which all of its disks is in doubt; so the resynchronization
//! that there is does the rest, and whoever made the copy is fenced off as any former primary is.
//!
//! *A third site needs nothing of the first* ([`Extension`]): a replica is replicated on to a further one
//! from what the store holds, its points in the further store's own logs and epochs.
//!
//! *A failover need not be waited for*: [`serve_failover`] serves the disks while their images are
//! filled, and [`open_point`] serves a point without any.
//!
//! *An idle machine is not a dead one.* A machine of which nothing is written publishes nothing, so that it
//! tells its replica that it is idle, once, and again after each [heartbeat](Policy::heartbeat), which costs a
//! request in ten minutes rather than one an interval. Only one that is silent for longer than it said
//! counts as lost ([`Liveness`]). By the heartbeat it also hears that it is fenced off, or that a scrub found
//! its replica damaged. What takes long it tells beside it: how far a copy or a resynchronization is each minute,
//! and that it is suspended.
//!
//! *After a crash* the regions that were marked since the last barrier are read from the disks again
//! and become the log of the generation that was open. The log that was being written is not needed
//! for it: what it holds is on the disk as well, and what it lost is too.

mod adopt;
mod clock;
mod divergence;
mod driver;
mod error;
mod excluded;
mod extend;
mod failover;
mod follow;
mod generations;
mod growing;
mod instant;
mod machine;
mod mend;
mod notes;
mod notice;
mod operations;
mod pull;
mod quiesce;
mod recovery;
mod resync;
mod reverse;
mod shared;
mod side;
mod state;
mod status;
mod test_failover;
mod transfer;

pub use afterimage_block as block;
pub use afterimage_nbd::ListenAddress;
pub use afterimage_replication::{
    ApplicationConsistent, Bandwidth, BandwidthRule, DivergenceToken, ErrorCode, Health, Job,
    JobAction, JobError, JobKind, JobState, JobTask, Liveness, Policy, Positions, Progress,
    Request, ResyncReason, Role, Rpo, Scope, State, Statistics, Task, TimeOfDay, Weekday, Window,
    Zone,
};
pub use afterimage_retry::Schedule;
pub use afterimage_store::{
    Damage, Key, Loss, MachineName, PointSelector, RecoveryPoint, Replica, Scrub, Scrubbed, Store,
};
pub use clock::Clock;
pub use divergence::{Divergence, DivergentDisk};
pub use error::{Error, Result};
pub use excluded::ExcludedDisk;
pub use extend::{Advanced, Extension};
pub use failover::{FailedOver, Failover, cancel, commit, fail_over};
pub use follow::{Follow, Follower, Pulled};
pub use instant::{ServedFailover, serve_failover};
pub use machine::{ProtectedMachine, Protection};
pub use notes::Diverged;
pub use notice::Notice;
pub use quiesce::QuiesceHook;
pub use recovery::{OpenedPoint, open_point};
pub use reverse::reverse;
pub use side::{SideStatus, Standing, side_status};
pub use status::{Operation, Status, status};
pub use test_failover::{TestFailover, TestPlace, TestResult, Tested, clean_up};
