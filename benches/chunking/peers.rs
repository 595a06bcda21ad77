//! Other ways to tell what differs: content-defined chunks, and rolling checksums as rsync has them.

use std::hint::black_box;
use std::time::Duration;

use afterimage_block::{BlockRead, Offset};
use afterimage_resync::{Scope, Signer};
use benches::{Paired, Rate};
use digest::Digest;
use fast_rsync::{Signature, SignatureOptions};
use fastcdc::v2020::FastCDC;
use sha2::Sha256;

use crate::{Images, SIZE, block, timed};

/// Blocks, or chunks on the average.
const BYTES: u32 = 64 << 10;

/// Makes the signatures of one image in each way, on one thread.
pub(crate) fn run(images: &Images) -> Vec<Rate> {
    let disk = images.image("dense", SIZE);
    let content = &images.content[..];
    let signed = |sign: &dyn Fn()| -> Duration { timed(sign) };
    let whole = || Scope::whole(disk.size(), block(BYTES >> 10));
    Paired::new("signatures in 64 KiB, one thread", SIZE as u64)
        .case("limit: bare SHA-256", || {
            signed(&|| bare::<Sha256>(content))
        })
        .case("Signer, SHA-256, from the image", || {
            signed(&|| count(Signer::<Sha256>::new(&disk, whole(), Offset::ZERO)))
        })
        .case("limit: bare BLAKE3", || {
            signed(&|| bare::<blake3::Hasher>(content))
        })
        .case("Signer, BLAKE3, from the image", || {
            signed(&|| count(Signer::<blake3::Hasher>::new(&disk, whole(), Offset::ZERO)))
        })
        .case("fastcdc, chunks only", || {
            signed(&|| {
                black_box(chunks(content).count());
            })
        })
        .case("fastcdc, chunks and SHA-256", || {
            signed(&|| {
                for chunk in chunks(content) {
                    black_box(Sha256::digest(&content[chunk.offset..][..chunk.length]));
                }
            })
        })
        .case("fast_rsync, rolling checksum and MD4", || {
            let options = SignatureOptions {
                block_size: BYTES,
                crypto_hash_size: 16,
            };
            signed(&|| drop(black_box(Signature::calculate(content, options))))
        })
        .run(5)
}

fn bare<D: Digest>(content: &[u8]) {
    for block in content.chunks(BYTES as usize) {
        black_box(D::digest(block));
    }
}

fn count<T>(signer: afterimage_resync::Result<impl Iterator<Item = afterimage_resync::Result<T>>>) {
    let signatures = signer.expect("the disk's size");
    signatures.for_each(|signature| drop(black_box(signature.expect("a readable image"))));
}

/// From a quarter of the average to four times as much, as is usual.
fn chunks(content: &[u8]) -> FastCDC<'_> {
    let average = BYTES as usize;
    FastCDC::new(content, average / 4, average, average * 4)
}
