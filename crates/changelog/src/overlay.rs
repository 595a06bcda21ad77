//! One index over another.

use afterimage_block::{Extent, Slice};

/// Runs of the disk, disjoint and in order, and where the newest state of each is.
pub(crate) type Runs<S> = Vec<(Extent, S)>;

/// The newest state of each byte of `layers`, the oldest of which is the first.
///
/// They are in the order of the disk already, so putting one over another is going through both at
/// once; neighbours are put together first, so that none is gone through more often than need be.
pub(crate) fn newest<S: Slice + Copy>(mut layers: Vec<Runs<S>>) -> Runs<S> {
    while layers.len() > 1 {
        let mut left = layers.into_iter();
        let mut halved = Vec::with_capacity(left.len().div_ceil(2));
        while let Some(older) = left.next() {
            halved.push(match left.next() {
                Some(newer) => overlay(older, newer),
                None => older,
            });
        }
        layers = halved;
    }
    layers.pop().unwrap_or_default()
}

/// The runs of `newer`, and of `older` what they leave.
fn overlay<S: Slice + Copy>(older: Runs<S>, newer: Runs<S>) -> Runs<S> {
    let mut all = Vec::with_capacity(older.len() + newer.len());
    let mut newer = newer.into_iter().peekable();
    for (whole, source) in older {
        let mut rest = Some(whole);
        while let Some(left) = rest
            && let Some((over, _)) = newer.peek().filter(|(over, _)| over.start() < left.end())
        {
            let before = Extent::between(left.start(), over.start());
            all.extend(before.map(|part| cut(part, whole, &source)));
            rest = Extent::between(left.start().max(over.end()), left.end());
            if over.end() <= left.end() {
                all.extend(newer.next());
            }
        }
        all.extend(rest.map(|part| cut(part, whole, &source)));
    }
    all.extend(newer);
    all
}

/// The `part` of a run.
fn cut<S: Slice>(part: Extent, whole: Extent, source: &S) -> (Extent, S) {
    let skipped = part.start().checked_since(whole.start());
    (part, source.advanced(skipped.unwrap_or_default()))
}
