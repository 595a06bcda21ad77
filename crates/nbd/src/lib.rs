//! A small NBD server, and a client, for block devices.
//!
//! What it is: the [Network Block Device] protocol (fixed newstyle, simple and structured replies,
//! block status) over [`BlockRead`](afterimage_block::BlockRead) and
//! [`BlockWrite`](afterimage_block::BlockWrite), fast enough that the device is the limit. What it
//! is not: a network service for strangers. There is no TLS, so it listens on Unix sockets that only
//! their owner can open, and on TCP loopback.
//!
//! ```text
//! client --socket--> handshake --> transmission: up to 16 workers take turns to read a request,
//!                    (export)      do the I/O, and send the reply out of order
//! ```
//!
//! ```
//! use std::sync::Arc;
//! use afterimage_block::{BlockRead, BlockWrite, Length, MemoryDisk, Offset};
//! use afterimage_nbd::{Client, Device, Export, Exports, Server, ServerOptions};
//!
//! let disk = Arc::new(MemoryDisk::new(Length::mib(1)));
//! let exports = Exports::new(vec![Export {
//!     name: "disk".into(),
//!     description: String::new(),
//!     device: Device::ReadWrite(disk),
//! }])?;
//! let server = Server::bind(&"tcp:127.0.0.1:0".parse()?, exports, ServerOptions::default())?;
//!
//! let client = Client::open(&server.uri("disk"))?;
//! client.write_at(Offset::new(512), b"hello")?;
//! let mut back = [0; 5];
//! client.read_at(Offset::new(512), &mut back)?;
//! assert_eq!(&back, b"hello");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What it takes
//!
//! Options: EXPORT_NAME, ABORT, LIST, INFO, GO, STRUCTURED_REPLY, LIST_META_CONTEXT and
//! SET_META_CONTEXT with `base:allocation`. Commands: READ (holes are told, not sent), WRITE, FLUSH,
//! TRIM, WRITE_ZEROES, BLOCK_STATUS, DISC, with FUA, NO_HOLE, DF and REQ_ONE. A flush on one
//! connection covers all. FAST_ZERO is not offered, since a hole cannot be promised on every
//! filesystem; a request with the flag gets EINVAL, as the specification asks.
//!
//! # Architecture
//!
//! Threads, not an async runtime: block I/O through the page cache is synchronous, and a worker that
//! reads the request, does the I/O and writes the reply never hands anything over to anybody. Memory
//! is bounded: the longest request and the sum of all in flight are limits of [`ServerOptions`]. A
//! client that stops in the middle of a request or does not take its replies is cut off after 30
//! seconds; an idle one may stay for as long as it likes.
//!
//! [Network Block Device]: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md

#![warn(clippy::indexing_slicing)]

mod address;
mod client;
mod error;
mod export;
mod handshake;
mod listener;
mod pool;
mod protocol;
mod responder;
mod runs;
mod server;
mod stream;
mod transmission;

pub use address::ListenAddress;
pub use client::Client;
pub use error::{Error, Result};
pub use export::{Device, Export, Exports};
pub use server::{Server, ServerOptions};
