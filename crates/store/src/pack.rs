//! Small logs: in the manifest itself, and together in one object once they are too many for it.
//! Specified in `LAYOUT.md`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use afterimage_block::{ContentDigest, Epoch, Length, Sequence};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use object_store::path::Path;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;

use crate::objects::{DiskObjects, part};
use crate::{Error, LogEntry, LogObject, Result};

/// No pack is longer: it is read whole.
pub(crate) const PACK_MAX: u64 = 16 << 20;

/// What of the logs a manifest holds itself, so that publishing them is one request. It is written anew with
/// each change, and so should stay small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inlining {
    /// Logs up to this length are held. Default 16 KiB.
    pub log_max: Length,
    /// All that are held have no more bytes than this; where they would, they are put together into one
    /// object. Default 64 KiB.
    pub total_max: Length,
}

impl Inlining {
    /// Each log has its own object.
    pub const NONE: Self = Self {
        log_max: Length::ZERO,
        total_max: Length::ZERO,
    };
}

impl Default for Inlining {
    fn default() -> Self {
        Self {
            log_max: Length::kib(16),
            total_max: Length::kib(64),
        }
    }
}

/// Where a log is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Place {
    /// In an object that is named by sequence and epoch, as early releases have it.
    #[default]
    Shipment,
    /// In one that is named by these and the content's digest: nothing else is ever put there.
    Content,
    /// In the manifest.
    Inlined(LogBytes),
    /// With others in one object.
    Packed(Packed),
}

impl Place {
    /// Whether it is what manifests of early releases do not tell.
    pub(crate) fn is_untold(&self) -> bool {
        *self == Self::Shipment
    }

    /// Whether it is an object of the log's own.
    pub(crate) fn is_own(&self) -> bool {
        matches!(self, Self::Shipment | Self::Content)
    }

    /// Whether a log of `length` fits there.
    pub(crate) fn fits(&self, length: Length) -> bool {
        match self {
            Self::Shipment | Self::Content => true,
            Self::Inlined(LogBytes(bytes)) => Length::of(bytes) == length,
            Self::Packed(Packed { pack, at }) => {
                let end = at.checked_add(length.get());
                end.is_some_and(|end| end <= pack.length.get()) && pack.length.get() <= PACK_MAX
            }
        }
    }
}

/// The bytes of logs; base64 in JSON, and not shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct LogBytes(pub(crate) Bytes);

impl fmt::Debug for LogBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for LogBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for LogBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text).map_err(de::Error::custom)?;
        Ok(Self(bytes.into()))
    }
}

/// An object that holds several logs, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pack {
    /// The newest generation of which a log is in it.
    pub(crate) sequence: Sequence,
    /// The epoch in which it was put.
    pub(crate) epoch: Epoch,
    /// The length of all.
    pub(crate) length: Length,
    /// The SHA-256 of all.
    pub(crate) content: ContentDigest,
}

/// A log's place in a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Packed {
    pub(crate) pack: Pack,
    /// Where in the pack it begins.
    pub(crate) at: u64,
}

impl LogEntry {
    /// The log of disk number `disk`, and its generation.
    pub(crate) fn of_disk(&self, disk: usize) -> Option<(Sequence, LogObject)> {
        Some((self.sequence, self.disks.get(disk)?.clone()?))
    }

    /// Whether it is of the same logs, wherever they are.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let mut pairs = self.disks.iter().zip(&other.disks);
        self.sequence == other.sequence
            && self.disks.len() == other.disks.len()
            && pairs.all(|pair| match pair {
                (Some(one), Some(other)) => one.is_same(other),
                (one, other) => one.is_none() && other.is_none(),
            })
    }

    /// What the manifest holds itself.
    fn inlined(&self) -> impl Iterator<Item = (usize, &LogObject, &Bytes)> + Clone {
        let logs = self.disks.iter().enumerate();
        logs.filter_map(|(disk, log)| match log {
            Some(log) => match &log.place {
                Place::Inlined(LogBytes(bytes)) => Some((disk, log, bytes)),
                _ => None,
            },
            None => None,
        })
    }

    /// The same without what the manifest holds itself.
    pub(crate) fn without_inlined(mut self) -> Self {
        for log in &mut self.disks {
            log.take_if(|log| matches!(log.place, Place::Inlined(_)));
        }
        self
    }
}

