//! What it costs to compress and to encrypt a change log.
//!
//! *Compress*: records of what is on this machine's disk, programs for the most part, in LZ4 and in
//! Zstandard at its fastest, one record at a time; what is saved, and how fast each way is. *Append* of
//! the same, stored in every way, beside plain records: what a guest's write waits for. *Read* of such
//! logs in memory.
//!
//! Cases are measured in turn, A B A B, on tmpfs unless `AFTERIMAGE_BENCH_FOLDER` names another folder.
//! `cargo bench -p benches --bench sealing -- append` measures one step. `AFTERIMAGE_BENCH_DATA` names
//! a file to take the records from instead.
//!
//! # Figures
//!
//! Speed as a multiple of the first case of each table; medians of 9 rounds, 2 cores while other work
//! was held back, tmpfs, 2026-11-25, `cargo bench -p benches --bench sealing`. The records are of this program,
//! with its symbols.
//!
//! | | 4 KiB records | 64 KiB records |
//! | --- | --- | --- |
//! | compress: LZ4 | 1 | 1 |
//! | Zstandard, level 1 | 0.45 | 0.72 |
//! | LZ4, back | 3.5 | 3.7 |
//! | Zstandard, back | 1.1 | 1.8 |
//! | saved: LZ4 | 2.11 to 1 | 2.51 to 1 |
//! | Zstandard, level 1 | 2.91 to 1 | 3.60 to 1 |
//! | append: plain | 1 | 1 |
//! | compressed | 0.40 | 0.29 |
//! | encrypted | 0.57 | 0.53 |
//! | compressed, encrypted | 0.33 | 0.26 |
//! | append of noise: plain | 1 | 1 |
//! | compressed | 0.83 | 0.83 |
//! | encrypted | 0.57 | 0.53 |
//! | compressed, encrypted | 0.51 | 0.49 |
//! | read: plain, which is the CRC-32 | 1 | 1 |
//! | compressed | 0.11 | 0.17 |
//! | encrypted | 0.09 | 0.15 |
//! | compressed, encrypted | 0.06 | 0.12 |
//!
//! So it is LZ4: a guest's write waits for it, and Zstandard costs about twice as much. What does not
//! compress is not probed first: LZ4 takes longer and longer steps through it, and finding that out
//! costs little.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use afterimage_block::{Change, ContentDigest, DiskId, Epoch, Length, Offset, Sequence, Timestamp};
use afterimage_changelog::{FileWriter, Key, Keys, LogHeader, Packing, Reader, WriterOptions};
use benches::{Noise, Paired};
use bytes::Bytes;

/// The file that records are of, instead of this program.
const DATA_VARIABLE: &str = "AFTERIMAGE_BENCH_DATA";
/// What is compressed, appended or read in one run.
const TOTAL: usize = 64 << 20;
const RECORDS: [usize; 2] = [4 << 10, 64 << 10];
const ROUNDS: usize = 9;

/// Records of real data.
fn data() -> Vec<u8> {
    let path = std::env::var_os(DATA_VARIABLE).map(PathBuf::from);
    let path = path.unwrap_or_else(|| std::env::current_exe().expect("this program"));
    let mut data = Vec::new();
    let file = File::open(path).expect("the file to take records from");
    file.take(TOTAL as u64)
        .read_to_end(&mut data)
        .expect("a readable file");
    let repeated = data.iter().copied().cycle();
    repeated.take(TOTAL).collect()
}

fn timed<T>(run: impl FnOnce() -> T) -> Duration {
    let started = Instant::now();
    let kept = run();
    let elapsed = started.elapsed();
    drop(kept);
    elapsed
}

