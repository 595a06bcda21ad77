//! Signatures and comparison of disks, each beside its limit: the bare digest, the bare `memcmp`.
//!
//! Two ends of a stream: what goes over it for a number of changed blocks, with the tree and as a flat
//! list of digests, and how long a first copy to a blank disk takes beside the bare digest.
//!
//! With `AFTERIMAGE_BENCH_PLOT=FILE.svg` the digests of peers and the wire costs are drawn as well; the
//! plot in the README is made by
//! `AFTERIMAGE_BENCH_PLOT=$PWD/benches/chunking.svg cargo bench -p benches --bench chunking -- plotted`.
//!
//! Other programs beside the `resync` example: dense images of 2 GiB on tmpfs, two processors, medians of
//! seven or nine runs in turn, seconds, equal images and such of which 1 % of the blocks of 64 KiB differ:
//!
//! | | equal | 1 % |
//! | --- | --- | --- |
//! | `resync a b` | 0.347 | 0.366 |
//! | both read and compared on two threads in pieces of 256 KiB, and nothing else | 0.364 | 0.377 |
//! | `blocksync-fast -s a -d b -b 64K` (1.07) | 0.756 | 0.784 |
//! | `rsync -I --inplace --no-whole-file --block-size=65536 a b` | 1.488 | 1.695 |
//! | `cp a b`, beside which `resync` took 0.397 in that run | 1.352 | |
//! | `resync a "cmd:resync --serve stdio b"` | 0.706 | 0.742 |
//! | the bare digest BLAKE3 of both on two threads, read from the images | 0.647 | |
//! | `resync --digest sha256 a "cmd:resync --serve stdio b"` | 1.651 | 1.648 |
//! | the bare digest SHA-256 | 1.514 | |
//! | the first of these with `--cache` at both ends | 0.0064 | |
//!
//! Images of 256 MiB in the temporary folder (`/dev/shm` where there is one), in the page cache.
//! Compare figures of one run only.

mod matrix;
mod peers;
mod plot;
mod wire;

use std::cell::RefCell;
use std::fs::File;
use std::hint::black_box;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

use afterimage_block::{Access, BlockRead, BlockWrite, Extent, Length, Offset, RawDisk, Zeroing};
use afterimage_resync::{
    BlockIndex, BlockSize, Comparer, Error, LocalResync, Scope, Session, Signature, SignaturePage,
    Signer, is_zero,
};
use benches::{Noise, Paired};
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use sha2::{Digest, Sha256};

type Group<'c> = BenchmarkGroup<'c, criterion::measurement::WallTime>;

const SIZE: usize = 256 << 20;
const WINDOW: usize = 256 << 10;
/// Names the file to draw the plot to.
const PLOT_VARIABLE: &str = "AFTERIMAGE_BENCH_PLOT";
const BLOCKS: [u32; 3] = [4, 64, 1024];

/// Two equal images.
struct Images {
    folder: tempfile::TempDir,
    /// What a quarter of the bytes, all in one run, or all of them hold.
    content: Vec<u8>,
}

impl Images {
    fn new() -> Self {
        Self {
            folder: benches::folder(),
            content: Noise::default().bytes(SIZE),
        }
    }

    /// An image whose first `stored` bytes are data and the rest one hole.
    fn image(&self, name: &str, stored: usize) -> RawDisk {
        let path = self.folder.path().join(name);
        let disk = RawDisk::create(&path, Length::new(SIZE as u64)).expect("room for an image");
        disk.write_at(Offset::ZERO, &self.content[..stored])
            .expect("room for its data");
        drop(disk);
        RawDisk::open(path, Access::ReadWrite).expect("the image just made")
    }

    fn file(&self, name: &str) -> File {
        File::open(self.folder.path().join(name)).expect("the image just made")
    }
}

fn block(kib: u32) -> BlockSize {
    BlockSize::try_from(Length::kib(kib)).expect("a power of two")
}

fn signatures(disk: &RawDisk, kib: u32) -> Vec<Signature> {
    let scope = Scope::whole(disk.size(), block(kib));
    let signer = Signer::new(disk, scope, Offset::ZERO).expect("the disk's size");
    signer
        .map(|signed| signed.expect("a readable image").1)
        .collect()
}

/// Compares the disk with its own signatures, a page of 1024 at a time.
fn compare(disk: &RawDisk, kib: u32, signatures: &[Signature], threads: NonZeroUsize) {
    let session = Session::whole(disk.size(), block(kib));
    let mut comparer = Comparer::<Sha256>::new(session).threads(threads);
    for (first, page) in (0_u64..).step_by(1024).zip(signatures.chunks(1024)) {
        let page = SignaturePage::new(BlockIndex::new(first), page);
        let outcome = comparer.compare::<Error>(disk, page, |_| Ok(()));
        outcome.expect("a readable image");
    }
    assert_eq!(comparer.session().summary().equal, disk.size());
}

fn resync(source: &RawDisk, target: &RawDisk, kib: u32, threads: NonZeroUsize) {
    let mut session = Session::whole(source.size(), block(kib));
    let resync = LocalResync::dry_run(source, target).expect("disks of one size");
    let run = resync
        .threads(threads)
        .run(&mut session, |_| ControlFlow::Continue(()));
    run.expect("readable images");
    assert_eq!(session.summary().equal, source.size());
}

