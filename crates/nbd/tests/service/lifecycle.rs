//! How servers start, stop and survive.

use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use std::{fs, net};

use afterimage_block::{BlockRead, BlockWrite, MemoryDisk, Offset};
use afterimage_nbd::{Client, Device, Error, Exports, ListenAddress, Server, ServerOptions};

use crate::disks::{Probe, Writes};
use crate::raw::{Raw, request};
use crate::{SIZE, export, serve, serve_with, writable};

fn bind(address: &ListenAddress) -> Result<Server, Error> {
    let device = Device::ReadOnly(Arc::new(MemoryDisk::new(SIZE)));
    let exports = Exports::new(vec![export("disk", device)]).unwrap();
    Server::bind(address, exports, ServerOptions::default())
}

#[test]
fn addresses_that_others_can_reach_are_refused() {
    for address in ["tcp:0.0.0.0:0", "tcp:[::]:0", "tcp:192.0.2.1:0"] {
        let refused = bind(&address.parse().unwrap()).unwrap_err();
        assert!(matches!(refused, Error::NotLoopback(_)), "{refused}");
    }
}

#[test]
fn sockets_are_private_and_not_stolen_and_dead_ones_are_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nbd.sock");
    let address = ListenAddress::Unix(path.clone());
    drop(UnixListener::bind(&path).unwrap());
    let server = bind(&address).unwrap();
    assert_eq!(server.local_address(), address);
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let refused = bind(&address).unwrap_err();
    assert!(matches!(refused, Error::InUse(_)) && refused.is_recoverable());
    Client::open(&server.uri("disk")).unwrap();
    drop(server);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    fs::write(&path, "precious").unwrap();
    assert!(matches!(bind(&address).unwrap_err(), Error::NotASocket(_)));
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    let nowhere = ListenAddress::Unix(folder.path().join("missing/nbd.sock"));
    assert!(matches!(bind(&nowhere).unwrap_err(), Error::Io { .. }));
}

#[test]
fn a_server_removes_its_own_socket_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nbd.sock");
    let address = ListenAddress::Unix(path.clone());
    let first = bind(&address).unwrap();
    fs::remove_file(&path).unwrap();
    let second = bind(&address).unwrap();
    let inode = fs::metadata(&path).unwrap().ino();
    first.stop();
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
    Client::open(&second.uri("disk")).unwrap();
}

/// Stops the server on a thread, and returns once it takes no more connections.
fn start_to_stop(server: Server) -> thread::JoinHandle<()> {
    let ListenAddress::Tcp(address) = server.local_address() else {
        panic!("served over TCP")
    };
    let stopping = thread::spawn(move || server.stop());
    while net::TcpStream::connect(address).is_ok() {
        thread::yield_now();
    }
    stopping
}

#[test]
fn requests_in_flight_are_answered_before_the_server_stops() {
    let probe = Probe::new(Writes::WaitAtTheGate);
    let server = serve(Device::ReadWrite(probe.clone()));
    let mut raw = Raw::simple(&server);
    for cookie in 0..8 {
        raw.write(0, cookie, 512 * cookie, &[1; 512]);
    }
    probe.wait_for_writes(8);
    let stopping = start_to_stop(server);
    probe.open_the_gate();
    let mut replies: Vec<_> = (0..8).map(|_| raw.reply()).collect();
    replies.sort_unstable();
    assert_eq!(replies, (0..8).map(|c| (0, c)).collect::<Vec<_>>());
    assert!(raw.is_closed());
    stopping.join().unwrap();
    assert!(probe.disk.contents()[..4096] == [1; 4096]);
    assert_eq!(Arc::strong_count(&probe), 1, "no thread has it any more");
}

#[test]
fn requests_that_wait_when_the_server_stops_are_refused() {
    let mut options = ServerOptions::default();
    options.in_flight_max = 1;
    let probe = Probe::new(Writes::WaitAtTheGate);
    let server = serve_with(Device::ReadWrite(probe.clone()), options);
    let mut raw = Raw::simple(&server);
    let (write, trim) = (request((0, 1), 1, (0, 512)), request((0, 4), 2, (0, 512)));
    // In one piece, so that the server has both when it begins with the first.
    raw.0
        .write_all(&[write, vec![1; 512], trim].concat())
        .unwrap();
    probe.wait_for_writes(1);
    let stopping = start_to_stop(server);
    probe.open_the_gate();
    assert_eq!(raw.reply(), (0, 1));
    assert_eq!(raw.reply(), (108, 2), "ESHUTDOWN");
    assert!(raw.is_closed());
    stopping.join().unwrap();
    assert_eq!(probe.calls(), ["write"]);
}

