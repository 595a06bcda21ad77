//! Clients that write while the process is killed, and what of their writes must be found again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use afterimage::block::{BlockRead, BlockWrite, Extent, Length, Offset, Zeroing};
use afterimage_nbd::Client;

pub(crate) const NAMES: [&str; 2] = ["a", "b"];
pub(crate) const SIZES: [u64; 2] = [160 << 20, 96 << 20];
/// The part of each disk that is written in order; the rest is scribbled on.
const SLOT: u64 = 4096;
const SLOTS: u64 = 512;
pub(crate) const ORDERED: u64 = SLOT * SLOTS;
/// How much of each disk is scribbled on in one run.
pub(crate) const WINDOW: u64 = 6 << 20;

/// The first sectors of both disks as numbered writes left them: in each slot the number of the last
/// write, or zero.
pub(crate) type Slots = [Vec<u64>; 2];

fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 31)
}

fn is_zero(write: u64) -> bool {
    write.is_multiple_of(8)
}

fn place(write: u64) -> (usize, usize) {
    let random = mix(write);
    let slot = usize::try_from((random >> 1) % SLOTS).unwrap();
    (usize::from(random & 1 == 1), slot)
}

/// Both disks after the writes 1 to `last`.
fn after(last: u64) -> Slots {
    let mut slots = [vec![0; 512], vec![0; 512]];
    for write in 1..=last {
        let (disk, slot) = place(write);
        slots[disk][slot] = if is_zero(write) { 0 } else { write };
    }
    slots
}

/// Reads the slots of one disk; a slot that is not wholly of one write is torn.
pub(crate) fn slots(content: &[u8]) -> Vec<u64> {
    let slot = |bytes: &[u8]| {
        let mut words = bytes
            .chunks(8)
            .map(|word| u64::from_le_bytes(word.try_into().unwrap()));
        let first = words.next().unwrap();
        assert!(words.all(|word| word == first), "a torn write of {first}");
        first
    };
    content.chunks(4096).map(slot).collect()
}

/// The numbers of the writes up to which `found` holds all and after which none. They are two where
/// zeros were written where zeros are already. Zeros may also have come over the newest write.
pub(crate) fn prefixes(found: &Slots) -> Vec<u64> {
    let newest = found.iter().flatten().max().copied().unwrap_or_default();
    let fits = |last: &u64| (*last == newest || is_zero(*last)) && after(*last) == *found;
    let fitting: Vec<_> = (newest..=newest + 2).filter(fits).collect();
    assert!(
        !fitting.is_empty(),
        "no prefix of the writes, up to {newest}"
    );
    fitting
}

/// Writes one after another across both disks, so that any recovery point must hold a first part of
/// them. What was not acknowledged is written again after a restart.
pub(crate) struct Ordered {
    next: u64,
}

impl Ordered {
    pub(crate) fn new() -> Self {
        Self { next: 1 }
    }

    /// The last write that was acknowledged.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.next - 1
    }

    fn run(&mut self, socket: &Path, stop: &AtomicBool) {
        let Ok(clients) = NAMES
            .map(|name| connect(socket, name))
            .into_iter()
            .collect::<Result<Vec<_>, _>>()
        else {
            return;
        };
        while !stop.load(Ordering::Relaxed) {
            let (disk, slot) = place(self.next);
            let at = Offset::new(slot as u64 * SLOT);
            let written = if is_zero(self.next) {
                let extent = Extent::new(at, Length::new(SLOT)).unwrap();
                clients[disk].write_zeroes(extent, Zeroing::Deallocate)
            } else {
                clients[disk].write_at(at, &self.next.to_le_bytes().repeat(512))
            };
            if written.is_err() {
                return;
            }
            self.next += 1;
        }
    }
}

fn connect(socket: &Path, name: &str) -> Result<Client, afterimage_nbd::Error> {
    Client::open(&format!("nbd+unix:///{name}?socket={}", socket.display()))
}

/// Writes, zeroes, discards and flushes at random in a window of a disk.
fn scribble(socket: &Path, seed: u64, window: u64, stop: &AtomicBool) {
    let mut random = fastrand::Rng::with_seed(seed);
    let disk = random.usize(0..2);
    let Ok(client) = connect(socket, NAMES[disk]) else {
        return;
    };
    // Some windows are in what the disk grew by.
    let free = client.size().get() - ORDERED - WINDOW;
    let window = ORDERED + mix(window) % free / 512 * 512;
    while !stop.load(Ordering::Relaxed) {
        let length = random.u64(1..=32) * 512;
        let at = Offset::new(window + random.u64(0..=(WINDOW - length) / 512) * 512);
        let extent = Extent::new(at, Length::new(length)).unwrap();
        let done = match random.u8(0..20) {
            0 => client.write_zeroes(extent, Zeroing::Allocate),
            1 => client.discard(extent),
            2 => client.flush(),
            _ => {
                let data: Vec<u8> = std::iter::repeat_with(|| random.u8(..))
                    .take(usize::try_from(length).unwrap())
                    .collect();
                client.write_at(at, &data)
            }
        };
        if done.is_err() {
            return;
        }
        thread::sleep(Duration::from_micros(500));
    }
}

/// All clients of one run of the process.
pub(crate) struct Guests {
    stop: Arc<AtomicBool>,
    ordered: JoinHandle<Ordered>,
    scribblers: Vec<JoinHandle<()>>,
}

impl Guests {
    pub(crate) fn start(socket: PathBuf, mut ordered: Ordered, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let scribblers = (0..3).map(|number| {
            let (socket, stop) = (socket.clone(), Arc::clone(&stop));
            thread::spawn(move || scribble(&socket, mix(seed + number), seed, &stop))
        });
        Self {
            scribblers: scribblers.collect(),
            ordered: thread::spawn({
                let stop = Arc::clone(&stop);
                move || {
                    ordered.run(&socket, &stop);
                    ordered
                }
            }),
            stop,
        }
    }

    /// Waits for their end, which is that of the process or, if it lives on, now.
    pub(crate) fn stop(self) -> Ordered {
        self.stop.store(true, Ordering::Relaxed);
        for scribbler in self.scribblers {
            scribbler.join().unwrap();
        }
        self.ordered.join().unwrap()
    }
}
