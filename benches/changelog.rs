//! The change log, each step beside its limit.
//!
//! *Append* of 512 MiB through [`FileWriter`], beside the bare loop that writes a header of 32 bytes
//! with a CRC-32 and the payload in one `writev` each, the same loop with 1 MiB in a call, and two
//! other logs: okaywal (1 MiB in an entry) and commitlog. A third, raft-engine, is none of this
//! package's dependencies: measured once by itself, beside the same loop, it had 0.76 of its speed at
//! 4 KiB and 0.68 at 64 KiB. *Force* of 8 MiB, 256 KiB at a time, beside
//! the bare write and `fdatasync` of as many bytes, on the medium of the temporary folder. *Read* of
//! 256 MiB in memory, beside the bare CRC-32. *Prove*: seal and [`SealedLog::open`], beside the bare
//! SHA-256, which both compute on a thread of its own, and beside reading and the SHA-256 in turn.
//! *Apply*, which has two threads, beside bare writes of the same bytes from memory, in the same order;
//! beside bare reads and writes, since the pieces have to be read from the log first; and beside bare
//! writes of one buffer that never leaves the cache, which is what no log is. *Merge* of 16 logs of 64 MiB,
//! half of which is overwritten, beside bare reads and writes of what is left, and beside the same with
//! its CRC-32 and SHA-256 in turn; and beside the SHA-256 alone, which no merge can be faster than: a
//! sealed log names the digest of all that it holds.
//!
//! Cases are measured in turn, A B A B, on tmpfs unless `AFTERIMAGE_BENCH_FOLDER` names another folder;
//! no file is forced but by force, by seal and by okaywal. `cargo bench -p benches --bench changelog --
//! append` measures one step.
//!
//! # Figures
//!
//! Speed as a multiple of the first case of each table; medians of 9 rounds, 2 cores while other work
//! was held back, tmpfs (force: ext4), 2026-11-24 (prove) and 25, `cargo bench -p benches --bench
//! changelog`. Where two are given they are of several runs: with two threads on two cores, whatever
//! else wakes up is seen.
//!
//! | | 4 KiB records | 64 KiB records |
//! | --- | --- | --- |
//! | append: bare `writev` | 1 | 1 |
//! | bare `writev`, 1 MiB at a time | 1.74 | 1.04 |
//! | `FileWriter::append` | 0.94 | 0.99 |
//! | `FileWriter::append_batch`, 1 MiB | 1.51 | 1.03 |
//! | okaywal, commitlog | 1.31, 0.94 | 0.90, 0.89 |
//! | force: bare write and `fdatasync` | 1 | 1 |
//! | `FileWriter`, and with space reserved | 0.92, 1.05 | 0.94, 1.08 |
//! | read: bare CRC-32 | 1 | 1 |
//! | `Reader` | 0.92 | 0.99 |
//! | prove: bare SHA-256 | 1 | 1 |
//! | bare reads and SHA-256 | 0.77 | 0.80 |
//! | `FileWriter::seal` | 0.89 | 0.89 |
//! | `SealedLog::open` | 0.82 | 0.86 |
//! | apply: bare writes of the same bytes | 1 | 1 |
//! | bare writes of one buffer | 1.50 | 1.34 |
//! | bare reads and writes | 0.51 | 0.51 |
//! | `SealedLog::apply` | 0.96 | 0.91 |
//! | merge: bare reads and writes | 1 | 1 |
//! | and their CRC-32 and SHA-256 | 0.57 | 0.41 |
//! | bare SHA-256 | 1.41 | 0.82 |
//! | `merge` | 0.62 to 0.73 | 0.64 to 0.79 |

