//! The manifest of an encrypted machine, and the machine's key in it. Specified in `LAYOUT.md`.

use std::sync::Arc;

use afterimage_block::ContentDigest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::cipher::{Cipher, random};
use crate::manifest::FORMAT_SEALED;
use crate::{Error, Key, Result};

/// RFC 9106 recommends so much for where 2 GiB are too much, and one lane of ours takes as long as
/// its four.
const MEMORY_KIB: u32 = 64 << 10;
const PASSES: u32 = 3;
const LANES: u32 = 1;
/// Nobody is made to spend more than this on a manifest that may be forged.
const MEMORY_KIB_MAX: u32 = 1 << 20;
const PASSES_MAX: u32 = 16;
const LANES_MAX: u32 = 16;

/// What wraps the machine's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Wrapping {
    KeyFile,
    Passphrase(Stretch),
}

/// How a passphrase becomes a key: the parameters of Argon2id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stretch {
    /// 32 random bytes, in the form of a digest.
    pub(crate) salt: ContentDigest,
    pub(crate) memory_kib: u32,
    pub(crate) passes: u32,
    pub(crate) lanes: u32,
}

impl Stretch {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            salt: ContentDigest::new(random()?),
            memory_kib: MEMORY_KIB,
            passes: PASSES,
            lanes: LANES,
        })
    }

    fn is_bounded(&self) -> bool {
        (8..=MEMORY_KIB_MAX).contains(&self.memory_kib)
            && (1..=PASSES_MAX).contains(&self.passes)
            && (1..=LANES_MAX).contains(&self.lanes)
    }
}

/// A machine's key as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wrapped {
    by: Wrapping,
    key: String,
}

/// A machine's key, and what wraps it.
#[derive(Clone, Debug)]
pub(crate) struct MachineKey {
    wrapped: Wrapped,
    pub(crate) cipher: Arc<Cipher>,
}

impl PartialEq for MachineKey {
    fn eq(&self, other: &Self) -> bool {
        self.wrapped == other.wrapped
    }
}

/// The JSON of a sealed manifest.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SealedManifest {
    format: u64,
    wrapped: Wrapped,
    sealed: String,
}

/// Where the content of a manifest is sealed for: the object, and the wrapped key before it.
fn place(path: &Path, wrapped: &Wrapped) -> String {
    let wrapped = serde_json::to_string(wrapped).unwrap_or_default();
    format!("{path}\n{wrapped}")
}

impl MachineKey {
    /// A new key for the machine whose manifest is at `path`, wrapped by `key`. Takes its time where
    /// that is a passphrase.
    pub(crate) fn new(path: &Path, key: &Key) -> Result<Self> {
        let cipher = Cipher::new(Zeroizing::new(random()?));
        Self::wrap(path, Arc::new(cipher), key)
    }

    /// The same key wrapped by another.
    pub(crate) fn rewrapped(&self, path: &Path, key: &Key) -> Result<Self> {
        Self::wrap(path, Arc::clone(&self.cipher), key)
    }

    fn wrap(path: &Path, cipher: Arc<Cipher>, key: &Key) -> Result<Self> {
        let by = key.new_wrapping()?;
        let wrapping = key.wrapping_cipher(&by)?;
        let wrapping = wrapping.unwrap_or_else(|| unreachable!("its own kind of wrapping"));
        let key = STANDARD.encode(wrapping.seal_anew(path.as_ref(), cipher.key())?);
        let wrapped = Wrapped { by, key };
        Ok(Self { wrapped, cipher })
    }

    /// The JSON of a manifest at `path`, sealed.
    pub(crate) fn seal(&self, path: &Path, json: &[u8]) -> Result<Vec<u8>> {
        let place = place(path, &self.wrapped);
        let sealed = SealedManifest {
            format: FORMAT_SEALED,
            wrapped: self.wrapped.clone(),
            sealed: STANDARD.encode(self.cipher.seal_anew(&place, json)?),
        };
        // Its texts and numbers are always JSON.
        Ok(serde_json::to_vec(&sealed).unwrap_or_default())
    }
}

impl SealedManifest {
    pub(crate) fn parse(path: &Path, json: &[u8]) -> Result<Self> {
        let damaged = |reason: &dyn std::fmt::Display| Error::damaged(path, reason);
        let manifest: Self = serde_json::from_slice(json).map_err(|error| damaged(&error))?;
        match &manifest.wrapped.by {
            Wrapping::Passphrase(stretch) if !stretch.is_bounded() => Err(damaged(
                &"the parameters of its passphrase are out of bounds",
            )),
            _ => Ok(manifest),
        }
    }

    /// What `cipher` finds in it: the JSON of the manifest.
    pub(crate) fn open_with(
        &self,
        path: &Path,
        cipher: &Arc<Cipher>,
    ) -> Option<(Vec<u8>, MachineKey)> {
        let sealed = STANDARD.decode(&self.sealed).ok()?;
        let json = cipher.open(&place(path, &self.wrapped), &sealed)?;
        let key = MachineKey {
            wrapped: self.wrapped.clone(),
            cipher: Arc::clone(cipher),
        };
        Some((json, key))
    }

    /// What `key` finds in it. Takes its time where that is a passphrase.
    pub(crate) fn open(&self, path: &Path, key: &Key, name: &str) -> Result<(Vec<u8>, MachineKey)> {
        let wrong = || Error::KeyWrong {
            name: name.into(),
            needs: match self.wrapped.by {
                Wrapping::KeyFile => "key file",
                Wrapping::Passphrase(_) => "passphrase",
            },
        };
        let wrapping = key.wrapping_cipher(&self.wrapped.by)?.ok_or_else(wrong)?;
        let wrapped = STANDARD.decode(&self.wrapped.key).ok();
        let opened = wrapped.and_then(|wrapped| wrapping.open(path.as_ref(), &wrapped));
        let opened = Zeroizing::new(opened.ok_or_else(wrong)?);
        let mut secret = Zeroizing::new([0; 32]);
        if opened.len() != secret.len() {
            return Err(wrong());
        }
        secret.copy_from_slice(&opened);
        let found = self.open_with(path, &Arc::new(Cipher::new(secret)));
        found.ok_or_else(|| Error::damaged(path, "it was not sealed by its machine's key"))
    }
}
