//! What the operators of both sites do, and what it makes of their sites.

use afterimage_block::{Length, Sequence};
use afterimage_replication::{Machine, Role, Scope, Standby};

use super::World;
use super::process::waits;
use crate::coverage::Mark;
use crate::disk::SECTOR;
use crate::operator::{Operation, Outcome, operate};
use crate::oracle::difference;
use crate::plant::Plant;
use crate::site::{FailedOver, Record, Running, Side};
use crate::tracking::Images;
use crate::violation::{Broken, Invariant, ensure};

impl World {
    /// The operator of a site begins something, or gives up what is under way.
    pub(super) fn begin_operation(&mut self, number: usize) {
        if self.sites[number].operation.is_some() {
            if self.hub.has_faults() && self.hub.chance(100) {
                self.abandon(number);
            }
            return;
        }
        let wanted = self.wanted(number);
        if let Some(operation) = wanted.get(self.hub.below(wanted.len())) {
            self.operate(number, operation.clone());
        }
    }

    /// What an operator may come to want, more of what is likelier.
    fn wanted(&self, number: usize) -> Vec<Operation> {
        let site = &self.sites[number];
        let unplanned = Operation::UnplannedFailover(self.hub.below(3));
        let prepared = matches!(self.oracle.role(), Role::PreparedForFailover { .. });
        match site.saved.side {
            Side::Nothing if prepared => vec![Operation::PlannedFailover],
            Side::Nothing => vec![
                Operation::Test,
                Operation::Test,
                Operation::PlannedFailover,
                Operation::PlannedFailover,
                unplanned,
                Operation::Cancel(None),
            ],
            Side::Standby(standby) if prepared => {
                vec![Operation::Pull, Operation::FailBack(standby)]
            }
            Side::Standby(standby) => vec![
                Operation::Pull,
                Operation::Pull,
                Operation::FailBack(standby),
                Operation::FailBack(standby),
                Operation::Test,
                unplanned,
            ],
            Side::FailedOver(failover) => match failover.committed {
                Some(committed) => vec![Operation::Reverse(committed)],
                None => vec![
                    Operation::Commit(failover.fence),
                    Operation::Commit(failover.fence),
                    Operation::Cancel(Some(failover.fence)),
                    Operation::PlannedFailover,
                ],
            },
            // The state of a primary is locked while its process runs.
            Side::Primary if site.process.is_some() => vec![Operation::Test],
            Side::Primary => vec![Operation::Follow(site.saved.machine.epoch())],
        }
    }

    /// Begins `operation`.
    pub(super) fn operate(&mut self, number: usize, operation: Operation) {
        self.hub
            .trace(|| format!("site {number}: operator: {operation:?}"));
        let fails_over = matches!(
            operation,
            Operation::PlannedFailover | Operation::UnplannedFailover(_) | Operation::FailBack(_)
        );
        if fails_over && waits(self.oracle.role()) {
            self.hub.mark(Mark::FailoverAgain);
        }
        if self.sites.iter().any(|site| site.operation.is_some()) {
            self.hub.mark(Mark::TwoOperators);
        }
        let site = &mut self.sites[number];
        if let (Operation::Pull, Side::Standby(standby)) = (&operation, &mut site.saved.side) {
            standby.pulling();
            let mut contents = site.disks[0].contents();
            let half = contents.len() / 2;
            contents[..half].fill(0x55);
            site.disks[0].replace(contents);
        }
        let work = operate(operation.clone(), self.objects(number), self.hub.clone());
        let work = Box::pin(work);
        self.sites[number].operation = Some(Running { operation, work });
    }

    /// The operator of a site is gone in the middle.
    pub(super) fn abandon(&mut self, number: usize) {
        let site = &mut self.sites[number];
        let Some(running) = site.operation.take() else {
            return;
        };
        self.hub.mark(Mark::OperationAbandoned);
        if let Operation::Pull = running.operation {
            self.hub.mark(Mark::PullAbandoned);
            let last = self
                .oracle
                .manifest
                .as_ref()
                .and_then(afterimage_store::Manifest::last);
            if let (Side::Standby(standby), Some(last), true) = (
                &mut site.saved.side,
                last,
                self.hub.is_planted(Plant::HalfPulled),
            ) {
                standby.pulled(last);
            }
        }
    }

    pub(super) fn work_at_operation(&mut self, number: usize) -> Result<(), Broken> {
        let Some(mut running) = self.sites[number].operation.take() else {
            return Ok(());
        };
        match self.advance(&mut running.work) {
            None => {
                self.sites[number].operation = Some(running);
                Ok(())
            }
            Some(Ok(outcome)) => {
                self.look()?;
                self.conclude(number, outcome)?;
                self.oracle.check_one_primary(&self.sites)
            }
            Some(Err(error)) => {
                let operation = running.operation;
                self.hub
                    .trace(|| format!("site {number}: {operation:?} failed: {error}"));
                Ok(())
            }
        }
    }

