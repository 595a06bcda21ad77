//! A guest that writes to a disk over NBD, and a plain observer of what it writes.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use afterimage::block::{BlockRead, BlockWrite, ContentDigest, Extent, Length, Offset, Zeroing};
use afterimage_nbd::Client;
use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// The longest single write of the guest.
const WRITE_MAX: u64 = 256 << 10;
const SECTOR: usize = 512;

/// A guest that writes at random places, reproducibly, and an observer that writes the same to a
/// plain file and knows nothing of replication.
pub struct Guest {
    disk: Client,
    observer: File,
    random: fastrand::Rng,
}

impl Guest {
    /// A guest with the export at `uri` as its disk, whose contents of now are in `observer`.
    pub fn new(uri: &str, observer: &Path) -> Result<Self> {
        let observer = File::options().read(true).write(true).open(observer);
        Ok(Self {
            disk: Client::open(uri)?,
            observer: observer.context("cannot open the observer's file")?,
            random: fastrand::Rng::with_seed(20_120_904),
        })
    }

    /// Goes on at the export at `uri`, which holds what its disk held.
    pub fn move_to(&mut self, uri: &str) -> Result<()> {
        self.disk = Client::open(uri)?;
        Ok(())
    }

    /// The size of the disk.
    pub fn size(&self) -> Length {
        self.disk.size()
    }

    /// Writes `bytes` in all, one write in eight zeros, and flushes.
    pub fn write(&mut self, bytes: u64) -> Result<()> {
        let mut left = bytes;
        while left > 0 {
            left = left.saturating_sub(self.write_somewhere()?);
        }
        Ok(self.disk.flush()?)
    }

    /// Writes the first sector again as it is: a change to nothing that is a write all the same.
    pub fn touch(&mut self) -> Result<()> {
        let mut sector = [0; SECTOR];
        self.disk.read_at(Offset::ZERO, &mut sector)?;
        Ok(self.disk.write_at(Offset::ZERO, &sector)?)
    }

    fn write_somewhere(&mut self) -> Result<u64> {
        let sector = SECTOR as u64;
        let sectors = self.disk.size().get() / sector;
        let longest = sectors.min(WRITE_MAX / sector);
        let count = self.random.u64(1..=longest);
        let start = self.random.u64(0..=sectors - count) * sector;
        let length = count * sector;
        let mut data = vec![0; usize::try_from(length)?];
        if self.random.u8(0..8) == 0 {
            let extent = Extent::new(Offset::new(start), Length::new(length));
            self.disk.write_zeroes(extent?, Zeroing::Deallocate)?;
        } else {
            self.random.fill(&mut data);
            self.disk.write_at(Offset::new(start), &data)?;
        }
        self.observer.write_all_at(&data, start)?;
        Ok(length)
    }
}

/// The SHA-256 of a file.
pub fn sha256(path: &Path) -> io::Result<ContentDigest> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    Ok(ContentDigest::new(hash.finalize().into()))
}

/// Makes a disk image of `size` bytes, two fifths of it data.
pub fn make_image(path: &Path, size: Length) -> io::Result<()> {
    let file = File::create_new(path)?;
    file.set_len(size.get())?;
    let mut random = fastrand::Rng::with_seed(1);
    let mut data = vec![0; 1 << 20];
    for start in (0..size.get()).step_by(1 << 20) {
        let here =
            usize::try_from(size.get() - start).map_or(data.len(), |left| left.min(data.len()));
        if random.u8(0..5) < 2 {
            random.fill(&mut data[..here]);
            file.write_all_at(&data[..here], start)?;
        }
    }
    Ok(())
}
