//! Memory that starts where a page does.

use std::ops::Deref;

/// The kernel copies whole pages fastest to where one starts, which an allocation of this size never does
/// by itself: it starts behind what the allocator keeps of it.
const PAGE: usize = 4096;

/// Bytes that start where a page does; none at first.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl Buffer {
    /// Its first `length` bytes, whatever they are. It grows as needed; what it held is lost then.
    pub(crate) fn first(&mut self, length: usize) -> &mut [u8] {
        if self.length < length {
            self.memory = vec![0; length.saturating_add(PAGE)];
            self.start = self.memory.as_ptr().align_offset(PAGE);
            self.length = length;
        }
        &mut self.memory[self.start..][..length]
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..][..self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_with_a_page_whatever_its_length() {
        let mut buffer = Buffer::default();
        assert!(buffer.is_empty());
        for length in [0, 1, 512, 4096, 4097, 256 << 10, (16 << 20) + 512] {
            let bytes = buffer.first(length);
            assert_eq!(bytes.len(), length);
            bytes.fill(7);
            assert_eq!(bytes.as_ptr().align_offset(PAGE) * length, 0);
            assert!(buffer.len() >= length && buffer[..length].iter().all(|byte| *byte == 7));
        }
    }

    #[test]
    fn asked_for_less_it_keeps_what_it_has() {
        let mut buffer = Buffer::default();
        buffer.first(8).copy_from_slice(b"12345678");
        assert_eq!(buffer.first(3), b"123");
        assert_eq!(&buffer[..], b"12345678");
    }
}
