//! What opens encrypted replicas, from a file: never from an argument, which everybody can see.

use std::path::PathBuf;

use afterimage::Key;
use anyhow::Result;
use clap::Args;

/// The options of all programs that open replicas.
#[derive(Args)]
#[group(multiple = false)]
pub struct KeyArguments {
    /// The replica is encrypted by the key in this file: 64 hexadecimal digits, as
    /// `openssl rand -hex 32` makes them.
    #[arg(long)]
    key_file: Option<PathBuf>,
    /// The replica is encrypted by the passphrase in this file.
    #[arg(long)]
    passphrase_file: Option<PathBuf>,
}

impl KeyArguments {
    /// The key; `None` for replicas that are not encrypted.
    pub fn read(&self) -> Result<Option<Key>> {
        let key = self.key_file.as_deref().map(Key::from_file);
        let passphrase = self.passphrase_file.as_deref();
        let passphrase = || passphrase.map(Key::from_passphrase_file);
        Ok(key.or_else(passphrase).transpose()?)
    }
}
