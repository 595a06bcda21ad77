//! What stands for the cipher where this crate is built without the feature `aead`.

use afterimage_block::Lsn;

use crate::footer::Tag;
use crate::header::Head;
use crate::{Error, KeyId, Keys, Result};

/// There is none.
#[derive(Clone, Debug)]
pub(crate) enum Cipher {}

impl Cipher {
    pub(crate) const TAG: usize = 16;

    pub(crate) fn salt(key: KeyId) -> Result<[u8; 32]> {
        Err(Error::NoCipher { key })
    }

    pub(crate) fn find(_: &Keys, _: &Head, key: KeyId) -> Result<Self> {
        Err(Error::NoCipher { key })
    }

    pub(crate) fn encrypt(&self, _: Lsn, _: &[u8], _: &mut Vec<u8>) {
        match *self {}
    }

    pub(crate) fn tag(&self, _: [u8; 12], _: &[u8]) -> Tag {
        match *self {}
    }

    pub(crate) fn proves(&self, _: [u8; 12], _: &[u8], _: &Tag) -> bool {
        match *self {}
    }

    pub(crate) fn decrypt(&self, _: Lsn, _: &[u8], _: &mut Vec<u8>) -> bool {
        match *self {}
    }
}
