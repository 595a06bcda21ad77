//! Signatures by block size, digest and threads, of images that are dense, sparse, and zeros: the table in
//! the README.

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::thread;

use afterimage_block::{BlockRead, BlockWrite, Extent, ExtentSet, Length, Offset, RawDisk};
use afterimage_resync::{Scope, Signer};
use digest::Digest;
use sha2::Sha256;

use crate::{Images, SIZE, block, thread_counts, timed};

const BLOCKS: [u32; 4] = [4, 64, 1024, 4096];
const ROUNDS: usize = 5;
/// What a thread takes at once.
const PART: Length = Length::mib(16);

/// What is signed.
struct Disks {
    dense: RawDisk,
    sparse: RawDisk,
    /// Stored, and not a hole.
    zeros: RawDisk,
}

/// Prints, in Markdown, billions of bytes a second, medians of rounds in turn.
pub(crate) fn run(images: &Images) {
    let zeros = images.image("zeros", 0);
    for at in (0..SIZE).step_by(1 << 20) {
        let written = zeros.write_at(Offset::new(at as u64), &vec![0; 1 << 20]);
        written.expect("room for zeros");
    }
    let disks = Disks {
        dense: images.image("dense", SIZE),
        sparse: images.image("sparse", SIZE / 4),
        zeros,
    };
    println!(
        "\n| digest, threads | blocks | bare digest | dense | of bare | a quarter data | zeros |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for threads in thread_counts() {
        for kib in BLOCKS {
            row::<Sha256>("SHA-256", images, &disks, kib, threads);
        }
        for kib in BLOCKS {
            row::<blake3::Hasher>("BLAKE3", images, &disks, kib, threads);
        }
    }
}

fn row<D: Digest>(name: &str, images: &Images, disks: &Disks, kib: u32, threads: NonZeroUsize) {
    let cases: [&dyn Fn(); 4] = [
        &|| bare::<D>(&images.content, kib, threads),
        &|| sign::<D>(&disks.dense, kib, threads),
        &|| sign::<D>(&disks.sparse, kib, threads),
        &|| sign::<D>(&disks.zeros, kib, threads),
    ];
    let mut seconds = [const { Vec::new() }; 4];
    for _ in 0..ROUNDS {
        for (case, seconds) in cases.iter().zip(&mut seconds) {
            seconds.push(timed(case).as_secs_f64());
        }
    }
    let [limit, dense, sparse, zeros] = seconds.map(|mut seconds| {
        seconds.sort_by(f64::total_cmp);
        seconds[ROUNDS / 2]
    });
    #[expect(
        clippy::cast_precision_loss,
        reason = "a rate is shown, not reckoned with"
    )]
    let rate = |seconds: f64| SIZE as f64 / seconds / 1e9;
    println!(
        "| {name}, {threads} | {kib} KiB | {:.2} | {:.2} | {:.2} | {:.1} | {:.1} |",
        rate(limit),
        rate(dense),
        limit / dense,
        rate(sparse),
        rate(zeros)
    );
}

fn bare<D: Digest>(content: &[u8], kib: u32, threads: NonZeroUsize) {
    let part = content.len() / threads.get();
    thread::scope(|scope| {
        for part in content.chunks(part) {
            scope.spawn(move || {
                for block in part.chunks(kib as usize * 1024) {
                    black_box(D::digest(block));
                }
            });
        }
    });
}

/// The threads take parts in turn, so that each has its share of the data.
fn sign<D: Digest>(disk: &RawDisk, kib: u32, threads: NonZeroUsize) {
    let whole = Extent::whole(disk.size()).expect("a disk that is not empty");
    thread::scope(|scope| {
        for number in 0..threads.get() {
            scope.spawn(move || {
                let parts = whole.pieces(PART).skip(number).step_by(threads.get());
                let blocks = Scope::new(disk.size(), block(kib), &parts.collect::<ExtentSet>());
                let blocks = blocks.expect("parts of the disk");
                let signer = Signer::<D>::new(disk, blocks, Offset::ZERO).expect("the disk's size");
                signer.for_each(|signed| drop(black_box(signed.expect("a readable image"))));
            });
        }
    });
}
