//! What opens encrypted replicas, from a file: never from an argument, which everybody can see.

use std::io;
use std::path::{Path, PathBuf, absolute};

use afterimage::Key;
use anyhow::Result;
use clap::Args;
use serde::{Deserialize, Serialize};

/// The options of all programs that open replicas.
#[derive(Args, Clone, Default, Serialize, Deserialize)]
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
    /// The same files, from wherever they are named.
    pub fn absolute(&self) -> io::Result<Self> {
        let absolute = |file: &Option<PathBuf>| file.as_deref().map(absolute::<&Path>).transpose();
        Ok(Self {
            key_file: absolute(&self.key_file)?,
            passphrase_file: absolute(&self.passphrase_file)?,
        })
    }

    /// The key; `None` for replicas that are not encrypted.
    pub fn read(&self) -> Result<Option<Key>> {
        let key = self.key_file.as_deref().map(Key::from_file);
        let passphrase = self.passphrase_file.as_deref();
        let passphrase = || passphrase.map(Key::from_passphrase_file);
        Ok(key.or_else(passphrase).transpose()?)
    }
}
