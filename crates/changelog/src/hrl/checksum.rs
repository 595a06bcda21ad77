//! The checksum of [MS-HRL]: the bitwise NOT of the 32-bit sum of the bytes.

use std::num::NonZeroU32;

/// The checksum of bytes that come in pieces.
///
/// It finds any single flipped bit. It finds neither bytes that changed places nor changes that
/// cancel out: it is a hint, not a safeguard.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ByteSum(u32);

impl ByteSum {
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        // A part's sum cannot overflow: 65 536 times 255.
        for part in bytes.chunks(1 << 16) {
            let sum: u32 = part.iter().map(|byte| u32::from(*byte)).sum();
            self.0 = self.0.wrapping_add(sum);
        }
    }

    pub(crate) fn checksum(self) -> u32 {
        !self.0
    }

    /// The checksum as a DataChecksum field, of which 0 says that there is none.
    pub(crate) fn of_data(self) -> Option<NonZeroU32> {
        NonZeroU32::new(self.checksum())
    }
}

/// The checksum of a structure whose own checksum is at `field` and counts for nothing.
pub(crate) fn checksum_around(bytes: &[u8], field: usize) -> u32 {
    let mut sum = ByteSum::default();
    sum.add(bytes.get(..field).unwrap_or_default());
    sum.add(bytes.get(field + 4..).unwrap_or_default());
    sum.checksum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_complement_of_the_sum_of_the_bytes() {
        assert_eq!(checksum_around(&[], 0), u32::MAX);
        assert_eq!(checksum_around(&[1, 2, 9, 9, 9, 9, 255], 2), !258);
        let mut sum = ByteSum::default();
        sum.add(&vec![255; 200_000]);
        sum.add(&[1]);
        assert_eq!(sum.checksum(), !51_000_001);
    }

    #[test]
    fn sums_past_32_bits_wrap() {
        let mut sum = ByteSum(u32::MAX - 1);
        sum.add(&[3]);
        assert_eq!(sum.checksum(), !1);
        assert_eq!(ByteSum(u32::MAX).of_data(), None);
    }
}