use std::fs::File;
use std::hint::black_box;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use afterimage_block::{
    Access, Change, ContentDigest, DiskId, Epoch, Length, Offset, RawDisk, Sequence, Timestamp,
};
use afterimage_changelog::{
    FileWriter, LogHeader, Piece, Reader, RecordHeader, SealedLog, WriterOptions, merge,
};
use benches::{Noise, Paired, append_bare};
use bytes::Bytes;
use commitlog::{CommitLog, LogOptions};
use okaywal::{Configuration, LogVoid};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// What is appended in one run.
const APPENDED: usize = 512 << 20;
/// What a log holds that is read, proved or applied.
const LOGGED: usize = 256 << 20;
/// What is merged, and over how much of the disk: half of it is overwritten by what comes later.
const GENERATIONS: u64 = 16;
const GENERATION: usize = 64 << 20;
const OVERWRITTEN: u64 = 642 << 20;
/// What is forced at a time, and in one run.
const GROUP: usize = 256 << 10;
const FORCED: usize = 8 << 20;
const DISK: usize = 1 << 30;
const RECORDS: [usize; 2] = [4 << 10, 64 << 10];
/// Small enough for the caches: the data of a write have just come in.
const PAYLOADS: usize = 1 << 20;
/// What the batched loop writes in one call, and a peer in one entry.
const BATCH: usize = 1 << 20;
const ROUNDS: usize = 9;

/// Writes of one length to random places of a disk, the data always the same megabyte.
struct Writes {
    data: Vec<u8>,
    record: usize,
}

impl Writes {
    fn of(record: usize) -> Self {
        Self {
            data: Noise::default().bytes(PAYLOADS),
            record,
        }
    }

    /// The data of writes of `total` bytes in all.
    fn payloads(&self, total: usize) -> impl Iterator<Item = &[u8]> {
        self.data
            .chunks(self.record)
            .cycle()
            .take(total / self.record)
    }

    fn changes(&self, total: usize) -> impl Iterator<Item = Change<'_>> {
        let mut noise = Noise::seeded(1);
        let places = (DISK / self.record) as u64;
        self.payloads(total).map(move |data| Change::Write {
            offset: Offset::new(noise.below(places) * self.record as u64),
            data,
        })
    }
}

fn header() -> LogHeader {
    LogHeader {
        disk: DiskId::from_bytes([7; 16]),
        disk_size: Length::new(DISK as u64),
        epoch: Epoch::new(1),
        first: Sequence::new(1),
        last: Sequence::new(1),
        created: Timestamp::default(),
    }
}

fn append(writes: &Writes, folder: &Path, total: usize) -> FileWriter {
    let path = folder.join("1.ailog");
    let mut log = FileWriter::create(&path, header(), WriterOptions::default()).expect("a log");
    for change in writes.changes(total) {
        let time = std::time::SystemTime::now().into();
        log.append(change, time).expect("room for a record");
    }
    log
}

/// A megabyte at a time.
fn append_batches(writes: &Writes, folder: &Path) -> FileWriter {
    let path = folder.join("1.ailog");
    let mut log = FileWriter::create(&path, header(), WriterOptions::default()).expect("a log");
    let now = || std::time::SystemTime::now().into();
    let changes: Vec<_> = writes
        .changes(APPENDED)
        .map(|change| (change, now()))
        .collect();
    for batch in changes.chunks(BATCH / writes.record) {
        log.append_batch(batch).expect("room for a batch");
    }
    log
}

/// One vectored write for `batch` records.
fn append_to_bare(writes: &Writes, folder: &Path, batch: usize) {
    let file = File::create(folder.join("bare")).expect("a file");
    let payloads: Vec<_> = writes.payloads(APPENDED).collect();
    for payloads in payloads.chunks(batch) {
        append_bare(&file, payloads.iter().copied());
    }
}

fn append_to_okaywal(writes: &Writes, folder: &Path) {
    let never = 2 * APPENDED as u64;
    let options = Configuration::default_for(folder.join("okaywal"));
    let log = options
        .checkpoint_after_bytes(never)
        .open(LogVoid)
        .expect("a log");
    let payloads: Vec<_> = writes.payloads(APPENDED).collect();
    for payloads in payloads.chunks(BATCH / writes.record) {
        let mut entry = log.begin_entry().expect("an entry");
        for payload in payloads {
            entry.write_chunk(payload).expect("room for a record");
        }
        entry.commit().expect("a whole entry");
    }
}

fn append_to_commitlog(writes: &Writes, folder: &Path) {
    let mut options = LogOptions::new(folder.join("commitlog"));
    options.index_max_items(2 * APPENDED / writes.record);
    let mut log = CommitLog::new(options).expect("a log");
    for payload in writes.payloads(APPENDED) {
        log.append_msg(payload).expect("room for a record");
    }
}

