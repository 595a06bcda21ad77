//! The last bytes of a sealed log: where its footer is.

use afterimage_block::Length;

use crate::fields::{bytes_at, put, u32_at, u64_at};
use crate::{Error, Result};

const MAGIC: [u8; 8] = *b"AITRAILR";

/// The last bytes of a sealed log: where its footer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// Where the footer starts in the file.
    pub footer_at: u64,
    /// How long it is.
    pub footer_length: Length,
    /// Of the footer up to its pages.
    pub(crate) checksum: u32,
}

impl Trailer {
    /// Its length in the file.
    pub const LEN: usize = 32;

    pub(crate) fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        put(&mut bytes, 0, &MAGIC);
        put(&mut bytes, 8, &self.footer_at.to_le_bytes());
        put(&mut bytes, 16, &self.footer_length.get().to_le_bytes());
        put(&mut bytes, 24, &self.checksum.to_le_bytes());
        let checksum = crc32fast::hash(&bytes[..28]);
        put(&mut bytes, 28, &checksum.to_le_bytes());
        bytes
    }

    /// The trailer in the last bytes of a file of `file_length`.
    ///
    /// # Errors
    /// [`Error::NotSealed`] if there is none; [`Error::Damaged`] if it does not fit the file.
    pub fn parse(bytes: &[u8], file_length: Length) -> Result<Self> {
        let Some(bytes) = bytes.last_chunk::<{ Self::LEN }>() else {
            return Err(Error::NotSealed);
        };
        if bytes_at::<8>(bytes, 0) != MAGIC || u32_at(bytes, 28) != crc32fast::hash(&bytes[..28]) {
            return Err(Error::NotSealed);
        }
        let trailer = Self {
            footer_at: u64_at(bytes, 8),
            footer_length: Length::new(u64_at(bytes, 16)),
            checksum: u32_at(bytes, 24),
        };
        let footer_end = trailer.footer_at.checked_add(trailer.footer_length.get());
        let end = footer_end.and_then(|end| end.checked_add(Self::LEN as u64));
        if end != Some(file_length.get()) || trailer.footer_at < crate::LogHeader::LEN as u64 {
            let at = file_length.get().saturating_sub(Self::LEN as u64);
            return Err(Error::damaged(at, "the trailer does not fit the file"));
        }
        Ok(trailer)
    }

    pub(crate) fn file_length(&self) -> Length {
        let end = self
            .footer_length
            .saturating_add(Length::new(self.footer_at));
        end.saturating_add(Length::new(Self::LEN as u64))
    }
}
