//! Objects that only who has the machine's key can read, or make. Specified in `LAYOUT.md`.

use std::fmt;
use std::ops::Range;

use aes::Aes256;
use aes_gcm_siv::aead::AeadInOut;
use aes_gcm_siv::{AesGcmSiv, KeyInit, Nonce, Tag};
use afterimage_block::ContentDigest;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::{Error, Result};

const MAGIC: [u8; 8] = *b"AISEAL01";
const SALT: usize = 24;
const HEADER: u64 = (MAGIC.len() + SALT) as u64;
/// The unit that is sealed by itself, so that parts of an object can be read.
const SEGMENT: u64 = 64 << 10;
const TAG: usize = 16;
const SEALED_SEGMENT: u64 = SEGMENT + TAG as u64;

/// 256 bits that nobody may know, gone from memory when they are dropped.
pub(crate) type Secret = Zeroizing<[u8; 32]>;

/// Random bytes of the operating system: what a process keeps itself would repeat in its clones.
pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| Error::NoRandom(error.to_string()))?;
    Ok(bytes)
}

/// The length of an object that holds `length` bytes.
pub(crate) fn sealed_length(length: u64) -> u64 {
    HEADER
        .saturating_add(length)
        .saturating_add(segments(length).saturating_mul(TAG as u64))
}

/// Nothing is one segment, too.
fn segments(length: u64) -> u64 {
    length.div_ceil(SEGMENT).max(1)
}

/// Seals and opens objects by one key.
pub(crate) struct Cipher {
    key: Secret,
}

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cipher")
    }
}

impl Cipher {
    pub(crate) fn new(key: Secret) -> Self {
        Self { key }
    }

    pub(crate) fn key(&self) -> &[u8; 32] {
        &self.key
    }

    /// A value that depends on the key, for one purpose.
    fn derive(&self, purpose: &[u8], parts: &[&[u8]]) -> Secret {
        // HMAC takes keys of any length.
        let mac = <Hmac<Sha256> as KeyInit>::new_from_slice(self.key.as_slice());
        let mut mac = mac.unwrap_or_else(|_| unreachable!("a key of 32 bytes"));
        mac.update(purpose);
        for part in parts {
            mac.update(part);
        }
        Zeroizing::new(mac.finalize().into_bytes().into())
    }

    /// What stands for a name that shall tell nothing.
    pub(crate) fn name(&self, plain: &str) -> ContentDigest {
        ContentDigest::new(*self.derive(b"name", &[plain.as_bytes()]))
    }

    fn object(&self, salt: &[u8], place: &str, length: u64) -> SealedObject {
        let key = self.derive(b"object", &[salt, place.as_bytes()]);
        SealedObject {
            aead: AesGcmSiv::new((&*key).into()),
            place: place.into(),
            length,
        }
    }

    fn begin_with(&self, salt: &[u8], place: &str, length: u64) -> (Vec<u8>, Sealing) {
        let header = [MAGIC.as_slice(), salt].concat();
        let object = self.object(salt, place, length);
        (header, Sealing { object, next: 0 })
    }

    /// Begins an object of `length` bytes at `place`, which names what it holds; its header. Begun
    /// again it is the same, so that putting it again changes nothing for who reads it.
    pub(crate) fn begin(&self, place: &str, length: u64) -> (Vec<u8>, Sealing) {
        let salt = self.derive(b"salt", &[place.as_bytes()]);
        self.begin_with(salt.get(..SALT).unwrap_or_default(), place, length)
    }

    /// A whole object at `place`, which names what it holds.
    pub(crate) fn seal(&self, place: &str, content: &[u8]) -> Result<Vec<u8>> {
        let (mut sealed, mut sealing) = self.begin(place, content.len() as u64);
        sealing.seal(content, &mut sealed)?;
        Ok(sealed)
    }

    /// A whole object at `place`, where other contents come to be, too.
    pub(crate) fn seal_anew(&self, place: &str, content: &[u8]) -> Result<Vec<u8>> {
        let salt = random::<SALT>()?;
        let (mut sealed, mut sealing) = self.begin_with(&salt, place, content.len() as u64);
        sealing.seal(content, &mut sealed)?;
        Ok(sealed)
    }

