//! Compression of what was written: LZ4 blocks.

/// Less than this is not worth trying.
const SHORTEST: usize = 64;
/// The most bytes that a byte of a block can stand for.
const RATIO_MAX: usize = 255;

/// `data` as a block, if that saves a sixteenth: less is not worth decompressing.
pub(crate) fn compress(data: &[u8]) -> Option<Vec<u8>> {
    if data.len() < SHORTEST {
        return None;
    }
    let block = lz4_flex::block::compress(data);
    (block.len() <= data.len() - data.len() / 16).then_some(block)
}

/// The `length` bytes that `block` is of; `None` if it is not of so many. No more memory is taken than
/// a block of this length can stand for.
pub(crate) fn decompress(block: &[u8], length: usize) -> Option<Vec<u8>> {
    if length > block.len().saturating_mul(RATIO_MAX) {
        return None;
    }
    let mut data = vec![0; length];
    let filled = lz4_flex::block::decompress_into(block, &mut data).ok()?;
    (filled == length).then_some(data)
}
