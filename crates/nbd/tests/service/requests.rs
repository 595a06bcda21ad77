//! Requests byte by byte, and what they get.

use std::io::{ErrorKind, Write};
use std::sync::Arc;

use afterimage_block::{BlockRead, BlockWrite, Length, MemoryDisk, Offset};
use afterimage_nbd::{Client, Device, ServerOptions};

use crate::disks::{Probe, Writes};
use crate::raw::Raw;
use crate::{SIZE, serve, serve_with, writable};

const FUA: u16 = 1;
const NO_HOLE: u16 = 2;
const DF: u16 = 4;
const REQ_ONE: u16 = 8;

const READ: u16 = 0;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;
const ZERO: u16 = 6;
const STATUS: u16 = 7;

const EPERM: u32 = 1;
const EIO: u32 = 5;
const ENOMEM: u32 = 12;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;
const EOVERFLOW: u32 = 75;

#[test]
fn sixteen_are_worked_on_at_once_and_answers_come_out_of_order() {
    let probe = Probe::new(Writes::WaitAtTheGate);
    let server = serve(Device::ReadWrite(probe.clone()));
    let mut raw = Raw::simple(&server);
    for cookie in 100..115 {
        raw.write(0, cookie, 0, &[9; 512]);
    }
    probe.wait_for_writes(15);
    for cookie in 0..20 {
        raw.request((0, TRIM), cookie, (4096 * cookie, 512));
        assert_eq!(raw.reply(), (0, cookie), "overtakes fifteen writes");
    }
    raw.write(0, 115, 0, &[9; 512]);
    probe.wait_for_writes(16);
    probe.open_the_gate();
    let mut cookies: Vec<_> = (0..16).map(|_| raw.reply()).collect();
    cookies.sort_unstable();
    assert_eq!(cookies, (100..116).map(|c| (0, c)).collect::<Vec<_>>());
}

#[test]
fn bad_requests_get_their_error_and_the_connection_lives() {
    let server = serve(writable(MemoryDisk::new(SIZE)));
    let mut raw = Raw::simple(&server);
    let size = SIZE.get();
    let cases = [
        ("read past the end", 0, READ, (size - 100, 512), EINVAL),
        ("trim past the end", 0, TRIM, (size, 512), EINVAL),
        ("zeroes past the end", 0, ZERO, (size, 512), ENOSPC),
        ("offset overflow", 0, TRIM, (u64::MAX - 5, 512), EINVAL),
        ("empty read", 0, READ, (0, 0), EINVAL),
        ("empty trim", 0, TRIM, (0, 0), EINVAL),
        ("read longer than the disk", 0, READ, (0, u32::MAX), EINVAL),
        ("unknown command", 0, 99, (0, 512), EINVAL),
        ("cache, which is not offered", 0, 5, (0, 512), EINVAL),
        ("unknown flag", 1 << 9, READ, (0, 512), EINVAL),
        ("DF without structured replies", DF, READ, (0, 512), EINVAL),
        (
            "fast zero, which is not offered",
            1 << 4,
            ZERO,
            (0, 512),
            EINVAL,
        ),
        (
            "NO_HOLE where it means nothing",
            NO_HOLE,
            TRIM,
            (0, 512),
            EINVAL,
        ),
        ("status without a context", 0, STATUS, (0, 512), EINVAL),
        ("flush with FUA", FUA, FLUSH, (0, 0), 0),
    ];
    for (what, flags, command, range, expected) in cases {
        raw.request((flags, command), 5, range);
        assert_eq!(raw.reply(), (expected, 5), "{what}");
    }
    raw.write(0, 6, size - 256, &[1; 512]);
    assert_eq!(raw.reply(), (ENOSPC, 6), "a write past the end");
    raw.write(0, 7, 0, &[]);
    assert_eq!(raw.reply(), (EINVAL, 7), "an empty write");
    raw.request((FUA, READ), 8, (size - 1, 1));
    assert_eq!(
        raw.reply(),
        (0, 8),
        "the connection lives, and FUA is no crime"
    );
    assert_eq!(raw.read(), [0], "the write past the end changed nothing");
}

