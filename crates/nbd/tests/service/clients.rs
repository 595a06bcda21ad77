//! The client as a block device.

use std::sync::Arc;

use afterimage_block::{
    BlockRead, BlockWrite, Error as BlockError, Length, MemoryDisk, Offset, RunKind, Zeroing,
};
use afterimage_nbd::{Client, Device};

use crate::{SIZE, extent, serve, writable};

#[test]
fn holes_are_mapped() {
    let disk = MemoryDisk::new(SIZE);
    disk.write_at(Offset::new(1 << 20), &[1; 8192]).unwrap();
    let server = serve(writable(disk));
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
fn read_only_exports_take_no_writes() {
    let server = serve(Device::ReadOnly(Arc::new(MemoryDisk::new(SIZE))));
    let client = Client::open(&server.uri("disk")).unwrap();
    let whole = extent(0, 512);
    for refused in [
        client.write_at(Offset::ZERO, &[1; 512]),
        client.write_zeroes(whole, Zeroing::Allocate),
        client.discard(whole),
    ] {
        assert!(matches!(refused, Err(BlockError::ReadOnly { .. })));
    }
    client.read_at(Offset::ZERO, &mut [0; 512]).unwrap();
    client.flush().unwrap();
}

#[test]
fn ranges_past_the_end_never_leave_the_client() {
    let server = serve(writable(MemoryDisk::new(SIZE)));
    let client = Client::open(&server.uri("disk")).unwrap();
    let end = Offset::new(SIZE.get());
    for refused in [
        client.read_at(end, &mut [0]),
        client.write_at(end, &[0]),
        client.discard(extent(SIZE.get(), 1)),
    ] {
        assert!(matches!(refused, Err(BlockError::OutOfRange { .. })));
    }
    assert_eq!(client.next_run(end).unwrap(), None);
    client.read_at(end, &mut []).unwrap();
}

/// Longer than 4 GiB, which is more than a request can say.
#[test]
fn lengths_that_do_not_fit_a_request_are_cut() {
    let size = Length::gib(9);
    let disk = MemoryDisk::new(size);
    let far = Offset::new(Length::gib(7).get() + 512);
    disk.write_at(far, &[5; 512]).unwrap();
    let server = serve(writable(disk));
    let client = Client::open(&server.uri("disk")).unwrap();
    let mut back = [0; 512];
    client.read_at(far, &mut back).unwrap();
    assert_eq!(back, [5; 512]);
    let first = client.next_run(Offset::ZERO).unwrap().unwrap();
    assert_eq!(first.kind, RunKind::Hole);
    assert!(first.extent.length() <= size);
    client.discard(extent(0, Length::gib(8).get())).unwrap();
    client.read_at(far, &mut back).unwrap();
    assert_eq!(back, [0; 512]);
}
