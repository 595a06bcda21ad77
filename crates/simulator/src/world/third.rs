//! What happens at the third site.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use afterimage_block::Sequence;
use afterimage_store::{Manifest, Replica};
use futures::TryStreamExt;
use futures::future::LocalBoxFuture;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt};

use super::{World, new_site, open, read_manifest, unreadable};
use crate::coverage::Mark;
use crate::error::Failed;
use crate::hub::THIRD;
use crate::objects::Objects;
use crate::operator::{Operation, Outcome, operate, read};
use crate::oracle::{Oracle, difference, fails_over};
use crate::plant::Plant;
use crate::site::{FailedOver, Running, Side};
use crate::third::{Extending, Third, begin, round};
use crate::tracking::Images;
use crate::violation::{Broken, Invariant, ensure};

/// Points between two that came to the third site, from which on it lagged.
const LAG: usize = 2;

impl Third {
    /// The third site of a world whose other sites have the store `inner` and files in `folder`.
    pub(super) fn beside(inner: &Arc<dyn ObjectStore>, folder: &Path) -> Self {
        let scratch = folder.join("third");
        std::fs::create_dir_all(&scratch).expect("the simulator's own folder takes folders");
        Self::new(
            Arc::new(PrefixStore::new(Arc::clone(inner), "third")),
            scratch,
        )
    }

    fn objects(&self, world: &World) -> Objects {
        Objects::new(Arc::clone(&self.inner), world.hub.clone(), THIRD)
    }
}

impl World {
    /// Something happens at the third site: mostly that replication on to it goes on.
    pub(super) fn happen_at_third(&mut self) -> Result<(), Broken> {
        match self.hub.below(1000) {
            0 => self.lose_third(),
            1..15 => self.crash_third(),
            15..80 => self.ask_at_third(),
            80..300 => self.operate_on_third()?,
            // Several requests at a time: a round takes many.
            _ => (0..self.hub.below(6)).try_for_each(|_| self.extend())?,
        }
        Ok(())
    }

    fn lose_third(&mut self) {
        let Some(third) = &mut self.third else {
            return;
        };
        if third.manifest.is_none() {
            return;
        }
        third.forget();
        let everything = third.inner.list(None).try_collect::<Vec<_>>();
        let everything = self.runtime.block_on(everything).unwrap_or_default();
        for object in everything {
            // What is not there is lost.
            let _ = self.runtime.block_on(third.inner.delete(&object.location));
        }
        self.hub.forget_late(THIRD);
        for point in self.oracle.manifest.iter().flat_map(|near| &near.points) {
            if let Some(images) = self.oracle.points.get(&point.sequence) {
                third.offer(*point, Rc::clone(images));
            }
        }
        self.hub.mark(Mark::ThirdLost);
    }

    fn crash_third(&mut self) {
        let Some(third) = &mut self.third else {
            return;
        };
        if third.work.is_some() {
            self.hub.mark(Mark::ThirdCrashed);
        }
        third.crash();
        third.forgotten |= self.hub.is_planted(Plant::ThirdForgotten);
    }

    /// Begins, or goes on with, a round of replication on to the third site.
    pub(super) fn extend(&mut self) -> Result<(), Broken> {
        let Some(mut third) = self.third.take() else {
            return Ok(());
        };
        let mut ended = None;
        if let Some(mut work) = third.work.take() {
            ended = self.advance(&mut work);
            third.work = ended.is_none().then_some(work);
        } else if !third.forgotten {
            third.work = Some(self.next_round(&mut third));
        }
        self.third = Some(third);
        ended.map_or(Ok(()), |ended| self.extended(ended))
    }

