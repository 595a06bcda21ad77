//! The logs that were recorded, by disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use afterimage_block::{DiskId, Length};
use afterimage_capacity::Recording;
use afterimage_changelog::{AnyLog, ChangeLog, open_log_with};
use anyhow::Result;

use super::arguments::Arguments;
use crate::changelog::keys::KeyRing;

/// What tells one disk's logs from another's.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Disk {
    Named(DiskId),
    InFolder(PathBuf),
}

/// What the logs say.
#[derive(Default)]
pub(super) struct Recorded {
    pub(super) recording: Recording,
    pub(super) logs: usize,
}

impl Recorded {
    /// Reads the logs; each is opened, and proved, one after the other.
    pub(super) fn read(arguments: &Arguments) -> Result<Self> {
        let keys = KeyRing::read(&arguments.keys)?;
        let mut logs: BTreeMap<Disk, Vec<AnyLog>> = BTreeMap::new();
        for path in &arguments.logs {
            let log = open_log_with(path, keys.all())?;
            let disk = log.disk().map_or_else(|| folder(path), Disk::Named);
            logs.entry(disk).or_default().push(log);
        }
        let mut recorded = Self::default();
        for logs in logs.values() {
            recorded.add(logs, arguments.disk_size)?;
        }
        Ok(recorded)
    }

    fn add(&mut self, logs: &[AnyLog], of_hrl: Option<Length>) -> Result<()> {
        let mut size = Length::ZERO;
        for log in logs {
            size = size.max(match log {
                AnyLog::Native(log) => log.header().disk_size,
                other => of_hrl.map_or_else(|| reach(other), Ok)?,
            });
        }
        let disk = self.recording.add_disk(size);
        for log in logs {
            self.recording.record_log(disk, log)?;
        }
        self.logs += logs.len();
        Ok(())
    }
}

fn folder(path: &Path) -> Disk {
    Disk::InFolder(path.parent().unwrap_or(path).to_owned())
}

/// How far the log's changes go.
fn reach(log: &AnyLog) -> Result<Length> {
    let end = log.extents()?.last().map(|extent| extent.end().get());
    Ok(Length::new(end.unwrap_or_default()))
}
