//! Recovery plans, as values: no clock, no thread, no process.
//!
//! What it is: which machine is failed over when, and what a run that crashed does next. What it is
//! not: the failover itself, which the caller does when told to.
//!
//! ```text
//! TOML -> Plan --> Run::begin -> tasks -> (save the run, then do them) -> Run::finish
//!                     ^                                                        |
//!                     +--------------------------------------------------------+
//! ```
//!
//! ```
//! use afterimage_plan::{Kind, Plan, Run};
//!
//! let plan = Plan::parse(r#"
//!     name = "shop"
//!     on_error = "stop"              # or "continue"; "stop" unless given
//!
//!     [[group]]
//!     name = "database"
//!     machines = ["db1", "db2"]
//!     after = [{ pause = { message = "check the database" } }]
//!
//!     [[group]]
//!     name = "web"
//!     machines = ["web1"]
//!     before = [{ command = { argv = ["./dns", "--switch"], limit_secs = 60 } }]
//! "#)?;
//! plan.validate(["db1", "db2", "web1"])?;
//! let mut run = Run::new(&plan, Kind::Planned);
//! let tasks = run.begin(0);
//! assert_eq!(tasks.len(), 2); // both databases at once, nothing else yet
//! # Ok::<(), afterimage_plan::Error>(())
//! ```
//!
//! # The file
//!
//! | key | meaning |
//! | --- | --- |
//! | `name` | the plan's name, not empty |
//! | `on_error` | `stop` (default): begin nothing after a stage with a failure; `continue`: go on |
//! | `group` | the groups, 1 or more, in the order in which they run |
//! | `group.name` | not empty, once in a plan |
//! | `group.machines` | 1 or more; a machine stands once in a plan, and a plan has at most 100 |
//! | `group.before`, `group.after` | actions, one after the other |
//! | `command.argv` | program and arguments, no shell; program not empty |
//! | `command.limit_secs` | time limit in seconds, 1 to 86400 |
//! | `pause.message` | what the operator has to do before the run goes on, not empty |
//!
//! Unknown keys are refused.
//!
//! # After a crash
//!
//! [`Run::begin`] records tasks as begun before it hands them out. The caller saves the run before it
//! does them, so that no task can have been done that is not recorded. [`Run::begun`] then names those
//! whose end is unknown: the caller finds out and calls [`Run::finish`], or [`Run::again`] for one that
//! is proved not to have happened.
//!
//! A saved run has a format number; one that is damaged, or of another format, is refused as a whole.

mod plan;
mod run;

pub use plan::{Action, Error, Group, OnError, Plan};
pub use run::{Kind, Outcome, Run, SavedError, State, Task, TaskError, Work};
