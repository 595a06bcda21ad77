//! The server and the client against each other, and each against peers that get it wrong.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod clients;
mod disks;
mod handshake;
mod hostile_server;
mod lifecycle;
mod model;
mod raw;
mod requests;

use std::sync::Arc;

use afterimage_block::{BlockWrite, Extent, Length, Offset};
use afterimage_nbd::{Device, Export, Exports, ListenAddress, Server, ServerOptions};

/// The size of most disks here, not a whole number of pages.
const SIZE: Length = Length::new((4 << 20) + 512);

fn export(name: &str, device: Device) -> Export {
    Export {
        name: name.into(),
        description: format!("the disk {name}"),
        device,
    }
}

fn anywhere() -> ListenAddress {
    "tcp:127.0.0.1:0".parse().unwrap()
}

/// Serves one export called `disk`.
fn serve(device: Device) -> Server {
    serve_with(device, ServerOptions::default())
}

fn serve_with(device: Device, options: ServerOptions) -> Server {
    let exports = Exports::new(vec![export("disk", device)]).unwrap();
    Server::bind(&anywhere(), exports, options).unwrap()
}

fn writable(disk: impl BlockWrite + 'static) -> Device {
    Device::ReadWrite(Arc::new(disk))
}

fn extent(start: u64, length: u64) -> Extent {
    Extent::new(Offset::new(start), Length::new(length)).unwrap()
}
