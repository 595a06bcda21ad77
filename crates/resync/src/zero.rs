//! Telling bytes that are all zero.

static ZEROES: [u8; 4096] = [0; 4096];

/// Whether every byte is zero; true of no bytes at all. Stops at the first 4 KiB that are not.
pub fn is_zero(bytes: &[u8]) -> bool {
    // Comparing with zeros in the nearest cache is the C library's `memcmp`, which picks the widest
    // vectors of the machine at run time; code compiled here has only the baseline's.
    bytes
        .chunks(ZEROES.len())
        .all(|chunk| ZEROES.starts_with(chunk))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bit_anywhere_counts() {
        assert!(is_zero(&[]));
        let mut bytes = vec![0; 3 * ZEROES.len() + 7];
        assert!(is_zero(&bytes));
        for at in 0..bytes.len() {
            bytes[at] = 1 << (at % 8);
            assert!(!is_zero(&bytes), "byte {at}");
            bytes[at] = 0;
        }
    }
}
