//! What salvage could not read.

/// A run of a log file in which nothing proved itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Where it starts in the file.
    pub at: u64,
    /// How many bytes it has.
    pub length: u64,
}

impl Gap {
    /// The gap from `start` to `end`, if there is one.
    pub(crate) fn between(start: u64, end: u64) -> Option<Self> {
        let length = end.checked_sub(start).filter(|length| *length > 0)?;
        Some(Self { at: start, length })
    }
}