    /// The object at `place` that holds `length` bytes, and the first `head` of them, from what is
    /// stored at [`beginning_of`] it.
    pub(crate) fn open_beginning(
        &self,
        place: &str,
        stored: &[u8],
        head: u64,
        length: u64,
    ) -> Option<(SealedObject, Vec<u8>)> {
        let (header, segments) = stored.split_at_checked(length_of(HEADER))?;
        let object = self.object(header.strip_prefix(&MAGIC)?, place, length);
        let content = object.part(&(0..head), segments)?;
        Some((object, content))
    }

    /// The content of the whole object at `place`; `None` unless it was sealed for this place, by
    /// this key.
    pub(crate) fn open(&self, place: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let body = (sealed.len() as u64).checked_sub(HEADER)?;
        let tags = body.div_ceil(SEALED_SEGMENT).checked_mul(TAG as u64)?;
        let length = body.checked_sub(tags)?;
        let opened = self.open_beginning(place, sealed, length, length);
        opened.map(|(_, content)| content)
    }
}

/// Where the header of an object that holds `length` bytes and the segments of its first `head` bytes
/// are stored.
pub(crate) fn beginning_of(head: u64, length: u64) -> Range<u64> {
    0..stored_end(head, length)
}

/// Where the segment is stored to its end that holds the byte before `end`.
fn stored_end(end: u64, length: u64) -> u64 {
    let sealed = segments(end).saturating_mul(SEALED_SEGMENT);
    sealed_length(length).min(HEADER.saturating_add(sealed))
}

fn length_of(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

/// One sealed object, of which parts are read.
pub(crate) struct SealedObject {
    aead: AesGcmSiv<Aes256>,
    place: String,
    /// Of what it holds.
    length: u64,
}

impl fmt::Debug for SealedObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SealedObject").field(&self.place).finish()
    }
}

impl SealedObject {
    /// Where the segments that hold `range` are stored.
    pub(crate) fn stored(&self, range: &Range<u64>) -> Range<u64> {
        let before = (range.start / SEGMENT).saturating_mul(SEALED_SEGMENT);
        HEADER.saturating_add(before)..stored_end(range.end, self.length)
    }

    /// Cuts `range` out of its segments, opened.
    pub(crate) fn part(&self, range: &Range<u64>, stored: &[u8]) -> Option<Vec<u8>> {
        let first = range.start / SEGMENT;
        let mut content = self.open(first, stored)?;
        let start = length_of(range.start - first * SEGMENT);
        let length = length_of(range.end.checked_sub(range.start)?);
        content.drain(..start.min(content.len()));
        content.truncate(length);
        (content.len() == length).then_some(content)
    }

    /// Opens segments from number `first` on.
    fn open(&self, first: u64, stored: &[u8]) -> Option<Vec<u8>> {
        if stored.is_empty() {
            return None;
        }
        let mut content = Vec::with_capacity(stored.len());
        for (number, sealed) in (first..).zip(stored.chunks(length_of(SEALED_SEGMENT))) {
            let (segment, tag) = sealed.split_last_chunk::<TAG>()?;
            let start = content.len();
            content.extend_from_slice(segment);
            let place = content.get_mut(start..)?;
            let (nonce, tag) = (self.nonce(number), Tag::from(*tag));
            let opened =
                self.aead
                    .decrypt_inout_detached(&nonce, self.place.as_bytes(), place.into(), &tag);
            opened.ok()?;
        }
        Some(content)
    }

    /// Of segment `number`: whether it is the last is in it, so that no object can end early.
    fn nonce(&self, number: u64) -> Nonce {
        let is_last = u32::from(number + 1 == segments(self.length));
        let mut nonce = [0; 12];
        let (position, end) = nonce.split_at_mut(8);
        position.copy_from_slice(&number.to_le_bytes());
        end.copy_from_slice(&is_last.to_le_bytes());
        nonce.into()
    }
}

/// An object that is sealed piece by piece.
#[derive(Debug)]
pub(crate) struct Sealing {
    object: SealedObject,
    next: u64,
}

