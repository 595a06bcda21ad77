//! Which record holds the newest state of each byte, while records are still added.

use afterimage_block::{Extent, ExtentMap};

use crate::Index;
use crate::index::Stored;

/// The changes that are kept in the order of their arrival: 40 bytes each.
const RECENT_MAX: usize = 1 << 15;

/// An index in the making.
///
/// Changes are put into it many at a time, in the order of the disk: neighbours in the map are then
/// found in the cache, which putting each to its random place while it is appended does not allow.
#[derive(Debug, Default)]
pub(crate) struct Resolver {
    newest: ExtentMap<Stored>,
    recent: Vec<(Extent, Stored)>,
}

impl Resolver {
    /// Adds the change of the record behind all those before.
    pub(crate) fn add(&mut self, extent: Extent, stored: Stored) {
        self.recent.push((extent, stored));
        if self.recent.len() >= RECENT_MAX {
            self.settle();
        }
    }

    /// How many pieces there are, if no two changes overlap.
    pub(crate) fn pieces(&self) -> usize {
        self.newest.runs() + self.recent.len()
    }

    /// Whether there are fewer than `limit` pieces.
    pub(crate) fn has_room(&mut self, limit: usize) -> bool {
        // A change in the middle of a piece makes three of it.
        let most = self.newest.runs() + 2 * self.recent.len();
        if most >= limit {
            self.settle();
        }
        // What is not settled now is too little to reach the limit.
        self.pieces() < limit
    }

    /// Changes that overlap are put in by age, and the others by place.
    fn settle(&mut self) {
        self.recent
            .sort_unstable_by_key(|(extent, _)| extent.start());
        let mut left = self.recent.as_mut_slice();
        while let Some((first, _)) = left.first() {
            let mut end = first.end();
            let overlapping = left.iter().take_while(|(extent, _)| {
                let overlaps = extent.start() < end;
                end = end.max(extent.end());
                overlaps
            });
            let (together, behind) = left.split_at_mut(overlapping.count().max(1));
            together.sort_unstable_by_key(|(_, stored)| stored.record);
            for (extent, stored) in together {
                self.newest.insert(*extent, *stored);
            }
            left = behind;
        }
        self.recent.clear();
    }

    /// The newest changes of the bytes of `extent`, in order.
    pub(crate) fn within(&mut self, extent: Extent) -> impl Iterator<Item = (Extent, Stored)> {
        self.settle();
        self.newest.within(extent)
    }

    /// The index of all changes.
    pub(crate) fn finish(mut self) -> Index {
        self.settle();
        let runs = self.newest.iter();
        Index(runs.map(|(extent, stored)| (extent, *stored)).collect())
    }
}

#[cfg(test)]
mod tests {
    use afterimage_block::{Length, Offset};
    use proptest::prelude::*;

    use super::*;
    use crate::Kind;

    proptest! {
        /// Settled at any moment, the newest wins.
        #[test]
        fn settling_many_is_inserting_each(
            changes in prop::collection::vec((0..200_u64, 1..60_u64, 0..5_u8), 0..60),
        ) {
            let mut resolver = Resolver::default();
            let mut expected = ExtentMap::new();
            for (number, (start, length, settle)) in changes.into_iter().enumerate() {
                let extent = Extent::new(Offset::new(start), Length::new(length)).unwrap();
                let record = number as u64;
                let stored = Stored { kind: Kind::Write, record, skip: 0 };
                resolver.add(extent, stored);
                expected.insert(extent, stored);
                if settle == 0 {
                    resolver.settle();
                }
                let limit = expected.runs();
                if settle == 1 {
                    prop_assert!(!resolver.has_room(limit));
                    prop_assert!(resolver.has_room(limit + 1));
                }
            }
            let index = resolver.finish();
            let expected: Vec<_> = expected.iter().map(|(extent, stored)| (extent, *stored)).collect();
            prop_assert!(index.0 == expected);
        }
    }
}
