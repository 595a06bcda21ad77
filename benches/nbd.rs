//! What tracking costs a guest: random writes to a tracked disk beside the same writes to a plain one,
//! through the same NBD server over a Unix socket, 16 connections with one write in flight each.
//!
//! Between the two stand a plain disk whose writes also go to a bare log (a header with a CRC-32 and
//! the payload in one `writev`, under one lock), the same with a log file that is overwritten instead
//! of made anew, and a tracked disk that keeps regions only. A new generation begins with each run,
//! with every region to be marked anew: at this speed that is a barrier about every second.
//!
//! Cases are measured in turn, A B A B, on tmpfs unless `AFTERIMAGE_BENCH_FOLDER` names another folder.
//! The clients run on the same cores as the server.
//!
//! # Figures
//!
//! Speed as a multiple of the plain disk's: medians of 9 rounds, median (and range) of seven runs or
//! more, three for the recycled log, on 2 cores that others used as well, tmpfs, 2026-11-24,
//! `cargo bench -p benches --bench nbd`.
//!
//! | | 4 KiB | 64 KiB |
//! | --- | --- | --- |
//! | plain disk | 1 | 1 |
//! | plain disk and a bare log | 0.82 (0.71-0.87) | 0.57 (0.50-0.67) |
//! | plain disk and a recycled bare log | 0.99 (0.87-1.00) | 0.78 (0.72-0.86) |
//! | tracked, regions only | 0.98 (0.88-1.13) | 1.07 (0.89-1.25) |
//! | tracked, logged | 0.77 (0.73-0.79) | 0.56 (0.47-0.61) |
//!
//! So marking regions is lost in the noise, and a tracked disk with its log is about as fast as a
//! plain one with the plainest log. What that costs is the second write of every byte, half of it
//! because it goes to fresh pages of the page cache.

use std::fs::{self, File};
use std::io::Seek;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use afterimage_block::{
    BlockRead, BlockWrite, Change, ChangeSink, DiskId, Epoch, Extent, Generation, IntentLog,
    Length, Offset, RawDisk, Result, Run, Sequence, SinkError, Timestamp, TrackedDisk, WriteGate,
    Zeroing,
};
use afterimage_changelog::{FileWriter, LogHeader, WriterOptions};
use afterimage_nbd::{Client, Device, Export, Exports, ListenAddress, Server, ServerOptions};
use benches::{Noise, Paired, append_bare};
use tempfile::TempDir;

const DISK: Length = Length::mib(256);
/// Connections, each with one request in flight.
const CLIENTS: usize = 16;
/// What all of them write in one run.
const WRITTEN: usize = 256 << 20;
const LENGTHS: [usize; 2] = [4 << 10, 64 << 10];
const ROUNDS: usize = 9;

/// The open log, as the engine keeps it: the disk appends, its owner exchanges it.
#[derive(Clone)]
struct SharedLog(Arc<Mutex<FileWriter>>);

impl SharedLog {
    fn lock(&self) -> MutexGuard<'_, FileWriter> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ChangeSink for SharedLog {
    fn append(&mut self, change: Change<'_>) -> Result<(), SinkError> {
        self.lock()
            .append(change, std::time::SystemTime::now().into())?;
        Ok(())
    }
}

/// A plain disk with a bare log beside it.
struct Doubled {
    disk: Arc<dyn BlockWrite>,
    log: Mutex<File>,
}

impl BlockRead for Doubled {
    fn size(&self) -> Length {
        self.disk.size()
    }

    fn read_at(&self, offset: Offset, buf: &mut [u8]) -> Result<()> {
        self.disk.read_at(offset, buf)
    }

    fn next_run(&self, from: Offset) -> Result<Option<Run>> {
        self.disk.next_run(from)
    }
}

impl BlockWrite for Doubled {
    fn write_at(&self, offset: Offset, data: &[u8]) -> Result<()> {
        self.disk.write_at(offset, data)?;
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        append_bare(&log, std::iter::once(data));
        Ok(())
    }

    fn write_zeroes(&self, extent: Extent, zeroing: Zeroing) -> Result<()> {
        self.disk.write_zeroes(extent, zeroing)
    }

    fn discard(&self, extent: Extent) -> Result<()> {
        self.disk.discard(extent)
    }

    fn flush(&self) -> Result<()> {
        self.disk.flush()
    }
}

/// What is served.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tracking {
    /// The plain disk.
    None,
    /// Each write goes to a bare log as well: no index, no time, no regions.
    Bare,
    /// The same, and each bare log overwrites the one before.
    Recycled,
    /// Regions are marked, nothing is logged.
    Regions,
    /// Regions are marked, after-images logged.
    Log,
}

/// What takes the writes.
enum Disk {
    Plain,
    Doubled(Arc<Doubled>),
    Tracked(Arc<TrackedDisk>, WriteGate),
}

/// A disk behind a server, with its clients.
struct Served {
    disk: Disk,
    tracking: Tracking,
    folder: TempDir,
    sequence: u64,
    clients: Vec<Client>,
    _server: Server,
}

fn bare_log(folder: &Path) -> File {
    File::create(folder.join("bare")).expect("a log")
}