fn compressing(data: &[u8], record: usize) {
    let lz4: Vec<_> = data.chunks(record).map(lz4_flex::block::compress).collect();
    let zstd = |record| zstd::bulk::compress(record, 1).expect("memory");
    let zstd: Vec<_> = data.chunks(record).map(zstd).collect();
    for (name, blocks) in [("lz4", &lz4), ("zstd, level 1", &zstd)] {
        let stored: usize = blocks.iter().map(Vec::len).sum();
        #[expect(clippy::cast_precision_loss, reason = "shown with two decimals")]
        let ratio = data.len() as f64 / stored as f64;
        println!("\n{name}, {} KiB records: {ratio:.2} to 1", record >> 10);
    }
    let title = format!("compress, {} KiB records", record >> 10);
    let mut encoder = zstd::bulk::Compressor::new(1).expect("memory");
    let mut decoder = zstd::bulk::Decompressor::new().expect("memory");
    Paired::new(title, TOTAL as u64)
        .case("lz4", || {
            timed(|| {
                data.chunks(record)
                    .map(|data| lz4_flex::block::compress(data).len())
                    .sum::<usize>()
            })
        })
        .case("zstd, level 1", || {
            let mut compress = |data| encoder.compress(data).expect("memory").len();
            timed(|| data.chunks(record).map(&mut compress).sum::<usize>())
        })
        .case("lz4, back", || {
            let back = |block: &Vec<u8>| {
                lz4_flex::block::decompress(block, record)
                    .expect("a block")
                    .len()
            };
            timed(|| lz4.iter().map(back).sum::<usize>())
        })
        .case("zstd, back", || {
            let mut back =
                |block: &Vec<u8>| decoder.decompress(block, record).expect("a block").len();
            timed(|| zstd.iter().map(&mut back).sum::<usize>())
        })
        .run(ROUNDS);
}

/// The ways to store records.
fn packings() -> [(&'static str, Packing); 4] {
    let key = Key::new(&[7; 32]);
    let plain = Packing::default();
    let compressed = plain.clone().with_compression();
    [
        ("plain", plain.clone()),
        ("compressed", compressed.clone()),
        ("encrypted", plain.with_key(key.clone())),
        ("compressed, encrypted", compressed.with_key(key)),
    ]
}

fn append(data: &[u8], record: usize, packing: &Packing, folder: &Path) -> FileWriter {
    let header = LogHeader {
        disk: DiskId::from_bytes([7; 16]),
        disk_size: Length::new(TOTAL as u64),
        epoch: Epoch::new(1),
        first: Sequence::new(1),
        last: Sequence::new(1),
        created: Timestamp::default(),
    };
    let options = WriterOptions::default().with_packing(packing.clone());
    let path = folder.join("1.ailog");
    let mut log = FileWriter::create(&path, header, options).expect("a log");
    for (number, data) in data.chunks(record).enumerate() {
        let offset = Offset::new((number * record) as u64);
        let change = Change::Write { offset, data };
        log.append(change, Timestamp::default())
            .expect("room for a record");
    }
    log
}

fn appending(data: &[u8], record: usize) {
    let noise = Noise::default().bytes(TOTAL);
    for (what, data) in [("this data", data), ("noise", &noise)] {
        let title = format!("append of {what}, {} KiB records", record >> 10);
        let mut paired = Paired::new(title, TOTAL as u64);
        for (name, packing) in packings() {
            paired = paired.case(name, move || {
                let folder = benches::folder();
                timed(|| append(data, record, &packing, folder.path()))
            });
        }
        paired.run(ROUNDS);
    }
}

fn reading(data: &[u8], record: usize) {
    let keys = Keys::from(Key::new(&[7; 32]));
    let title = format!("read, {} KiB records", record >> 10);
    let mut paired = Paired::new(title, TOTAL as u64);
    for (name, packing) in packings() {
        let folder = benches::folder();
        let log = append(data, record, &packing, folder.path());
        let log = log.seal(ContentDigest::NONE).expect("a sealed log");
        let log: Bytes = std::fs::read(log.path())
            .expect("the log just sealed")
            .into();
        let keys = keys.clone();
        paired = paired.case(name, move || {
            timed(|| {
                let reader = Reader::with_keys(log.clone(), &keys).expect("a log");
                let read: usize = reader.map(|record| record.payload.len()).sum();
                assert_eq!(read, TOTAL);
            })
        });
    }
    paired.run(ROUNDS);
}

/// Measures a step with records of this length.
type Bench = fn(&[u8], usize);

fn main() {
    let filter = benches::filter();
    let data = data();
    let benches: [(&str, Bench); 3] = [
        ("compress", compressing),
        ("append", appending),
        ("read", reading),
    ];
    for (name, bench) in benches {
        if name.contains(&filter) {
            for record in RECORDS {
                bench(&data, record);
            }
        }
    }
}
