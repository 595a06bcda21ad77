//! How far a resync is, kept in a file.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use afterimage_resync::Session;
use afterimage_resync::remote::Cursor;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::cache::Proof;
use super::fingerprint::Fingerprint;

/// What is kept, and of which disks.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kept {
    Local {
        source: Fingerprint,
        target: Fingerprint,
        session: Session,
    },
    /// One end of a stream.
    End { disk: Fingerprint, cursor: Cursor },
    /// Two disks of one machine were equal.
    Equal { source: Proof, target: Proof },
}

/// The file of one resync.
#[derive(Clone, Debug)]
pub struct State {
    path: PathBuf,
}

impl State {
    /// The file at `path`, which need not be there yet.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Whether anything is kept.
    pub(super) fn is_there(&self) -> bool {
        self.path.exists()
    }

    /// What is kept, if anything is.
    pub(super) fn load(&self) -> Result<Option<Kept>> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| self.cannot("read")),
        };
        let kept = serde_json::from_slice(&text);
        kept.map(Some).with_context(|| self.cannot("go on with"))
    }

    /// Keeps this in place of what was kept before, durably and as a whole or not at all.
    pub(super) fn store(&self, kept: &Kept) -> Result<()> {
        let stored = replace(&self.path, &serde_json::to_vec(kept)?);
        stored.with_context(|| self.cannot("store"))
    }

    /// Keeps nothing any more, the resync being complete.
    pub(super) fn clear(&self) -> Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| self.cannot("remove"))
            }
            _ => Ok(()),
        }
    }

    fn cannot(&self, what: &str) -> String {
        format!("cannot {what} the state in {}", self.path.display())
    }
}

/// Makes these the bytes of the file, durably and as a whole or not at all.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(File::open(folder)?.sync_all()?)
}
