use std::sync::mpsc::channel;
use std::thread;

use afterimage_block::{BlockRead, BlockWrite, Length, MemoryDisk, Offset};

use super::*;

fn speed(bytes: u64) -> Option<NonZeroU64> {
    NonZeroU64::new(bytes)
}

/// However late a machine is: what a limit does not allow is not done before its time.
#[test]
fn what_waits_is_never_early() {
    let limit = Limit::of(speed(4 << 20));
    let begun = Instant::now();
    let mut received = Vec::new();
    let mut stream = LimitedStream::new(&mut received, limit.clone());
    stream.write_all(&vec![7; 1 << 20]).unwrap();
    stream.flush().unwrap();
    // All but the last piece, which need not be waited for.
    let piece = limit.piece() as u64;
    let least = Duration::from_nanos(((1 << 20) - piece) * 1_000_000_000 / (4 << 20));
    assert!(begun.elapsed() >= least);
    assert_eq!(received, vec![7; 1 << 20]);
}

#[test]
fn a_limit_that_is_lifted_wakes_those_who_wait() {
    // A year for each byte.
    let limit = Limit::of(speed(1));
    let year = 365 * 24 * 3600;
    limit.wait(year);
    let (told, ended) = channel();
    let waiting = limit.clone();
    let thread = thread::spawn(move || {
        waiting.wait(1);
        told.send(()).unwrap();
    });
    // Faster, and so that it still has to wait for days.
    limit.set(speed(100));
    assert!(ended.try_recv().is_err());
    limit.set(None);
    ended.recv().unwrap();
    thread.join().unwrap();
    assert_eq!(limit.get(), None);
}

#[test]
fn what_is_owed_is_owed_at_the_new_speed() {
    let limit = Limit::of(speed(10));
    let begun = Instant::now();
    limit.wait(36_000);
    limit.set(speed(20));
    let next = limit.state().next.unwrap();
    // An hour's bytes are half an hour's at twice the speed; some of them may be paid already.
    let half = Duration::from_mins(30);
    assert!(next <= Instant::now() + half && next + begun.elapsed() >= begun + half);
    limit.set(None);
    limit.set(speed(20));
    assert_eq!(
        limit.state().next,
        None,
        "what was free is not paid for later"
    );
}

#[test]
fn limited_disks_are_the_same_disks() {
    let disk = MemoryDisk::new(Length::kib(64));
    let free = Limit::default();
    let written = LimitedDisk::new(&disk, free.clone());
    written.write_at(Offset::new(512), &[7; 512]).unwrap();
    written.flush().unwrap();
    let read = LimitedSource::new(&written, free);
    let mut bytes = vec![0; 1024];
    read.read_at(Offset::ZERO, &mut bytes).unwrap();
    assert_eq!(bytes, disk.contents()[..1024]);
    assert_eq!(
        read.next_run(Offset::ZERO).unwrap(),
        disk.next_run(Offset::ZERO).unwrap()
    );
    assert_eq!(read.size(), disk.size());
}
