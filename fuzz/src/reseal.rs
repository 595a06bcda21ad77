//! Checksums for bytes that a fuzzer changed, so that it reaches what lies behind them.
//!
//! Offsets are those of the change log's `FORMAT.md` and `HRL.md`. The crates' own code is not used: it would not
//! write what the fuzzer wants to be read.

use sha2::{Digest, Sha256};

const HEADER: usize = 128;
const RECORD: usize = 48;
const FOOTER: usize = 128;
const TRAILER: usize = 32;
const PIECE: usize = 32;
/// The length of an entry of the fence table, without a tag and with one.
const FENCES: [usize; 2] = [16, 32];
/// The pieces of a page.
const PAGE: usize = 256;
const PAYLOAD_MAX: usize = 1 << 20;

/// Gives a change log the checksums, lengths and digests that its other bytes ask for: header,
/// records one after the other as far as there are any, and, if a footer comes next, the footer and
/// the trailer.
pub(crate) fn reseal(log: &mut [u8]) {
    if log.len() < HEADER {
        return;
    }
    log[..12].copy_from_slice(b"\x89AILOG\r\n\x01\0\x80\0");
    // Compressed, encrypted and with tags are what it says; other flags are not known.
    log[12] &= 7;
    log[13..16].fill(0);
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
    let proved = fences(&mut log[at..end]).unwrap_or(end - at);
    let checksum = crc32fast::hash(&log[at..at + proved]);
    let trailer = &mut log[end..];
    trailer[..8].copy_from_slice(b"AITRAILR");
    trailer[8..16].copy_from_slice(&start.to_le_bytes());
    trailer[16..24].copy_from_slice(&length.to_le_bytes());
    trailer[24..28].copy_from_slice(&checksum.to_le_bytes());
    let checksum = crc32fast::hash(&trailer[..28]);
    trailer[28..].copy_from_slice(&checksum.to_le_bytes());
}

/// Gives a footer with pages its fence table; where that ends.
fn fences(footer: &mut [u8]) -> Option<usize> {
    let flags = footer[4];
    let pieces = u64::from_le_bytes(footer.get(24..32)?.try_into().ok()?);
    let pieces = usize::try_from(pieces).ok().filter(|_| flags & 1 == 1)?;
    let start = FOOTER + 32 * (flags & 6).count_ones() as usize;
    let fence = FENCES[usize::from(flags >> 3 & 1)];
    let end = start.checked_add(pieces.div_ceil(PAGE).checked_mul(fence)?)?;
    let (head, pages) = footer.split_at_mut_checked(end)?;
    let pages = pages.get(..pieces.checked_mul(PIECE)?)?;
    let fences = head[start..].chunks_exact_mut(fence);
    for (fence, page) in fences.zip(pages.chunks(PAGE * PIECE)) {
        fence[..8].copy_from_slice(&page[..8]);
        let count = u32::try_from(page.len() / PIECE).ok()?;
        fence[8..12].copy_from_slice(&count.to_le_bytes());
        fence[12..16].copy_from_slice(&crc32fast::hash(page).to_le_bytes());
    }
    Some(end)
}

const HRL_HEADER: usize = 4096;
const HRL_ENTRY: usize = 32;

/// Gives an HRL the checksums and the count that its other bytes ask for: entries, metadata blocks
/// from the one at its end back, and header.
pub(crate) fn reseal_hrl(log: &mut [u8]) {
    if log.len() < HRL_HEADER {
        return;
    }
    log[..8].copy_from_slice(b"msctlog ");
    let field = |log: &[u8], at: usize| {
        let bytes = log.get(at..)?.first_chunk()?;
        usize::try_from(u64::from_le_bytes(*bytes)).ok()
    };
    let size = u32::from_le_bytes([log[56], log[57], log[58], log[59]]) as usize;
    let mut entries = 0;
    let mut block = field(log, 44).and_then(|end| end.checked_sub(size));
    while let Some(at) = block.filter(|at| *at >= HRL_HEADER && size >= HRL_ENTRY) {
        let Some(back) = field(log, at).filter(|_| log.len() - at >= size) else {
            break;
        };
        entries += hrl_block(log, at, size, back);
        block = at.checked_sub(back).filter(|_| back > 0);
    }
    log[96..104].copy_from_slice(&entries.to_le_bytes());
    hrl_checksum(&mut log[..HRL_HEADER], 40);
}

/// Gives the metadata block at `at` its checksums, and those of its entries; how many there are.
fn hrl_block(log: &mut [u8], at: usize, size: usize, back: usize) -> u64 {
    let mut data = if back == 0 {
        HRL_HEADER
    } else {
        at.saturating_sub(back).saturating_add(size)
    };
    let (before, block) = log.split_at_mut(at);
    let (head, slots) = block[..size].split_at_mut(HRL_ENTRY);
    let count = u32::from_le_bytes([head[8], head[9], head[10], head[11]]) as usize;
    hrl_checksum(head, 12);
    for entry in slots.chunks_exact_mut(HRL_ENTRY).take(count) {
        let length = u32::from_le_bytes([entry[12], entry[13], entry[14], entry[15]]) as usize;
        let end = data.saturating_add(length);
        if let Some(data) = before.get(data..end).filter(|_| entry[21..25] != [0; 4]) {
            entry[21..25].copy_from_slice(&(!byte_sum(data)).to_le_bytes());
        }
        data = end;
        hrl_checksum(entry, 8);
    }
    count.min((size - HRL_ENTRY) / HRL_ENTRY) as u64
}

/// Puts the checksum of a structure at `field` in it.
fn hrl_checksum(bytes: &mut [u8], field: usize) {
    bytes[field..field + 4].fill(0);
    let sum = byte_sum(bytes);
    bytes[field..field + 4].copy_from_slice(&(!sum).to_le_bytes());
}

fn byte_sum(bytes: &[u8]) -> u32 {
    let sum = |sum: u32, byte: &u8| sum.wrapping_add(u32::from(*byte));
    bytes.iter().fold(0, sum)
}
