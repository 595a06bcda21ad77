//! The third site: the replica is replicated on to it, by the engine's own extension.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use afterimage::{Advanced, Extension, Policy};
use afterimage_block::{Epoch, Sequence};
use afterimage_store::{Inlining, Manifest, RecoveryPoint, Replica};
use futures::future::LocalBoxFuture;
use object_store::ObjectStore;

use crate::error::Failed;
use crate::objects::Objects;
use crate::oracle::{check_kept, check_monotone, difference, fails_over};
use crate::site::Running;
use crate::tracking::Images;
use crate::transfer::replica;
use crate::violation::{Broken, Invariant, ensure};

/// What came of a round, or of the claim before the first; the extension goes on if it can.
pub(crate) type Extending = (Option<Extension>, Result<Option<Advanced>, Failed>);

/// The third site.
pub(crate) struct Third {
    /// Its store.
    pub(crate) inner: Arc<dyn ObjectStore>,
    /// Where logs for it are made.
    pub(crate) scratch: PathBuf,
    /// What replicates on to it, between two rounds.
    pub(crate) extension: Option<Extension>,
    /// A round, or the claim before the first.
    pub(crate) work: Option<LocalBoxFuture<'static, Extending>>,
    /// Whether nobody begins it again.
    pub(crate) forgotten: bool,
    pub(crate) operation: Option<Running>,
    /// The epoch that a failover of its operator began, which may still be taken back.
    pub(crate) failed_over: Option<Epoch>,
    /// Its replica, as an observer reads it, without faults.
    pub(crate) replica: Option<Replica>,
    pub(crate) manifest: Option<Manifest>,
    /// What its recovery points hold.
    pub(crate) points: BTreeMap<Sequence, Rc<Images>>,
    /// The recovery points that it may come to: what the replica published since the one that it is at.
    offered: BTreeMap<Sequence, (RecoveryPoint, Rc<Images>)>,
}

impl Third {
    pub(crate) fn new(inner: Arc<dyn ObjectStore>, scratch: PathBuf) -> Self {
        Self {
            inner,
            scratch,
            extension: None,
            work: None,
            forgotten: false,
            operation: None,
            failed_over: None,
            replica: None,
            manifest: None,
            points: BTreeMap::new(),
            offered: BTreeMap::new(),
        }
    }

    pub(crate) fn newest_point(&self) -> Option<Sequence> {
        Some(self.manifest.as_ref()?.points.last()?.sequence)
    }

    /// The replica published `point`.
    pub(crate) fn offer(&mut self, point: RecoveryPoint, images: Rc<Images>) {
        self.offered.insert(point.sequence, (point, images));
    }

    /// Everything there is lost.
    pub(crate) fn forget(&mut self) {
        self.crash();
        self.failed_over = None;
        self.replica = None;
        self.manifest = None;
        self.points.clear();
    }

    /// What runs there ends at once.
    pub(crate) fn crash(&mut self) {
        self.extension = None;
        self.work = None;
        self.operation = None;
    }

    /// The manifest was replaced by `next`; the points that are new, to be read. `near` is what it
    /// follows.
    pub(crate) fn replaced(
        &mut self,
        next: Manifest,
        near: Option<&Manifest>,
    ) -> Result<Vec<Sequence>, Broken> {
        ensure(
            next.last() <= near.and_then(Manifest::last),
            Invariant::Monotone,
            || {
                let last = near.and_then(Manifest::last);
                format!("the third site is at {:?} before {last:?}", next.last())
            },
        )?;
        if let Some(before) = &self.manifest {
            check_monotone(before, &next)?;
            check_kept(before, &next)?;
            let grew = next.last() != before.last();
            let claimed = next.fence.session.is_some();
            // What feeds it takes it for a replica, whatever it was.
            let fed = fails_over(before) && (grew || (claimed && fails_over(&next)));
            ensure(!fed, Invariant::OnePrimary, || {
                let last = next.last();
                format!("the third site is failed over, and yet claimed, or fed up to {last:?}")
            })?;
        }
        let kept: Vec<_> = next.points.iter().map(|point| point.sequence).collect();
        self.points.retain(|sequence, _| kept.contains(sequence));
        let known = &self.points;
        let new = next
            .points
            .iter()
            .filter(|point| !known.contains_key(&point.sequence));
        let new: Vec<_> = new.copied().collect();
        for point in &new {
            let offered = self.offered.get(&point.sequence);
            let same = offered.is_some_and(|(offered, _)| offered == point);
            ensure(same, Invariant::PointsAreBarriers, || {
                format!("the third site offers {point:?}, which the replica never had")
            })?;
        }
        self.manifest = Some(next);
        Ok(new.iter().map(|point| point.sequence).collect())
    }

    /// Its new point `sequence` reads back as `images`; how many points of the replica it skipped.
    pub(crate) fn check_new(
        &mut self,
        sequence: Sequence,
        images: &Images,
    ) -> Result<usize, Broken> {
        let Some((_, expected)) = self.offered.get(&sequence) else {
            return Ok(0);
        };
        let expected = Rc::clone(expected);
        ensure(*expected == *images, Invariant::PointsAreBarriers, || {
            let found = difference(&expected, images);
            format!("point {sequence} of the third site is not the replica's: {found}")
        })?;
        let newest = self.points.keys().next_back().copied();
        let skipped = self.offered.range(..sequence);
        let skipped = skipped.filter(|(other, _)| Some(**other) > newest).count();
        self.points.insert(sequence, expected);
        self.offered.retain(|other, _| *other >= sequence);
        Ok(skipped)
    }

    /// What was read of its point `sequence` is what it holds, if it is still there.
    pub(crate) fn check_images(&self, sequence: Sequence, images: &Images) -> Result<(), Broken> {
        let Some(expected) = self.points.get(&sequence) else {
            return Ok(());
        };
        ensure(**expected == *images, Invariant::PointsAreImmutable, || {
            let found = difference(expected, images);
            format!("point {sequence} of the third site opened as another: {found}")
        })
    }
}

/// Claims the third site's replica `far` for what comes from `near`.
pub(crate) async fn begin(
    near: Objects,
    far: Objects,
    inlining: Inlining,
    policy: Policy,
    scratch: PathBuf,
) -> Extending {
    let begun = async {
        let (near, far) = (
            replica(near, inlining).await?,
            replica(far, inlining).await?,
        );
        Ok(Extension::begin(near, &far, policy, &scratch).await?)
    };
    match begun.await {
        Ok(extension) => (Some(extension), Ok(None)),
        Err(error) => (None, Err(error)),
    }
}

/// One round; before it everything is put in doubt where `doubts` says so.
pub(crate) async fn round(mut extension: Extension, doubts: bool) -> Extending {
    let advanced = async {
        if doubts {
            extension.resynchronize().await?;
        }
        extension.round(|_, _| {}).await
    };
    let advanced = advanced.await.map_err(Failed::from);
    (Some(extension), advanced)
}
