//! Disks that become larger.
//!
//! A disk grows at a barrier: from there on it has its new size, and the barriers before have the size
//! that they had. What its new part holds is zeros, but for what is written to it from then on, and what
//! nothing proves to be zeros, which is in doubt.

use afterimage_block::{Growth, Length, Sequence};

use super::{Machine, Phase, Start};
use crate::action::Action;
use crate::{ResyncReason, Scope};

impl Machine {
    /// The sizes of the disks, in the machine's order.
    pub fn sizes(&self) -> &[Length] {
        &self.sizes
    }

    /// The sizes of the disks that a claim is for: those of the copy that is under way, or the present
    /// ones.
    pub fn sizes_to_claim(&self) -> Vec<Length> {
        match &self.phase {
            Phase::Copying(copying) => copying
                .base
                .map_or_else(|| self.sizes.clone(), |base| self.sizes_at(base)),
            _ => self.sizes.clone(),
        }
    }

    /// The sizes of the disks at barrier `sequence`.
    pub(crate) fn sizes_at(&self, sequence: Sequence) -> Vec<Length> {
        let disks = self.sizes.iter().enumerate();
        disks
            .map(|(disk, size)| Growth::size_at(&self.growths, disk, *size, sequence))
            .collect()
    }

    /// Disk number `disk` was found to be larger, of `size`, than when this machine was last made durable.
    /// Nothing proves what it holds in `unproven`, of its new part. Comes before
    /// [`restart`](Self::restart); one that is no larger changes nothing.
    pub fn found_larger(&mut self, disk: usize, size: Length, unproven: &Scope) {
        // What is written from now on is of the generation that is open, or is recovered as such.
        self.grow(disk, size, unproven, self.open);
        if let Phase::Resyncing { scopes, .. } = &mut self.phase {
            // Its differences would be of disks of other sizes.
            let scopes = std::mem::take(scopes);
            self.doubt_again(&scopes);
            self.phase = Phase::ResyncRequired {
                reason: ResyncReason::Enlarged,
                start: Start::AtOnce,
            };
        }
        self.enlarged_in_doubt();
    }

    /// A disk grew at the barrier that is under way.
    pub(super) fn enlarged(&mut self, disk: usize, size: Length, unproven: &Scope) -> Vec<Action> {
        let barrier = self.lanes.barrier.as_ref();
        if let Some(ends) = barrier.map(|ordered| ordered.barrier.ends) {
            self.grow(disk, size, unproven, ends);
        }
        self.enlarged_in_doubt()
    }

    fn enlarged_in_doubt(&mut self) -> Vec<Action> {
        self.require_resync(ResyncReason::Enlarged)
    }

    fn grow(&mut self, disk: usize, size: Length, unproven: &Scope, at: Sequence) {
        let is_based = self.has_base();
        let Some(present) = self.sizes.get_mut(disk).filter(|present| **present < size) else {
            return;
        };
        let was = std::mem::replace(present, size);
        if !is_based {
            // Nothing is of its former size.
            return;
        }
        self.growths.retain(|growth| self.durable < Some(growth.at));
        self.growths.push(Growth { disk, at, was });
        // No barrier of before shows it, whether or not anything is written.
        self.settled = false;
        if let Some(doubt) = self.doubt.get_mut(disk) {
            doubt.merge(unproven);
        }
    }

    /// Somebody waits for disks to change.
    pub(super) fn change_disks(&mut self) {
        self.lanes.changes_disks = true;
    }
}