    /// The next round, or the claim before the first.
    fn next_round(&self, third: &mut Third) -> LocalBoxFuture<'static, Extending> {
        if let Some(extension) = third.extension.take() {
            let doubts = self.hub.has_faults() && self.hub.chance(50);
            if doubts {
                self.hub.mark(Mark::ThirdResynchronized);
            }
            return Box::pin(round(extension, doubts));
        }
        let (near, far) = (self.objects(THIRD), third.objects(self));
        let (policy, scratch) = (self.options.policy.clone(), third.scratch.clone());
        let inlining = self.options.inlining;
        let hub = self.hub.clone();
        Box::pin(async move {
            let begun = begin(near, far, inlining, policy, scratch).await;
            if begun.1.is_ok() {
                hub.mark(Mark::Extended);
            }
            begun
        })
    }

    /// What came of a round at the third site.
    fn extended(&mut self, (extension, ended): Extending) -> Result<(), Broken> {
        self.hub.trace(|| format!("third site: {ended:?}"));
        let had_base = self.third_has_base();
        self.look()?;
        let Some(third) = &mut self.third else {
            return Ok(());
        };
        match ended {
            Ok(Some(advanced)) => {
                self.hub.mark(if !advanced.compared.is_zero() {
                    Mark::ThirdCompared
                } else if had_base {
                    Mark::ThirdFollowed
                } else {
                    Mark::ThirdCopied
                });
                // It would not say so if it were not there.
                let newest = third.newest_point();
                let point = advanced.point.sequence;
                ensure(newest >= Some(point), Invariant::NothingIsLost, || {
                    format!("point {point} is said to be at the third site, which is at {newest:?}")
                })?;
                third.extension = extension;
            }
            Ok(None) => third.extension = extension,
            Err(Failed::Engine(afterimage::Error::NotAllowed(reason))) => {
                let message = format!("the third site refuses the replica: {reason}");
                return Err(Broken::new(Invariant::Monotone, message));
            }
            Err(error) => {
                if third.manifest.as_ref().is_some_and(fails_over) {
                    self.hub.mark(Mark::ThirdRefused);
                }
                third.extension = extension.filter(|_| error.is_recoverable());
            }
        }
        Ok(())
    }

    fn third_has_base(&self) -> bool {
        let manifest = self
            .third
            .as_ref()
            .and_then(|third| third.manifest.as_ref());
        manifest.and_then(Manifest::last).is_some()
    }

    /// The operator of the third site wants something.
    fn ask_at_third(&mut self) {
        let Some(third) = &self.third else {
            return;
        };
        let Some(manifest) = third
            .manifest
            .as_ref()
            .filter(|_| third.operation.is_none())
        else {
            return;
        };
        let back = self.hub.below(3);
        let operation = match (fails_over(manifest), self.hub.below(4)) {
            (true, _) => Operation::Cancel(third.failed_over),
            (false, 0) => Operation::UnplannedFailover(back),
            (false, _) => Operation::Test,
        };
        self.begin_at_third(operation);
    }

    fn begin_at_third(&mut self, operation: Operation) {
        let Some(third) = &self.third else {
            return;
        };
        self.hub
            .trace(|| format!("third site: operator: {operation:?}"));
        let work = operate(operation.clone(), third.objects(self), self.hub.clone());
        let work = Box::pin(work);
        if let Some(third) = &mut self.third {
            third.operation = Some(Running { operation, work });
        }
    }

    fn operate_on_third(&mut self) -> Result<(), Broken> {
        let running = self.third.as_mut().and_then(|third| third.operation.take());
        let Some(mut running) = running else {
            return Ok(());
        };
        match self.advance(&mut running.work) {
            None => {
                if let Some(third) = &mut self.third {
                    third.operation = Some(running);
                }
                Ok(())
            }
            Some(Ok(outcome)) => {
                self.look()?;
                self.conclude_at_third(outcome)
            }
            Some(Err(error)) => {
                self.hub
                    .trace(|| format!("third site: {:?} failed: {error}", running.operation));
                Ok(())
            }
        }
    }

    fn conclude_at_third(&mut self, outcome: Outcome) -> Result<(), Broken> {
        let Some(third) = &mut self.third else {
            return Ok(());
        };
        match outcome {
            Outcome::Tested(point, images) => {
                self.hub.mark(Mark::ThirdTested);
                third.check_images(point, &images)
            }
            Outcome::FailedOver {
                point,
                fence,
                images,
                ..
            } => {
                self.hub.mark(Mark::ThirdFailedOver);
                third.failed_over = Some(fence);
                images.map_or(Ok(()), |images| third.check_images(point, &images))
            }
            Outcome::Cancelled => {
                self.hub.mark(Mark::ThirdCancelled);
                third.failed_over = None;
                Ok(())
            }
            _ => {
                third.failed_over = None;
                Ok(())
            }
        }
    }

    /// The replica has a new point, which the third site may come to.
    pub(super) fn offer_to_third(&mut self, manifest: &Manifest, sequence: Sequence) {
        let mut points = manifest.points.iter();
        let point = points.find(|point| point.sequence == sequence);
        let images = self.oracle.points.get(&sequence);
        if let (Some(third), Some(point), Some(images)) = (&mut self.third, point, images) {
            third.offer(*point, Rc::clone(images));
        }
    }

    /// Looks at the third site's replica, whose manifest was replaced.
    pub(super) fn look_at_third(&mut self) -> Result<(), Broken> {
        let replica = self.observe_third()?;
        let manifest = read_manifest(&self.runtime, &replica)?;
        self.hub.trace(|| {
            let (last, state) = (manifest.last(), &manifest.state);
            let epoch = manifest.fence.epoch;
            format!("  the third site has the manifest {last:?}, {epoch:?}, {state}")
        });
        if self.hub.is_planted(Plant::ThirdSweptTooMuch)
            && self.hub.chance(50)
            && let Some(third) = &self.third
        {
            self.delete_a_log(&third.inner, &manifest);
        }
        let Some(third) = &mut self.third else {
            return Ok(());
        };
        let folded = |manifest: &Manifest| manifest.checkpoint.as_ref()?.folded;
        if folded(&manifest) != third.manifest.as_ref().and_then(folded) {
            self.hub.mark(Mark::ThirdFolded);
        }
        let new = third.replaced(manifest, self.oracle.manifest.as_ref())?;
        for sequence in new {
            let images = self.third_contents(sequence)?;
            if let Some(third) = &mut self.third
                && third.check_new(sequence, &images)? > LAG
            {
                self.hub.mark(Mark::ThirdLagged);
            }
        }
        self.look_again_at_third()
    }

    /// An older point is read again now and then.
    fn look_again_at_third(&mut self) -> Result<(), Broken> {
        let count = self.third.as_ref().map_or(0, |third| third.points.len());
        if count < 2 || !self.hub.chance(200) {
            return Ok(());
        }
        let at = self.hub.below(count);
        let point = self
            .third
            .as_ref()
            .and_then(|third| third.points.keys().nth(at).copied());
        let Some(point) = point else {
            return Ok(());
        };
        let images = self.third_contents(point)?;
        self.third
            .as_ref()
            .map_or(Ok(()), |third| third.check_images(point, &images))
    }

    fn observe_third(&mut self) -> Result<Replica, Broken> {
        let Some(third) = &mut self.third else {
            return Err(unreadable("the third site", &"there is none"));
        };
        if let Some(replica) = &third.replica {
            return Ok(replica.clone());
        }
        let replica = open(&self.runtime, &third.inner)?;
        Ok(third.replica.insert(replica).clone())
    }

    fn third_contents(&mut self, sequence: Sequence) -> Result<Images, Broken> {
        let replica = self.observe_third()?;
        let images = self.runtime.block_on(read(&replica, sequence));
        images.map_err(|error| unreadable(&format!("point {sequence} of the third site"), &error))
    }

    /// What the operator of the third site would do once the faults have stopped.
    pub(super) fn settle_third(&mut self) -> Result<(), Broken> {
        let Some(third) = &self.third else {
            return Ok(());
        };
        let waits = third.manifest.as_ref().is_some_and(fails_over);
        if waits && third.operation.is_none() {
            self.begin_at_third(Operation::Cancel(None));
        }
        self.end_operation_on_third()?;
        if self.third_is_at_rest() {
            return Ok(());
        }
        self.extend_whole()
    }

    /// Extends until the work that is under way, or begun by it, is done.
    fn extend_whole(&mut self) -> Result<(), Broken> {
        let works = |world: &Self| {
            world
                .third
                .as_ref()
                .is_some_and(|third| third.work.is_some())
        };
        self.extend()?;
        while works(self) {
            self.extend()?;
        }
        Ok(())
    }

    fn end_operation_on_third(&mut self) -> Result<(), Broken> {
        let operates = |world: &Self| {
            let third = world.third.as_ref();
            third.is_some_and(|third| third.operation.is_some())
        };
        while operates(self) {
            self.operate_on_third()?;
        }
        Ok(())
    }

    /// Whether the third site has the newest recovery point.
    pub(super) fn third_is_at_rest(&self) -> bool {
        let Some(third) = &self.third else {
            return true;
        };
        let newest = self.oracle.newest_point();
        third.work.is_none() && third.newest_point() == newest
    }

    /// The third site holds what the replica does.
    pub(super) fn check_third_converged(&mut self, newest: &Images) -> Result<(), Broken> {
        let Some(point) = self.third.as_ref().and_then(Third::newest_point) else {
            return Ok(());
        };
        let found = self.third_contents(point)?;
        ensure(found == *newest, Invariant::Converges, || {
            let found = difference(newest, &found);
            format!("the third site is at the newest point {point}, and yet {found}")
        })
    }

    /// Both other sites are lost. The third one is failed over, and life goes on from there, with its
    /// store as the replica and a new site for what was the primary.
    pub(super) fn take_over(&mut self) -> Result<(), Broken> {
        let Some(point) = self.third.as_ref().and_then(Third::newest_point) else {
            return Ok(());
        };
        self.begin_at_third(Operation::UnplannedFailover(0));
        self.end_operation_on_third()?;
        let fence = self.third.as_ref().and_then(|third| third.failed_over);
        let fence = fence.ok_or_else(|| {
            Broken::new(Invariant::Converges, "the third site is not failed over")
        })?;
        // What replicated on to it may still be there: it is refused.
        self.extend_whole()?;
        let images = self.third_contents(point)?;
        let Some(third) = self.third.take() else {
            return Ok(());
        };
        third.check_images(point, &images)?;
        self.hub.mark(Mark::ThirdTookOver);
        (0..=THIRD).for_each(|party| self.hub.forget_late(party));
        let mut here = new_site(0, &self.options, &self.hub, &third.scratch);
        for (disk, image) in here.disks.iter().zip(images) {
            disk.replace(image);
        }
        here.saved.side = Side::FailedOver(FailedOver {
            point,
            fence,
            before: None,
            committed: None,
        });
        let elsewhere = new_site(1, &self.options, &self.hub, &third.scratch);
        self.sites = vec![here, elsewhere];
        self.inner = third.inner;
        self.replica = third.replica;
        self.oracle = Oracle {
            manifest: third.manifest,
            points: third.points,
            entitled: 0,
            stopped: false,
        };
        self.come_to_rest()
    }
}