fn generation(folder: &Path, sequence: u64, tracking: Tracking) -> Generation {
    let disk = DiskId::from_bytes([7; 16]);
    let header = LogHeader {
        disk,
        disk_size: DISK,
        epoch: Epoch::new(1),
        first: Sequence::new(sequence),
        last: Sequence::new(sequence),
        created: Timestamp::default(),
    };
    let intent = folder.join(format!("{sequence}.intent"));
    let intent = IntentLog::create(&intent, disk, DISK, IntentLog::REGION).expect("an intent file");
    let sink = (tracking == Tracking::Log).then(|| {
        let path = folder.join(format!("{sequence}.ailog"));
        let log = FileWriter::create(&path, header, WriterOptions::default()).expect("a log");
        Box::new(SharedLog(Arc::new(Mutex::new(log)))) as Box<dyn ChangeSink>
    });
    Generation { intent, sink }
}

impl Served {
    fn new(tracking: Tracking) -> Self {
        let folder = benches::folder();
        let raw = RawDisk::create(folder.path().join("disk.raw"), DISK).expect("a disk");
        let raw: Arc<dyn BlockWrite> = Arc::new(raw);
        let disk = match tracking {
            Tracking::None => Disk::Plain,
            Tracking::Bare | Tracking::Recycled => Disk::Doubled(Arc::new(Doubled {
                disk: Arc::clone(&raw),
                log: Mutex::new(bare_log(folder.path())),
            })),
            Tracking::Regions | Tracking::Log => {
                let gate = WriteGate::new();
                let first = generation(folder.path(), 0, tracking);
                let disk = TrackedDisk::new(Arc::clone(&raw), gate.clone(), first);
                Disk::Tracked(Arc::new(disk), gate)
            }
        };
        let device: Arc<dyn BlockWrite> = match &disk {
            Disk::Plain => raw,
            Disk::Doubled(disk) => Arc::clone(disk) as _,
            Disk::Tracked(disk, _) => Arc::clone(disk) as _,
        };
        let export = Export {
            name: "disk".into(),
            description: String::new(),
            device: Device::ReadWrite(device),
        };
        let exports = Exports::new(vec![export]).expect("an export");
        let address = ListenAddress::Unix(folder.path().join("socket"));
        let server = Server::bind(&address, exports, ServerOptions::default()).expect("a server");
        let connect = |_| Client::open(&server.uri("disk")).expect("a connection");
        Self {
            clients: (0..CLIENTS).map(connect).collect(),
            disk,
            tracking,
            folder,
            sequence: 0,
            _server: server,
        }
    }

    /// Begins a new log, so that none outgrows the folder.
    fn rotate(&mut self) {
        match &self.disk {
            Disk::Plain => {}
            Disk::Doubled(disk) => {
                let mut log = disk.log.lock().unwrap_or_else(PoisonError::into_inner);
                if self.tracking == Tracking::Recycled {
                    log.rewind().expect("a file");
                } else {
                    *log = bare_log(self.folder.path());
                }
            }
            Disk::Tracked(disk, gate) => {
                let next = generation(self.folder.path(), self.sequence + 1, self.tracking);
                drop(disk.rotate(&gate.close(), next));
                for kind in ["ailog", "intent"] {
                    let name = format!("{}.{kind}", self.sequence);
                    // There is no log where only regions are kept.
                    let _ = fs::remove_file(self.folder.path().join(name));
                }
                self.sequence += 1;
            }
        }
    }

    /// Writes from all clients at once; the time from the first to the last.
    fn write(&mut self, length: usize) -> Duration {
        self.rotate();
        let started = Instant::now();
        thread::scope(|scope| {
            for (client, seed) in self.clients.iter().zip(0..) {
                scope.spawn(move || write_at_random(client, length, seed));
            }
        });
        started.elapsed()
    }
}

fn write_at_random(client: &Client, length: usize, seed: u64) {
    let mut noise = Noise::seeded(seed);
    let data = noise.bytes(length);
    let places = DISK.get() / length as u64;
    for _ in 0..WRITTEN / CLIENTS / length {
        let at = Offset::new(noise.below(places) * length as u64);
        client
            .write_at(at, &data)
            .expect("a disk that takes writes");
    }
}

fn main() {
    let filter = benches::filter();
    for length in LENGTHS {
        let title = format!("random writes of {} KiB, {CLIENTS} in flight", length >> 10);
        if !title.contains(&filter) {
            continue;
        }
        let mut plain = Served::new(Tracking::None);
        let mut bare = Served::new(Tracking::Bare);
        let mut recycled = Served::new(Tracking::Recycled);
        let mut regions = Served::new(Tracking::Regions);
        let mut logged = Served::new(Tracking::Log);
        Paired::new(title, WRITTEN as u64)
            .case("limit: plain disk", || plain.write(length))
            .case("plain disk and a bare log", || bare.write(length))
            .case("plain disk and a recycled bare log", || {
                recycled.write(length)
            })
            .case("tracked, regions only", || regions.write(length))
            .case("tracked, logged", || logged.write(length))
            .run(ROUNDS);
    }
}
