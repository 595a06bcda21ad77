//! Options, good and bad.

use std::io::Write;
use std::sync::Arc;

use afterimage_block::{BlockRead, Length, MemoryDisk};
use afterimage_nbd::{Client, Device, Error, Exports, Server, ServerOptions};

use crate::raw::Raw;
use crate::{SIZE, anywhere, export, serve, writable};

const ERROR: u32 = 1 << 31;
const BASE_ALLOCATION: &[u8] = b"\0\0\0\x01\0\0\0\x0fbase:allocation";

fn memory() -> Device {
    writable(MemoryDisk::new(SIZE))
}

fn contexts(export: &[u8], queries: &[u8]) -> Vec<u8> {
    let length = u32::try_from(export.len()).unwrap().to_be_bytes();
    [&length[..], export, queries].concat()
}

#[test]
fn bad_options_are_refused_one_by_one() {
    let server = serve(memory());
    let mut raw = Raw::greeted(&server);
    let mut refusal = |option, payload: &[u8]| {
        raw.option(option, payload);
        raw.option_reply().0 & !ERROR
    };
    assert_eq!(refusal(5, b""), 1, "TLS is not supported");
    assert_eq!(refusal(4711, b"?"), 1, "an unknown option");
    assert_eq!(refusal(3, b"x"), 3, "LIST with data");
    assert_eq!(refusal(8, b"x"), 3, "STRUCTURED_REPLY with data");
    assert_eq!(refusal(7, b"\0\0\0\x09x"), 3, "a name cut short");
    assert_eq!(refusal(7, b"\0\0\0\0\0\x02\0\x03"), 3, "a count that lies");
    assert_eq!(
        refusal(7, b"\0\0\0\x01\xff\0\0"),
        3,
        "a name that is no text"
    );
    assert_eq!(refusal(7, b"\0\0\0\x01x\0\0"), 6, "an unknown export");
    assert_eq!(
        refusal(10, &[0; 8]),
        3,
        "contexts before structured replies"
    );
    assert_eq!(refusal(6, &vec![0; 100_000]), 9, "a long option");
    raw.option(7, b"\0\0\0\0\0\0");
    assert_eq!(raw.option_reply().0, 3, "the export's facts");
}

#[test]
fn clients_that_cannot_be_told_are_cut_off() {
    let server = serve(memory());
    let mut unknown_flag = Raw::greeted_with(&server, 7);
    assert!(unknown_flag.is_closed());
    let mut unknown_export = Raw::greeted(&server);
    unknown_export.option(1, b"nothing");
    assert!(unknown_export.is_closed());
    let mut wrong_magic = Raw::greeted(&server);
    wrong_magic.0.write_all(&[0; 8]).unwrap();
    assert!(wrong_magic.is_closed());
    let mut huge = Raw::greeted(&server);
    huge.option_header(6, u32::MAX);
    assert!(huge.is_closed());
    let mut cut_short = Raw::greeted(&server);
    cut_short.option_header(6, 100);
    cut_short.half_close();
    assert!(cut_short.is_closed());
    let mut aborting = Raw::greeted(&server);
    aborting.option(2, b"");
    assert_eq!(aborting.option_reply().0, 1);
    assert!(aborting.is_closed());
    Client::open(&server.uri("disk")).unwrap();
}

#[test]
fn old_clients_get_their_padding() {
    let server = serve(memory());
    let mut raw = Raw::greeted_with(&server, 1);
    raw.option(1, b"");
    let reply: [u8; 134] = raw.read();
    assert_eq!(reply[..8], SIZE.get().to_be_bytes());
    // HAS_FLAGS, FLUSH, FUA, TRIM, WRITE_ZEROES, CAN_MULTI_CONN; DF only with structured replies.
    assert_eq!(u16::from_be_bytes([reply[8], reply[9]]), 0b1_0110_1101);
    assert!(reply[10..].iter().all(|byte| *byte == 0));
}

