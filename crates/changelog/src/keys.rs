//! The keys of encrypted logs, and their names.

use std::fmt;

#[cfg(feature = "aead")]
pub use secret::Key;

/// The name of a key: 16 bytes that the key itself determines and that do not tell it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 16]);

impl KeyId {
    /// The name with these 16 bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its 16 bytes.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// The keys that whoever reads logs has: none by default. Each log names the one that it needs.
///
/// Clones share the keys, which are erased from memory with the last of them.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    #[cfg(feature = "aead")]
    keys: std::sync::Arc<[Key]>,
}

impl Keys {
    /// No keys: only logs that are not encrypted can be read.
    pub fn none() -> Self {
        Self::default()
    }
}

#[cfg(feature = "aead")]
mod secret {
    use std::fmt;
    use std::sync::Arc;

    use hkdf::Hkdf;
    use sha2::Sha256;
    use zeroize::Zeroizing;

    use super::{KeyId, Keys};

    /// What the name of a key is derived with.
    const NAME: &[u8] = b"afterimage-changelog v1 key id";

    /// A secret key of 256 bits, from which each log gets a key of its own.
    ///
    /// It must come from a source of random bytes: a password is none. `Debug` shows its name only.
    /// Clones share the secret, which is erased from memory with the last of them.
    ///
    /// ```
    /// let key = afterimage_changelog::Key::new(&[7; 32]);
    /// assert_eq!(key.id().to_string(), "6a2d9e3b285dbacf2c71b403f3b98c99");
    /// assert_eq!(format!("{key:?}"), "Key(6a2d9e3b285dbacf2c71b403f3b98c99)");
    /// ```
    #[derive(Clone)]
    pub struct Key {
        id: KeyId,
        secret: Arc<Zeroizing<[u8; 32]>>,
    }

    impl Key {
        /// The key with these bytes, which remain the caller's to erase.
        pub fn new(secret: &[u8; 32]) -> Self {
            let mut id = [0; 16];
            expand(&Hkdf::new(None, secret), &[NAME], &mut id);
            Self {
                id: KeyId::from_bytes(id),
                secret: Arc::new(Zeroizing::new(*secret)),
            }
        }

        /// Its name.
        pub fn id(&self) -> KeyId {
            self.id
        }

        /// The key of the log that begins with these bytes and this salt.
        pub(crate) fn derive(&self, salt: &[u8; 32], info: &[&[u8]]) -> Zeroizing<[u8; 32]> {
            let mut derived = Zeroizing::new([0; 32]);
            let hkdf = Hkdf::new(Some(salt), self.secret.as_slice());
            expand(&hkdf, info, derived.as_mut_slice());
            derived
        }
    }

    /// Fills `output`, which HKDF refuses only past 8160 bytes.
    fn expand(hkdf: &Hkdf<Sha256>, info: &[&[u8]], output: &mut [u8]) {
        let expanded = hkdf.expand_multi_info(info, output);
        debug_assert!(expanded.is_ok(), "a key is short");
    }

    impl fmt::Debug for Key {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "Key({})", self.id)
        }
    }

    impl Keys {
        /// The key with this name.
        pub(crate) fn get(&self, id: KeyId) -> Option<&Key> {
            self.keys.iter().find(|key| key.id == id)
        }
    }

    impl From<Key> for Keys {
        fn from(key: Key) -> Self {
            Self::from_iter([key])
        }
    }

    impl FromIterator<Key> for Keys {
        fn from_iter<I: IntoIterator<Item = Key>>(keys: I) -> Self {
            let keys = keys.into_iter().collect();
            Self { keys }
        }
    }
}
