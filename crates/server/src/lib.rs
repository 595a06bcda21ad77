//! A replica store served to other hosts: HTTP/2 over TLS 1.3, both sides with certificates.
//!
//! What it is: any `object_store::ObjectStore`, served under the names that the [store's
//! layout](https://github.com/afterimage-rs/afterimage/blob/main/crates/store/LAYOUT.md) gives, and a
//! client of it that is one again, conditions and entity tags included. Each certificate may touch only
//! its machines. What it is not: a store of its own, or something to be reached from anywhere without a
//! certificate.
//!
//! ```text
//! Store --> Client ==TLS, HTTP/2==> Server --rights, quota, pace--> Arc<dyn ObjectStore>
//! ```
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use afterimage_server::*;
//! use object_store::{ObjectStoreExt, memory::InMemory, path::Path};
//! use std::sync::Arc;
//!
//! let folder = tempfile::tempdir()?;
//! let authority = Authority::create(folder.path())?;
//! let here = authority.issue_server(&["localhost".into()], &folder.path().join("server"))?;
//! let host = authority.issue_client("host-1", &folder.path().join("host-1"))?;
//!
//! let grants = format!(
//!     "[[client]]\nname = 'host-1'\ncertificate = '{}'\nmachines = ['web-01']",
//!     host.fingerprint,
//! );
//! let server = Server::bind("127.0.0.1:0", &here.identity, Arc::new(InMemory::new()), grants.parse()?, Limits::default()).await?;
//! let url = format!("afterimage://localhost:{}/", server.local_addr()?.port());
//! let stop = tokio::spawn(server.run(std::future::pending()));
//!
//! let client = Client::new(&url, &host.identity)?;
//! let path = Path::from("machines/web-01/manifest.json");
//! client.put(&path, "{}".into()).await?;
//! assert_eq!(client.get(&path).await?.bytes().await?, "{}");
//! assert!(client.get(&Path::from("machines/db-01/manifest.json")).await.is_err());
//! # stop.abort();
//! # Ok(())
//! # }
//! ```
//!
//! # Architecture
//!
//! *HTTP/2, by hyper.* Conditions, ranges, lengths and refusals are HTTP's, many requests share one
//! connection with flow control, and the same library carries every cloud store of `object_store`. QUIC
//! would spare a lost packet's delay to the other streams, and costs more than twice the processor time a
//! byte in user space; a replica's requests are few and large.
//!
//! *Nothing waits for long or grows without bound.* Bodies are read into memory that is counted for all
//! connections together, within a time that depends on their length; what is read by clients streams.
//!
//! *A request that was begun is done.* What a connection's loss cuts off is the answer, not a put half
//! way; conditional puts are never repeated by the client by itself.
//!
//! # Features
//!
//! All are on by default.
//!
//! | feature | |
//! | --- | --- |
//! | `client` | [`Client`] |
//! | `serve` | [`Server`], [`Grants`], [`Limits`] |
//! | `certificates` | [`Authority`] |
//!
//! The protocol is specified in
//! [PROTOCOL.md](https://github.com/afterimage-rs/afterimage/blob/main/crates/server/PROTOCOL.md).

#[cfg(feature = "certificates")]
mod certificates;
#[cfg(feature = "client")]
mod client;
mod error;
mod identity;
mod pace;
mod protocol;
#[cfg(feature = "serve")]
mod serve;

#[cfg(feature = "certificates")]
pub use certificates::{Authority, Issued};
#[cfg(feature = "client")]
pub use client::{Client, Refused};
pub use error::{Error, Result};
pub use identity::Identity;
#[cfg(feature = "serve")]
pub use serve::{Grants, Limits, Server};
