//! The server and the client against each other, and the server against bad clients.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use afterimage_block::{
    BlockRead, BlockWrite, Error as BlockError, Extent, Length, MemoryDisk, Offset, Result,
    RunKind, Zeroing,
};
use afterimage_nbd::{
    Client, Device, Error, Export, Exports, ListenAddress, Server, ServerOptions,
};

const SIZE: Length = Length::new((4 << 20) + 512);

fn export(name: &str, device: Device) -> Export {
    Export {
        name: name.into(),
        description: format!("the disk {name}"),
        device,
    }
}

fn serve(device: Arc<dyn BlockWrite>) -> Server {
    let exports = Exports::new(vec![export("disk", Device::ReadWrite(device))]).unwrap();
    let anywhere = "tcp:127.0.0.1:0".parse().unwrap();
    Server::bind(&anywhere, exports, ServerOptions::default()).unwrap()
}

fn extent(start: u64, length: u64) -> Extent {
    Extent::new(Offset::new(start), Length::new(length)).unwrap()
}

/// Four threads, each with a connection of its own and a quarter of the disk, against one model.
#[test]
fn many_connections_write_what_they_mean() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(MemoryDisk::new(SIZE));
    let exports = Exports::new(vec![export("a/ä", Device::ReadWrite(disk.clone()))]).unwrap();
    let address = ListenAddress::Unix(folder.path().join("nbd.sock"));
    let server = Server::bind(&address, exports, ServerOptions::default()).unwrap();
    let model = Mutex::new(vec![0; SIZE.to_usize().unwrap()]);
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (server, model) = (&server, &model);
            scope.spawn(move || {
                let client = Client::open(&server.uri("a/ä")).unwrap();
                assert_eq!(client.size(), SIZE);
                let mut seed = thread + 1;
                for _ in 0..200 {
                    seed = seed
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(99);
                    let start = (thread << 20) + (seed >> 40) % (1 << 19);
                    let length = 1 + (seed >> 20) % (1 << 19);
                    let range =
                        usize::try_from(start).unwrap()..usize::try_from(start + length).unwrap();
                    let value = u8::try_from(seed >> 56).unwrap();
                    let (value, zero) = if value < 64 {
                        (0, true)
                    } else {
                        (value, false)
                    };
                    if zero {
                        client
                            .write_zeroes(extent(start, length), Zeroing::Deallocate)
                            .unwrap();
                    } else {
                        let data = vec![value; range.len()];
                        client.write_at(Offset::new(start), &data).unwrap();
                    }
                    model.lock().unwrap()[range.clone()].fill(value);
                    let mut back = vec![1; range.len()];
                    client.read_at(Offset::new(start), &mut back).unwrap();
                    assert!(back.iter().all(|byte| *byte == value));
                }
                client.flush().unwrap();
            });
        }
    });
    assert!(disk.contents() == *model.lock().unwrap());
    server.stop();
    assert!(!folder.path().join("nbd.sock").exists());
}

#[test]
fn holes_are_mapped() {
    let disk = Arc::new(MemoryDisk::new(SIZE));
    disk.write_at(Offset::new(1 << 20), &[1; 8192]).unwrap();
    let server = serve(disk);
    let client = Client::open(&server.uri("disk")).unwrap();
    let mut runs = Vec::new();
    let mut at = Offset::ZERO;
    while let Some(run) = client.next_run(at).unwrap() {
        at = run.extent.end();
        runs.push((run.extent.start().get(), run.kind));
    }
    let data = 1 << 20;
    let expected = [
        (0, RunKind::Hole),
        (data, RunKind::Data),
        (data + 8192, RunKind::Hole),
    ];
    assert_eq!(runs, expected);
    assert_eq!(at.get(), SIZE.get());
}