/// Writes and forces a group at a time.
fn force_bare(writes: &Writes, folder: &Path) {
    let mut file = File::create(folder.join("bare")).expect("a file");
    // The same bytes as a log has: a record's header is longer than that of the bare log.
    let length = writes.record + RecordHeader::LEN;
    let group = vec![7; GROUP / writes.record * length];
    for _ in 0..FORCED / GROUP {
        file.write_all(&group).expect("room for a group");
        file.sync_data().expect("a medium that works");
    }
}

fn force_groups(writes: &Writes, folder: &Path, options: WriterOptions) {
    let path = folder.join("1.ailog");
    let mut log = FileWriter::create(&path, header(), options).expect("a log");
    let changes: Vec<_> = writes
        .changes(FORCED)
        .map(|change| (change, Timestamp::default()))
        .collect();
    for group in changes.chunks(GROUP / writes.record) {
        log.append_batch(group).expect("room for a group");
        log.sync().expect("a medium that works");
    }
}

fn forcing(record: usize) {
    let writes = Writes::of(record);
    let plain = WriterOptions::default();
    let reserved = plain.clone().with_reserve(Length::mib(16));
    let of = |run: &dyn Fn(&Path)| {
        let folder = benches::folder_on_disk();
        timed(|| run(folder.path()))
    };
    Paired::new(
        format!("force, 256 KiB at a time, {} KiB records", record >> 10),
        FORCED as u64,
    )
    .case("limit: bare write and fdatasync", || {
        of(&|at| force_bare(&writes, at))
    })
    .case("FileWriter", || {
        of(&|at| force_groups(&writes, at, plain.clone()))
    })
    .case("FileWriter, space reserved", || {
        of(&|at| force_groups(&writes, at, reserved.clone()))
    })
    .run(ROUNDS);
}

/// The time of `run` alone, without that of dropping what it made.
fn timed<T>(run: impl FnOnce() -> T) -> Duration {
    let started = Instant::now();
    let kept = run();
    let elapsed = started.elapsed();
    drop(kept);
    elapsed
}

/// The time of one run in a folder of its own.
fn timed_in_folder<T>(run: impl Fn(&Path) -> T) -> impl FnMut() -> Duration {
    move || {
        let folder = benches::folder();
        timed(|| run(folder.path()))
    }
}

fn appending(record: usize) {
    let writes = Writes::of(record);
    let title = format!("append, {} KiB records", record >> 10);
    let bare = |batch| {
        let writes = &writes;
        timed_in_folder(move |at| append_to_bare(writes, at, batch))
    };
    Paired::new(title, APPENDED as u64)
        .case("limit: bare writev", bare(1))
        .case("bare writev of 1 MiB at a time", bare(BATCH / record))
        .case(
            "FileWriter",
            timed_in_folder(|at| append(&writes, at, APPENDED)),
        )
        .case(
            "FileWriter::append_batch of 1 MiB",
            timed_in_folder(|at| append_batches(&writes, at)),
        )
        .case(
            "okaywal",
            timed_in_folder(|at| append_to_okaywal(&writes, at)),
        )
        .case(
            "commitlog",
            timed_in_folder(|at| append_to_commitlog(&writes, at)),
        )
        .run(ROUNDS);
}

/// A sealed log and its bytes.
struct Sealed {
    folder: TempDir,
    log: SealedLog,
    bytes: Bytes,
}

impl Sealed {
    fn of(record: usize) -> Self {
        let folder = benches::folder();
        let open = append(&Writes::of(record), folder.path(), LOGGED);
        let log = open.seal(ContentDigest::NONE).expect("a sealed log");
        let bytes = std::fs::read(log.path())
            .expect("the log just sealed")
            .into();
        Self { folder, log, bytes }
    }
}

/// Every record, each proved by its checksum.
fn read(log: &Bytes) -> usize {
    Reader::new(log.clone())
        .expect("a log")
        .map(|record| record.payload.len())
        .sum()
}