#[test]
fn requests_that_are_too_long_are_refused_without_losing_the_thread() {
    let mut options = ServerOptions::default();
    options.request_length_max = Length::kib(64);
    let server = serve_with(writable(MemoryDisk::new(SIZE)), options);
    let mut raw = Raw::simple(&server);
    raw.write(0, 1, 0, &vec![1; (64 << 10) + 1]);
    assert_eq!(raw.reply(), (EINVAL, 1));
    raw.request((0, READ), 2, (0, (64 << 10) + 1));
    assert_eq!(raw.reply(), (EINVAL, 2));
    raw.write(0, 3, 0, &vec![1; 64 << 10]);
    assert_eq!(raw.reply(), (0, 3));
    // Nobody sends this much in one piece but to do harm.
    raw.request((0, 1), 4, (0, u32::MAX));
    assert!(raw.is_closed());
    let mut raw = Raw::structured(&server);
    raw.request((DF, READ), 5, (0, (64 << 10) + 1));
    let refusal = raw.chunk();
    assert_eq!(refusal.kind, 0x8001);
    assert_eq!(refusal.payload[..4], EOVERFLOW.to_be_bytes());
}

#[test]
fn flags_reach_the_device() {
    let probe = Probe::new(Writes::Work);
    let server = serve(Device::ReadWrite(probe.clone()));
    let mut raw = Raw::structured(&server);
    let mut calls = |flags, command, expected: &[&str]| {
        if command == 1 {
            raw.write(flags, 1, 0, &[1; 512]);
        } else {
            raw.request((flags, command), 1, (0, 512));
        }
        assert_eq!(raw.reply(), (0, 1));
        assert_eq!(probe.calls(), expected, "command {command} with {flags}");
    };
    calls(0, 1, &["write"]);
    calls(FUA, 1, &["write", "flush"]);
    calls(0, ZERO, &["zero"]);
    calls(NO_HOLE | FUA, ZERO, &["zero and allocate", "flush"]);
    calls(0, TRIM, &["discard"]);
    calls(FUA, TRIM, &["discard", "flush"]);
    calls(0, FLUSH, &["flush"]);
}

#[test]
fn device_errors_arrive_as_what_they_are() {
    let cases = [
        (ErrorKind::StorageFull, ENOSPC),
        (ErrorKind::QuotaExceeded, ENOSPC),
        (ErrorKind::FileTooLarge, ENOSPC),
        (ErrorKind::OutOfMemory, ENOMEM),
        (ErrorKind::PermissionDenied, EPERM),
        (ErrorKind::Other, EIO),
    ];
    for (kind, expected) in cases {
        let server = serve(Device::ReadWrite(Probe::new(Writes::Fail(kind))));
        let mut raw = Raw::simple(&server);
        raw.write(0, 1, 0, &[1; 512]);
        assert_eq!(raw.reply(), (expected, 1), "{kind}");
        let mut raw = Raw::structured(&server);
        raw.write(0, 2, 0, &[1; 512]);
        let refusal = raw.chunk();
        assert_eq!(
            (refusal.last, refusal.kind, refusal.cookie),
            (true, 0x8001, 2)
        );
        assert_eq!(refusal.payload[..4], expected.to_be_bytes());
        let message = String::from_utf8(refusal.payload[6..].to_vec()).unwrap();
        assert!(message.contains("cannot write 512"), "{message}");
        if expected == ENOSPC {
            let client = Client::open(&server.uri("disk")).unwrap();
            let error = client.write_at(Offset::ZERO, &[1]).unwrap_err();
            assert!(error.is_recoverable(), "{error}");
        }
    }
}

#[test]
fn read_only_exports_refuse_every_change() {
    let server = serve(Device::ReadOnly(Arc::new(MemoryDisk::new(SIZE))));
    let mut raw = Raw::simple(&server);
    raw.write(FUA, 1, 0, &[1; 512]);
    assert_eq!(raw.reply(), (EPERM, 1));
    for command in [TRIM, ZERO] {
        raw.request((0, command), 2, (0, 512));
        assert_eq!(raw.reply(), (EPERM, 2));
    }
}

