//! The one durable record of a protected machine.

use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use afterimage_block::{
    ContentDigest, DiskId, Epoch, Length, MachineId, Sequence, SessionId, Timestamp,
};
use afterimage_replication::{Machine, Policy, Standby};
use afterimage_retry::Time;
use afterimage_store::{BaseProgress, LogEntry, MachineName, Manifest, ReplicaDisk};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// 2 since a machine keeps how far it can be recovered, 3 since a folder says which side it is of; what
/// older ones lack has a default.
const FORMAT: u32 = 3;

/// Everything that a restart needs to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Saved {
    pub(crate) format: u32,
    pub(crate) name: MachineName,
    pub(crate) machine: MachineId,
    pub(crate) disks: Vec<SavedDisk>,
    pub(crate) replication: Machine,
    /// The latest reading of the clock.
    pub(crate) time: Time,
    /// Set by an orderly end: no generation is open.
    pub(crate) clean: bool,
    /// What this side is.
    #[serde(default)]
    pub(crate) side: Side,
}

/// What a side of a machine's replication is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) enum Side {
    /// The primary, or one that was.
    #[default]
    Primary,
    /// The replica is failed over to the disks here.
    FailedOver(FailoverTarget),
    /// The disks follow the replica.
    Standby(Following),
}

/// A failover, at the side that it is to.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FailoverTarget {
    /// Its name, which the replica's state has as well. Durable here before it is there, so that it
    /// can never be committed without anybody who can go on from it.
    pub(crate) failover: SessionId,
    /// The epoch that it was to begin.
    pub(crate) epoch: Epoch,
    /// The recovery point.
    pub(crate) point: Sequence,
    /// Whether the disks here are at that point, all of them.
    pub(crate) complete: bool,
}

/// How far disks that follow the replica are.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Following {
    pub(crate) standby: Standby,
    /// The replica's logs that they came to be at with: as long as the replica holds these, the logs
    /// after them are all that makes the difference.
    pub(crate) at: Option<LogEntry>,
}

impl Following {
    pub(crate) const fn new(standby: Standby) -> Self {
        Self { standby, at: None }
    }
}

/// What is remembered of one disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SavedDisk {
    pub(crate) id: DiskId,
    pub(crate) name: MachineName,
    pub(crate) path: PathBuf,
    pub(crate) size: Length,
    /// How far initial replication is.
    pub(crate) base: BaseProgress,
    /// The content digest of the last sealed log, which the next one names as its predecessor.
    pub(crate) predecessor: ContentDigest,
    /// How the file looked when it was last closed in order.
    pub(crate) closed_as: Option<Fingerprint>,
}

impl SavedDisk {
    /// The record of a disk of which nothing is known yet.
    pub(crate) fn new(disk: &ReplicaDisk, path: PathBuf) -> Self {
        Self {
            id: disk.id,
            name: disk.name.clone(),
            path,
            size: disk.size,
            base: BaseProgress::default(),
            predecessor: ContentDigest::NONE,
            closed_as: None,
        }
    }

    /// Whether it looks otherwise than when it was closed in order, where it had a look to tell by.
    pub(crate) fn may_have_changed(&self) -> bool {
        self.closed_as.is_some() && !self.is_as_closed()
    }

    /// Whether it looks as when it was closed in order.
    pub(crate) fn is_as_closed(&self) -> bool {
        self.closed_as.is_some() && Fingerprint::of(&self.path) == self.closed_as
    }
}

/// What shows that a file was changed while nobody tracked it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fingerprint {
    modified_nanos: u128,
}

impl Fingerprint {
    /// Gives the file at `path` the time `time`, which no later write leaves as it is. The clock of a
    /// filesystem is coarse: a write right after another may leave no trace in the file's times.
    pub(crate) fn leave(path: &Path, time: Timestamp) -> io::Result<()> {
        let modified = UNIX_EPOCH + Duration::from_nanos(time.as_nanos());
        let file = File::options().write(true).open(path)?;
        if file.metadata()?.is_file() {
            file.set_modified(modified)?;
            file.sync_all()?;
        }
        Ok(())
    }

