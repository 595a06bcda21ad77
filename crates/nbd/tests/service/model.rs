//! Random operations against a plain slice of bytes.

use std::sync::{Arc, Mutex};

use afterimage_block::{BlockRead, BlockWrite, MemoryDisk, Offset, RunKind, Zeroing};
use afterimage_nbd::{Client, Device, Exports, ListenAddress, Server, ServerOptions};
use proptest::prelude::*;

use crate::{SIZE, export, extent, serve};

fn index(at: u64) -> usize {
    usize::try_from(at).unwrap()
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Write(u8),
    Zero(Zeroing),
    Discard,
    Read,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => any::<u8>().prop_map(Change::Write),
        1 => Just(Change::Zero(Zeroing::Allocate)),
        1 => Just(Change::Zero(Zeroing::Deallocate)),
        1 => Just(Change::Discard),
        2 => Just(Change::Read),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn two_connections_agree_with_a_slice(
        steps in prop::collection::vec(
            (change(), any::<bool>(), 0..SIZE.get(), prop_oneof![1..600_u64, 1..2_u64 << 20]),
            1..24,
        ),
    ) {
        let disk = Arc::new(MemoryDisk::new(SIZE));
        let server = serve(Device::ReadWrite(disk.clone()));
        let clients = [server.uri("disk"), server.uri("")].map(|uri| Client::open(&uri).unwrap());
        let mut model = vec![0; index(SIZE.get())];
        for (change, second, start, length) in steps {
            let client = &clients[usize::from(second)];
            let length = length.min(SIZE.get() - start);
            let target = &mut model[index(start)..index(start + length)];
            let (at, range) = (Offset::new(start), extent(start, length));
            match change {
                Change::Write(value) => {
                    target.fill(value);
                    client.write_at(at, target).unwrap();
                }
                Change::Zero(zeroing) => {
                    target.fill(0);
                    client.write_zeroes(range, zeroing).unwrap();
                }
                Change::Discard => {
                    target.fill(0);
                    client.discard(range).unwrap();
                }
                Change::Read => {
                    let mut back = vec![1; target.len()];
                    client.read_at(at, &mut back).unwrap();
                    prop_assert!(back == target);
                }
            }
        }
        prop_assert!(disk.contents() == model);
        let mut whole = vec![1; model.len()];
        clients[0].read_at(Offset::ZERO, &mut whole).unwrap();
        prop_assert!(whole == model);
        let mut at = Offset::ZERO;
        while let Some(run) = clients[1].next_run(at).unwrap() {
            prop_assert_eq!(run.extent.start(), at);
            at = run.extent.end();
            let bytes = &model[index(run.extent.start().get())..index(at.get())];
            prop_assert!(run.kind == RunKind::Data || bytes.iter().all(|byte| *byte == 0));
        }
        prop_assert_eq!(at.get(), SIZE.get());
    }
}

/// Four threads, each with a connection of its own and a quarter of the disk, against one model.
#[test]
fn many_connections_write_what_they_mean() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(MemoryDisk::new(SIZE));
    let exports = Exports::new(vec![export("a/ä", Device::ReadWrite(disk.clone()))]).unwrap();
    let address = ListenAddress::Unix(folder.path().join("nbd.sock"));
    let server = Server::bind(&address, exports, ServerOptions::default()).unwrap();
    let model = Mutex::new(vec![0; index(SIZE.get())]);
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
                    let range = index(start)..index(start + length);
                    let value = u8::try_from(seed >> 56).unwrap();
                    let value = if value < 64 { 0 } else { value };
                    if value == 0 {
                        let range = extent(start, length);
                        client.write_zeroes(range, Zeroing::Deallocate).unwrap();
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
}

/// Eight threads that share one client.
#[test]
fn threads_may_share_a_client() {
    let disk = Arc::new(MemoryDisk::new(SIZE));
    let server = serve(Device::ReadWrite(disk.clone()));
    let client = Client::open(&server.uri("disk")).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8_u8 {
            let client = &client;
            scope.spawn(move || {
                for turn in 0..64_u64 {
                    let at = Offset::new(turn * 4096 + u64::from(thread) * 512);
                    client.write_at(at, &[thread + 1; 512]).unwrap();
                }
            });
        }
    });
    let expected: Vec<u8> = (0..8).flat_map(|thread| [thread + 1; 512]).collect();
    assert!(disk.contents()[..64 * 4096] == expected.repeat(64));
}
