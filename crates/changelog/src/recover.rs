//! What an open log still holds after a crash.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use crate::reader::{Record, StreamReader, Tail};
use crate::writer::io_error;
use crate::{Error, Form, Keys, LogHeader, Result};

/// What was read of a log that may never have been sealed.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// What the log is of.
    pub header: LogHeader,
    /// How its records are stored.
    pub form: Form,
    /// The number of whole records.
    pub records: u64,
    /// How they end.
    pub tail: Tail,
}

/// Hands every whole record of the log at `path`, sealed or not, to `take`, up to the first thing
/// that is none. The log is not encrypted.
///
/// # Errors
/// As [`recover_with`].
pub fn recover(path: &Path, take: impl FnMut(&Record) -> Result<()>) -> Result<Recovered> {
    recover_with(path, &Keys::none(), take)
}

/// As [`recover`], of a log whose key is among `keys` if it has one.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io); as [`StreamReader::with_keys`] if not even the header is whole, or
/// the key is missing; and what `take` returns.
pub fn recover_with(
    path: &Path,
    keys: &Keys,
    mut take: impl FnMut(&Record) -> Result<()>,
) -> Result<Recovered> {
    let file = File::open(path).map_err(|source| io_error("open", path, 0, source))?;
    let file = BufReader::with_capacity(64 << 10, file);
    let named = |error: Error| error.named(path);
    let mut reader = StreamReader::with_keys(file, keys).map_err(named)?;
    let mut records = 0;
    while let Some(record) = reader.next_record().map_err(named)? {
        records += 1;
        take(&record)?;
    }
    Ok(Recovered {
        header: *reader.header(),
        form: reader.form(),
        records,
        tail: reader.tail().unwrap_or(Tail::Whole),
    })
}
