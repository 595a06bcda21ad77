//! The one mutable object of a machine.

use afterimage_block::{
    ContentDigest, DiskId, Epoch, Growth, Length, MachineId, Sequence, SessionId, Timestamp,
};
use std::sync::Arc;

use object_store::path::Path;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::cipher::Cipher;
use crate::layout::{Birth, Node};
use crate::pack::Place;
use crate::wrapped::MachineKey;
use crate::{Error, Loss, MachineName, Result};

/// The format of manifests that are not encrypted.
pub(crate) const FORMAT: u64 = 7;
/// The format of manifests that are.
pub(crate) const FORMAT_SEALED: u64 = 8;
/// The oldest that are read: the same, but for where logs can be and how they are named.
pub(crate) const FORMAT_MIN: u64 = 3;
/// No manifest is longer: it grows with recovery points and logs, which retention bounds.
pub(crate) const LENGTH_MAX: u64 = 64 << 20;

/// What a store knows of one machine. Read by anybody; changed by its one writer, and by a failover.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub(crate) format: u64,
    pub(crate) commit: SessionId,
    /// The machine's name.
    pub name: MachineName,
    /// The machine's identity.
    pub machine: MachineId,
    /// Who may write.
    pub fence: Fence,
    /// The disks, in the machine's order.
    pub disks: Vec<ReplicaDisk>,
    /// The oldest barrier that the store holds: the logs come after it. `None` until initial
    /// replication ends.
    pub checkpoint: Option<Checkpoint>,
    /// The logs after the checkpoint, oldest first.
    pub logs: Vec<LogEntry>,
    /// What the last fold replaced. It is deleted before the next one, so that a reader who opened
    /// an older point has until then.
    pub retired: Option<Retired>,
    /// The recovery points, oldest first.
    pub points: Vec<RecoveryPoint>,
    /// Where disks became larger, oldest first, as far back as the store holds anything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub growths: Vec<Growth>,
    /// What is known to be damaged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub losses: Vec<Loss>,
    /// What the replication state machine keeps with the replica.
    pub state: serde_json::Value,
    /// The machine's key, if it is encrypted.
    #[serde(skip)]
    pub(crate) key: Option<MachineKey>,
}

/// How new a manifest is: within an epoch barriers only advance, and epochs follow each other. Who
/// remembers it notices a manifest that was rolled back ([`Replica::not_before`]).
///
/// [`Replica::not_before`]: crate::Replica::not_before
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Newness {
    /// The epoch.
    pub epoch: Epoch,
    /// The newest barrier; `None` before the base.
    pub last: Option<Sequence>,
}

impl std::fmt::Display for Newness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.last {
            Some(last) => write!(f, "barrier {last} in epoch {}", self.epoch),
            None => write!(f, "epoch {} without a base", self.epoch),
        }
    }
}

/// Who may write to a replica: one session of one epoch. Each claim and each failover begins a new
/// epoch, and fences off the older ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fence {
    /// The epoch.
    pub epoch: Epoch,
    /// The session; `None` after a failover, when nobody may write.
    pub session: Option<SessionId>,
}

/// A disk of a replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicaDisk {
    /// Its identity.
    pub id: DiskId,
    /// Its name: the stem of its file's name at the primary.
    pub name: MachineName,
    /// Its size at the newest barrier.
    pub size: Length,
}

/// All disks at one barrier, by the digests of their index roots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// The barrier.
    pub sequence: Sequence,
    /// The epoch of the writer that folded logs into it; `None` of the first copy.
    pub folded: Option<Epoch>,
    /// The root of each disk.
    pub roots: Vec<ContentDigest>,
}

impl Checkpoint {
    /// When the roots were written.
    fn birth(&self) -> Birth {
        self.folded.map_or(Birth::BASE, |epoch| Birth {
            sequence: self.sequence,
            epoch,
        })
    }

    /// The root of disk number `disk`.
    pub(crate) fn root(&self, disk: usize) -> Option<Node> {
        let (birth, digest) = (self.birth(), *self.roots.get(disk)?);
        Some(Node { birth, digest })
    }
}

/// A checkpoint that was replaced, and the logs that were folded into its successor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retired {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// The logs, oldest first.
    pub logs: Vec<LogEntry>,
}

/// The logs of one generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogEntry {
    /// The generation.
    pub sequence: Sequence,
    /// The log of each disk; `None` where it was lost and a resynchronization made up for it.
    pub disks: Vec<Option<LogObject>>,
}