    /// What [`leave`](Self::leave) left on the file at `path`; `None` where it is no file.
    pub(crate) fn left_on(path: &Path, time: Timestamp) -> Option<Self> {
        path.is_file().then(|| Self {
            modified_nanos: time.as_nanos().into(),
        })
    }

    /// Of the file at `path`; `None` where it tells no time of change, as block devices do not.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path)
            .ok()
            .filter(std::fs::Metadata::is_file)?;
        let modified = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some(Self {
            modified_nanos: modified.as_nanos(),
        })
    }
}

/// The stem of a file's name: the name of a disk.
pub(crate) fn stem(path: &Path) -> Result<MachineName> {
    let stem = path.file_stem().unwrap_or_default();
    Ok(stem.to_string_lossy().parse()?)
}

/// Where a machine's state is by default: beside its first disk, which is in `folder`.
pub(crate) fn default_folder(folder: &Path, name: &MachineName) -> PathBuf {
    folder.join(format!(".afterimage-{name}"))
}

/// The folder of one machine's state and logs, locked against every other process.
#[derive(Debug)]
pub(crate) struct StateFolder {
    folder: PathBuf,
    _lock: File,
    saved: Mutex<Option<Saved>>,
}

impl StateFolder {
    /// Opens the folder, making it if it is not there, and reads what was saved in it.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let failed = |operation| {
            move |source| Error::File {
                operation,
                path: folder.into(),
                source,
            }
        };
        std::fs::create_dir_all(folder).map_err(failed("create"))?;
        let lock = File::create(folder.join("lock")).map_err(failed("lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::StateInUse(folder.into())),
            Err(TryLockError::Error(source)) => return Err(failed("lock")(source)),
        }
        let path = folder.join("state.json");
        let saved = match std::fs::read(&path) {
            Ok(bytes) => Some(parse(&path, &bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(failed("read the state in")(source)),
        };
        Ok(Self {
            folder: folder.into(),
            _lock: lock,
            saved: Mutex::new(saved),
        })
    }

    /// What is saved in `folder`, whoever may be at work there.
    pub(crate) fn peek(folder: &Path) -> Result<Saved> {
        let path = folder.join("state.json");
        let bytes = std::fs::read(&path).map_err(|source| Error::File {
            operation: "read the state in",
            path: path.clone(),
            source,
        })?;
        parse(&path, &bytes)
    }

    /// What was saved; `None` in a new folder.
    pub(crate) fn saved(&self) -> Option<Saved> {
        self.lock().clone()
    }

    /// Saves all of it, durably and at once.
    pub(crate) fn save(&self, saved: Saved) -> Result<()> {
        let mut held = self.lock();
        self.write(&saved)?;
        *held = Some(saved);
        Ok(())
    }

    /// Changes what is saved, durably and at once.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Saved)) -> Result<()> {
        let mut held = self.lock();
        if let Some(saved) = &mut *held {
            change(saved);
            self.write(saved)?;
        }
        Ok(())
    }

    /// The folder of one disk's logs.
    pub(crate) fn logs(&self, disk: DiskId) -> PathBuf {
        logs_in(&self.folder, disk)
    }

    /// Deletes the logs and intents of all disks.
    pub(crate) fn clear_logs(&self) -> Result<()> {
        let path = self.folder.join("logs");
        match std::fs::remove_dir_all(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::File {
                operation: "clear",
                path,
                source,
            }),
            _ => Ok(()),
        }
    }

    /// The folder of temporary files.
    pub(crate) fn scratch(&self) -> &Path {
        &self.folder
    }

    fn lock(&self) -> MutexGuard<'_, Option<Saved>> {
        self.saved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, saved: &Saved) -> Result<()> {
        let path = self.folder.join("state.json");
        let bytes = serde_json::to_vec(saved).map_err(|error| Error::State {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        replace(&path, &bytes).map_err(|source| Error::File {
            operation: "save",
            path,
            source,
        })
    }
}

/// The folder of one disk's logs in a state folder.
pub(crate) fn logs_in(folder: &Path, disk: DiskId) -> PathBuf {
    folder.join("logs").join(disk.to_string())
}

/// The real paths of a machine's disks, each once.
pub(crate) fn canonical(disks: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for disk in disks {
        let path = disk.canonicalize().map_err(|source| Error::File {
            operation: "find",
            path: disk.clone(),
            source,
        })?;
        if paths.contains(&path) {
            return Err(Error::Disks(format!("`{}` is named twice", path.display())));
        }
        paths.push(path);
    }
    if paths.is_empty() {
        return Err(Error::Disks("a machine needs at least one disk".into()));
    }
    Ok(paths)
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Saved> {
    #[derive(Deserialize)]
    struct Version {
        format: u32,
    }
    let unusable = |reason: String| Error::State {
        path: path.into(),
        reason,
    };
    let version: Version =
        serde_json::from_slice(bytes).map_err(|error| unusable(error.to_string()))?;
    if version.format > FORMAT {
        let found = version.format;
        return Err(unusable(format!(
            "it has format {found}, of a newer release"
        )));
    }
    let saved: Saved =
        serde_json::from_slice(bytes).map_err(|error| unusable(error.to_string()))?;
    Ok(Saved {
        format: FORMAT,
        ..saved
    })
}

impl Saved {
    /// The record of a machine that was never protected.
    pub(crate) fn new(name: MachineName, disks: Vec<SavedDisk>, replication: Machine) -> Self {
        Self {
            format: FORMAT,
            name,
            machine: MachineId::random(),
            disks,
            replication,
            time: Time::ZERO,
            clean: true,
            side: Side::Primary,
        }
    }

    /// Refuses the record of another machine than `name` with its disks at `paths`.
    pub(crate) fn check(
        &self,
        folder: &StateFolder,
        name: &MachineName,
        paths: &[PathBuf],
    ) -> Result<()> {
        let same_disks = self.disks.iter().map(|disk| &disk.path).eq(paths);
        if self.name == *name && same_disks {
            return Ok(());
        }
        let disks = self.disks.iter();
        let disks: Vec<_> = disks.map(|disk| disk.path.display().to_string()).collect();
        Err(Error::State {
            path: folder.scratch().into(),
            reason: format!(
                "it belongs to machine `{}` with {}: name these, in this order, or protect other \
                 disks as another machine, with another name and another state folder",
                self.name,
                disks.join(", ")
            ),
        })
    }

    /// The epoch that this side's own writes are of.
    pub(crate) fn own_epoch(&self) -> Epoch {
        self.target()
            .map_or_else(|| self.replication.epoch(), |target| target.epoch)
    }

    /// The failover that was to this side.
    pub(crate) fn target(&self) -> Option<&FailoverTarget> {
        match &self.side {
            Side::FailedOver(target) => Some(target),
            Side::Primary | Side::Standby(_) => None,
        }
    }

    /// The record of a side that the machine of `manifest` comes to be on, with its disks at `paths` and
    /// of `sizes`.
    pub(crate) fn of_replica(
        manifest: &Manifest,
        sizes: Vec<Length>,
        paths: Vec<PathBuf>,
        side: Side,
    ) -> Self {
        let disks = manifest.disks.iter().zip(&sizes).zip(paths);
        Self {
            machine: manifest.machine,
            side,
            ..Self::new(
                manifest.name.clone(),
                disks
                    .map(|((disk, size), path)| SavedDisk {
                        size: *size,
                        ..SavedDisk::new(disk, path)
                    })
                    .collect(),
                Machine::new(Policy::default(), sizes),
            )
        }
    }
}

/// Replaces the file at `path` by one with these bytes: whole or not at all, also after a crash.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}
