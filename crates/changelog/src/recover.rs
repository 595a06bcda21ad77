//! What an open log still holds after a crash.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use crate::reader::{Record, StreamReader, Tail};
use crate::writer::io_error;
use crate::{LogHeader, Result};

/// What was read of a log that may never have been sealed.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// What the log is of.
    pub header: LogHeader,
    /// The number of whole records.
    pub records: u64,
    /// How they end.
    pub tail: Tail,
}

/// Hands every whole record of the log at `path`, sealed or not, to `take`, up to the first thing
/// that is none.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io); [`Error::Damaged`](crate::Error::Damaged) and
/// [`Error::NewerVersion`](crate::Error::NewerVersion) if not even the header is whole; and what
/// `take` returns.
pub fn recover(path: &Path, mut take: impl FnMut(&Record) -> Result<()>) -> Result<Recovered> {
    let file = File::open(path).map_err(|source| io_error("open", path, 0, source))?;
    let mut reader = StreamReader::new(BufReader::with_capacity(64 << 10, file))?;
    let mut records = 0;
    while let Some(record) = reader.next_record()? {
        records += 1;
        take(&record)?;
    }
    Ok(Recovered {
        header: *reader.header(),
        records,
        tail: reader.tail().unwrap_or(Tail::Whole),
    })
}