impl Sealing {
    /// Seals the next piece behind `out`: whole segments, but for the last piece.
    pub(crate) fn seal(&mut self, content: &[u8], out: &mut Vec<u8>) -> Result<()> {
        out.reserve(length_of(sealed_length(content.len() as u64)));
        let mut segments = content.chunks(length_of(SEGMENT));
        let first = segments.next().unwrap_or_default();
        for segment in std::iter::once(first).chain(segments) {
            let start = out.len();
            out.extend_from_slice(segment);
            let nonce = self.object.nonce(self.next);
            let place = out.get_mut(start..).unwrap_or_default();
            let associated = self.object.place.as_bytes();
            let aead = &self.object.aead;
            let tag = aead.encrypt_inout_detached(&nonce, associated, place.into());
            let tag = tag.map_err(|_| Error::Refused("a segment is too long to be sealed".into()));
            out.extend_from_slice(&tag?);
            self.next += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cipher(byte: u8) -> Cipher {
        Cipher::new(Zeroizing::new([byte; 32]))
    }

    #[test]
    fn objects_open_at_their_place_by_their_key_only() {
        for length in [0, 1, 65_535, 65_536, 65_537, 200_000] {
            let content: Vec<u8> = (0..=250).cycle().take(length).collect();
            let sealed = cipher(1).seal("place", &content).unwrap();
            assert_eq!(sealed.len() as u64, sealed_length(length as u64));
            assert_eq!(cipher(1).open("place", &sealed), Some(content));
            assert_eq!(cipher(1).open("other", &sealed), None);
            assert_eq!(cipher(2).open("place", &sealed), None);
        }
    }

    #[test]
    fn no_change_of_an_object_opens() {
        let content = vec![7; 3 * 65_536 + 5];
        let sealed = cipher(1).seal("place", &content).unwrap();
        for at in (0..sealed.len()).step_by(257).chain([0, 8, 31, 32]) {
            let mut flipped = sealed.clone();
            flipped[at] ^= 1;
            assert_eq!(cipher(1).open("place", &flipped), None, "{at}");
            assert_eq!(cipher(1).open("place", &sealed[..at]), None, "cut at {at}");
        }
        let whole = length_of(SEALED_SEGMENT);
        let (header, body) = sealed.split_at(32);
        let (first, rest) = body.split_at(whole);
        let swapped = [header, &rest[..whole], first, &rest[whole..]].concat();
        assert_eq!(cipher(1).open("place", &swapped), None);
        let without_last = &sealed[..32 + 3 * whole];
        assert_eq!(cipher(1).open("place", without_last), None);
        assert_eq!(cipher(1).seal("place", &content).unwrap(), sealed);
        // A segment of another object that was sealed for the same place.
        let again = cipher(1).seal_anew("place", &content).unwrap();
        assert_ne!(cipher(1).seal_anew("place", &content).unwrap(), again);
        let mixed = [&sealed[..32 + whole], &again[32 + whole..]].concat();
        assert_eq!(cipher(1).open("place", &mixed), None);
    }

    #[test]
    fn parts_open_as_the_whole_does() {
        let content: Vec<u8> = (0..=250).cycle().take(200_000).collect();
        let sealed = cipher(1).seal("place", &content).unwrap();
        let (object, head) = cipher(1)
            .open_beginning("place", &sealed[..32 + 65_552], 9, 200_000)
            .unwrap();
        assert_eq!(beginning_of(9, 200_000), 0..32 + 65_552);
        assert_eq!(head, content[..9]);
        for range in [
            0..1,
            65_535..65_537,
            65_536..131_072,
            5..199_999,
            199_999..200_000,
        ] {
            let stored = object.stored(&range);
            let stored = &sealed[length_of(stored.start)..length_of(stored.end)];
            let expected = &content[length_of(range.start)..length_of(range.end)];
            assert_eq!(object.part(&range, stored).as_deref(), Some(expected));
            assert_eq!(object.part(&range, &stored[1..]), None);
        }
    }

    /// By these, objects of earlier releases stay readable.
    #[test]
    fn known_answers() {
        assert_eq!(
            cipher(1).name("machines/a/disks/b/chunks/c").to_string(),
            "fa26b96c53939bca6ad64d7ad6d6cc00e87502cbf00b2d0f6573298830a84f9f"
        );
        let mut sealed = [MAGIC.as_slice(), &[9; SALT]].concat();
        let object = cipher(1).object(&[9; SALT], "place", 5);
        Sealing { object, next: 0 }
            .seal(b"after", &mut sealed)
            .unwrap();
        let segment = b"\xc9\x69\x0f\x89\x51";
        let tag = 0xd212_775e_e8d2_bfc3_5fe9_4ebe_93e7_e558_u128.to_be_bytes();
        assert_eq!(sealed[32..], [segment.as_slice(), &tag].concat());
        assert_eq!(cipher(1).open("place", &sealed).unwrap(), b"after");
    }
}
