//! How the records of a new log are stored.

use crate::cipher::Cipher;
use crate::codec::Codec;
use crate::header::Head;
use crate::{Error, Form, Keys, LogHeader, Result};

/// How the records of a log that is begun are to be stored: as they are, by default.
#[derive(Clone, Debug, Default)]
pub struct Packing {
    form: Form,
    keys: Keys,
    exposing: bool,
}

impl Packing {
    /// With what is written compressed, record by record, where that saves something.
    #[cfg(feature = "lz4")]
    pub fn with_compression(mut self) -> Self {
        self.form.compressed = true;
        self
    }

    /// With all payloads, labels and barriers included, encrypted with a key of the log's own that is
    /// derived from `key`.
    #[cfg(feature = "aead")]
    pub fn with_key(mut self, key: crate::Key) -> Self {
        self.form.key = Some(key.id());
        self.keys = key.into();
        self
    }

    /// Lets what comes from encrypted logs be stored as plain text, which is refused otherwise.
    pub fn allowing_plaintext(mut self) -> Self {
        self.exposing = true;
        self
    }

    /// How the log says that its records are stored.
    pub fn form(&self) -> Form {
        self.form
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Refuses what comes from an encrypted log if it would be stored as plain text.
    pub(crate) fn check_source(&self, encrypted: bool) -> Result<()> {
        check_exposed(encrypted, self.exposing || self.form.key.is_some())
    }

    /// The codec of a new log: with a salt that no other log has.
    pub(crate) fn codec(&self, header: LogHeader) -> Result<Codec> {
        let salt = match self.form.key {
            Some(key) => Cipher::salt(key)?,
            None => [0; 32],
        };
        self.codec_with_salt(header, salt)
    }

    /// Two logs with the same header, key and salt would have the same nonces.
    pub(crate) fn codec_with_salt(&self, header: LogHeader, salt: [u8; 32]) -> Result<Codec> {
        let head = Head::new(header, self.form, salt);
        Codec::with_keys(head, &self.keys)
    }
}

/// Refuses what is encrypted where plain text is not allowed.
pub(crate) fn check_exposed(encrypted: bool, allowed: bool) -> Result<()> {
    if encrypted && !allowed {
        return Err(Error::WouldExpose);
    }
    Ok(())
}

#[cfg(all(test, feature = "aead", feature = "lz4"))]
mod tests {
    use std::path::{Path, PathBuf};

    use afterimage_block::{
        Change, ContentDigest, DiskId, Epoch, Extent, Length, MemoryDisk, Offset, Sequence,
        Timestamp,
    };
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::{Encoded, Encoder, Key, SealedLog, Trailer};

    const TEXT: [u8; 400] = [b'x'; 400];

    fn keys() -> Keys {
        Keys::from(key())
    }

    /// The key of FORMAT.md: the bytes 0 to 31.
    fn key() -> Key {
        Key::new(&std::array::from_fn(|at| at.to_le_bytes()[0]))
    }

    fn changes() -> [Change<'static>; 3] {
        let zeroed = Extent::new(Offset::new(4100), Length::new(4));
        [
            Change::Write {
                offset: Offset::new(4096),
                data: b"after-image",
            },
            Change::WriteZeroes(zeroed.expect("it is short")),
            Change::Write {
                offset: Offset::new(8192),
                data: &TEXT,
            },
        ]
    }

    /// A sealed log stored as `packing` says, with the salt of FORMAT.md: 32 bytes from 64 on.
    fn sealed(packing: &Packing) -> Vec<u8> {
        sealed_of(packing, &changes())
    }

    fn sealed_of(packing: &Packing, changes: &[Change<'_>]) -> Vec<u8> {
        let header = LogHeader {
            disk: DiskId::from_bytes(*b"disk of the test"),
            disk_size: Length::kib(64),
            epoch: Epoch::new(3),
            first: Sequence::new(7),
            last: Sequence::new(7),
            created: Timestamp::from_nanos(1_764_000_000_123_456_789),
        };
        let salt = std::array::from_fn(|at| 64 + at.to_le_bytes()[0]);
        let salt = packing.form.key.map_or([0; 32], |_| salt);
        let codec = packing.codec_with_salt(header, salt).expect("the key");
        let (mut encoder, head) = Encoder::with_codec(codec);
        let mut bytes = head.to_vec();
        let mut append = |record: &Encoded<'_>| {
            bytes.extend_from_slice(&record.header);
            bytes.extend_from_slice(&record.payload);
        };
        for (number, change) in changes.iter().enumerate() {
            let time = Timestamp::from_nanos(number as u64);
            let records = encoder.change(*change, time).expect("it lies on the disk");
            records.for_each(|record| append(&record));
        }
        append(&encoder.bookmark("backup", Timestamp::from_nanos(3)));
        let content = ContentDigest::new(Sha256::digest(&bytes).into());
        bytes.extend(encoder.seal(content, ContentDigest::new([5; 32])).0);
        bytes
    }

