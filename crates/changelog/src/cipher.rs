//! Encryption of records, each proved to stand where it was written.

use std::fmt;

use aes_gcm_siv::aead::inout::InOutBuf;
use aes_gcm_siv::{AeadInOut, Aes256GcmSiv, KeyInit, Nonce, Tag};
use afterimage_block::Lsn;
use zeroize::Zeroizing;

use crate::fields::{bytes_at, put};
use crate::footer::Tag as FooterTag;
use crate::header::Head;
use crate::{Error, Key, KeyId, Keys, Result};

/// What the key of a log is derived with, in front of the log's header.
const RECORDS: &[u8] = b"afterimage-changelog v1 records";

/// The cipher of one log. Specified in `FORMAT.md`, section Encryption.
#[derive(Clone)]
pub(crate) struct Cipher {
    id: KeyId,
    aead: Aes256GcmSiv,
}

impl Cipher {
    /// The bytes behind a payload that prove it and its header.
    pub(crate) const TAG: usize = 16;

    /// A salt for a new log, which no other log has.
    pub(crate) fn salt(_: KeyId) -> Result<[u8; 32]> {
        let mut salt = [0; 32];
        getrandom::fill(&mut salt).map_err(|error| Error::NoRandomness {
            reason: error.to_string(),
        })?;
        Ok(salt)
    }

    /// The cipher of the log with this header, whose key must be among `keys`.
    pub(crate) fn find(keys: &Keys, head: &Head, id: KeyId) -> Result<Self> {
        let key = keys.get(id).ok_or(Error::NoKey { key: id })?;
        let aead = Aes256GcmSiv::new((&*Self::derive(key, head)).into());
        Ok(Self { id, aead })
    }

    /// The key of the log with this header. The header's bytes are part of what it is derived from, so
    /// that a log whose header was changed cannot be read.
    pub(crate) fn derive(key: &Key, head: &Head) -> Zeroizing<[u8; 32]> {
        key.derive(&bytes_at(&head.bytes, 88), &[RECORDS, &head.bytes])
    }

    /// Encrypts `payload` and puts the tag behind it, which covers `header`, too.
    pub(crate) fn encrypt(&self, lsn: Lsn, header: &[u8], payload: &mut Vec<u8>) {
        let plain = InOutBuf::from(payload.as_mut_slice());
        let sealed = self.aead.encrypt_inout_detached(&nonce(lsn), header, plain);
        // Refused only past 64 GiB, and without a tag nobody takes it.
        payload.extend_from_slice(&sealed.unwrap_or_default());
    }

    /// Decrypts `payload` if its tag proves it and `header`.
    pub(crate) fn decrypt(&self, lsn: Lsn, header: &[u8], payload: &mut Vec<u8>) -> bool {
        let Some((text, tag)) = payload.split_last_chunk_mut::<{ Self::TAG }>() else {
            return false;
        };
        let (length, tag) = (text.len(), Tag::from(*tag));
        let text = InOutBuf::from(text);
        let opened = self
            .aead
            .decrypt_inout_detached(&nonce(lsn), header, text, &tag);
        payload.truncate(length);
        opened.is_ok()
    }

    /// The tag of a part of the footer, which has this nonce and these bytes.
    pub(crate) fn tag(&self, nonce: [u8; 12], bytes: &[u8]) -> FooterTag {
        let nothing = InOutBuf::from([].as_mut_slice());
        let sealed = self
            .aead
            .encrypt_inout_detached(&nonce.into(), bytes, nothing);
        // Refused only past 64 GiB.
        sealed.unwrap_or_default().into()
    }

    /// Whether the tag is that of a part of the footer with this nonce and these bytes.
    pub(crate) fn proves(&self, nonce: [u8; 12], bytes: &[u8], tag: &FooterTag) -> bool {
        let (nothing, tag) = (InOutBuf::from([].as_mut_slice()), Tag::from(*tag));
        let opened = self
            .aead
            .decrypt_inout_detached(&nonce.into(), bytes, nothing, &tag);
        opened.is_ok()
    }
}

/// A log's key is its own and a number is used once, so that no nonce comes twice.
fn nonce(lsn: Lsn) -> Nonce {
    let mut nonce = Nonce::default();
    put(&mut nonce, 0, &lsn.get().to_le_bytes());
    nonce
}

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cipher({})", self.id)
    }
}
