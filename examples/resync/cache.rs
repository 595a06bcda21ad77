//! What is known of a disk, kept in a file beside it for the next resync.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use afterimage_resync::remote::Terms;
use afterimage_resync::{Algorithm, Digests, Grid};
use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::Place;
use super::state::replace;

/// How long ago a file must have been written last for its times to prove anything: clocks of
/// filesystems tick every few milliseconds, and what is written within one tick bears one time.
const SETTLED: Duration = Duration::from_millis(100);

/// How often to look whether a file has settled.
const LOOKS: u32 = 20;

/// What is others whenever a file may hold something else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Proof {
    device: u64,
    inode: u64,
    length: u64,
    /// Seconds and nanoseconds.
    written: (i64, i64),
    changed: (i64, i64),
}

impl Proof {
    /// Of a plain file that nobody writes to, for which it may wait a moment; of anything else there
    /// is none.
    pub(super) fn of(place: &Place) -> Result<Option<Self>> {
        let Some(path) = place.path() else {
            return Ok(None);
        };
        for _ in 0..LOOKS {
            let found = match fs::metadata(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                found => found?,
            };
            if !found.is_file() {
                return Ok(None);
            }
            let proof = Self {
                device: found.dev(),
                inode: found.ino(),
                length: found.len(),
                written: (found.mtime(), found.mtime_nsec()),
                changed: (found.ctime(), found.ctime_nsec()),
            };
            let Ok(age) = SystemTime::now().duration_since(proof.latest()) else {
                // Somebody sets clocks.
                return Ok(None);
            };
            if age >= SETTLED {
                return Ok(Some(proof));
            }
            thread::sleep(SETTLED.saturating_sub(age));
        }
        Ok(None)
    }

    /// When the file was touched last.
    fn latest(&self) -> SystemTime {
        let (seconds, nanos) = self.written.max(self.changed);
        let since = Duration::new(
            u64::try_from(seconds).unwrap_or_default(),
            u32::try_from(nanos).unwrap_or_default(),
        );
        UNIX_EPOCH + since
    }

    /// As `CACHE.md` of the resync crate has it.
    fn bytes(&self) -> Vec<u8> {
        let (written, changed) = (self.written, self.changed);
        let numbers = [self.device, self.inode, self.length].map(u64::to_le_bytes);
        let times = [written.0, written.1, changed.0, changed.1].map(i64::to_le_bytes);
        let numbers = numbers.iter().chain(&times).flatten().copied();
        b"file".iter().copied().chain(numbers).collect()
    }
}

/// The file that keeps the digests of one disk.
#[derive(Clone, Debug)]
pub struct Cache {
    path: PathBuf,
}

impl Cache {
    /// The file at `path`, which need not be there yet.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// What is known of the disk of this proof; nothing if the file is not of it, and then it says so.
    pub(super) fn load(&self, terms: &Terms, proof: Option<&Proof>) -> Option<Digests> {
        let loaded = self.read(terms.algorithm, terms.grid, proof?);
        loaded.unwrap_or_else(|error| {
            eprintln!("the cache {} is not used: {error:#}", self.path.display());
            None
        })
    }

    fn read(&self, algorithm: Algorithm, grid: Grid, proof: &Proof) -> Result<Option<Digests>> {
        let file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let mut bytes = Vec::new();
        // One byte more than it can have is enough to find it too long.
        let most = Digests::file_max(grid).saturating_add(1);
        file.take(most).read_to_end(&mut bytes)?;
        Ok(Some(Digests::decode(
            &bytes,
            algorithm,
            grid,
            &proof.bytes(),
        )?))
    }

    /// Replaces the file, unless it holds these bytes already: to make a file durable takes longer than
    /// a resync that reads nothing.
    fn update(&self, bytes: &[u8]) -> Result<()> {
        let held = File::open(&self.path).and_then(|file| {
            let mut held = Vec::new();
            let most = (bytes.len() as u64).saturating_add(1);
            file.take(most).read_to_end(&mut held).map(|_| held)
        });
        if held.is_ok_and(|held| held == bytes) {
            return Ok(());
        }
        replace(&self.path, bytes)
    }

    /// Keeps what is known of the disk that now has this proof. That it cannot is no failure of the
    /// resync, and is said.
    pub(super) fn store(&self, digests: &Digests, proof: Result<Option<Proof>>) {
        let stored = proof.and_then(|proof| match proof {
            Some(proof) => self.update(&digests.encode(&proof.bytes())),
            None => anyhow::bail!("nothing proves that the disk was not written since"),
        });
        if let Err(error) = stored {
            eprintln!("the cache {} is not kept: {error:#}", self.path.display());
        }
    }
}
