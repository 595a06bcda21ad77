//! The command line.

use std::path::PathBuf;

use afterimage_resync::{Algorithm, BlockSize, Reread};
use clap::{Parser, ValueEnum};

use super::{Peer, Speeds, Transport};

/// Make TARGET equal to SOURCE, and move nothing but what differs.
///
/// A disk is a raw image, a block device, or an NBD export (nbd://ADDRESS/NAME,
/// nbd+unix:///NAME?socket=PATH). One of the two may also be the other end of a stream, which runs
/// `resync --serve`: cmd:'ssh HOST resync --serve stdio DISK' or tcp:ADDRESS:PORT, with --read-only if
/// it is the source. That stream is neither encrypted nor authenticated.
///
/// A source that is written meanwhile, such as the export of a running machine, is copied as each of its
/// blocks was at some instant since the beginning: no more than a good start for the next run, which finds
/// the rest. What needs a tracker, passes while the disk is in use until both are equal, is done by
/// `protect` and `failback`, whose disks have one.
///
/// Ctrl-C leaves a target that is staged as it was, and says what became of one that is not. Ctrl-Z pauses.
#[derive(Clone, Debug, Parser)]
#[command(name = "resync")]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of the command line"
)]
pub struct Arguments {
    /// The disk that is right; with --serve, the disk to be made equal.
    pub source: Peer,
    /// The disk to be made equal.
    #[arg(required_unless_present = "serve", conflicts_with = "serve")]
    pub target: Option<Peer>,
    /// Be the other end, on the standard streams or on a TCP address, for one resync after the other.
    #[arg(long, value_name = "stdio|tcp:ADDRESS:PORT")]
    pub serve: Option<Transport>,
    /// With --serve, the disk is the one that is right, and only read.
    #[arg(long, requires = "serve", conflicts_with_all = ["create", "target"])]
    pub read_only: bool,
    /// The unit of comparison, a power of two from 4KiB to 16MiB.
    #[arg(long, default_value = "64KiB", conflicts_with = "serve")]
    pub block_size: BlockSize,
    /// What blocks are compared by over a stream. Two disks of one machine are compared as they are.
    /// BLAKE3 takes a third of the time or less, SHA-256 is what other rules may ask for.
    #[arg(long, default_value = "blake3", conflicts_with = "serve")]
    pub digest: Digest,
    /// Send, or write, no faster than this. It may change with the hours of this machine's time zone:
    /// mon-fri/08:00-18:00=10MiB/s,else=100MiB/s; days may be left out, and a speed may be none.
    #[arg(long, value_name = "100MiB/s", conflicts_with = "serve")]
    pub limit: Option<Speeds>,
    /// Read the disk that is right no faster than this, written likewise, so that a guest that uses it
    /// is not held up.
    #[arg(long, value_name = "100MiB/s")]
    pub read_limit: Option<Speeds>,
    /// Keep here what differs, and write it only when both ends agree that this is all: the target is as
    /// the source then, or as it was, whatever happens. A run that is killed is gone on with by the next
    /// with the same folder. It takes as much room as what differs, and as much again at the end.
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["dry_run", "create", "read_only"])]
    pub stage: Option<PathBuf>,
    /// Keep here how far it is, to go on after a break. Nothing else may write to the target between,
    /// nor to a source that is a device or an export: of a file it is noticed.
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    pub state: Option<PathBuf>,
    /// Keep here what is known of the disk at the end, so that the next resync need not read it if it
    /// was not written since, as the times of its file tell; a device or an export has none. With
    /// --serve, of the disk there; of two disks of one machine, that they were equal.
    #[arg(long, value_name = "FILE")]
    pub cache: Option<PathBuf>,
    /// Only tell what differs.
    #[arg(long, conflicts_with = "serve")]
    pub dry_run: bool,
    /// Read both disks whatever is kept of them, and once more at the end, and fail unless they are
    /// equal.
    #[arg(long, conflicts_with_all = ["serve", "dry_run"])]
    pub verify: bool,
    /// Once all is written, read again what the target holds, and fail if that is not what it should be: a
    /// sample, a sixteenth of it and 4 GiB at most in blocks of 64KiB, or all. What the page cache has is
    /// read from there, unless --direct is given to the end with the target.
    #[arg(long, value_name = "sample|full", conflicts_with_all = ["serve", "dry_run"])]
    pub reread: Option<Again>,
    /// Make the target, a file, if there is none, or extend it if it is smaller than the source.
    #[arg(long, conflicts_with = "dry_run")]
    pub create: bool,
    /// Read and write files and devices past the page cache, so that what a guest has in it stays there.
    /// Not every filesystem can.
    #[arg(long)]
    pub direct: bool,
    /// Tell progress and outcome as lines of JSON.
    #[arg(long)]
    pub json: bool,
}

/// How much is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Again {
    /// A sample.
    Sample,
    /// All.
    Full,
}

impl From<Again> for Reread {
    fn from(again: Again) -> Self {
        match again {
            Again::Sample => Self::Sample,
            Again::Full => Self::Full,
        }
    }
}

/// What blocks are compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Digest {
    /// SHA-256.
    Sha256,
    /// BLAKE3.
    Blake3,
}

impl From<Digest> for Algorithm {
    fn from(digest: Digest) -> Self {
        match digest {
            Digest::Sha256 => Self::Sha256,
            Digest::Blake3 => Self::Blake3,
        }
    }
}
