//! What comparing two blocks says, gathered into runs.

use afterimage_block::{Change, Extent, Length};

/// What has to be done to a block of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing.
    Equal,
    /// Write the source's bytes.
    Send,
    /// Make it zeros.
    Zero,
}

impl Verdict {
    /// What to do to the target at `extent`, the bytes of `whole` on the source being `bytes`.
    pub(crate) fn change(self, extent: Extent, bytes: &[u8], whole: Extent) -> Option<Change<'_>> {
        match self {
            Self::Equal => None,
            Self::Zero => Some(Change::WriteZeroes(extent)),
            Self::Send => Some(Change::Write {
                offset: extent.start(),
                data: bytes_of(bytes, whole, extent),
            }),
        }
    }
}

/// Verdicts on blocks that follow each other, equal ones joined.
#[derive(Debug, Default)]
pub(crate) struct Verdicts(Vec<(Extent, Verdict)>);

impl Verdicts {
    /// Adds the verdict on the blocks that follow.
    pub(crate) fn push(&mut self, extent: Extent, verdict: Verdict) {
        if let Some((last, same)) = self.0.last_mut()
            && *same == verdict
            && let Some(joined) = Extent::between(last.start(), extent.end())
        {
            *last = joined;
        } else {
            self.0.push((extent, verdict));
        }
    }

    /// Forgets what is said from run `count` on.
    pub(crate) fn truncate(&mut self, count: usize) {
        self.0.truncate(count);
    }

    /// The runs, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Extent, Verdict)> {
        self.0.iter().copied()
    }
}

/// The bytes of `part`, in `bytes` that start at the start of `whole`.
pub(crate) fn bytes_of(bytes: &[u8], whole: Extent, part: Extent) -> &[u8] {
    let from = part.start().checked_since(whole.start());
    let from = from.and_then(Length::to_usize).unwrap_or_default();
    let length = part.length().to_usize().unwrap_or_default();
    &bytes[from..from + length]
}