#[test]
fn exports_are_listed_and_described() {
    let read_only = Device::ReadOnly(Arc::new(MemoryDisk::new(SIZE)));
    let exports = vec![export("one", memory()), export("two", read_only)];
    let exports = Exports::new(exports).unwrap();
    let server = Server::bind(&anywhere(), exports, ServerOptions::default()).unwrap();
    let mut raw = Raw::greeted(&server);
    raw.option(3, b"");
    assert_eq!(
        raw.option_reply(),
        (2, b"\0\0\0\x03onethe disk one".to_vec())
    );
    assert_eq!(
        raw.option_reply(),
        (2, b"\0\0\0\x03twothe disk two".to_vec())
    );
    assert_eq!(raw.option_reply(), (1, vec![]));

    raw.option(6, b"\0\0\0\x03two\0\x03\0\x01\0\x02\0\x03");
    let mut facts = vec![0, 0];
    facts.extend(SIZE.get().to_be_bytes());
    facts.extend([0b1, 0b0000_0011]);
    assert_eq!(raw.option_reply(), (3, facts), "flags: READ_ONLY");
    assert_eq!(raw.option_reply(), (3, b"\0\x01two".to_vec()));
    assert_eq!(raw.option_reply(), (3, b"\0\x02the disk two".to_vec()));
    let sizes = b"\0\x03\0\0\0\x01\0\0\x10\0\x02\0\0\0".to_vec();
    assert_eq!(raw.option_reply(), (3, sizes), "1, 4096, 32 MiB");
    assert_eq!(raw.option_reply(), (1, vec![]));
}

#[test]
fn contexts_are_listed_set_and_forgotten() {
    let server = serve(memory());
    let mut raw = Raw::greeted(&server);
    raw.option(8, b"");
    assert_eq!(raw.option_reply().0, 1);
    let found = b"\0\0\0\0base:allocation".to_vec();
    for queries in [
        &b"\0\0\0\0"[..],
        b"\0\0\0\x01\0\0\0\x05base:",
        BASE_ALLOCATION,
    ] {
        raw.option(9, &contexts(b"disk", queries));
        assert_eq!(raw.option_reply(), (4, found.clone()));
        assert_eq!(raw.option_reply(), (1, vec![]));
    }
    let qemu = b"\0\0\0\x01\0\0\0\x16qemu:dirty-bitmap:disk";
    for (option, queries) in [
        (9, &qemu[..]),
        (10, qemu),
        (10, b"\0\0\0\x01\0\0\0\x05base:"),
    ] {
        raw.option(option, &contexts(b"disk", queries));
        assert_eq!(raw.option_reply(), (1, vec![]));
    }
    raw.option(10, &contexts(b"nothing", BASE_ALLOCATION));
    assert_eq!(raw.option_reply().0, ERROR | 6);
    raw.option(10, &contexts(b"disk", BASE_ALLOCATION));
    assert_eq!(raw.option_reply().0, 4);
    assert_eq!(raw.option_reply().0, 1);
    raw.option(10, b"rubbish");
    assert_eq!(
        raw.option_reply().0,
        ERROR | 3,
        "which also unsets the context"
    );
    raw.option(7, b"\0\0\0\x04disk\0\0");
    while raw.option_reply().0 != 1 {}
    raw.request((0, 7), 1, (0, 512));
    let refusal = raw.chunk();
    assert_eq!(
        (refusal.kind, &refusal.payload[..4]),
        (0x8001, &[0, 0, 0, 22][..])
    );
}

#[test]
fn the_first_export_is_the_default_and_unknown_ones_are_refused() {
    let device = |size| writable(MemoryDisk::new(Length::new(size)));
    let exports = vec![export("one", device(512)), export("two", device(1024))];
    let exports = Exports::new(exports).unwrap();
    let server = Server::bind(&anywhere(), exports, ServerOptions::default()).unwrap();
    let size =
        |name: &str| Client::connect(&server.local_address(), name).map(|client| client.size());
    assert_eq!(size("").unwrap(), Length::new(512));
    assert_eq!(size("two").unwrap(), Length::new(1024));
    let refused = size("three").unwrap_err();
    assert!(matches!(refused, Error::Refused { .. }), "{refused}");
    let refused = size(&"x".repeat(5000)).unwrap_err();
    assert!(matches!(refused, Error::Refused { .. }), "{refused}");
}
