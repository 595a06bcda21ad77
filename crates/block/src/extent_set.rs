//! A set of bytes of a disk, kept as runs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Extent, Length, Offset};

/// A set of bytes of a disk, kept as ordered runs that neither overlap nor touch.
///
/// Memory is proportional to the number of runs. Insertion and removal cost O(log n) plus the runs
/// that they swallow.
///
/// ```
/// use afterimage_block::{Extent, ExtentSet, Length, Offset};
/// let mut dirty = ExtentSet::new();
/// dirty.insert(Extent::new(Offset::new(0), Length::kib(4))?);
/// dirty.insert(Extent::new(Offset::new(4096), Length::kib(4))?);
/// assert_eq!(dirty.runs(), 1);
/// assert_eq!(dirty.total(), Length::kib(8));
/// # Ok::<(), afterimage_block::InvalidExtent>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<Extent>", into = "Vec<Extent>")]
pub struct ExtentSet {
    /// Start of each run -> its end.
    runs: BTreeMap<Offset, Offset>,
}

impl ExtentSet {
    /// The empty set.
    pub const fn new() -> Self {
        Self {
            runs: BTreeMap::new(),
        }
    }

    /// Adds every byte of `extent`, joining the runs that it overlaps or touches.
    pub fn insert(&mut self, extent: Extent) {
        let (mut start, mut end) = (extent.start(), extent.end());
        while let Some((&run_start, &run_end)) = self.runs.range(..=end).next_back() {
            if run_end < start {
                break;
            }
            self.runs.remove(&run_start);
            start = start.min(run_start);
            end = end.max(run_end);
        }
        self.runs.insert(start, end);
    }

    /// Takes every byte of `extent` out, splitting the runs that it cuts.
    pub fn remove(&mut self, extent: Extent) {
        let (start, end) = (extent.start(), extent.end());
        while let Some((&run_start, &run_end)) = self.runs.range(..end).next_back() {
            if run_end <= start {
                break;
            }
            self.runs.remove(&run_start);
            if run_start < start {
                self.runs.insert(run_start, start);
            }
            if run_end > end {
                self.runs.insert(end, run_end);
            }
        }
    }

    /// Whether every byte of `extent` is in the set.
    pub fn contains(&self, extent: Extent) -> bool {
        let run = self.runs.range(..=extent.start()).next_back();
        run.is_some_and(|(_, end)| *end >= extent.end())
    }

    /// Whether any byte of `extent` is in the set.
    pub fn overlaps(&self, extent: Extent) -> bool {
        let run = self.runs.range(..extent.end()).next_back();
        run.is_some_and(|(_, end)| *end > extent.start())
    }

    /// The parts of `extent` that are in the set, in order.
    pub fn within(&self, extent: Extent) -> impl Iterator<Item = Extent> {
        self.runs_from(extent.start())
            .take_while(move |run| run.start() < extent.end())
            .filter_map(move |run| run.intersection(extent))
    }

    /// The parts of `extent` that are not in the set, in order.
    pub fn gaps(&self, extent: Extent) -> impl Iterator<Item = Extent> {
        let mut at = extent.start();
        let ends = std::iter::once((extent.end(), extent.end()));
        self.within(extent)
            .map(|run| (run.start(), run.end()))
            .chain(ends)
            .filter_map(move |(start, end)| {
                let gap = Extent::between(at, start);
                at = end;
                gap
            })
    }

    /// The runs, in order.
    pub fn iter(&self) -> impl Iterator<Item = Extent> {
        self.runs_from(Offset::ZERO)
    }

    /// The number of runs.
    pub fn runs(&self) -> usize {
        self.runs.len()
    }

    /// The number of bytes in the set. O(runs).
    pub fn total(&self) -> Length {
        self.iter()
            .fold(Length::ZERO, |sum, run| sum.saturating_add(run.length()))
    }

    /// Whether no byte is in the set.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Takes every byte out.
    pub fn clear(&mut self) {
        self.runs.clear();
    }

    /// Adds every byte of `other`.
    pub fn union_with(&mut self, other: &Self) {
        self.extend(other.iter());
    }

    /// The runs from the one that holds or follows `at`.
    fn runs_from(&self, at: Offset) -> impl Iterator<Item = Extent> {
        let before = self.runs.range(..=at).next_back();
        let first = before.map_or(at, |(start, _)| *start);
        self.runs
            .range(first..)
            .filter_map(|(start, end)| Extent::between(*start, *end))
            .skip_while(move |run| run.end() <= at)
    }
}

impl Extend<Extent> for ExtentSet {
    fn extend<I: IntoIterator<Item = Extent>>(&mut self, extents: I) {
        for extent in extents {
            self.insert(extent);
        }
    }
}

impl FromIterator<Extent> for ExtentSet {
    fn from_iter<I: IntoIterator<Item = Extent>>(extents: I) -> Self {
        let mut set = Self::new();
        set.extend(extents);
        set
    }
}

impl From<Vec<Extent>> for ExtentSet {
    fn from(extents: Vec<Extent>) -> Self {
        extents.into_iter().collect()
    }
}

impl From<ExtentSet> for Vec<Extent> {
    fn from(set: ExtentSet) -> Self {
        set.iter().collect()
    }
}

impl From<Extent> for ExtentSet {
    fn from(extent: Extent) -> Self {
        std::iter::once(extent).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE: u64 = 256;

    fn extents() -> impl Strategy<Value = Vec<(bool, Extent)>> {
        let one = (any::<bool>(), 0..SIZE, 1..64_u64).prop_map(|(add, start, length)| {
            let length = length.min(SIZE - start);
            let extent = Extent::new(Offset::new(start), Length::new(length)).unwrap();
            (add, extent)
        });
        prop::collection::vec(one, 0..40)
    }

    fn bytes(extent: Extent) -> std::ops::Range<usize> {
        let at = |offset: Offset| usize::try_from(offset.get()).unwrap();
        at(extent.start())..at(extent.end())
    }

    proptest! {
        #[test]
        fn agrees_with_a_set_of_bytes(steps in extents(), probe in extents()) {
            let mut model = vec![false; usize::try_from(SIZE).unwrap()];
            let mut set = ExtentSet::new();
            for (add, extent) in steps {
                model[bytes(extent)].fill(add);
                if add { set.insert(extent) } else { set.remove(extent) }
            }
            let mut shown = vec![false; model.len()];
            let mut previous: Option<Extent> = None;
            for run in set.iter() {
                prop_assert!(previous.is_none_or(|p| p.end() < run.start()), "runs touch");
                shown[bytes(run)].fill(true);
                previous = Some(run);
            }
            prop_assert_eq!(&shown, &model);
            prop_assert_eq!(set.total().get(), model.iter().filter(|b| **b).count() as u64);
            for (_, extent) in probe {
                let inside = &model[bytes(extent)];
                prop_assert_eq!(set.contains(extent), inside.iter().all(|b| *b));
                prop_assert_eq!(set.overlaps(extent), inside.iter().any(|b| *b));
                let mut parts = vec![None; model.len()];
                for part in set.within(extent) { parts[bytes(part)].fill(Some(true)); }
                for gap in set.gaps(extent) { parts[bytes(gap)].fill(Some(false)); }
                for i in bytes(extent) { prop_assert_eq!(parts[i], Some(model[i])); }
            }
        }
    }
}
