//! Checksums for bytes that a fuzzer changed, so that it reaches what lies behind them.
//!
//! Offsets are those of the change log's `FORMAT.md`. The crates' own code is not used: it would not
//! write what the fuzzer wants to be read.

use sha2::{Digest, Sha256};

const HEADER: usize = 128;
const RECORD: usize = 48;
const FOOTER: usize = 128;
const TRAILER: usize = 32;
const PAYLOAD_MAX: usize = 1 << 20;

/// Gives a change log the checksums, lengths and digests that its other bytes ask for: header,
/// records one after the other as far as there are any, and, if a footer comes next, the footer and
/// the trailer.
pub(crate) fn reseal(log: &mut [u8]) {
    if log.len() < HEADER {
        return;
    }
    log[..16].copy_from_slice(b"\x89AILOG\r\n\x01\0\x80\0\0\0\0\0");
    let salt = crc32fast::hash(&log[..124]);
    log[124..HEADER].copy_from_slice(&salt.to_le_bytes());
    let mut at = HEADER;
    while let Some(length) = record(log.get_mut(at..).unwrap_or_default(), salt) {
        at += length;
    }
    if log.get(at..).is_some_and(|rest| rest.starts_with(b"AIFT")) {
        footer(log, at);
    }
}

/// Gives the record that `rest` begins with its checksum; its length, if there is one.
fn record(rest: &mut [u8], salt: u32) -> Option<usize> {
    if rest.len() < RECORD || !rest.starts_with(b"AIRC") {
        return None;
    }
    let payload = usize::try_from(u32::from_le_bytes(rest[40..44].try_into().ok()?)).ok()?;
    let length = RECORD + payload;
    if payload > PAYLOAD_MAX || length > rest.len() {
        return None;
    }
    let mut crc = crc32fast::Hasher::new_with_initial(salt);
    crc.update(&rest[..44]);
    crc.update(&rest[RECORD..length]);
    rest[44..RECORD].copy_from_slice(&crc.finalize().to_le_bytes());
    Some(length)
}

/// Gives the footer at `at` its digest, and the trailer behind it everything.
fn footer(log: &mut [u8], at: usize) {
    let Some(end) = log.len().checked_sub(TRAILER) else {
        return;
    };
    if end < at + FOOTER {
        return;
    }
    let content = Sha256::digest(&log[..at]);
    log[at + 32..at + 64].copy_from_slice(&content);
    let (start, length) = (at as u64, (end - at) as u64);
    let checksum = crc32fast::hash(&log[at..end]);
    let trailer = &mut log[end..];
    trailer[..8].copy_from_slice(b"AITRAILR");
    trailer[8..16].copy_from_slice(&start.to_le_bytes());
    trailer[16..24].copy_from_slice(&length.to_le_bytes());
    trailer[24..28].copy_from_slice(&checksum.to_le_bytes());
    let checksum = crc32fast::hash(&trailer[..28]);
    trailer[28..].copy_from_slice(&checksum.to_le_bytes());
}
