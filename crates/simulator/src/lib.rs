//! A deterministic simulator of replication between two or three sites: one seed, one history.
//!
//! What it is: a world of two sites with disks, write intents and change logs, an object store
//! between them, at times a third site that the replica is replicated on to, guests that write,
//! owners and operators that ask for things, and clocks - in which the crates that are tried run as
//! they are: the state machine, tracked disks, change logs, the resynchronization, the store, and the
//! engine's replication on to a further site. What is simulated is what surrounds them: the disks' volatile
//! caches, the network, time, chance; and the driver that carries the machine's actions out, which is
//! modelled after the engine's. What it is not: a test of the engine's own threads, which the engine's
//! kill test is.
//!
//! ```text
//!  guest -> tracked disk -> change log        Machine        faults: lost, late, twice, cut, flipped
//!             |    crash, loss of power          |                     |
//!  site 0  simulated disk                     transfers --requests--> adapter --> object store
//!  site 1  simulated disk <-- failover, pull, reverse, failback ----------'            |  ^
//!                                                              extension <-------------'  |
//!  site 2  <-- takes over when both are lost -- further store <----'   observer checks ---'
//! ```
//!
//! ```
//! use afterimage_simulator::{Mark, Plant, Simulation};
//!
//! let report = Simulation::new(300).run(1).expect("seed 1 holds");
//! assert!(report.coverage.count(Mark::Point) > 0);
//!
//! let planted = Simulation::new(300).plant(Plant::DroppedForgotten);
//! let caught = (0..50).find_map(|seed| planted.run(seed).err());
//! println!("{}", caught.map(|violation| violation.replay()).unwrap_or_default());
//! ```
//!
//! # Architecture
//!
//! *A step is one thing that happens*: a write, one request to the store, one local action, one answer
//! that is heard, a timeout, a crash, a request of an owner. Work on the store is futures that are
//! polled by hand and wait for their turn before every request, so that anything can come in between:
//! writes, crashes, the other site's operator.
//!
//! *Two phases.* First everything goes wrong. Then the faults stop, owners and operators do what is
//! right, and the replica must come to hold what the primary does, and the third site what the replica
//! does. At last both other sites may be lost, and the machine goes on from the third one.
//!
//! *An observer* reads the store without faults. Whenever a manifest is replaced, whatever was
//! answered, it checks who did it and reads each new recovery point back, byte for byte.
//!
//! *Each seed draws its own options*: sizes, regions, policy, how often things happen and which faults
//! there are.
//!
//! *Files are real*, in a folder in memory: a crash needs of them only what was forced before, and the
//! formats are read back by the code that is tried.

mod backend;
mod coverage;
mod disk;
mod error;
mod hub;
mod objects;
mod operator;
mod options;
mod oracle;
mod plant;
mod random;
mod simulation;
mod site;
mod third;
mod tracking;
mod transfer;
mod violation;
mod world;

pub use backend::{Backend, Memory};
pub use coverage::{Coverage, Mark};
pub use plant::{Plant, UnknownPlant};
pub use simulation::{Report, Simulation};
pub use violation::{Invariant, Violation};