/// One sealed log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogObject {
    /// The epoch in which it was shipped: part of its name.
    pub epoch: Epoch,
    /// Its length.
    pub length: Length,
    /// The SHA-256 of its content.
    pub content: ContentDigest,
    /// Where it is.
    #[serde(default, rename = "naming", skip_serializing_if = "Place::is_untold")]
    pub(crate) place: Place,
}

/// Whether the guest's applications had brought their data in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Consistency {
    /// As after a power cut at the barrier.
    Crash,
    /// A quiesce hook succeeded around the barrier.
    Application,
}

/// A barrier that the machine can be failed over to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecoveryPoint {
    /// The barrier.
    pub sequence: Sequence,
    /// When it was, by the primary's wall clock.
    pub time: Timestamp,
    /// How consistent it is.
    pub consistency: Consistency,
}

/// A checkpoint and the logs after it.
type History<'m> = (Option<&'m Checkpoint>, &'m [LogEntry]);

fn increases((base, logs): History<'_>) -> bool {
    let base = base.map(|base| base.sequence).into_iter();
    let all = base.chain(logs.iter().map(|entry| entry.sequence));
    all.is_sorted_by(|a, b| a < b)
}

/// Whether all logs fit where they are.
fn fits((_, logs): History<'_>) -> bool {
    let mut logs = logs.iter().flat_map(|entry| entry.disks.iter().flatten());
    logs.all(|log| log.place.fits(log.length))
}

/// The length of a manifest's seal.
const SEAL: usize = 66;

/// What follows a manifest's JSON: without it one flipped bit, on the way to a writer, could make
/// another manifest that reads as well, and that the writer would put in the place of the true one.
fn seal_of(json: &[u8]) -> Vec<u8> {
    format!("\n{}\n", ContentDigest::new(Sha256::digest(json).into())).into()
}

/// The JSON of the manifest at `path`, and whether it is encrypted.
pub(crate) fn unsealed<'b>(bytes: &'b [u8], path: &Path) -> Result<(bool, &'b [u8])> {
    #[derive(Deserialize)]
    struct Version {
        format: u64,
    }
    let (json, seal) = bytes.split_at(bytes.len().saturating_sub(SEAL));
    // Format 2 had no seal.
    let version = [json, bytes]
        .into_iter()
        .find_map(|json| serde_json::from_slice(json).ok());
    let format = version.map(|Version { format }| format);
    match format {
        Some(found) if !(FORMAT_MIN..=FORMAT_SEALED).contains(&found) => {
            Err(Error::OtherFormat { found })
        }
        Some(format) if seal == seal_of(json) => Ok((is_sealed(format), json)),
        _ => Err(Error::damaged(path, "its seal does not match")),
    }
}

/// Whether manifests of this format are encrypted.
fn is_sealed(format: u64) -> bool {
    format.is_multiple_of(2)
}

impl Manifest {
    /// Reads a manifest, and checks that it does not contradict itself.
    pub(crate) fn parse(json: &[u8], name: &MachineName) -> Result<Self> {
        let object = crate::layout::manifest(name);
        let damaged = |reason: &dyn std::fmt::Display| Error::damaged(&object, reason);
        let manifest: Self = serde_json::from_slice(json).map_err(|error| damaged(&error))?;
        match manifest.contradiction(name) {
            None => Ok(Self {
                format: FORMAT,
                ..manifest
            }),
            Some(reason) => Err(damaged(&reason)),
        }
    }

