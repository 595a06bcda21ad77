//! Any client to an NBD server.
//!
//! Laws:
//!
//! - Of the disk only what a request in the client's bytes asks for is changed, and a read-only
//!   export never.
//! - As far as the client keeps to the protocol, each request is answered, in order, with what a
//!   model of the disk says, and the disk ends as the model: what was acknowledged is there, what was
//!   refused is not.
//! - Whatever the client sent, the connection ends once the client's side does, and the next client is
//!   served the whole disk.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use afterimage_block::{BlockRead, Extent, ExtentSet, Length, MemoryDisk, Offset};
use afterimage_nbd::{Client, Device, Export, Exports, ListenAddress, Server, ServerOptions};
use arbitrary::Arbitrary;

use crate::{head_and_parts, scratch};

mod answers;
mod script;

use answers::Answers;
use script::Script;

const STEPS_MAX: usize = 48;
const DISK_BYTES: usize = 192 << 10;
/// The longest request that the server is told to take.
const REQUEST_MAX: u32 = 64 << 10;
/// No more is sent, nor asked for: it must fit the socket, since nothing is received before all is
/// sent.
const SENT_MAX: usize = 128 << 10;
/// A server that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(20);

const REQUEST_MAGIC: [u8; 4] = 0x2560_9513_u32.to_be_bytes();
const WRITES: [u16; 3] = [1, 4, 6];

#[derive(Arbitrary, Debug)]
struct Setting {
    /// How the client gets to the transmission phase.
    way: Way,
    read_only: bool,
    no_zeroes: bool,
    workers: u8,
}

#[derive(Arbitrary, Debug)]
enum Way {
    ExportName,
    Go,
    Structured,
    /// By what the steps say.
    Unknown,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Option(Choice),
    Request(Request),
    /// The end of the client's manners.
    Raw(Vec<u8>),
}

#[derive(Arbitrary, Debug)]
struct Choice {
    option: u8,
    claimed: Option<u32>,
    named: bool,
    payload: Vec<u8>,
}

#[derive(Arbitrary, Debug)]
struct Request {
    flags: u16,
    command: u8,
    offset: u32,
    far: bool,
    length: u16,
    long: bool,
    fill: u8,
}

/// Checks the laws on what `input` says.
pub fn check(input: &[u8]) {
    let Some((setting, steps)) = head_and_parts::<Setting, Step>(input, STEPS_MAX) else {
        return;
    };
    let folder = scratch();
    let contents = contents();
    let disk = Arc::new(MemoryDisk::with_contents(&contents));
    let other = Arc::new(MemoryDisk::with_contents(&contents));
    let address = ListenAddress::Unix(folder.path().join("s"));
    let server = serve(&address, &setting, &disk, &other);

    let mut script = Script::new(&setting);
    for step in &steps {
        script.add(step);
    }
    let received = converse(&folder.path().join("s"), &script.sent);

    if let Some(greeting) = &script.greeting {
        let answers = received.strip_prefix(&greeting[..]);
        let answers = answers.expect("the handshake is foretold");
        let mut answers = Answers::new(answers, script.structured);
        let mut model = contents.clone();
        for request in &script.requests {
            answers.check(request, &mut model, script.read_only);
        }
        if !script.raw {
            assert!(answers.is_done(), "an answer too many");
            let disk = if script.read_only { &other } else { &disk };
            assert!(disk.contents() == model, "not what was acknowledged");
        }
    }
    assert!(other.contents() == contents, "a read-only disk was changed");
    only_what_was_asked(&script.sent, &contents, &disk.contents());
    next_client(&server, &disk);
    server.stop();
    assert!(
        !folder.path().join("s").exists(),
        "the socket is left behind"
    );
}

/// Data, zeros that are stored, and a hole.
fn contents() -> Vec<u8> {
    let mut contents = vec![0; DISK_BYTES];
    for (at, byte) in contents[..70_000].iter_mut().enumerate() {
        *byte = u8::try_from(at % 251).unwrap_or_default();
    }
    contents[180_000..].fill(0xEE);
    contents
}

fn serve(
    address: &ListenAddress,
    setting: &Setting,
    disk: &Arc<MemoryDisk>,
    other: &Arc<MemoryDisk>,
) -> Server {
    let export = |name: &str, device| Export {
        name: name.into(),
        description: "made up".into(),
        device,
    };
    let writable = export("disk", Device::ReadWrite(Arc::clone(disk) as _));
    let read_only = export("other", Device::ReadOnly(Arc::clone(other) as _));
    let exports = Exports::new(vec![writable, read_only]).expect("the names differ");
    let mut options = ServerOptions::default();
    options.request_length_max = Length::new(REQUEST_MAX.into());
    options.memory_max = Length::kib(256);
    // Answers come in order only from one worker; without a model the order does not matter.
    options.in_flight_max = match setting.way {
        Way::Unknown => 1 + usize::from(setting.workers % 4),
        _ => 1,
    };
    Server::bind(address, exports, options).expect("a socket can be made")
}

/// Sends all, then reads all until the server hangs up.
fn converse(path: &Path, sent: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(path).expect("the server listens");
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("it can be set");
    stream
        .set_write_timeout(Some(PATIENCE))
        .expect("it can be set");
    // The server may hang up in the middle.
    let _ = stream.write_all(sent);
    let _ = stream.shutdown(Shutdown::Write);
    let mut received = Vec::new();
    if let Err(error) = stream.read_to_end(&mut received) {
        let reset = error.kind() == std::io::ErrorKind::ConnectionReset;
        assert!(reset, "the server hangs: {error}");
    }
    received
}

fn only_what_was_asked(sent: &[u8], before: &[u8], after: &[u8]) {
    let asked: ExtentSet = sent.windows(28).filter_map(asked).collect();
    let disk = Extent::whole(Length::of(before)).expect("there is a disk");
    for gap in asked.gaps(disk) {
        let at = |offset: Offset| usize::try_from(offset.get()).expect("the disk is small");
        let range = at(gap.start())..at(gap.end());
        assert!(
            before[range.clone()] == after[range],
            "changed unasked: {gap}"
        );
    }
}

/// What the request in `frame`, if it is one, asks to be changed.
fn asked(frame: &[u8]) -> Option<Extent> {
    let (magic, rest) = frame.split_at(4);
    let command = u16::from_be_bytes(rest[2..4].try_into().ok()?);
    if magic != REQUEST_MAGIC || !WRITES.contains(&command) {
        return None;
    }
    let offset = u64::from_be_bytes(rest[12..20].try_into().ok()?);
    let length = u32::from_be_bytes(rest[20..24].try_into().ok()?);
    Extent::new(Offset::new(offset), Length::new(length.into())).ok()
}

fn next_client(server: &Server, disk: &MemoryDisk) {
    let client = Client::open(&server.uri("disk")).expect("the server still serves");
    let mut read = vec![0; DISK_BYTES];
    for (number, part) in read.chunks_mut(REQUEST_MAX as usize).enumerate() {
        let at = Offset::new(number as u64 * u64::from(REQUEST_MAX));
        client.read_at(at, part).expect("the disk is read");
    }
    assert!(read == disk.contents());
}