fn reading(record: usize) {
    let sealed = Sealed::of(record);
    let checksum = || {
        for record in sealed.bytes.chunks(record) {
            black_box(crc32fast::hash(record));
        }
    };
    Paired::new(format!("read, {} KiB records", record >> 10), LOGGED as u64)
        .case("limit: bare CRC-32", || timed(checksum))
        .case("Reader", || {
            timed(|| assert_eq!(read(&sealed.bytes), LOGGED))
        })
        .run(ROUNDS);
}

fn proving(record: usize) {
    let sealed = Sealed::of(record);
    let writes = Writes::of(record);
    let mut buffer = vec![0; 128 << 10];
    let seal = || {
        let folder = benches::folder();
        let log = append(&writes, folder.path(), LOGGED);
        timed(|| log.seal(ContentDigest::NONE).expect("a sealed log"))
    };
    Paired::new(
        format!("prove, {} KiB records", record >> 10),
        LOGGED as u64,
    )
    .case("limit: bare SHA-256", || {
        timed(|| Sha256::digest(&sealed.bytes))
    })
    .case("bare reads and SHA-256", || {
        timed(|| read_and_digest(sealed.log.path(), &mut buffer))
    })
    .case("FileWriter::seal", seal)
    .case("SealedLog::open", || {
        timed(|| SealedLog::open(sealed.log.path()).expect("a sealed log"))
    })
    .run(ROUNDS);
}

/// Reads each piece of the log and writes it to its place: what any apply must do.
fn copy_pieces(log: &File, pieces: &[(u64, u64, usize)], disk: &File, buffer: &mut [u8]) {
    for (from, to, length) in pieces {
        let data = &mut buffer[..*length];
        log.read_exact_at(data, *from).expect("a readable log");
        disk.write_all_at(data, *to).expect("room for a piece");
    }
}

/// Writes what is in memory already.
fn write_pieces<'a>(
    pieces: &[(u64, u64, usize)],
    disk: &File,
    data: impl Fn(u64, usize) -> &'a [u8],
) {
    for (from, to, length) in pieces {
        let data = data(*from, *length);
        disk.write_all_at(data, *to).expect("room for a piece");
    }
}

fn applying(record: usize) {
    let sealed = Sealed::of(record);
    let index = sealed.log.index().expect("an index");
    let pieces = index.iter().filter_map(|piece| {
        let length = piece.extent.length().to_usize()?;
        Some((piece.data_at?, piece.extent.start().get(), length))
    });
    let pieces: Vec<_> = pieces.collect();
    let bytes = pieces.iter().map(|(.., length)| *length as u64).sum();
    let path = sealed.folder.path().join("disk.raw");
    drop(RawDisk::create(&path, Length::new(DISK as u64)).expect("a disk"));
    let disk = RawDisk::open(&path, Access::ReadWrite).expect("the disk just made");
    let plain = File::options()
        .write(true)
        .open(&path)
        .expect("the disk just made");
    let log = File::open(sealed.log.path()).expect("the log just sealed");
    let data = Noise::default().bytes(1 << 20);
    let mut buffer = data.clone();
    let apply = || {
        let applied = sealed.log.apply(&disk).expect("a sound log");
        assert_eq!(applied.written, Length::new(bytes));
    };
    Paired::new(format!("apply, {} KiB records", record >> 10), bytes)
        .case("limit: bare pwrite of the same bytes", || {
            let same = |from, length| {
                let from = usize::try_from(from).expect("what memory can hold");
                &sealed.bytes[from..from + length]
            };
            timed(|| write_pieces(&pieces, &plain, same))
        })
        .case("bare pwrite of one buffer, again and again", || {
            timed(|| write_pieces(&pieces, &plain, |_, length| &data[..length]))
        })
        .case("limit: bare pread and pwrite", || {
            timed(|| copy_pieces(&log, &pieces, &plain, &mut buffer))
        })
        .case("SealedLog::apply", || timed(apply))
        .run(ROUNDS);
}