#[test]
fn the_first_export_is_the_default_and_unknown_ones_are_refused() {
    let device = |size| Device::ReadWrite(Arc::new(MemoryDisk::new(Length::new(size))));
    let exports = vec![export("one", device(512)), export("two", device(1024))];
    let exports = Exports::new(exports).unwrap();
    let anywhere = "tcp:127.0.0.1:0".parse().unwrap();
    let server = Server::bind(&anywhere, exports, ServerOptions::default()).unwrap();
    let size =
        |name: &str| Client::connect(&server.local_address(), name).map(|client| client.size());
    assert_eq!(size("").unwrap(), Length::new(512));
    assert_eq!(size("two").unwrap(), Length::new(1024));
    let refused = size("three").unwrap_err();
    assert!(matches!(refused, Error::Refused { .. }), "{refused}");
    let twice = vec![export("one", device(512)), export("one", device(512))];
    assert!(matches!(
        Exports::new(twice),
        Err(Error::DuplicateExport(_))
    ));
}

#[test]
fn read_only_exports_take_no_writes() {
    let device = Device::ReadOnly(Arc::new(MemoryDisk::new(SIZE)));
    let exports = Exports::new(vec![export("disk", device)]).unwrap();
    let anywhere = "tcp:127.0.0.1:0".parse().unwrap();
    let server = Server::bind(&anywhere, exports, ServerOptions::default()).unwrap();
    let client = Client::open(&server.uri("disk")).unwrap();
    let error = client.write_at(Offset::ZERO, &[1; 512]).unwrap_err();
    assert!(error.to_string().contains("not permitted"), "{error}");
    client.read_at(Offset::ZERO, &mut [0; 512]).unwrap();
}

#[test]
fn addresses_that_others_can_reach_are_refused() {
    let exports = Exports::new(vec![export(
        "disk",
        Device::ReadOnly(Arc::new(MemoryDisk::new(SIZE))),
    )]);
    let open = "tcp:0.0.0.0:0".parse().unwrap();
    let refused = Server::bind(&open, exports.unwrap(), ServerOptions::default());
    assert!(matches!(refused.unwrap_err(), Error::NotLoopback(_)));
}

