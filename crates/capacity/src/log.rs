//! How long a native log is, without writing it. See `FORMAT.md` of the change log.

use afterimage_block::{Extent, ExtentMap, Length, Slice};
use afterimage_changelog::RecordHeader;

use crate::recording::Recorded;

const HEADER: u64 = 128;
const RECORD: u64 = RecordHeader::LEN as u64;
const FOOTER: u64 = 128;
const PIECE: u64 = 32;
const TRAILER: u64 = 32;
/// An index of more pieces is in pages of so many, each with a fence.
const PAGE: u64 = 256;
const FENCE: u64 = 16;

/// Which record a run is of, and whether that one has bytes.
#[derive(Clone, Copy, Debug)]
struct Source {
    written: bool,
}

impl Slice for Source {
    fn advanced(&self, _: Length) -> Self {
        *self
    }
}

/// The log of one disk in one interval.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    records: u64,
    payload: u64,
    newest: ExtentMap<Source>,
}

impl Log {
    pub(crate) fn append(&mut self, change: &Recorded) {
        let written = change.written;
        self.records += 1;
        if written {
            self.payload = self.payload.saturating_add(change.extent.length().get());
        }
        self.newest.insert(change.extent, Source { written });
    }

    /// The length of the file with every record.
    pub(crate) fn length(&self) -> Length {
        file(self.records, self.payload, self.newest.runs() as u64)
    }

    /// The length of the file that has each byte once.
    pub(crate) fn merged(&self) -> Length {
        let written = self.newest.iter().filter(|(_, source)| source.written);
        let payload = written.map(|(extent, _)| extent.length().get());
        let pieces = self.newest.runs() as u64;
        file(pieces, payload.fold(0, u64::saturating_add), pieces)
    }

    /// What it changes.
    pub(crate) fn extents(&self) -> impl Iterator<Item = Extent> {
        self.newest.iter().map(|(extent, _)| extent)
    }
}

fn file(records: u64, payload: u64, pieces: u64) -> Length {
    let fences = if pieces > PAGE {
        pieces.div_ceil(PAGE)
    } else {
        0
    };
    let parts = [
        HEADER + FOOTER + TRAILER,
        records.saturating_mul(RECORD),
        payload,
        pieces.saturating_mul(PIECE),
        fences.saturating_mul(FENCE),
    ];
    Length::new(parts.into_iter().fold(0, u64::saturating_add))
}