/// Sealed logs that follow each other, of random writes half of which a later one overwrites.
fn generations(record: usize, folder: &Path) -> Vec<SealedLog> {
    let mut noise = Noise::seeded(2);
    let data = Noise::default().bytes(PAYLOADS);
    let mut logs: Vec<SealedLog> = Vec::new();
    for generation in 1..=GENERATIONS {
        let sequence = Sequence::new(generation);
        let header = LogHeader {
            first: sequence,
            last: sequence,
            ..header()
        };
        let path = folder.join(format!("{generation}.ailog"));
        let mut log = FileWriter::create(&path, header, WriterOptions::default()).expect("a log");
        for data in data.chunks(record).cycle().take(GENERATION / record) {
            let offset = noise.below(OVERWRITTEN / record as u64) * record as u64;
            let offset = Offset::new(offset);
            let change = Change::Write { offset, data };
            log.append(change, Timestamp::default()).expect("room");
        }
        let predecessor = logs.last().map(|log| log.summary().content);
        let sealed = log.seal(predecessor.unwrap_or(ContentDigest::NONE));
        logs.push(sealed.expect("a sealed log"));
    }
    logs
}

/// Reads each piece where it is and writes it behind the one before, having done `between` to it.
fn copy_behind(
    from: &File,
    pieces: &[(u64, usize)],
    mut to: &File,
    buffer: &mut [u8],
    mut between: impl FnMut(&[u8]),
) {
    for (at, length) in pieces {
        let data = &mut buffer[..*length];
        from.read_exact_at(data, *at).expect("a readable log");
        between(data);
        to.write_all(data).expect("room for a piece");
    }
}

/// Reads a log and digests it: what proving it must do.
fn read_and_digest(log: &Path, buffer: &mut [u8]) {
    let file = File::open(log).expect("the log just sealed");
    let length = file.metadata().expect("an open file").len();
    let (mut at, mut sha) = (0, Sha256::new());
    while at < length {
        let read = file.read_at(buffer, at).expect("a readable log");
        sha.update(&buffer[..read]);
        at += read as u64;
    }
    black_box(sha.finalize());
}

fn merging(record: usize) {
    let folder = benches::folder();
    let logs = generations(record, folder.path());
    let (first, rest) = logs.split_first().expect("logs");
    let (one, other) = (folder.path().join("merged"), folder.path().join("copied"));
    let merge_all = || {
        let _ = std::fs::remove_file(&one);
        timed(|| merge(first, rest, &one, WriterOptions::default()).expect("a merged log"))
    };
    merge_all();
    let merged = SealedLog::open(&one).expect("the log just merged");
    let index = merged.index().expect("an index");
    let piece = |piece: Piece| Some((piece.data_at?, piece.extent.length().to_usize()?));
    let pieces: Vec<_> = index.iter().filter_map(piece).collect();
    let kept = folder.path().join("kept");
    std::fs::rename(&one, &kept).expect("a place for it");
    let kept = File::open(&kept).expect("the log just moved");
    let mut buffer = vec![0; PAYLOADS];
    let copy = || {
        let to = File::create(&other).expect("a file");
        timed(|| copy_behind(&kept, &pieces, &to, &mut buffer, |_| ()))
    };
    let mut digested = vec![0; PAYLOADS];
    // What any merge must do that proves what it reads and seals what it writes.
    let copy_and_digest = || {
        let to = File::create(&other).expect("a file");
        let mut sha = Sha256::new();
        timed(|| {
            copy_behind(&kept, &pieces, &to, &mut digested, |data| {
                black_box(crc32fast::hash(data));
                sha.update(data);
            });
            sha.finalize()
        })
    };
    let bytes = merged.summary().payload.get();
    Paired::new(format!("merge, {} KiB records", record >> 10), bytes)
        .case("limit: bare reads and writes", copy)
        .case("limit: and their CRC-32 and SHA-256", copy_and_digest)
        .case("bare SHA-256", || {
            let bytes = vec![5; usize::try_from(bytes).expect("what memory can hold")];
            timed(|| Sha256::digest(&bytes))
        })
        .case("merge", merge_all)
        .run(ROUNDS);
}

/// Measures a step with records of this length.
type Bench = fn(usize);

fn main() {
    let filter = benches::filter();
    let benches: [(&str, Bench); 6] = [
        ("append", appending),
        ("force", forcing),
        ("read", reading),
        ("prove", proving),
        ("apply", applying),
        ("merge", merging),
    ];
    for (name, bench) in benches {
        if name.contains(&filter) {
            RECORDS.into_iter().for_each(bench);
        }
    }
}
