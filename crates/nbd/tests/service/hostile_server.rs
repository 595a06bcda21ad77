//! The client against servers that break the protocol.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::{self, JoinHandle};

use afterimage_block::{BlockRead, BlockWrite, Error as BlockError, Offset, RunKind};
use afterimage_nbd::{Client, Error, ListenAddress};

const SIZE: u64 = 1 << 20;

/// A server of one connection that says what the test wants, whatever the client asks.
struct Script {
    address: ListenAddress,
    thread: JoinHandle<io::Result<()>>,
}

impl Script {
    fn new(run: impl FnOnce(&mut TcpStream) -> io::Result<()> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = ListenAddress::Tcp(listener.local_addr().unwrap());
        let thread = thread::spawn(move || run(&mut listener.accept()?.0));
        Self { address, thread }
    }

    fn connect(&self) -> Result<Client, Error> {
        Client::connect(&self.address, "disk")
    }

    fn violation(self) -> &'static str {
        let error = self.connect().unwrap_err();
        // The client hangs up in the middle, so that the script may fail.
        let _ = self.thread.join().unwrap();
        match error {
            Error::Protocol { violation, .. } => violation,
            other => panic!("{other}"),
        }
    }
}

fn skip(stream: &mut TcpStream, count: usize) -> io::Result<()> {
    stream.read_exact(&mut vec![0; count])
}

fn skip_option(stream: &mut TcpStream) -> io::Result<()> {
    skip(stream, 12)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    skip(stream, u32::from_be_bytes(length) as usize)
}

fn reply(option: u32, kind: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = 0x0003_e889_0455_65a9_u64.to_be_bytes().to_vec();
    frame.extend(option.to_be_bytes());
    frame.extend(kind.to_be_bytes());
    frame.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
    frame.extend(payload);
    frame
}

fn greet(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"NBDMAGICIHAVEOPT\0\x03")?;
    skip(stream, 4)
}

/// Greets and answers the two options that come before GO.
fn up_to_go(stream: &mut TcpStream, context_id: u32) -> io::Result<()> {
    greet(stream)?;
    skip_option(stream)?;
    stream.write_all(&reply(8, 1, b""))?;
    skip_option(stream)?;
    let context = [&context_id.to_be_bytes()[..], b"base:allocation"].concat();
    stream.write_all(&reply(10, 4, &context))?;
    stream.write_all(&reply(10, 1, b""))?;
    skip_option(stream)
}

/// A whole handshake for an export of `size` with every flag but READ_ONLY.
fn handshake(stream: &mut TcpStream, size: u64, context_id: u32) -> io::Result<()> {
    up_to_go(stream, context_id)?;
    let facts = [&[0; 2][..], &size.to_be_bytes(), &[1, 0xed]].concat();
    stream.write_all(&reply(7, 3, &facts))?;
    stream.write_all(&reply(7, 1, b""))
}

/// Calls `operate` on a client whose every request is answered with `bytes`.
fn answered<T>(
    bytes: Vec<u8>,
    operate: impl FnOnce(&Client) -> afterimage_block::Result<T>,
) -> afterimage_block::Result<T> {
    let script = Script::new(move |stream| {
        handshake(stream, SIZE, 42)?;
        skip(stream, 28)?;
        stream.write_all(&bytes)
    });
    let client = script.connect().unwrap();
    let result = operate(&client);
    drop(client);
    script.thread.join().unwrap().unwrap();
    result
}

/// A chunk of a reply to the first request, whose cookie is 1.
fn chunk(flags: u16, kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = 0x668e_33ef_u32.to_be_bytes().to_vec();
    frame.extend(flags.to_be_bytes());
    frame.extend(kind.to_be_bytes());
    frame.extend(1_u64.to_be_bytes());
    frame.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
    frame.extend(payload);
    frame
}

fn data(flags: u16, offset: u64, bytes: &[u8]) -> Vec<u8> {
    chunk(flags, 1, &[&offset.to_be_bytes()[..], bytes].concat())
}

fn violation_of<T>(result: afterimage_block::Result<T>) -> String {
    let source = match result {
        Err(BlockError::Io { source, .. }) => source,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("the client takes it"),
    };
    let inner = source.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        Some(Error::Protocol { violation, .. }) => (*violation).to_owned(),
        _ => panic!("{source}"),
    }
}

#[test]
fn bad_handshakes_are_told_apart() {
    let not_nbd = Script::new(|stream| stream.write_all(&[b'x'; 18]));
    assert!(not_nbd.violation().contains("greeting"));
    let old = Script::new(|stream| stream.write_all(b"NBDMAGICIHAVEOPT\0\0"));
    assert!(old.violation().contains("fixed newstyle"));
    let malformed: [fn() -> Vec<u8>; 3] = [
        || vec![0; 20],
        || reply(9, 1, b""),
        || [&reply(8, 1, b"")[..16], &u32::MAX.to_be_bytes()].concat(),
    ];
    for bytes in malformed {
        let script = Script::new(move |stream| {
            greet(stream)?;
            stream.write_all(&bytes())
        });
        assert!(script.violation().contains("malformed"));
    }
    let endless = Script::new(|stream| {
        greet(stream)?;
        (0..100_000).try_for_each(|_| stream.write_all(&reply(8, 3, b"")))
    });
    assert!(endless.violation().contains("too many replies"));
    let silent = Script::new(|stream| {
        up_to_go(stream, 1)?;
        stream.write_all(&reply(7, 1, b""))
    });
    assert!(silent.violation().contains("size"));
    let no_blocks = Script::new(|stream| {
        up_to_go(stream, 1)?;
        stream.write_all(&reply(7, 3, &[0, 3, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0]))?;
        stream.write_all(&reply(7, 1, b""))
    });
    assert!(no_blocks.violation().contains("block sizes"));
}