/// Reads both files and compares them, each thread a part of its own.
fn scan(source: &File, target: &File, threads: NonZeroUsize) {
    let part = SIZE / threads.get();
    let scan = |from: usize| {
        let (mut left, mut right) = (vec![0; WINDOW], vec![0; WINDOW]);
        for at in (from..from + part).step_by(WINDOW) {
            source
                .read_exact_at(&mut left, at as u64)
                .expect("a readable image");
            target
                .read_exact_at(&mut right, at as u64)
                .expect("a readable image");
            assert!(left == right);
        }
    };
    thread::scope(|scope| {
        for number in 1..threads.get() {
            scope.spawn(move || scan(number * part));
        }
        scan(0);
    });
}

fn group<'c>(criterion: &'c mut Criterion, name: &str) -> Group<'c> {
    let mut group = criterion.benchmark_group(name);
    group
        .sample_size(10)
        .throughput(Throughput::Bytes(SIZE as u64));
    group
}

fn thread_counts() -> impl Iterator<Item = NonZeroUsize> {
    let all = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let more = (all > NonZeroUsize::MIN).then_some(all);
    std::iter::once(NonZeroUsize::MIN).chain(more)
}

fn signing(criterion: &mut Criterion) {
    let images = Images::new();
    let dense = images.image("dense", SIZE);
    let sparse = images.image("sparse", SIZE / 4);
    let mut group = group(criterion, "signatures");
    for kib in BLOCKS {
        let bytes = kib as usize * 1024;
        group.bench_function(format!("limit: bare SHA-256, {kib} KiB"), |b| {
            b.iter(|| {
                for block in images.content.chunks(bytes) {
                    black_box(Sha256::digest(block));
                }
            });
        });
        group.bench_function(format!("dense, {kib} KiB"), |b| {
            b.iter(|| signatures(&dense, kib));
        });
        group.bench_function(format!("a quarter data, {kib} KiB"), |b| {
            b.iter(|| signatures(&sparse, kib));
        });
        let signed = signatures(&dense, kib);
        for threads in thread_counts() {
            group.bench_function(format!("compared, {kib} KiB, {threads} threads"), |b| {
                b.iter(|| compare(&dense, kib, &signed, threads));
            });
        }
    }
    group.finish();
}

fn comparing(criterion: &mut Criterion) {
    let images = Images::new();
    let (source, target) = (images.image("source", SIZE), images.image("target", SIZE));
    let files = (images.file("source"), images.file("target"));
    let mut group = group(criterion, "two local disks");
    for threads in thread_counts() {
        group.bench_function(
            format!("limit: bare read and memcmp, {threads} threads"),
            |b| {
                b.iter(|| scan(&files.0, &files.1, threads));
            },
        );
        for kib in BLOCKS {
            group.bench_function(format!("equal, {kib} KiB, {threads} threads"), |b| {
                b.iter(|| resync(&source, &target, kib, threads));
            });
        }
    }
    // Written, so that it is memory rather than one page of zeros mapped all over.
    let mut zeros = vec![1; SIZE];
    zeros.fill(0);
    group.bench_function("zeros in memory", |b| {
        b.iter(|| assert!(is_zero(black_box(&zeros))));
    });
    group.finish();
}

fn timed(run: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    run();
    begun.elapsed()
}

/// A first copy to a blank disk, which each end must hash once, beside the digest of as many bytes.
fn first_copy(_: &mut Criterion) {
    let images = Images::new();
    let (source, target) = (images.image("source", SIZE), images.image("target", 512));
    let whole = Extent::whole(target.size()).expect("a disk that is not empty");
    let known = RefCell::default();
    let hash = || {
        let threads = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let part = images.content.len().div_ceil(threads.get());
        thread::scope(|scope| {
            for part in images.content.chunks(part) {
                // Once for each end.
                scope.spawn(move || black_box((Sha256::digest(part), Sha256::digest(part))));
            }
        });
    };
    Paired::new("first copy to a blank disk over a pipe", SIZE as u64)
        .case("limit: bare SHA-256 of both ends, all threads", || {
            timed(hash)
        })
        .case("all is sent", || {
            let zeroed = target.write_zeroes(whole, Zeroing::Deallocate);
            zeroed.expect("holes");
            timed(|| {
                let sent = wire::push(&source, &target, BlockSize::default(), None).sent;
                assert_eq!(sent, source.size().get());
            })
        })
        .case("nothing differs", || {
            timed(|| {
                let pushed = wire::push(&source, &target, BlockSize::default(), None);
                assert_eq!(pushed.sent, 0);
                *known.borrow_mut() = pushed.known;
            })
        })
        .case("nothing differs, digests known from before", || {
            let known = known.borrow();
            timed(|| {
                let known = Some(&*known);
                let pushed = wire::push(&source, &target, BlockSize::default(), known);
                assert!(pushed.sent == 0 && pushed.beside < 4096);
            })
        })
        .run(7);
}

/// The table of signatures in the README.
fn tabled(_: &mut Criterion) {
    matrix::run(&Images::new());
}

/// What other ways to tell what differs do and send, and the plot of both where a path for it is given.
fn plotted(_: &mut Criterion) {
    let images = Images::new();
    let rates = peers::run(&images);
    let [coarse, fine] = [64, 4].map(|kib| wire::run(&images, block(kib)));
    drop(images);
    if let Some(path) = std::env::var_os(PLOT_VARIABLE) {
        plot::draw(path.as_ref(), &rates, &[coarse, fine]).expect("a place for the plot");
    }
}

criterion_group!(chunking, signing, comparing, tabled, plotted, first_copy);
criterion_main!(chunking);
