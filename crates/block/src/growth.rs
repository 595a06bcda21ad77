//! That a disk was enlarged, and how large it was at any barrier.

use serde::{Deserialize, Serialize};

use crate::{Length, Sequence};

/// A disk became larger: at barriers before [`at`](Self::at) it has its former size, and from there on
/// a larger one, whose new part reads as zeros where nothing was written to it. Disks never shrink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Growth {
    /// The number of the disk, in the machine's order.
    pub disk: usize,
    /// The first barrier at which it is larger.
    pub at: Sequence,
    /// Its size at the barriers before.
    pub was: Length,
}

impl Growth {
    /// The size at barrier `sequence` of disk number `disk`, which has `size` now and grew as `history`
    /// says, oldest first.
    pub fn size_at(history: &[Self], disk: usize, size: Length, sequence: Sequence) -> Length {
        let later = |growth: &&Self| growth.disk == disk && sequence < growth.at;
        history.iter().find(later).map_or(size, |growth| growth.was)
    }

    /// Whether `history` is one of disks that have `sizes` now: each only grew, oldest first.
    pub fn is_history(history: &[Self], sizes: &[Length]) -> bool {
        let grew = |(disk, size): (usize, &Length)| {
            let own = history.iter().filter(|growth| growth.disk == disk);
            let own: Vec<_> = own.collect();
            let larger = own.iter().map(|growth| growth.was).chain([*size]);
            larger.is_sorted_by(|a, b| a < b) && own.is_sorted_by(|a, b| a.at < b.at)
        };
        history.iter().all(|growth| growth.disk < sizes.len()) && sizes.iter().enumerate().all(grew)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn growth(disk: usize, at: u64, was: u64) -> Growth {
        Growth {
            disk,
            at: Sequence::new(at),
            was: Length::new(was),
        }
    }

    #[test]
    fn each_barrier_has_its_size() {
        let history = [growth(0, 5, 10), growth(1, 6, 7), growth(0, 8, 20)];
        let at = |disk, sequence| {
            let size = Length::new(30);
            Growth::size_at(&history, disk, size, Sequence::new(sequence)).get()
        };
        assert_eq!(
            [4, 5, 7, 8, 9].map(|sequence| at(0, sequence)),
            [10, 20, 20, 30, 30]
        );
        assert_eq!([at(1, 5), at(1, 6), at(2, 0)], [7, 30, 30]);
    }

    #[test]
    fn a_history_that_shrinks_or_goes_back_is_none() {
        let sizes = [Length::new(30), Length::new(30)];
        let is = |history: &[Growth]| Growth::is_history(history, &sizes);
        assert!(is(&[]));
        assert!(is(&[growth(0, 5, 10), growth(1, 5, 7), growth(0, 8, 20)]));
        assert!(!is(&[growth(0, 5, 30)]));
        assert!(!is(&[growth(0, 5, 20), growth(0, 8, 10)]));
        assert!(!is(&[growth(0, 8, 10), growth(0, 8, 20)]));
        assert!(!is(&[growth(2, 5, 10)]));
    }
}