    fn contradiction(&self, name: &MachineName) -> Option<&'static str> {
        let retired = self.retired.as_ref();
        let histories = [
            (self.checkpoint.as_ref(), self.logs.as_slice()),
            (
                retired.map(|retired| &retired.checkpoint),
                retired.map_or(&[], |retired| retired.logs.as_slice()),
            ),
        ];
        // What is retired ends where the checkpoint is.
        let kept_from = self.checkpoint.as_ref().map(|kept| kept.sequence);
        let folded = retired.map(|retired| retired.logs.last().map(|entry| entry.sequence));
        let points = self.points.iter().map(|point| point.sequence);
        let sizes: Vec<_> = self.disks.iter().map(|disk| disk.size).collect();
        if !(FORMAT_MIN..=FORMAT).contains(&self.format) || is_sealed(self.format) {
            Some("its format is not that of a manifest")
        } else if self.name != *name {
            Some("it is another machine's")
        } else if self.disks.is_empty() || !histories.iter().all(|of| self.is_of_all_disks(*of)) {
            Some("its numbers of disks differ")
        } else if self.checkpoint.is_none() && !self.logs.is_empty() {
            Some("it has logs without a base")
        } else if !histories.into_iter().all(increases) || !points.is_sorted_by(|a, b| a < b) {
            Some("its sequence numbers do not increase")
        } else if folded.is_some_and(|last| last.is_none() || last != kept_from) {
            Some("what it retired was not folded into its checkpoint")
        } else if !histories.into_iter().all(fits) {
            Some("a log is not where it should be")
        } else if !self.points.iter().all(|point| self.holds(point.sequence)) {
            Some("a recovery point has no log")
        } else if !Growth::is_history(&self.growths, &sizes) {
            Some("its disks did not only grow")
        } else if self.losses.iter().any(|loss| loss.contradicts(&self.disks)) {
            Some("what it says to be lost is not of its disks")
        } else {
            None
        }
    }

    fn is_of_all_disks(&self, (base, logs): History<'_>) -> bool {
        let disks = self.disks.len();
        base.iter().all(|base| base.roots.len() == disks)
            && logs.iter().all(|entry| entry.disks.len() == disks)
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        // Only maps with keys that are not strings could fail, and there are none.
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        if let Some(key) = &self.key {
            bytes = key.seal(&crate::layout::manifest(&self.name), &bytes)?;
        }
        let seal = seal_of(&bytes);
        bytes.extend(seal);
        Ok(bytes)
    }

    /// How new it is.
    pub fn newness(&self) -> Newness {
        Newness {
            epoch: self.fence.epoch,
            last: self.last(),
        }
    }

    /// Whether only who has the machine's key can read it.
    pub fn is_encrypted(&self) -> bool {
        self.key.is_some()
    }

    pub(crate) fn cipher(&self) -> Option<Arc<Cipher>> {
        self.key.as_ref().map(|key| Arc::clone(&key.cipher))
    }

    /// Whether the disks at barrier `sequence` can be read.
    pub(crate) fn holds(&self, sequence: Sequence) -> bool {
        let base = self
            .checkpoint
            .as_ref()
            .map(|checkpoint| checkpoint.sequence);
        base == Some(sequence) || self.logs.iter().any(|entry| entry.sequence == sequence)
    }

    /// The size of disk number `disk` at barrier `sequence`.
    pub fn size_at(&self, disk: usize, sequence: Sequence) -> Length {
        let now = self.disks.get(disk).map_or(Length::ZERO, |disk| disk.size);
        Growth::size_at(&self.growths, disk, now, sequence)
    }

    /// The sizes of all disks at barrier `sequence`, in the machine's order.
    pub fn sizes_at(&self, sequence: Sequence) -> Vec<Length> {
        let disks = 0..self.disks.len();
        disks.map(|disk| self.size_at(disk, sequence)).collect()
    }

    /// Refuses sizes of the disks that are smaller than those at the newest barrier.
    pub(crate) fn check_sizes(&self, sizes: &[Length]) -> Result<()> {
        if sizes.len() != self.disks.len() {
            let (theirs, ours) = (self.disks.len(), sizes.len());
            let reason = format!("the replica has {theirs} disks, and {ours} sizes are given");
            return Err(Error::Refused(reason));
        }
        let mut pairs = self.disks.iter().zip(sizes);
        match pairs.find(|(disk, size)| **size < disk.size) {
            None => Ok(()),
            Some((disk, size)) => Err(Error::Shrunk {
                disk: disk.name.to_string(),
                was: disk.size,
                is: *size,
            }),
        }
    }

    /// Notes that the disks have `sizes` from barrier `sequence` on, which is the newest.
    pub(crate) fn grow(&mut self, sizes: &[Length], sequence: Sequence) -> Result<()> {
        self.check_sizes(sizes)?;
        for (number, (disk, size)) in self.disks.iter_mut().zip(sizes).enumerate() {
            if *size > disk.size {
                let was = std::mem::replace(&mut disk.size, *size);
                self.growths.push(Growth {
                    disk: number,
                    at: sequence,
                    was,
                });
            }
        }
        Ok(())
    }

    /// Forgets the sizes of disks before barrier `oldest`, of which nothing is held any more.
    pub(crate) fn forget_growths(&mut self, oldest: Sequence) {
        self.growths.retain(|growth| oldest < growth.at);
    }

    /// The newest barrier that the store holds, be it a recovery point or not; `None` before the
    /// base.
    pub fn last(&self) -> Option<Sequence> {
        let base = self
            .checkpoint
            .as_ref()
            .map(|checkpoint| checkpoint.sequence);
        self.logs.last().map(|entry| entry.sequence).or(base)
    }

    /// The newest recovery point that can be read.
    pub fn latest_point(&self) -> Option<&RecoveryPoint> {
        self.whole_points().next_back()
    }
}
