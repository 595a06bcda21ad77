//! Keys from files, and what is encrypted with them.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use afterimage_changelog::{Form, Key, Keys, Packing, WriterOptions};
use anyhow::{Context, Result, bail, ensure};
use zeroize::Zeroizing;

/// Whoever is not the owner and not of the group can read or write it.
const OPEN_TO_OTHERS: u32 = 0o006;
/// The longest that a file with a key is: 64 digits and the end of the line.
const LONGEST: usize = 66;

/// The keys that were given, and what is made with them.
#[derive(Default)]
pub(crate) struct KeyRing {
    keys: Keys,
    first: Option<Key>,
}

impl KeyRing {
    /// Reads the keys in `files`.
    pub(crate) fn read(files: &[PathBuf]) -> Result<Self> {
        let read = |path: &PathBuf| {
            read(path).with_context(|| format!("cannot take a key from `{}`", path.display()))
        };
        let keys: Vec<Key> = files.iter().map(read).collect::<Result<_>>()?;
        Ok(Self {
            first: keys.first().cloned(),
            keys: keys.into_iter().collect(),
        })
    }

    /// All of them.
    pub(crate) fn all(&self) -> &Keys {
        &self.keys
    }

    /// How a native log is written: encrypted if there is a key.
    pub(super) fn options(&self, compress: bool) -> WriterOptions {
        let packing = match &self.first {
            Some(key) => Packing::default().with_key(key.clone()),
            None => Packing::default(),
        };
        with_compression(packing, compress)
    }

    /// How a native log is written that is made of logs of these forms: compressed if one of them is.
    pub(super) fn options_like(&self, forms: impl IntoIterator<Item = Form>) -> WriterOptions {
        self.options(forms.into_iter().any(|form| form.compressed))
    }
}

/// How a native log is written that is plain text, whatever it is made of.
pub(super) fn plaintext(compress: bool) -> WriterOptions {
    with_compression(Packing::default().allowing_plaintext(), compress)
}

fn with_compression(packing: Packing, compress: bool) -> WriterOptions {
    let packing = if compress {
        packing.with_compression()
    } else {
        packing
    };
    WriterOptions::default().with_packing(packing)
}

fn read(path: &Path) -> Result<Key> {
    let file = File::open(path)?;
    let mode = file.metadata()?.permissions().mode();
    ensure!(
        mode & OPEN_TO_OTHERS == 0,
        "others can read or write it: chmod 600"
    );
    let mut text = Zeroizing::new(Vec::with_capacity(LONGEST + 1));
    file.take(LONGEST as u64 + 1).read_to_end(&mut text)?;
    let mut secret = Zeroizing::new([0; 32]);
    if text.len() == secret.len() {
        secret.copy_from_slice(&text);
        return Ok(Key::new(&secret));
    }
    let digits = text.trim_ascii();
    if digits.len() != 2 * secret.len() {
        bail!("a key is 32 bytes or 64 hexadecimal digits");
    }
    for (byte, pair) in secret.iter_mut().zip(digits.chunks_exact(2)) {
        for digit in pair {
            let digit = char::from(*digit).to_digit(16);
            let digit = digit.context("a key is 32 bytes or 64 hexadecimal digits")?;
            *byte = *byte << 4 | digit.to_le_bytes()[0];
        }
    }
    Ok(Key::new(&secret))
}
