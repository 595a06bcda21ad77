//! What a machine's key is wrapped by: a key file or a passphrase.

use std::fmt;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use argon2::{Algorithm, Argon2, Params, Version};
use zeroize::Zeroizing;

use crate::cipher::{Cipher, Secret};
use crate::wrapped::{Stretch, Wrapping};
use crate::{Error, Result};

/// No file of a key or passphrase is longer.
const FILE_MAX: u64 = 4096;

/// What opens encrypted replicas: the content of a key file, or a passphrase. It wraps the key that
/// each machine has for itself, so that it can be replaced without encrypting anything anew.
///
/// It is gone from memory when it is dropped, and in no error, log or `Debug` output.
#[derive(Clone)]
pub struct Key(Arc<Kind>);

enum Kind {
    File(Secret),
    Passphrase(Zeroizing<Vec<u8>>),
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Key").field(&self.kind()).finish()
    }
}

impl Key {
    /// The key in a file: 64 hexadecimal digits, as `openssl rand -hex 32` makes them. White space
    /// around them does not matter.
    ///
    /// # Errors
    /// [`Error::KeyFile`].
    pub fn from_file(path: &Path) -> Result<Self> {
        let content = read(path)?;
        let mut key = Zeroizing::new([0; 32]);
        let digits = content.trim_ascii();
        let parsed = digits.len() == 64 && parse_hex(digits, key.as_mut_slice()).is_some();
        if parsed {
            return Ok(Self(Arc::new(Kind::File(key))));
        }
        Err(unfit(path, "a key is 64 hexadecimal digits"))
    }

    /// The passphrase in a file; the line's end is no part of it.
    ///
    /// # Errors
    /// [`Error::KeyFile`].
    pub fn from_passphrase_file(path: &Path) -> Result<Self> {
        let content = read(path)?;
        let line = content.strip_suffix(b"\n").unwrap_or(&content);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return Err(unfit(path, "there is no passphrase in it"));
        }
        Ok(Self::from_passphrase(line))
    }

    /// A passphrase. It is stretched by Argon2id, which takes 64 MiB of memory for as long as that
    /// lasts.
    pub fn from_passphrase(passphrase: impl AsRef<[u8]>) -> Self {
        let passphrase = Zeroizing::new(passphrase.as_ref().to_vec());
        Self(Arc::new(Kind::Passphrase(passphrase)))
    }

    fn kind(&self) -> &'static str {
        match *self.0 {
            Kind::File(_) => "key file",
            Kind::Passphrase(_) => "passphrase",
        }
    }

    /// How it wraps keys from now on.
    pub(crate) fn new_wrapping(&self) -> Result<Wrapping> {
        Ok(match *self.0 {
            Kind::File(_) => Wrapping::KeyFile,
            Kind::Passphrase(_) => Wrapping::Passphrase(Stretch::new()?),
        })
    }

    /// What wraps keys so; `None` if that is done by the other kind of key.
    pub(crate) fn wrapping_cipher(&self, wrapping: &Wrapping) -> Result<Option<Cipher>> {
        let key = match (&*self.0, wrapping) {
            (Kind::File(key), Wrapping::KeyFile) => key.clone(),
            (Kind::Passphrase(passphrase), Wrapping::Passphrase(stretch)) => {
                stretched(passphrase, stretch)?
            }
            _ => return Ok(None),
        };
        Ok(Some(Cipher::new(key)))
    }
}

fn stretched(passphrase: &[u8], stretch: &Stretch) -> Result<Secret> {
    let failed = |error: argon2::Error| Error::Refused(format!("Argon2id: {error}"));
    let params = Params::new(stretch.memory_kib, stretch.passes, stretch.lanes, Some(32));
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.map_err(failed)?);
    let mut key = Zeroizing::new([0; 32]);
    let salt = stretch.salt.as_bytes();
    argon2
        .hash_password_into(passphrase, salt, key.as_mut_slice())
        .map_err(failed)?;
    Ok(key)
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let mut content = Zeroizing::new(Vec::with_capacity(4097));
    let file = std::fs::File::open(path);
    let read = file.and_then(|file| file.take(FILE_MAX + 1).read_to_end(&mut content));
    read.map_err(|source| Error::KeyFile {
        path: path.display().to_string(),
        reason: source.to_string(),
    })?;
    if content.len() as u64 > FILE_MAX {
        return Err(unfit(path, "it has more than 4096 bytes"));
    }
    Ok(content)
}

fn unfit(path: &Path, reason: &str) -> Error {
    Error::KeyFile {
        path: path.display().to_string(),
        reason: reason.into(),
    }
}

fn parse_hex(digits: &[u8], bytes: &mut [u8]) -> Option<()> {
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let text = std::str::from_utf8(pair).ok()?;
        // A sign would be taken for a digit.
        let is_hex = pair.iter().all(u8::is_ascii_hexdigit);
        *byte = u8::from_str_radix(text, 16).ok().filter(|_| is_hex)?;
    }
    Some(())
}
