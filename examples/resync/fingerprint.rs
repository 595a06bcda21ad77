//! What tells a disk from another.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::time::{SystemTime, UNIX_EPOCH};

use afterimage_block::{DiskId, Timestamp};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Place;

/// What tells a disk from another, and a file from what it was before it was written. Of a device or
/// an export nothing tells the latter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Fingerprint {
    name: String,
    file: Option<File>,
    /// When the stage was begun that holds what is written to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    staged: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct File {
    device: u64,
    inode: u64,
    length: u64,
    /// Inodes are used again.
    made: Option<u64>,
    /// Of what is not to be written.
    written: Option<u64>,
}

impl Fingerprint {
    /// Of a disk that is not to be written.
    pub(super) fn of_source(place: &Place) -> Result<Self> {
        let written = |found: &Metadata| found.modified().ok().and_then(nanoseconds);
        Self::of(place, written, None)
    }

    /// Of a disk that is, if not what is written to it goes to a stage.
    pub(super) fn of_target(place: &Place, staged: Option<Timestamp>) -> Result<Self> {
        Self::of(place, |_| None, staged)
    }

    /// The disk's identity in a log.
    pub(super) fn id(&self) -> Result<DiskId> {
        let digest: [u8; 32] = Sha256::digest(serde_json::to_vec(self)?).into();
        let (id, _) = digest.as_chunks();
        Ok(DiskId::from_bytes(id.first().copied().unwrap_or_default()))
    }

    fn of(
        place: &Place,
        written: impl Fn(&Metadata) -> Option<u64>,
        staged: Option<Timestamp>,
    ) -> Result<Self> {
        let Some(path) = place.path() else {
            let (name, file) = (place.to_string(), None);
            return Ok(Self { name, file, staged });
        };
        let failed = || format!("cannot find {}", path.display());
        let found = fs::metadata(path).with_context(failed)?;
        let real = fs::canonicalize(path).with_context(failed)?;
        Ok(Self {
            name: real.display().to_string(),
            file: found.is_file().then(|| File {
                device: found.dev(),
                inode: found.ino(),
                length: found.len(),
                made: found.created().ok().and_then(nanoseconds),
                written: written(&found),
            }),
            staged,
        })
    }
}

fn nanoseconds(time: SystemTime) -> Option<u64> {
    let since = time.duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(since.as_nanos()).ok()
}
