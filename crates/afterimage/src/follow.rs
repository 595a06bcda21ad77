//! A side that follows the replica with its disks, so that it can be failed back to.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use afterimage_block::{
    Access, BlockRead, Epoch, Length, Offset, RawDisk, RunKind, Sequence, SessionId, Timestamp,
};
use afterimage_replication::{
    DivergenceToken, JobKind, NotAllowed, ReplicaRequest, Role, Scope, Standby,
};
use afterimage_resync::is_zero;
use afterimage_store::{
    Key, MachineName, Manifest, PointSelector, RecoveryPoint, Replica, ReplicaDisk, Store,
};

use crate::divergence::Divergence;
use crate::error::blocking;
use crate::failover::{begun_epoch, failed_over, note_epoch, transition};
use crate::notes::{self, Notes};
use crate::operations::{self, Far};
use crate::pull::{Moved, Target, pull};
use crate::shared::Kept;
use crate::state::{
    self, FailoverTarget, Fingerprint, Following, Saved, SavedDisk, Side, StateFolder,
};
use crate::{Clock, Error, FailedOver, Result};

/// Which disks are to follow a replica, and how.
///
/// ```no_run
/// use afterimage::Follow;
///
/// # async fn example() -> Result<(), afterimage::Error> {
/// let follow = Follow::new("web-01".parse()?, vec!["/vm/root.raw".into()], "/mnt/replicas");
/// let mut follower = follow.start().await?;
/// follower.pull(|_, _| ()).await?; // while the primary runs, as often as you like
/// // The primary is stopped, with its last delta shipped.
/// follower.pull(|_, _| ()).await?;
/// follower.fail_back().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Follow {
    name: MachineName,
    disks: Vec<PathBuf>,
    replica: String,
    key: Option<Key>,
    state: Option<PathBuf>,
    token: Option<DivergenceToken>,
}

impl Follow {
    /// Follows machine `name` in the store `replica` with these disks, in the machine's order: those of
    /// its former primary, or of another machine, which are made where they do not exist.
    pub fn new(name: MachineName, disks: Vec<PathBuf>, replica: impl Into<String>) -> Self {
        Self {
            name,
            disks,
            replica: replica.into(),
            key: None,
            state: None,
            token: None,
        }
    }

    /// Keeps state in `folder`: for a former primary the folder that it had then. By default in a
    /// folder `.afterimage-NAME` beside the first disk.
    pub fn state_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.state = Some(folder.into());
        self
    }

    /// Reads a replica that is encrypted, with its key.
    pub fn key(mut self, key: impl Into<Option<Key>>) -> Self {
        self.key = key.into();
        self
    }

    /// Lets what only these disks hold be destroyed: [`Error::Diverges`] tells what that is.
    pub fn token(mut self, token: DivergenceToken) -> Self {
        self.token = Some(token);
        self
    }

    /// Records that the disks follow the replica: from then on they can no longer be protected, until
    /// they are failed back to. Nothing is written to them yet.
    ///
    /// # Errors
    /// [`Error::Diverges`] where they hold what the replica may not have and there is no token for it,
    /// [`Error::NotAllowed`] where this side is the replica's primary, [`Error::Disks`] where they are
    /// not of the machine or not empty, [`Error::State`], [`Error::StateInUse`], [`Error::Disk`],
    /// [`Error::Store`].
    pub async fn start(self) -> Result<Follower> {
        let store = Store::open_existing(&self.replica).await?;
        let replica = store.with_key(self.key.clone()).replica(self.name.clone());
        let manifest = replica.existing().await?;
        let (folder, targets) = blocking(move || self.open(&manifest)).await?;
        Ok(Follower {
            replica,
            folder,
            targets,
        })
    }

    fn open(self, manifest: &Manifest) -> Result<(StateFolder, Vec<Arc<Target>>)> {
        if self.disks.len() != manifest.disks.len() {
            let (theirs, ours) = (manifest.disks.len(), self.disks.len());
            let reason = format!("the machine has {theirs} disks, and {ours} are named");
            return Err(Error::Disks(reason));
        }
        let beside = self.disks.first().and_then(|disk| disk.parent());
        let default = || state::default_folder(beside.unwrap_or(Path::new(".")), &self.name);
        let folder = StateFolder::open(&self.state.clone().unwrap_or_else(default))?;
        let saved = folder.saved();
        let mut targets = Vec::new();
        for (disk, path) in manifest.disks.iter().zip(&self.disks) {
            targets.push(open_disk(disk, path, saved.is_none())?);
        }
        let paths = state::canonical(&self.disks)?;
        let saved = if let Some(saved) = saved {
            saved.check(&folder, &self.name, &paths)?;
            self.of_known(&folder, saved, manifest)?
        } else {
            let side = Side::Standby(Following::new(Standby::alternate()));
            let sizes = manifest.disks.iter().map(|disk| disk.size).collect();
            Saved::of_replica(manifest, sizes, paths, side)
        };
        folder.save(saved)?;
        folder.clear_logs()?;
        let targets = targets.into_iter().map(|disk| Arc::new(Target::new(disk)));
        Ok((folder, targets.collect()))
    }

    /// The record of a side that follows from now on, or already does.
    fn of_known(&self, folder: &StateFolder, saved: Saved, manifest: &Manifest) -> Result<Saved> {
        if saved.machine != manifest.machine {
            return Err(Error::State {
                path: folder.scratch().into(),
                reason: "it belongs to another machine of this name".into(),
            });
        }
        let kept = Kept::parse(&manifest.state)?;
        let following = match &saved.side {
            Side::FailedOver(target) if kept.failover == Some(target.failover) => return Ok(saved),
            Side::Standby(following) => following.clone(),
            Side::FailedOver(_) => Following::new(Standby::alternate()),
            Side::Primary => Following::new(former_primary(&kept, &saved)?),
        };
        let divergence = Divergence::of(folder.scratch(), &saved)?;
        if !divergence.is_nothing() && self.token != Some(divergence.token()) {
            return Err(divergence.into());
        }
        Ok(Saved {
            side: Side::Standby(following),
            ..saved
        })
    }
}