#[test]
fn sockets_are_private_and_not_stolen_and_dead_ones_are_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nbd.sock");
    let address = ListenAddress::Unix(path.clone());
    let bind = || {
        let device = Device::ReadOnly(Arc::new(MemoryDisk::new(SIZE)));
        let exports = Exports::new(vec![export("disk", device)]).unwrap();
        Server::bind(&address, exports, ServerOptions::default())
    };
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let server = bind().unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(matches!(bind().unwrap_err(), Error::InUse(_)));
    drop(server);
    std::fs::write(&path, "precious").unwrap();
    assert!(bind().is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

/// A disk whose writes take a while, and whose every other operation does not.
struct Slow(MemoryDisk);

impl BlockRead for Slow {
    fn size(&self) -> Length {
        self.0.size()
    }
    fn read_at(&self, offset: Offset, buf: &mut [u8]) -> Result<()> {
        self.0.read_at(offset, buf)
    }
}

impl BlockWrite for Slow {
    fn write_at(&self, offset: Offset, data: &[u8]) -> Result<()> {
        std::thread::sleep(Duration::from_millis(300));
        self.0.write_at(offset, data)
    }
    fn write_zeroes(&self, extent: Extent, zeroing: Zeroing) -> Result<()> {
        self.0.write_zeroes(extent, zeroing)
    }
    fn discard(&self, extent: Extent) -> Result<()> {
        self.0.discard(extent)
    }
    fn flush(&self) -> Result<()> {
        Err(BlockError::Io {
            operation: "flush",
            device: "slow".into(),
            offset: Offset::ZERO,
            length: SIZE,
            source: std::io::ErrorKind::StorageFull.into(),
        })
    }
}

/// A client that speaks the protocol byte by byte, and so can get it wrong.
struct Raw(TcpStream);

impl Raw {
    /// Connects and goes through the handshake by EXPORT_NAME.
    fn transmission(server: &Server) -> Self {
        let mut raw = Self::greeted(server);
        raw.option(1, b"disk");
        let mut facts = [0; 10];
        raw.0.read_exact(&mut facts).unwrap();
        assert_eq!(facts[..8], SIZE.get().to_be_bytes());
        raw
    }

    fn greeted(server: &Server) -> Self {
        let ListenAddress::Tcp(address) = server.local_address() else {
            panic!("served over TCP")
        };
        let mut stream = TcpStream::connect(address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
        stream.write_all(&3_u32.to_be_bytes()).unwrap();
        Self(stream)
    }

    fn option(&mut self, option: u32, payload: &[u8]) {
        let mut frame = b"IHAVEOPT".to_vec();
        frame.extend(option.to_be_bytes());
        frame.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
        frame.extend(payload);
        self.0.write_all(&frame).unwrap();
    }

    fn option_reply(&mut self) -> u32 {
        let mut header = [0; 20];
        self.0.read_exact(&mut header).unwrap();
        let length = u32::from_be_bytes(header[16..].try_into().unwrap());
        self.0.read_exact(&mut vec![0; length as usize]).unwrap();
        u32::from_be_bytes(header[12..16].try_into().unwrap())
    }

    fn request(&mut self, flags: u16, command: u16, cookie: u64, offset: u64, length: u32) {
        let mut frame = 0x2560_9513_u32.to_be_bytes().to_vec();
        frame.extend(flags.to_be_bytes());
        frame.extend(command.to_be_bytes());
        frame.extend(cookie.to_be_bytes());
        frame.extend(offset.to_be_bytes());
        frame.extend(length.to_be_bytes());
        self.0.write_all(&frame).unwrap();
    }

    /// The error and the cookie of a simple reply.
    fn reply(&mut self) -> (u32, u64) {
        let mut reply = [0; 16];
        self.0.read_exact(&mut reply).unwrap();
        assert_eq!(reply[..4], 0x6744_6698_u32.to_be_bytes());
        let error = u32::from_be_bytes(reply[4..8].try_into().unwrap());
        (error, u64::from_be_bytes(reply[8..].try_into().unwrap()))
    }

    fn is_closed(&mut self) -> bool {
        matches!(self.0.read(&mut [0; 1]), Ok(0))
            || self
                .0
                .write_all(&[0; 64])
                .and_then(|()| self.0.read(&mut [0; 1]))
                .is_err()
    }
}

#[test]
fn answers_come_out_of_order() {
    let server = serve(Arc::new(Slow(MemoryDisk::new(SIZE))));
    let mut raw = Raw::transmission(&server);
    raw.request(0, 1, 77, 0, 512);
    raw.0.write_all(&[9; 512]).unwrap();
    for cookie in 1..16 {
        raw.request(0, 4, cookie, 4096 * cookie, 512);
    }
    let order: Vec<u64> = (0..16)
        .map(|_| raw.reply())
        .map(|(error, cookie)| {
            assert_eq!(error, 0);
            cookie
        })
        .collect();
    assert_eq!(order.last(), Some(&77), "{order:?}");
}

#[test]
fn bad_requests_get_their_error_and_the_connection_lives() {
    let server = serve(Arc::new(Slow(MemoryDisk::new(SIZE))));
    let mut raw = Raw::transmission(&server);
    let size = SIZE.get();
    let cases = [
        ("read past the end", 0, 0, size - 100, 512, 22),
        ("trim past the end", 0, 4, size, 512, 28),
        ("offset overflow", 0, 4, u64::MAX - 5, 512, 22),
        ("empty read", 0, 0, 0, 0, 22),
        ("unknown command", 0, 99, 0, 512, 22),
        ("unknown flag", 1 << 9, 0, 0, 512, 22),
        ("fast zero, which is not offered", 1 << 4, 6, 0, 512, 22),
        ("read too long", 0, 0, 0, 33 << 20, 75),
        ("block status without a context", 0, 7, 0, 512, 22),
        ("flush that has no space", 0, 3, 0, 0, 28),
    ];
    for (what, flags, command, offset, length, expected) in cases {
        raw.request(flags, command, 5, offset, length);
        assert_eq!(raw.reply(), (expected, 5), "{what}");
    }
    raw.request(0, 1, 6, size - 256, 512);
    raw.0.write_all(&[1; 512]).unwrap();
    assert_eq!(raw.reply(), (28, 6), "a write past the end");
    raw.request(0, 1, 7, 0, 5 << 20);
    raw.0.write_all(&vec![1; 5 << 20]).unwrap();
    assert_eq!(raw.reply(), (75, 7), "a write too long is read and refused");
    raw.request(0, 0, 8, 0, 1);
    assert_eq!(raw.reply(), (0, 8), "the connection lives");
}

#[test]
fn clients_that_break_the_protocol_are_cut_off_and_others_are_not() {
    let server = serve(Arc::new(MemoryDisk::new(SIZE)));
    let mut wrong_magic = Raw::transmission(&server);
    wrong_magic.0.write_all(&[0x55; 28]).unwrap();
    assert!(wrong_magic.is_closed());

    let mut half_request = Raw::transmission(&server);
    half_request.request(0, 1, 1, 0, 4096);
    half_request.0.write_all(&[0; 100]).unwrap();
    drop(half_request);

    let mut unknown_export = Raw::greeted(&server);
    unknown_export.option(1, b"nothing");
    assert!(unknown_export.is_closed());

    let mut wrong_option_magic = Raw::greeted(&server);
    wrong_option_magic.0.write_all(&[0; 16]).unwrap();
    assert!(wrong_option_magic.is_closed());

    let client = Client::open(&server.uri("disk")).unwrap();
    client.read_at(Offset::ZERO, &mut [0; 512]).unwrap();
}

#[test]
fn bad_options_are_refused_one_by_one() {
    let server = serve(Arc::new(MemoryDisk::new(SIZE)));
    let mut raw = Raw::greeted(&server);
    let mut refusal = |option, payload: &[u8]| {
        raw.option(option, payload);
        raw.option_reply() & 0x7fff_ffff
    };
    assert_eq!(refusal(5, b""), 1, "TLS is not supported");
    assert_eq!(refusal(4711, b"?"), 1, "an unknown option");
    assert_eq!(refusal(3, b"x"), 3, "LIST with data");
    assert_eq!(refusal(7, &[0, 0, 0, 9, b'x']), 3, "a name cut short");
    assert_eq!(
        refusal(7, &[0, 0, 0, 0, 0, 2, 0, 3]),
        3,
        "a count that lies"
    );
    assert_eq!(
        refusal(7, &[0, 0, 0, 1, b'x', 0, 0]),
        6,
        "an unknown export"
    );
    assert_eq!(
        refusal(10, &[0, 0, 0, 0, 0, 0, 0, 0]),
        3,
        "contexts before structured replies"
    );
    assert_eq!(refusal(6, &vec![0; 100_000]), 9, "a long option");
    raw.option(7, &[0, 0, 0, 0, 0, 0]);
    assert_eq!(raw.option_reply(), 3, "the export's facts");
}

#[test]
fn requests_in_flight_are_answered_before_the_server_stops() {
    let server = serve(Arc::new(Slow(MemoryDisk::new(SIZE))));
    let mut raw = Raw::transmission(&server);
    for cookie in 0..8 {
        raw.request(0, 1, cookie, 512 * cookie, 512);
        raw.0.write_all(&[1; 512]).unwrap();
    }
    std::thread::sleep(Duration::from_millis(100));
    server.stop();
    let mut cookies: Vec<u64> = (0..8).map(|_| raw.reply().1).collect();
    cookies.sort_unstable();
    assert_eq!(cookies, (0..8).collect::<Vec<_>>());
    assert!(raw.is_closed());
}
