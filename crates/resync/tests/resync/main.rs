//! Resyncs of small disks, against a model and with faults.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod control;
mod disk;
mod faults;
mod large;
mod laws;
mod remote;
mod resume;
mod world;