/// A former primary that follows, if it may.
fn former_primary(kept: &Kept, saved: &Saved) -> Result<Standby, NotAllowed> {
    if let Role::FailedOver { point } = kept.replica.role {
        return Err(NotAllowed {
            reason: format!(
                "the replica is failed over to recovery point {point}, and nobody is its primary yet"
            ),
            advice: "protect the machine that was failed over in reverse first",
        });
    }
    let losing = saved.own_epoch();
    Standby::follow(&kept.replica, losing, Some(DivergenceToken { losing }))
}

/// Opens a disk of the machine, which may have grown since; one that nothing is known of must hold
/// nothing, and is made where it does not exist.
fn open_disk(disk: &ReplicaDisk, path: &Path, is_new: bool) -> Result<RawDisk> {
    if is_new && !path.exists() {
        return Ok(RawDisk::create(path, disk.size)?);
    }
    let opened = RawDisk::open(path, Access::ReadWrite)?;
    // A known one that is smaller grows with the first pull.
    if opened.size() > disk.size || (is_new && opened.size() < disk.size) {
        return Err(Error::Disks(format!(
            "`{}` has {} bytes and `{}` of the machine has {}: give it that size, or name another disk",
            path.display(),
            opened.size().get(),
            disk.name,
            disk.size.get()
        )));
    }
    if is_new && !is_blank(&opened)? {
        return Err(Error::Disks(format!(
            "`{}` is not empty, and its state folder knows nothing of it: name the folder that it had, \
             or an empty disk",
            path.display()
        )));
    }
    Ok(opened)
}