/// A disk whose middle is data: 256 KiB of hole, 64 KiB of data, and hole.
fn one_island() -> MemoryDisk {
    let disk = MemoryDisk::new(SIZE);
    disk.write_at(Offset::new(256 << 10), &vec![7; 64 << 10])
        .unwrap();
    disk
}

#[test]
fn holes_are_not_sent() {
    let server = serve(writable(one_island()));
    let mut raw = Raw::structured(&server);
    raw.request((0, READ), 1, (192 << 10, 192 << 10));
    let part = |offset: u64, rest: &[u8]| [&offset.to_be_bytes()[..], rest].concat();
    let expected = [
        (false, 2, part(192 << 10, &[0, 1, 0, 0])),
        (false, 1, part(256 << 10, &vec![7; 64 << 10])),
        (true, 2, part(320 << 10, &[0, 1, 0, 0])),
    ];
    for (last, kind, payload) in expected {
        let chunk = raw.chunk();
        assert_eq!((chunk.last, chunk.kind, chunk.cookie), (last, kind, 1));
        assert!(chunk.payload == payload);
    }
    raw.request((DF, READ), 2, (192 << 10, 192 << 10));
    let whole = raw.chunk();
    assert_eq!((whole.last, whole.kind), (true, 1));
    let (zeros, data) = (vec![0; 64 << 10], vec![7; 64 << 10]);
    assert!(whole.payload[8..] == [&zeros[..], &data, &zeros].concat());
}

#[test]
fn status_is_coalesced_and_stays_within_what_was_asked() {
    let server = serve(writable(one_island()));
    let mut raw = Raw::structured(&server);
    let mut status = |flags, range: (u64, u32)| {
        raw.request((flags, STATUS), 1, range);
        let chunk = raw.chunk();
        assert_eq!((chunk.last, chunk.kind), (true, 5));
        assert_eq!(chunk.payload[..4], 1_u32.to_be_bytes());
        let fields = chunk.payload[4..].chunks(4);
        let fields = fields.map(|field| u32::from_be_bytes(field.try_into().unwrap()));
        fields.collect::<Vec<_>>()
    };
    let (hole, data) = (3, 0);
    let all = [256 << 10, hole, 64 << 10, data, (3776 << 10) + 512, hole];
    assert_eq!(status(0, (0, (4 << 20) + 512)), all);
    assert_eq!(status(REQ_ONE | FUA, (0, 4 << 20)), [256 << 10, hole]);
    assert_eq!(status(REQ_ONE, (300 << 10, 512)), [512, data]);
    raw.request((0, STATUS), 1, (1, u32::MAX));
    assert_eq!(raw.chunk().payload[..4], EINVAL.to_be_bytes());
}

#[test]
fn clients_that_break_off_disturb_nobody() {
    let server = serve(writable(MemoryDisk::new(SIZE)));
    let mut wrong_magic = Raw::simple(&server);
    wrong_magic.0.write_all(&[0x55; 28]).unwrap();
    assert!(wrong_magic.is_closed());
    let mut in_mid_header = Raw::simple(&server);
    in_mid_header
        .0
        .write_all(&0x2560_9513_u32.to_be_bytes())
        .unwrap();
    in_mid_header.half_close();
    assert!(in_mid_header.is_closed());
    let mut in_mid_payload = Raw::simple(&server);
    in_mid_payload.request((0, 1), 1, (0, 4096));
    in_mid_payload.0.write_all(&[1; 100]).unwrap();
    in_mid_payload.half_close();
    assert!(in_mid_payload.is_closed());
    let mut half_open = Raw::simple(&server);
    half_open.write(0, 1, 512, &[1; 512]);
    half_open.half_close();
    assert_eq!(half_open.reply(), (0, 1), "what was sent is answered");
    assert!(half_open.is_closed());
    let mut polite = Raw::simple(&server);
    polite.write(0, 2, 1024, &[2; 512]);
    polite.request((0, 2), 0, (0, 0));
    assert_eq!(polite.reply(), (0, 2), "DISC waits for what is outstanding");
    assert!(polite.is_closed());
    let client = Client::open(&server.uri("disk")).unwrap();
    let mut back = [9; 1536];
    client.read_at(Offset::ZERO, &mut back).unwrap();
    assert!(back == [[0; 512], [1; 512], [2; 512]].concat()[..]);
}
