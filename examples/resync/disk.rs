//! Where a disk is, and how it is opened.

use std::convert::Infallible;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use afterimage_block::{Access, BlockRead, BlockWrite, Length, RawDisk};
use afterimage_nbd::Client;
use anyhow::{Context, Result, bail, ensure};

/// Where a disk is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// An image or a block device.
    Path(PathBuf),
    /// The same, read and written past the page cache.
    Direct(PathBuf),
    /// An NBD export.
    Export(String),
}

impl FromStr for Place {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let is_export = text.starts_with("nbd://") || text.starts_with("nbd+unix://");
        Ok(if is_export {
            Self::Export(text.into())
        } else {
            Self::Path(text.into())
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) | Self::Direct(path) => path.display().fmt(f),
            Self::Export(uri) => f.write_str(uri),
        }
    }
}

impl Place {
    /// The same, past the page cache if that is asked for and there is one.
    pub fn past_cache(self, is_direct: bool) -> Self {
        match self {
            Self::Path(path) if is_direct => Self::Direct(path),
            place => place,
        }
    }

    /// Of an image or a device.
    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Self::Path(path) | Self::Direct(path) => Some(path),
            Self::Export(_) => None,
        }
    }

    /// Opens the disk to be read.
    pub fn open_to_read(&self) -> Result<Box<dyn BlockRead>> {
        Ok(match self {
            Self::Path(path) => Box::new(RawDisk::open(path, Access::ReadOnly)?),
            Self::Direct(path) => Box::new(RawDisk::open(path, Access::ReadOnly)?.direct()?),
            Self::Export(uri) => Box::new(Client::open(uri)?),
        })
    }

    /// Opens the disk to be made equal to one of `size`; makes it or extends it first if `create`.
    pub fn open_target(&self, size: Length, create: bool) -> Result<Box<dyn BlockWrite>> {
        if create {
            self.make(size)?;
        } else if let Some(path) = self.path() {
            let is_there = path.try_exists()?;
            ensure!(is_there, "{self} is not there: --create makes it");
        }
        Ok(match self {
            Self::Path(path) => Box::new(RawDisk::open(path, Access::ReadWrite)?),
            Self::Direct(path) => Box::new(RawDisk::open(path, Access::ReadWrite)?.direct()?),
            Self::Export(uri) => Box::new(Client::open(uri)?),
        })
    }

    /// Makes the image, or extends it. One that is large enough is left alone.
    fn make(&self, size: Length) -> Result<()> {
        let Some(path) = self.path() else {
            bail!("{self} cannot be made, only a file can");
        };
        if path.try_exists()? {
            let found = fs::metadata(path)?;
            if found.is_file() && found.len() < size.get() {
                // Nobody extends what another process has locked.
                let held = (found.len() > 0).then(|| RawDisk::open(path, Access::ReadWrite));
                let _held = held.transpose()?;
                let file = OpenOptions::new().write(true).open(path);
                let extended = file.and_then(|file| file.set_len(size.get()));
                extended.with_context(|| format!("cannot extend {}", path.display()))?;
            }
            return Ok(());
        }
        RawDisk::create(path, size)?;
        Ok(())
    }

    /// Refuses two names of one disk.
    pub fn ensure_other_than(&self, other: &Self) -> Result<()> {
        if self.identity() == other.identity() {
            bail!("source and target are one disk");
        }
        Ok(())
    }

    /// What two names of one disk share; a file that is not there shares only its name.
    fn identity(&self) -> (Option<(u64, u64)>, Option<&Self>) {
        let Some(path) = self.path() else {
            return (None, Some(self));
        };
        match fs::metadata(path) {
            Ok(found) if found.file_type().is_block_device() => (Some((0, found.rdev())), None),
            Ok(found) => (Some((found.dev(), found.ino())), None),
            Err(_) => (None, Some(self)),
        }
    }
}