    fn hex(bytes: &[u8]) -> String {
        let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        digits
            .filter_map(|digit| char::from_digit(digit.into(), 16))
            .collect()
    }

    fn golden(name: &str) -> PathBuf {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        folder.join(name)
    }

    fn footer_at(log: &[u8]) -> usize {
        let length = Length::of(log);
        let trailer = Trailer::parse(log, length).expect("a sealed log");
        usize::try_from(trailer.footer_at).expect("a short log")
    }

    fn footer_nonce(log: &[u8]) -> Vec<u8> {
        let at = footer_at(log) as u64;
        [&at.to_le_bytes()[..], &[1, 0, 0, 0]].concat()
    }

    /// The example in FORMAT.md, section Encryption.
    #[test]
    fn the_specification_tells_the_key_and_the_first_record() {
        let specification = include_str!("../FORMAT.md");
        let bytes = sealed(&Packing::default().with_key(key()));
        let head = Head::parse(&bytes).expect("a header");
        let secret = Cipher::derive(&key(), &head);
        for (name, expected) in [
            ("key id", &key().id().to_bytes()[..]),
            ("the file's key", &secret[..]),
            ("first record: nonce", &[0; 12]),
            ("associated data", &bytes[128..172]),
            ("what is logged", b"after-image"),
            ("payload", &bytes[176..203]),
            ("footer: nonce", &footer_nonce(&bytes)),
            ("footer: tag", &bytes[footer_at(&bytes) + 104..][..16]),
        ] {
            let row = format!("| {name} | `{}` |", hex(expected));
            assert!(specification.contains(&row), "{row}");
        }
    }

    /// Another release may compress otherwise, but what is stored without that is the same for ever.
    #[test]
    fn the_golden_encrypted_log_is_written_byte_for_byte() {
        let encrypted = Packing::default().with_key(key());
        let compressed = Packing::default().with_compression();
        if std::env::var_os("AFTERIMAGE_WRITE_GOLDEN").is_some() {
            let both = compressed.clone().with_key(key());
            for (name, packing) in [
                ("version-1-authenticated.ailog", &encrypted),
                ("version-1-compressed.ailog", &compressed),
                ("version-1-compressed-authenticated.ailog", &both),
            ] {
                std::fs::write(golden(name), sealed(packing)).expect("a golden file");
            }
            let pages = sealed_of(&encrypted, &many());
            std::fs::write(golden("version-1-authenticated-pages.ailog"), pages)
                .expect("a golden file");
        }
        let read = |name| std::fs::read(golden(name)).expect("it is there");
        assert!(sealed(&encrypted) == read("version-1-authenticated.ailog"));
        let pages = sealed_of(&encrypted, &many());
        assert!(pages == read("version-1-authenticated-pages.ailog"));
    }

    /// More than a page of an index has.
    fn many() -> Vec<Change<'static>> {
        let offsets = (0..300).map(|number| Offset::new(number * 64));
        offsets
            .map(|offset| {
                let data = b"page";
                Change::Write { offset, data }
            })
            .collect()
    }

    #[test]
    fn the_golden_log_with_tags_of_pages_is_read() {
        let path = golden("version-1-authenticated-pages.ailog");
        let log = SealedLog::open_with(&path, &keys()).expect("it is sound");
        assert_eq!(log.index().expect("an index").pieces(), 300);
        let last = Extent::new(Offset::new(299 * 64), Length::new(64)).expect("it is short");
        assert_eq!(log.lookup(last).expect("it is sound").len(), 1);
    }

    #[test]
    fn golden_logs_stored_in_every_way_are_read() {
        let expected = MemoryDisk::new(Length::kib(64));
        for change in changes() {
            change.apply_to(&expected).expect("it lies on the disk");
        }
        // Those that are encrypted and not authenticated are of the first releases.
        for (name, compressed, encrypted) in [
            ("version-1-authenticated.ailog", false, true),
            ("version-1-compressed-authenticated.ailog", true, true),
            ("version-1-encrypted.ailog", false, true),
            ("version-1-compressed.ailog", true, false),
            ("version-1-compressed-encrypted.ailog", true, true),
        ] {
            let log = SealedLog::open_with(&golden(name), &keys()).expect("it is sound");
            let form = Form {
                compressed,
                key: encrypted.then(|| key().id()),
            };
            assert_eq!(log.form(), form);
            let disk = MemoryDisk::new(Length::kib(64));
            log.apply(&disk).expect("it is its disk");
            assert!(disk.contents() == expected.contents());
            let mut stored = Vec::new();
            log.records(|record| {
                stored.push(record.header.compressed);
                Ok(())
            })
            .expect("it was proved");
            assert_eq!(stored, [false, false, compressed, false]);
        }
    }
}
