//! Memory that is taken from the system once, and used again when nobody holds a part of it any more.

use std::collections::VecDeque;

use bytes::BytesMut;

/// How much is taken at a time, unless more is asked for at once.
const SLAB: usize = 512 << 10;

/// A few slabs, of which parts are handed out in turn. Parts that are long held cost no more than a new
/// slab.
#[derive(Debug)]
pub(crate) struct Slabs {
    /// The one in use is the last.
    ring: VecDeque<BytesMut>,
    most: usize,
}

impl Slabs {
    /// Of as many slabs at most: one more than parts of are held at the same time.
    pub(crate) fn new(most: usize) -> Self {
        let ring = VecDeque::new();
        Self { ring, most }
    }

    /// A part that is empty and has room for `length` bytes.
    pub(crate) fn part(&mut self, length: usize) -> BytesMut {
        let fits = |slab: &mut BytesMut| slab.capacity() >= length;
        let mut slab = match self.ring.pop_back_if(fits) {
            Some(slab) => slab,
            None => self.next(length),
        };
        let rest = slab.split_off(length);
        self.ring.push_back(rest);
        slab
    }

    /// The slab that was used first, if all of it was given back, or a new one.
    fn next(&mut self, length: usize) -> BytesMut {
        let length = length.max(SLAB);
        let oldest = if self.ring.len() < self.most {
            None
        } else {
            self.ring.pop_front()
        };
        let given_back = oldest.and_then(|mut slab| slab.try_reclaim(length).then_some(slab));
        given_back.unwrap_or_else(|| BytesMut::with_capacity(length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_once_it_is_given_back_and_not_before() {
        let mut slabs = Slabs::new(2);
        let mut part = |fill: u8, length: usize| {
            let mut part = slabs.part(length);
            part.resize(length, fill);
            part.freeze()
        };
        let held = part(1, 100);
        let place = held.as_ptr();
        let large = part(2, SLAB);
        drop(part(3, SLAB));
        assert!(held.iter().all(|byte| *byte == 1) && large.iter().all(|byte| *byte == 2));
        drop((held, large));
        let places: Vec<_> = (0..4).map(|_| part(4, SLAB).as_ptr()).collect();
        assert_eq!(places[0], places[2]);
        assert_eq!(places[1], places[3]);
        assert!(!places.contains(&place), "it had more than a part held");
    }
}
