//! What can be asked for.

use std::path::PathBuf;

use afterimage_block::{DiskId, Length};
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Look into change logs, native or HRL, prove them, and make new ones of them.
///
/// Exits with 0 if all is well, 1 if a log is damaged or was never ended, 2 if what was asked for
/// cannot be done.
#[derive(Parser)]
#[command(name = "changelog")]
pub(super) struct Arguments {
    /// A file with a key: 32 bytes, or 64 hexadecimal digits. Once for each key that a log needs; every
    /// native log that is made is encrypted with the first. A file that others can read is refused.
    #[arg(long = "key-file", global = true, value_name = "FILE")]
    pub(super) keys: Vec<PathBuf>,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Subcommand)]
pub(super) enum Command {
    /// Show what a log says of itself and what it changes.
    Inspect {
        file: PathBuf,
        /// As JSON.
        #[arg(long)]
        json: bool,
        /// With every record.
        #[arg(long)]
        records: bool,
    },
    /// Prove every byte of logs.
    Verify {
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Make the changes of logs that follow each other, oldest first, on a disk.
    Apply {
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// The disk: a raw image or a block device.
        #[arg(long, value_name = "DISK")]
        to: PathBuf,
        /// Write one log that takes all of them back, before anything is changed.
        #[arg(long, value_name = "OUT")]
        undo: Option<PathBuf>,
        /// Refuse a disk that is not in the state that the first log says it applies to, and see that
        /// it is then in the one that the last says it produces. Reads all of the disk.
        #[arg(long)]
        check: bool,
    },
    /// Make one log of logs of one format that follow each other, oldest first.
    Merge {
        #[arg(required = true)]
        files: Vec<PathBuf>,
        #[arg(long)]
        out: PathBuf,
    },
    /// Write a log's changes in the other format, or in the same one stored in another way.
    ///
    /// An HRL that is made of a native log has the first half of its content digest as its identity, so
    /// that logs that follow each other do so as HRLs, too.
    Convert(Convert),
    /// Make a sound log of what a damaged one still proves, and say what is lost.
    Salvage {
        file: PathBuf,
        #[arg(long)]
        out: PathBuf,
    },
    /// Make the changes of a trace on a disk, and record them.
    ///
    /// Each line of a trace is one change: `write OFFSET TEXT`, `fill OFFSET LENGTH BYTE`,
    /// `zero OFFSET LENGTH`, `discard OFFSET LENGTH` or `bookmark LABEL`. Offsets and lengths may
    /// have units (4KiB). Empty lines, and those that begin with #, are passed over.
    Record {
        /// The disk: a raw image or a block device.
        #[arg(long, value_name = "IMAGE")]
        disk: PathBuf,
        #[arg(long, value_name = "TRACE")]
        from: PathBuf,
        /// The log; the name of the disk with `.ailog` behind it by default.
        #[arg(long)]
        out: Option<PathBuf>,
        /// Say in the log which states of the disk it leads from and to. Reads all of the disk.
        #[arg(long)]
        states: bool,
        /// Compress what is written.
        #[arg(long)]
        compress: bool,
    },
}

#[derive(Args)]
pub(super) struct Convert {
    pub(super) file: PathBuf,
    #[arg(long)]
    pub(super) to: Format,
    #[arg(long)]
    pub(super) out: PathBuf,
    /// Compress what is written, in the native format.
    #[arg(long)]
    pub(super) compress: bool,
    /// Do not encrypt, even if the log that is read is encrypted.
    #[arg(long)]
    pub(super) plaintext: bool,
    /// The native log that the new native one is to follow, which is then named as its predecessor. Of
    /// an HRL, it also tells the disk, and what generation is the next.
    #[arg(long, value_name = "EARLIER", conflicts_with_all = ["disk", "disk_size"])]
    pub(super) after: Option<PathBuf>,
    /// The disk that an HRL is of, which it does not say; a new identity by default.
    #[arg(long)]
    pub(super) disk: Option<DiskId>,
    /// The size of that disk; as far as the log's changes go by default.
    #[arg(long)]
    pub(super) disk_size: Option<Length>,
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Format {
    Native,
    Hrl,
}