impl LogObject {
    fn is_same(&self, other: &Self) -> bool {
        let told = |log: &Self| (log.epoch, log.length, log.content);
        told(self) == told(other)
    }
}

/// Logs that were in the manifest, and are to be in a pack.
#[derive(Debug, Default)]
pub(crate) struct Packing {
    logs: BTreeMap<(Sequence, usize), LogObject>,
    /// The pack and its content; `None` where there is nothing to pack.
    pub(crate) pack: Option<(Pack, Bytes)>,
}

impl Packing {
    /// Packs what `entries` have inlined, if it is more than `total_max`; for a writer in `epoch`.
    pub(crate) fn of<'e>(
        entries: impl Iterator<Item = &'e LogEntry> + Clone,
        total_max: Length,
        epoch: Epoch,
    ) -> Self {
        let inlined = entries.flat_map(|entry| entry.inlined().map(|log| (entry.sequence, log)));
        let lengths = inlined.clone().map(|(_, (_, log, _))| log.length);
        if lengths.fold(Length::ZERO, Length::saturating_add) <= total_max {
            return Self::default();
        }
        let (mut content, mut places) = (Vec::new(), Vec::new());
        for (sequence, (disk, log, bytes)) in inlined {
            if (content.len() + bytes.len()) as u64 > PACK_MAX {
                break;
            }
            places.push(((sequence, disk), log.clone(), content.len() as u64));
            content.extend_from_slice(bytes);
        }
        let newest = places.iter().map(|((sequence, _), ..)| *sequence).max();
        let pack = Pack {
            sequence: newest.unwrap_or_default(),
            epoch,
            length: Length::of(&content),
            content: ContentDigest::new(Sha256::digest(&content).into()),
        };
        let packed = |(key, log, at): (_, LogObject, u64)| {
            let place = Place::Packed(Packed { pack, at });
            (key, LogObject { place, ..log })
        };
        Self {
            logs: places.into_iter().map(packed).collect(),
            pack: Some((pack, content.into())),
        }
    }

    /// Has `entries` name the pack, which was put, for the logs that are in it.
    pub(crate) fn apply(&self, entries: &mut [LogEntry]) {
        for entry in entries {
            for (disk, log) in entry.disks.iter_mut().enumerate() {
                let packed = self.logs.get(&(entry.sequence, disk));
                if let (Some(log), Some(packed)) = (log, packed)
                    && log.is_same(packed)
                {
                    log.clone_from(packed);
                }
            }
        }
    }
}

/// Packs that were read, so that each is read once for all logs in it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Packs(Arc<Mutex<BTreeMap<Path, Arc<OnceCell<LogBytes>>>>>);

impl Packs {
    async fn read(&self, objects: &DiskObjects, pack: &Pack) -> Result<Bytes> {
        let path = objects.layout.pack(pack);
        let cell = {
            let mut packs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(packs.entry(path.clone()).or_default())
        };
        let proves =
            |bytes: &Bytes| ContentDigest::new(Sha256::digest(bytes).into()) == pack.content;
        let read = async || -> Result<LogBytes> {
            let bytes = objects.get_proved(&path, pack.length.get(), proves).await?;
            Ok(LogBytes(bytes))
        };
        Ok(cell.get_or_try_init(read).await?.0.clone())
    }
}

impl DiskObjects {
    /// The bytes of a log that has no object of its own; `path` is what it is called.
    pub(crate) async fn held(&self, path: &Path, log: &LogObject) -> Result<Option<Bytes>> {
        match &log.place {
            Place::Shipment | Place::Content => Ok(None),
            Place::Inlined(LogBytes(bytes)) => Ok(Some(bytes.clone())),
            Place::Packed(Packed { pack, at }) => {
                let bytes = self
                    .packs
                    .read(self, pack)
                    .await
                    .map_err(|error| match error {
                        Error::Damaged { object, reason } => {
                            Error::damaged(path, format!("it is in `{object}`: {reason}"))
                        }
                        error => error,
                    })?;
                part(path, &bytes, *at..at.saturating_add(log.length.get())).map(Some)
            }
        }
    }
}
