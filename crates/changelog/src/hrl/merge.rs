//! HRLs of one chain into one.

use std::path::Path;

use afterimage_block::{Change, Extent, Length, Slice, Timestamp};

use super::log::Data;
use super::{HrlLog, HrlOptions, HrlWriter};
use crate::convert::discard_file;
use crate::file::LogFile;
use crate::overlay::{Runs, newest};
use crate::pool::OpenFiles;
use crate::{PAYLOAD_MAX, Result};

/// Data of one of several logs.
#[derive(Clone, Copy, Debug)]
struct Source {
    log: usize,
    data: Data,
}

impl Slice for Source {
    fn advanced(&self, length: Length) -> Self {
        let data = self.data.advanced(length);
        Self { data, ..*self }
    }
}

/// Merges HRLs of a chain, oldest first, into a new one at `path`, closed at `closed`, that does to a
/// disk what they do one after the other, and holds each byte once: in its newest state, with the time
/// of that write, and in the order of the disk.
///
/// It takes their place in the chain: it has the identity and the DataWriteGuid of the newest, which the
/// log after it names, and the predecessor and the creation time of the oldest. Its data has checksums.
///
/// Memory is bounded by 64 bytes a run of the disk that a log changes, and 1 MiB.
///
/// # Errors
/// [`Error::NotConsecutive`](crate::Error::NotConsecutive) unless each log names the one before it as
/// its predecessor, see [`HrlLog::chain`]; as [`HrlLog::entries`] and [`HrlWriter::append`]. No file is
/// left then, and none is replaced.
pub fn merge_hrl(
    first: &HrlLog,
    rest: &[HrlLog],
    path: &Path,
    closed: Timestamp,
) -> Result<HrlLog> {
    let logs: Vec<_> = std::iter::once(first).chain(rest).collect();
    for (earlier, later) in logs.iter().zip(rest) {
        later.check_follows(earlier)?;
    }
    let layers = (0..).zip(&logs).map(|(number, log)| layer(number, log));
    let newest = newest(layers.collect::<Result<_>>()?);
    let (oldest, last) = (first.header(), rest.last().unwrap_or(first).header());
    let mut options = HrlOptions::new(last.id, oldest.created.into()).following(oldest.previous);
    options.data_write_guid = last.data_write_guid.unwrap_or(options.data_write_guid);
    let mut merged = HrlWriter::create(path, &options)?;
    copy(&newest, &logs, &mut merged)
        .and_then(|()| merged.close(closed))
        .inspect_err(|_| discard_file(path))
}

/// What is newest in log number `log`.
fn layer(number: usize, log: &HrlLog) -> Result<Runs<Source>> {
    let source = |data: &Data| Source {
        log: number,
        data: *data,
    };
    let newest = log.newest()?;
    Ok(newest
        .iter()
        .map(|(extent, data)| (extent, source(data)))
        .collect())
}

fn copy(newest: &[(Extent, Source)], logs: &[&HrlLog], merged: &mut HrlWriter) -> Result<()> {
    let mut files = OpenFiles::default();
    let mut buffer = Vec::new();
    for (extent, Source { log, data }) in newest {
        let Some(path) = logs.get(*log).map(|log| log.path()) else {
            continue;
        };
        let file = files.get(*log, || LogFile::open(path))?;
        let mut at = data.at;
        for piece in extent.pieces(PAYLOAD_MAX) {
            buffer.resize(piece.length().to_usize().unwrap_or_default(), 0);
            file.read(&mut buffer, at)?;
            at += piece.length().get();
            let (offset, data_time) = (piece.start(), data.time.into());
            let change = Change::Write {
                offset,
                data: &buffer,
            };
            merged.append(change, data_time)?;
        }
    }
    Ok(())
}