fn is_blank(disk: &RawDisk) -> Result<bool> {
    let mut buffer = Vec::new();
    let mut at = Offset::ZERO;
    while let Some(run) = disk.next_run(at)? {
        at = run.extent.end();
        if run.kind == RunKind::Hole {
            continue;
        }
        for piece in run.extent.pieces(Length::mib(1)) {
            buffer.resize(piece.length().to_usize().unwrap_or_default(), 0);
            disk.read_at(piece.start(), &mut buffer)?;
            if !is_zero(&buffer) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Disks that follow a replica. While they are pulled they are of no state; neither the primary nor
/// the replica depends on them, so that it can be dropped, killed or given up at any moment, and a
/// pull be repeated.
pub struct Follower {
    replica: Replica,
    folder: StateFolder,
    targets: Vec<Arc<Target>>,
}

/// What a pull came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// The recovery point that the disks are at now.
    pub sequence: Sequence,
    /// When its barrier was.
    pub time: Timestamp,
    /// Bytes of the disks whose digests were compared.
    pub compared: Length,
    /// Bytes that were written, because they differed or the logs since the last pull name them.
    pub written: Length,
}

impl Follower {
    /// Makes the disks what the newest recovery point is. What the logs since the last pull name is
    /// taken as it is; where there was none, or the disks were changed since, or are no files, their
    /// blocks are compared with the replica's by digests. Of the replica only what differs is read.
    /// `progress` is told how many bytes of how many are done.
    ///
    /// # Errors
    /// [`Error::Store`] if there is no point or the replica fails, [`Error::Disk`], [`Error::File`]. The
    /// pull can then be repeated.
    pub async fn pull(&mut self, mut progress: impl FnMut(Length, Length)) -> Result<Pulled> {
        loop {
            let manifest = self.replica.existing().await?;
            let point = manifest.select(PointSelector::Latest)?;
            let Some(scopes) = self.differences(&manifest, point).await? else {
                return Ok(pulled(point, Moved::default()));
            };
            let job = self.begin_failback(&manifest).await?;
            let far = Far::default();
            let step = |done, total| {
                far.set(done, total);
                progress(done, total);
            };
            let pulled = self.pull_point(&manifest, point, &scopes, step);
            match operations::watch(&self.replica, job, || far.get(), pulled).await {
                // Newer ones came meanwhile, and retention dropped it.
                Err(Error::Store(_)) if self.is_gone(point).await? => {}
                Ok(pulled) => return self.resynchronized(job).await.map(|()| pulled),
                failed => return operations::end(&self.replica, job, failed).await,
            }
        }
    }

    /// The job that this pull is a part of: the one that runs, or a new one.
    async fn begin_failback(&self, manifest: &Manifest) -> Result<u64> {
        let kept = Kept::parse(&manifest.state)?;
        if let Some(job) = kept.notes.running(JobKind::Failback) {
            return Ok(job.id);
        }
        let subject = format!("machine `{}`", manifest.name);
        let begin = |notes: &mut Notes| notes.begin(JobKind::Failback, &subject, 0);
        notes::change(&self.replica, begin).await
    }

    /// Notes, the first time, that the disks are at a point: what is left is the last delta.
    async fn resynchronized(&self, job: u64) -> Result<()> {
        let kept = Kept::parse(&self.replica.existing().await?.state)?;
        if kept.notes.is_at_first_task(job) {
            let step = |notes: &mut Notes| notes.operations.step(job, Clock::timestamp());
            notes::change(&self.replica, step).await?;
        }
        Ok(())
    }

    async fn is_gone(&self, point: RecoveryPoint) -> Result<bool> {
        let manifest = self.replica.existing().await?;
        let by_number = PointSelector::Sequence(point.sequence);
        Ok(manifest.select(by_number).is_err())
    }

    async fn pull_point(
        &self,
        manifest: &Manifest,
        point: RecoveryPoint,
        scopes: &[Scope],
        mut progress: impl FnMut(Length, Length),
    ) -> Result<Pulled> {
        let opened = self.replica.open_point(point.sequence).await?;
        let lengths = opened.disks.iter().zip(scopes);
        let total = lengths.fold(Length::ZERO, |sum, (disk, scope)| {
            sum.saturating_add(scope.extents(disk.size()).total())
        });
        self.update(|following| {
            following.standby.pulling();
            following.at = None;
        })?;
        let (mut done, mut moved) = (Length::ZERO, Moved::default());
        for ((target, disk), scope) in self.targets.iter().zip(&opened.disks).zip(scopes) {
            let step = |length| {
                done = done.saturating_add(length);
                progress(done.min(total), total);
            };
            moved = moved.and(pull(target, disk, scope, step).await?);
        }
        let losing = self.end(manifest, point)?;
        if Kept::parse(&manifest.state)?.notes.has(losing) {
            notes::change(&self.replica, |notes| notes.forget(losing)).await?;
        }
        Ok(pulled(point, moved))
    }

    /// What of each disk may differ from `point`; `None` where they are at it already.
    async fn differences(
        &self,
        manifest: &Manifest,
        point: RecoveryPoint,
    ) -> Result<Option<Vec<Scope>>> {
        let saved = self.folder.saved().ok_or(Error::NotRunning)?;
        let Side::Standby(following) = &saved.side else {
            // It is failed back to, and waits to be committed or taken back.
            return Ok(None);
        };
        let known = saved.disks.iter().all(SavedDisk::is_as_closed);
        if known && following.standby.through() == Some(point.sequence) {
            return Ok(None);
        }
        let at = following.at.as_ref();
        let changed = match at.filter(|at| known && manifest.logs.contains(at)) {
            Some(at) => {
                let changed = self
                    .replica
                    .changed_between(manifest, at.sequence, point.sequence);
                changed.await?
            }
            None => None,
        };
        Ok(Some(match changed {
            Some(changed) => changed.into_iter().map(Scope::Extents).collect(),
            None => vec![Scope::Everything; self.targets.len()],
        }))
    }

    /// Records that the disks, which are durable, are at `point`. Returns the epoch in which they were
    /// a primary's, of which nothing is left.
    fn end(&self, manifest: &Manifest, point: RecoveryPoint) -> Result<Epoch> {
        let saved = self.folder.saved().ok_or(Error::NotRunning)?;
        for disk in &saved.disks {
            let marked = Fingerprint::leave(&disk.path, point.time);
            marked.map_err(|source| Error::File {
                operation: "mark",
                path: disk.path.clone(),
                source,
            })?;
        }
        let mut entries = manifest.logs.iter();
        let entry = entries.find(|entry| entry.sequence == point.sequence);
        self.folder.update(|saved| {
            saved.clean = true;
            for disk in &mut saved.disks {
                disk.closed_as = Fingerprint::left_on(&disk.path, point.time);
            }
            if let Side::Standby(following) = &mut saved.side {
                following.standby.pulled(point.sequence);
                following.at = entry.cloned();
            }
        })?;
        Ok(saved.replication.epoch())
    }

    fn update(&self, change: impl FnOnce(&mut Following)) -> Result<()> {
        self.folder.update(|saved| {
            if let Side::Standby(following) = &mut saved.side {
                change(following);
            }
        })
    }

    /// Fails back to these disks: the planned failover of a primary that is stopped, to disks that are
    /// at its last delta. Then [`commit`](crate::commit) it, and
    /// [protect](crate::Protection::reverse) the disks in reverse; or [`cancel`](crate::cancel) it.
    /// Asked for again it answers the same.
    ///
    /// # Errors
    /// [`Error::NotAllowed`] unless the primary is stopped with its last delta shipped, and that is on
    /// these disks; [`Error::Store`], [`Error::File`].
    pub async fn fail_back(&mut self) -> Result<FailedOver> {
        let manifest = self.replica.existing().await?;
        let kept = Kept::parse(&manifest.state)?;
        let target = self.target(&manifest, &kept)?;
        if kept.failover == Some(target.failover) {
            begun_epoch(&self.folder, &manifest, &kept)?;
        } else {
            let request = ReplicaRequest::PlannedFailover {
                point: target.point,
            };
            let failed_over = {
                let subject = format!("recovery point {}", target.point);
                let note = |notes: &mut Notes| notes.complete(JobKind::Failback, &subject);
                transition(&self.replica, request, Some(target.failover), note).await
            };
            if let Err(Error::NotAllowed(_)) = failed_over {
                // Somebody came in between.
                let following = Following::new(Standby::alternate());
                self.folder
                    .update(|saved| saved.side = Side::Standby(following))?;
            }
            let (epoch, ()) = failed_over?;
            note_epoch(&self.folder, epoch)?;
        }
        let point = manifest.select(PointSelector::Sequence(target.point))?;
        let saved = self.folder.saved().ok_or(Error::NotRunning)?;
        let epoch = saved.own_epoch();
        let images = saved.disks.into_iter().map(|disk| disk.path).collect();
        failed_over(&manifest, Some(epoch), point, images)
    }

    /// The failover to these disks, durable before the replica knows of it.
    fn target(&self, manifest: &Manifest, kept: &Kept) -> Result<FailoverTarget> {
        let saved = self.folder.saved().ok_or(Error::NotRunning)?;
        let point = match &saved.side {
            Side::Standby(following) => following.standby.fail_back(&kept.replica)?,
            Side::FailedOver(target) => return Ok(target.clone()),
            Side::Primary => return Err(Error::NotRunning),
        };
        if saved.disks.iter().any(SavedDisk::may_have_changed) {
            return Err(changed_since().into());
        }
        let target = FailoverTarget {
            failover: SessionId::random(),
            epoch: manifest.fence.epoch.next(),
            point,
            complete: true,
        };
        let side = Side::FailedOver(target.clone());
        self.folder.update(|saved| saved.side = side)?;
        Ok(target)
    }
}

fn changed_since() -> NotAllowed {
    NotAllowed {
        reason: "the disks here were changed since the last pull".into(),
        advice: "pull once more",
    }
}

fn pulled(point: RecoveryPoint, moved: Moved) -> Pulled {
    Pulled {
        sequence: point.sequence,
        time: point.time,
        compared: moved.compared,
        written: moved.written,
    }
}