    /// What an operation makes of its site.
    fn conclude(&mut self, number: usize, outcome: Outcome) -> Result<(), Broken> {
        match outcome {
            Outcome::Tested(point, images) => {
                self.hub.mark(Mark::TestFailover);
                self.check_images(point, &images)
            }
            Outcome::FailedOver {
                point,
                images,
                planned,
                fence,
            } => {
                let before = self.before(number);
                self.take_images(number, point, images, planned)?;
                self.sites[number].saved.side = Side::FailedOver(FailedOver {
                    point,
                    fence,
                    before,
                    committed: None,
                });
                Ok(())
            }
            Outcome::Committed(epoch) => self.committed(number, epoch),
            Outcome::Cancelled => {
                self.hub.mark(Mark::Cancelled);
                self.take_back(number);
                Ok(())
            }
            Outcome::Superseded => {
                self.take_back(number);
                Ok(())
            }
            Outcome::Reversed(grant) => {
                if !matches!(self.sites[number].saved.side, Side::FailedOver(_)) {
                    return Ok(());
                }
                self.hub.mark(Mark::Reversed);
                let sizes = self.options.sectors.iter();
                let sizes = sizes.map(|sectors| Length::new((sectors * SECTOR) as u64));
                let policy = self.options.policy.clone();
                let doubt = vec![Scope::Everything; self.options.sectors.len()];
                let machine = Machine::reversed(policy, sizes.collect(), grant, doubt);
                self.begin_anew(number, machine);
                self.sites[number].saved.side = Side::Primary;
                Ok(())
            }
            Outcome::Follows(standby) => self.follows(number, standby),
            Outcome::Pulled(through, images) => {
                if let Side::Standby(standby) = &mut self.sites[number].saved.side {
                    standby.pulled(through);
                    self.check_images(through, &images)?;
                    self.replace_disks(number, images);
                    self.hub.mark(Mark::Pulled);
                }
                Ok(())
            }
        }
    }

    fn before(&self, number: usize) -> Option<Standby> {
        match self.sites[number].saved.side {
            Side::Standby(standby) => Some(standby),
            Side::FailedOver(failover) => failover.before,
            Side::Nothing | Side::Primary => None,
        }
    }

    /// What was read of `point` is what it holds, if it is still there.
    fn check_images(&self, point: Sequence, images: &Images) -> Result<(), Broken> {
        let Some(expected) = self.oracle.points.get(&point) else {
            return Ok(());
        };
        ensure(**expected == *images, Invariant::PointsAreBarriers, || {
            format!(
                "recovery point {point} opened as another: {}",
                difference(expected, images)
            )
        })
    }

    fn take_images(
        &mut self,
        number: usize,
        point: Sequence,
        images: Option<Images>,
        planned: bool,
    ) -> Result<(), Broken> {
        match images {
            Some(images) => {
                self.check_images(point, &images)?;
                self.replace_disks(number, images);
                self.hub.mark(if planned {
                    Mark::PlannedFailover
                } else {
                    Mark::UnplannedFailover
                });
            }
            None => self.hub.mark(Mark::FailedBack),
        }
        let point = self.oracle.points.get(&point).filter(|_| planned);
        let Some(last) = point else {
            return Ok(());
        };
        let holds = self.sites[number].holds(last);
        ensure(holds, Invariant::PlannedLosesNothing, || {
            let found = self.sites[number].images();
            let lost = difference(last, &found);
            format!("failed over to what is not the last delta: {lost}")
        })
    }

    fn replace_disks(&mut self, number: usize, images: Images) {
        let half = self.hub.is_planted(Plant::HalfRestored);
        let disks = &self.sites[number].disks;
        for (disk, mut image) in disks.iter().zip(images) {
            if half && self.hub.chance(100) {
                let middle = image.len() / 2;
                image[middle..].fill(0);
            }
            disk.replace(image);
        }
    }

    fn committed(&mut self, number: usize, epoch: afterimage_block::Epoch) -> Result<(), Broken> {
        if let Side::FailedOver(failover) = &mut self.sites[number].saved.side {
            failover.committed = Some(epoch);
            let point = failover.point;
            self.hub.mark(Mark::Committed);
            self.oracle.entitled = number;
            let images = self.sites[number].images();
            self.check_images(point, &images)?;
        }
        Ok(())
    }

    /// A site's failover is no more.
    fn take_back(&mut self, number: usize) {
        if let Side::FailedOver(failover) = self.sites[number].saved.side {
            self.sites[number].saved.side = match failover.before {
                Some(mut standby) => {
                    standby.pulling();
                    Side::Standby(standby)
                }
                None => Side::Nothing,
            };
        }
    }

    fn follows(&mut self, number: usize, standby: Standby) -> Result<(), Broken> {
        if self.sites[number].saved.side != Side::Primary {
            return Ok(());
        }
        ensure(
            self.oracle.entitled != number,
            Invariant::OnePrimary,
            || format!("site {number} is the primary, and its disks were given up"),
        )?;
        self.hub.mark(Mark::Followed);
        let sizes = self.options.sectors.iter();
        let sizes = sizes.map(|sectors| Length::new((sectors * SECTOR) as u64));
        let machine = Machine::new(self.options.policy.clone(), sizes.collect());
        self.sites[number].process = None;
        self.begin_anew(number, machine);
        self.sites[number].saved.side = Side::Standby(standby);
        Ok(())
    }

    /// A site's machine is another from now on.
    fn begin_anew(&mut self, number: usize, machine: Machine) {
        let site = &mut self.sites[number];
        site.clear_folders();
        site.saved.machine = machine;
        site.saved
            .predecessors
            .fill(afterimage_block::ContentDigest::NONE);
        site.saved.clean = true;
        site.saved.changed = false;
        site.base.borrow_mut().fill_with(Default::default);
        site.record = Record::default();
    }
}