#[test]
fn clients_that_do_not_take_their_answers_cannot_hold_up_the_stop() {
    let server = serve(writable(MemoryDisk::new(SIZE)));
    let mut raw = Raw::simple(&server);
    for cookie in 0..16 {
        raw.request((0, 0), cookie, (0, 4 << 20));
    }
    let mut idle = Raw::simple(&server);
    let mut in_the_handshake = Raw::greeted(&server);
    let begun = Instant::now();
    server.stop();
    // Five seconds are granted; only what cuts off stuck clients while serving takes thirty.
    assert!(begun.elapsed() < Duration::from_secs(25));
    assert!(idle.is_closed() && in_the_handshake.is_closed());
}

#[test]
fn a_device_that_panics_costs_its_connection_only() {
    let server = serve(Device::ReadWrite(Probe::new(Writes::Panic)));
    let mut raw = Raw::simple(&server);
    raw.write(0, 1, 0, &[1; 512]);
    assert!(raw.is_closed());
    let client = Client::open(&server.uri("disk")).unwrap();
    client.read_at(Offset::ZERO, &mut [0; 512]).unwrap();
    server.stop();
}

#[test]
fn clients_know_that_the_server_is_gone() {
    let server = serve(writable(MemoryDisk::new(SIZE)));
    let uri = server.uri("disk");
    let client = Client::open(&uri).unwrap();
    server.stop();
    assert!(client.flush().is_err());
    let again = client.flush().unwrap_err();
    assert!(again.to_string().contains("not connected"), "{again}");
    let refused = Client::open(&uri).unwrap_err();
    assert!(refused.is_recoverable(), "{refused}");
}

#[test]
fn connections_past_the_limit_are_closed_and_places_come_free() {
    let mut options = ServerOptions::default();
    options.connections_max = 2;
    let server = serve_with(writable(MemoryDisk::new(SIZE)), options);
    let (one, two) = (Raw::simple(&server), Raw::simple(&server));
    let third = Client::open(&server.uri("disk"));
    assert!(matches!(third.unwrap_err(), Error::Io { .. }));
    drop(one);
    // The server notices in its own time.
    while Client::open(&server.uri("disk")).is_err() {
        thread::yield_now();
    }
    drop(two);
}

#[test]
fn memory_is_shared_and_enough_for_every_request_in_turn() {
    let mut options = ServerOptions::default();
    options.request_length_max = afterimage_block::Length::mib(1);
    options.memory_max = afterimage_block::Length::mib(1);
    let server = serve_with(writable(MemoryDisk::new(SIZE)), options);
    thread::scope(|scope| {
        for place in 0..4_u8 {
            let uri = server.uri("disk");
            scope.spawn(move || {
                let client = Client::open(&uri).unwrap();
                let offset = Offset::new(u64::from(place) << 20);
                for turn in 0..8 {
                    let data = vec![place * 16 + turn; 1 << 20];
                    client.write_at(offset, &data).unwrap();
                    let mut back = vec![0; 1 << 20];
                    client.read_at(offset, &mut back).unwrap();
                    assert!(back == data);
                }
            });
        }
    });
}

#[test]
fn a_browser_gets_nothing() {
    let server = serve(writable(MemoryDisk::new(SIZE)));
    let ListenAddress::Tcp(address) = server.local_address() else {
        panic!("served over TCP")
    };
    let mut browser = net::TcpStream::connect(address).unwrap();
    browser
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let mut reply = Vec::new();
    let ended = std::io::Read::read_to_end(&mut browser, &mut reply);
    assert!(ended.is_ok() || ended.is_err_and(|e| e.kind() == ErrorKind::ConnectionReset));
    assert!(reply.len() <= 18, "no more than the greeting");
}