#[test]
fn sizes_that_are_no_disk_are_refused() {
    let script = Script::new(|stream| handshake(stream, 513, 1));
    assert!(matches!(
        script.connect(),
        Err(Error::NotWholeSectors { .. })
    ));
}

#[test]
fn refusals_carry_what_the_server_said_and_nothing_for_the_terminal() {
    let script = Script::new(|stream| {
        up_to_go(stream, 1)?;
        stream.write_all(&reply(7, (1 << 31) | 2, b"not \x1b[31mtoday"))
    });
    let error = script.connect().unwrap_err();
    let text = error.to_string();
    assert!(matches!(
        error,
        Error::Refused {
            code: 0x8000_0002,
            ..
        }
    ));
    assert!(text.contains("not \\u{1b}[31mtoday"), "{text}");
}

#[test]
fn bad_replies_to_a_read_are_told_apart() {
    let half = data(0, 0, &[1; 256]);
    let mut other_cookie = data(1, 0, &[1; 512]);
    other_cookie[15] = 2;
    let simple = [
        &0x6744_6698_u32.to_be_bytes()[..],
        &[0; 11],
        &[1],
        &[0; 512],
    ]
    .concat();
    let mut too_long = chunk(1, 0x8001, &[]);
    too_long[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
    let endless = chunk(0, 0x8002, &[0, 0, 0, 5, 0, 0]).repeat(2000);
    let cases = [
        ("wrong magic", [&[0; 8][..], &1_u64.to_be_bytes()].concat()),
        ("another request", other_cookie),
        ("simple reply", simple),
        ("outside", data(1, 4096, &[1; 512])),
        ("outside", data(1, 0, &[1; 513])),
        ("outside", data(1, u64::MAX, &[1; 512])),
        ("outside", data(1, 0, &[])),
        ("overlap", [half.clone(), data(1, 255, &[1; 256])].concat()),
        ("lacks data", [half, chunk(1, 0, b"")].concat()),
        ("lacks data", chunk(1, 0, b"")),
        ("too short", chunk(1, 1, b"1234567")),
        ("too long", too_long),
        ("unexpected kind", chunk(1, 5, &[0; 12])),
        ("unexpected kind", chunk(1, 99, b"")),
        ("no error", chunk(1, 0x8001, &[0; 6])),
        ("too many", endless),
    ];
    for (expected, bytes) in cases {
        let result = answered(bytes, |client| client.read_at(Offset::ZERO, &mut [0; 512]));
        let violation = violation_of(result);
        assert!(violation.contains(expected), "{violation}, not {expected}");
    }
}

#[test]
fn bad_replies_to_a_status_are_told_apart() {
    let cases = [
        ("lacks a status", chunk(1, 0, b"")),
        ("lacks a status", chunk(1, 5, &[0, 0, 0, 42])),
        (
            "lacks a status",
            chunk(1, 5, &[0, 0, 0, 42, 0, 0, 0, 0, 0, 0, 0, 0]),
        ),
        (
            "another context",
            chunk(1, 5, &[0, 0, 0, 1, 0, 0, 2, 0, 0, 0, 0, 0]),
        ),
    ];
    for (expected, bytes) in cases {
        let result = answered(bytes, |client| client.next_run(Offset::ZERO));
        let violation = violation_of(result);
        assert!(violation.contains(expected), "{violation}, not {expected}");
    }
}

#[test]
fn any_context_id_and_any_split_will_do() {
    let status = chunk(1, 5, &[0, 0, 0, 42, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 3]);
    let run = answered(status, |client| client.next_run(Offset::new(512)));
    let run = run.unwrap().unwrap();
    assert_eq!((run.kind, run.extent.end().get()), (RunKind::Hole, SIZE));
    let hole = [&256_u64.to_be_bytes()[..], &256_u32.to_be_bytes()].concat();
    let backwards = [chunk(0, 2, &hole), data(1, 0, &[7; 256])].concat();
    let mut back = [9; 512];
    answered(backwards, |client| client.read_at(Offset::ZERO, &mut back)).unwrap();
    assert!(back == [[7; 256], [0; 256]].concat()[..]);
}

#[test]
fn a_broken_conversation_is_not_taken_up_again() {
    let twice = |client: &Client| {
        assert!(client.flush().is_err());
        client.flush()
    };
    let error = answered(vec![0; 16], twice).unwrap_err();
    assert!(error.to_string().contains("not connected"), "{error}");
}

#[test]
fn unheard_of_errors_stand_for_invalid() {
    let error = answered(chunk(1, 0x8001, &[0, 0, 99, 99, 0, 0]), |client| {
        client.flush()
    });
    let Err(BlockError::Io { source, .. }) = error else {
        panic!("the client takes it")
    };
    assert_eq!(source.kind(), io::ErrorKind::InvalidInput);
}
