//! The rules of a policy, one by one, in virtual time.

mod cancel;
mod fleet;
mod gaps;
mod growing;
mod heartbeat;
mod hours;
mod quiesce;
mod rpo;
mod statistics;
mod walk;
