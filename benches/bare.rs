//! The plainest log there could be: a header with a checksum before each payload, one vectored write.

use std::fs::File;
use std::io::{IoSlice, Write};

/// What stands before each payload.
const BARE_HEADER: usize = 32;

/// A length and a checksum, which covers the payload as well.
fn bare_header(payload: &[u8]) -> [u8; BARE_HEADER] {
    let mut header = [0; BARE_HEADER];
    header[..8].copy_from_slice(&(payload.len() as u64).to_le_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&header[..28]);
    crc.update(payload);
    header[28..].copy_from_slice(&crc.finalize().to_le_bytes());
    header
}

/// Appends records of these payloads in one vectored write, of 512 at most.
///
/// # Panics
/// If the file does not take them.
pub fn append_bare<'a>(mut file: &File, payloads: impl Iterator<Item = &'a [u8]> + Clone) {
    let headers: Vec<_> = payloads.clone().map(bare_header).collect();
    let records = headers.iter().zip(payloads);
    let slices =
        records.flat_map(|(header, payload)| [IoSlice::new(header), IoSlice::new(payload)]);
    let mut slices: Vec<_> = slices.collect();
    let mut left = &mut slices[..];
    while !left.is_empty() {
        let written = file.write_vectored(left).expect("room for a record");
        IoSlice::advance_slices(&mut left, written);
    }
}
