//! What each byte of a disk maps to, kept as runs.

use std::collections::BTreeMap;

use crate::{Extent, Length, Offset};

/// A value that belongs to a run of bytes and can be cut where the run is cut.
pub trait Slice: Clone {
    /// The value of the rest of the run once its first `length` bytes are cut off.
    #[must_use]
    fn advanced(&self, length: Length) -> Self;
}

/// A map from bytes of a disk to values, kept as ordered runs that do not overlap. Inserting over a
/// run replaces the overlapped part: the newest wins.
///
/// Memory is proportional to the number of runs.
///
/// ```
/// use afterimage_block::{Extent, ExtentMap, Length, Offset, Slice};
/// /// Where in a file the bytes of a run are stored.
/// #[derive(Clone, Copy, Debug, PartialEq)]
/// struct At(u64);
/// impl Slice for At {
///     fn advanced(&self, length: Length) -> Self { At(self.0 + length.get()) }
/// }
/// let mut map = ExtentMap::new();
/// map.insert(Extent::new(Offset::new(0), Length::new(100))?, At(1000));
/// map.insert(Extent::new(Offset::new(40), Length::new(10))?, At(5000));
/// let stored: Vec<_> = map.iter().map(|(run, at)| (run.start().get(), at.0)).collect();
/// assert_eq!(stored, [(0, 1000), (40, 5000), (50, 1050)]);
/// # Ok::<(), afterimage_block::InvalidExtent>(())
/// ```
#[derive(Clone, Debug)]
pub struct ExtentMap<V> {
    /// Start of each run -> its end and value.
    runs: BTreeMap<Offset, (Offset, V)>,
}

impl<V> Default for ExtentMap<V> {
    fn default() -> Self {
        Self {
            runs: BTreeMap::new(),
        }
    }
}

impl<V: Slice> ExtentMap<V> {
    /// The empty map.
    pub fn new() -> Self {
        Self::default()
    }

    /// Maps every byte of `extent`, replacing what those bytes mapped to. O(log n) plus the runs
    /// replaced.
    pub fn insert(&mut self, extent: Extent, value: V) {
        self.remove(extent);
        self.runs.insert(extent.start(), (extent.end(), value));
    }

    /// Unmaps every byte of `extent`.
    pub fn remove(&mut self, extent: Extent) {
        let (start, end) = (extent.start(), extent.end());
        while let Some(run) = self.last_before(end).filter(|run| run.end() > start) {
            let Some((_, value)) = self.runs.remove(&run.start()) else {
                return;
            };
            if let Some(cut) = Extent::between(run.start(), end)
                && run.end() > end
            {
                let rest = value.advanced(cut.length());
                self.runs.insert(end, (run.end(), rest));
            }
            if run.start() < start {
                self.runs.insert(run.start(), (start, value));
            }
        }
    }

    /// The mapped parts of `extent`, in order, each with its value cut to fit.
    pub fn within(&self, extent: Extent) -> impl Iterator<Item = (Extent, V)> {
        let before = self.runs.range(..=extent.start()).next_back();
        let first = before.map_or(extent.start(), |(start, _)| *start);
        self.runs
            .range(first..extent.end())
            .filter_map(move |(start, (end, value))| {
                let part = Extent::between(*start, *end)?.intersection(extent)?;
                let cut = part.start().checked_since(*start)?;
                Some((part, value.advanced(cut)))
            })
    }

    /// The runs in order.
    pub fn iter(&self) -> impl Iterator<Item = (Extent, &V)> {
        self.runs
            .iter()
            .filter_map(|(start, (end, value))| Some((Extent::between(*start, *end)?, value)))
    }

    /// The number of runs.
    pub fn runs(&self) -> usize {
        self.runs.len()
    }

    /// Whether no byte is mapped.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The last run that starts before `end`.
    fn last_before(&self, end: Offset) -> Option<Extent> {
        let (start, (run_end, _)) = self.runs.range(..end).next_back()?;
        Extent::between(*start, *run_end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE: usize = 200;

    /// The index of the insertion and the position within it.
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Piece(usize, u64);

    impl Slice for Piece {
        fn advanced(&self, length: Length) -> Self {
            Self(self.0, self.1 + length.get())
        }
    }

    fn extent(start: usize, length: usize) -> Extent {
        let length = length.min(SIZE - start);
        Extent::new(Offset::new(start as u64), Length::new(length as u64)).unwrap()
    }

    fn paint(model: &mut [Option<Piece>], run: Extent, piece: Option<Piece>) {
        for i in 0..run.length().get() {
            let at = usize::try_from(run.start().get() + i).unwrap();
            model[at] = piece.map(|p| p.advanced(Length::new(i)));
        }
    }

    proptest! {
        #[test]
        fn newest_wins_byte_by_byte(
            steps in prop::collection::vec((any::<bool>(), 0..SIZE, 1..60_usize), 0..30),
            probe in (0..SIZE, 1..SIZE),
        ) {
            let mut model = vec![None; SIZE];
            let mut map = ExtentMap::new();
            for (step, (add, start, length)) in steps.into_iter().enumerate() {
                let run = extent(start, length);
                let piece = add.then_some(Piece(step, 0));
                paint(&mut model, run, piece);
                match piece {
                    Some(piece) => map.insert(run, piece),
                    None => map.remove(run),
                }
            }
            let mut shown = vec![None; SIZE];
            for (run, piece) in map.iter() { paint(&mut shown, run, Some(*piece)); }
            prop_assert_eq!(&shown, &model);

            let window = extent(probe.0, probe.1);
            let mut seen = vec![None; SIZE];
            for (run, piece) in map.within(window) {
                prop_assert!(window.contains(run));
                paint(&mut seen, run, Some(piece));
            }
            let range = probe.0..probe.0 + usize::try_from(window.length().get()).unwrap();
            prop_assert_eq!(&seen[range.clone()], &model[range]);
        }
    }
}
