//! The engine on real files: what bad input gets, and what its owner can ask of it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod adopt;
mod excluded;
mod extend;
mod fixture;
mod follow;
mod growing;
mod mending;
mod refusals;
mod requests;
mod reverse;
mod served;
