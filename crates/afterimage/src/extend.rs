//! A replica that is replicated on to a further one: extended replication.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use afterimage_block::{BlockRead, ContentDigest, Extent, ExtentSet, Length, Sequence, SessionId};
use afterimage_changelog::{FileWriter, LogHeader, WriterOptions};
use afterimage_replication::{
    Health, NotAllowed, Policy, PrimaryReport, ReplicaState, Role, State,
};
use afterimage_resync::BlockSize;
use afterimage_store::{
    BaseProgress, BlockingDisk, Claim, LogEntry, LogObject, Manifest, Point, PointDisk,
    Publication, RecoveryPoint, Replica, ReplicaDisk, Writer,
};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use crate::driver::sum;
use crate::error::blocking;
use crate::excluded::ExcludedDisk;
use crate::generations::log_extent;
use crate::shared::Kept;
use crate::transfer;
use crate::{Clock, Result};

/// Pages of a first copy between two records of how far it is.
const PAGES: usize = 16;

/// What a further replica keeps of the replica that feeds it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Extended {
    /// The recovery point that it is at; `None` before it is at one.
    pub(crate) at: Option<Sequence>,
    /// The first copy, until it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    copy: Option<Copy>,
}

/// A first copy that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Copy {
    /// The recovery point that it began with.
    sequence: Sequence,
    /// Whether all of it is of that point. What is of several is no recovery point; the comparison
    /// that follows makes one of it.
    is_whole: bool,
    /// How far each disk is.
    disks: Vec<BaseProgress>,
}

/// Replicates the replica of a machine on to a further one, point by point: the third site. The
/// primary knows nothing of it, and goes on whatever becomes of it; the further replica is failed
/// over as any other.
///
/// What lies between two points goes over once, as a log in which each byte is as it is at the later
/// one. While the nearer replica has the logs since the point that the further one is at, they say
/// what that is; else the digests of both are compared, and of the data only what differs is read.
#[derive(Debug)]
pub struct Extension {
    near: Replica,
    writer: Writer,
    policy: Policy,
    scratch: PathBuf,
    /// The machine's disks that are not replicated, as the nearer replica last told.
    excluded: Vec<ExcludedDisk>,
}

/// What a round brought to the further replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Advanced {
    /// The recovery point that the further replica has now.
    pub point: RecoveryPoint,
    /// Bytes of the disks of which digests were compared.
    pub compared: Length,
    /// Bytes that went over.
    pub sent: Length,
}

impl Extension {
    /// Claims `far` as the further replica of `near`'s machine, and shuts out whoever extended to it
    /// before. Of `policy` the interval and the retention are of use; logs are made in the folder
    /// `scratch`.
    ///
    /// # Errors
    /// [`Error::Store`](crate::Error::Store), also if `far` is another machine's, a primary's own replica
    /// or failed over; [`Error::Policy`](crate::Error::Policy).
    pub async fn begin(
        near: Replica,
        far: &Replica,
        policy: Policy,
        scratch: &Path,
    ) -> Result<Self> {
        policy.validate()?;
        let manifest = near.existing().await?;
        let claim = Claim {
            machine: manifest.machine,
            session: SessionId::random(),
            disks: disks_to_extend(&manifest),
        };
        let admits = |state: &serde_json::Value| {
            let mut kept = Kept::parse(state)?;
            let admitted = admits_extension(&kept, state.is_null());
            admitted.map_err(|refusal| afterimage_store::Error::Refused(refusal.to_string()))?;
            kept.extended.get_or_insert_default();
            Ok(kept.encode())
        };
        Ok(Self {
            writer: far.claim(claim, admits).await?,
            near,
            policy,
            scratch: scratch.into(),
            excluded: Vec::new(),
        })
    }

    /// Brings the nearer replica's newest recovery point to the further one; `None` if it is there.
    /// What failed can be asked for again: a first copy goes on where it was.
    ///
    /// # Errors
    /// [`Error::Store`](crate::Error::Store), also if somebody else claimed the further replica or it is
    /// failed over; [`Error::NotAllowed`](crate::Error::NotAllowed) if the nearer one is older than the
    /// further one, or of another machine by now; [`Error::Disk`](crate::Error::Disk), [`Error::Log`](crate::Error::Log).
    pub async fn round(
        &mut self,
        mut progress: impl FnMut(Length, Length) + Send,
    ) -> Result<Option<Advanced>> {
        let near = self.near.existing().await?;
        self.excluded = Kept::parse(&near.state)?.excluded;
        let Some(point) = near.latest_point().copied() else {
            return Ok(None);
        };
        loop {
            let (far, extended) = self.far().await?;
            if far.machine != near.machine {
                return Err(another().into());
            }
            if let Some(last) = far.last() {
                let gap = Gap { last, point, far };
                return self.follow(&near, &gap, extended, &mut progress).await;
            }
            let copied = self.copy(point, extended, &mut progress).await?;
            if copied.is_some() {
                return Ok(copied);
            }
        }
    }

    /// Brings a recovery point to the further replica, which has a base.
    async fn follow(
        &self,
        near: &Manifest,
        gap: &Gap,
        extended: Extended,
        progress: &mut (impl FnMut(Length, Length) + Send),
    ) -> Result<Option<Advanced>> {
        let (last, newest) = (gap.last, gap.point.sequence);
        if last > newest {
            return Err(older(newest, last).into());
        }
        let is_whole = gap.far.open_losses().next().is_none();
        if last == newest && is_whole {
            return Ok(None);
        }
        let opened = self.near.open_point(newest).await?;
        let lacks = self.mend(&gap.far, &opened).await?;
        if last == newest {
            return Ok(None);
        }
        let known = match extended.at {
            Some(at) => {
                let changed = self.near.changed_between(near, at, newest);
                changed.await?
            }
            None => None,
        };
        let (mut changed, compared) = match known {
            Some(changed) => (changed, Length::ZERO),
            None => self.compare(&opened, &gap.far, progress).await?,
        };
        for (changed, lacks) in changed.iter_mut().zip(&lacks) {
            changed.union_with(lacks);
        }
        let sent = self.publish(&opened, gap, changed).await?;
        Ok(Some(Advanced {
            point: gap.point,
            compared,
            sent,
        }))
    }

    /// Puts anew what is known to be lost of the further replica, as far as `opened` holds it as it was; what
    /// it lacks of each disk then, which goes over with the next point.
    async fn mend(&self, far: &Manifest, opened: &Point) -> Result<Vec<ExtentSet>> {
        if far.open_losses().next().is_none() {
            return Ok(vec![ExtentSet::new(); opened.disks.len()]);
        }
        let disks = opened.disks.iter().map(|disk| -> Arc<dyn BlockRead> {
            Arc::new(BlockingDisk::new(Arc::clone(disk), Handle::current()))
        });
        Ok(self.writer.mend(&disks.collect::<Vec<_>>()).await?)
    }

    /// Has the next round compare everything, whatever the logs say: for who has reason to doubt that
    /// the further replica is what it should be.
    ///
    /// # Errors
    /// [`Error::Store`](crate::Error::Store).
    pub async fn resynchronize(&mut self) -> Result<()> {
        let (_, extended) = self.far().await?;
        let doubted = Extended {
            at: None,
            ..extended
        };
        self.record(doubted).await
    }

    /// The further replica's manifest, and what it keeps of the nearer one.
    async fn far(&self) -> Result<(Manifest, Extended)> {
        let manifest = self.writer.replica().existing().await?;
        let kept = Kept::parse(&manifest.state)?;
        Ok((manifest, kept.extended.unwrap_or_default()))
    }

    /// What the further replica keeps from now on.
    fn kept(&self, extended: Extended) -> serde_json::Value {
        let report = PrimaryReport {
            state: match &extended.copy {
                Some(_) => State::InitialReplicationInProgress,
                None => State::Replicating,
            },
            health: Health::Normal,
            pending: Length::ZERO,
            interval_secs: self.policy.interval.as_secs(),
            time: Clock::timestamp(),
            statistics: None,
            positions: None,
            idle_secs: None,
            rpo: None,
        };
        let kept = Kept {
            replica: ReplicaState {
                role: Role::Replica,
                primary: Some(report),
                lineage: self.writer.epoch(),
            },
            extended: Some(extended),
            excluded: self.excluded.clone(),
            ..Kept::default()
        };
        kept.encode()
    }

    async fn record(&self, extended: Extended) -> Result<()> {
        self.writer.set_state(&self.kept(extended)).await?;
        Ok(())
    }

    /// Makes or goes on with the first copy; `None` if it is of several points, and so of none.
    async fn copy(
        &self,
        point: RecoveryPoint,
        extended: Extended,
        progress: &mut (impl FnMut(Length, Length) + Send),
    ) -> Result<Option<Advanced>> {
        let opened = self.near.open_point(point.sequence).await?;
        let mut copy = extended.copy.unwrap_or(Copy {
            sequence: point.sequence,
            is_whole: true,
            disks: vec![BaseProgress::default(); opened.disks.len()],
        });
        let far = self.writer.replica().existing().await?;
        let mut pairs = opened.disks.iter().zip(&far.disks);
        copy.is_whole &=
            copy.sequence == point.sequence && pairs.all(|(near, far)| near.size() == far.size);
        let total = sizes(&opened);
        let (mut done, mut sent, mut roots) = (Length::ZERO, Length::ZERO, Vec::new());
        for (number, disk) in opened.disks.into_iter().enumerate() {
            let size = disk.size();
            let step = |of_disk| progress(done.saturating_add(of_disk), total);
            let (root, more) = self.copy_disk(number, disk, &mut copy, step).await?;
            roots.push(root);
            sent = sent.saturating_add(more);
            done = done.saturating_add(size);
        }
        let reached = copy.is_whole.then_some(point);
        let state = self.kept(Extended {
            at: reached.map(|point| point.sequence),
            copy: None,
        });
        let published = self
            .writer
            .publish_base(copy.sequence, roots, reached, &state);
        published.await?;
        Ok(reached.map(|point| Advanced {
            point,
            compared: Length::ZERO,
            sent,
        }))
    }

    /// Copies the rest of one disk; its root, and how many bytes went over.
    async fn copy_disk(
        &self,
        number: usize,
        disk: Arc<PointDisk>,
        copy: &mut Copy,
        mut progress: impl FnMut(Length) + Send,
    ) -> Result<(ContentDigest, Length)> {
        let source: Arc<dyn BlockRead> = Arc::new(BlockingDisk::new(disk, Handle::current()));
        let known = copy.disks.get(number).cloned().unwrap_or_default();
        let mut base = self.writer.base(number, known).await?;
        let (mut sent, mut unrecorded) = (Length::ZERO, 0);
        while let Some(page) = base.next_page() {
            sent = sent.saturating_add(base.copy_page(Arc::clone(&source)).await?.sent);
            progress(Length::new(page.end().get()));
            unrecorded += 1;
            if unrecorded == PAGES || base.next_page().is_none() {
                unrecorded = 0;
                if let Some(known) = copy.disks.get_mut(number) {
                    *known = base.progress();
                }
                let copy = Some(copy.clone());
                self.record(Extended { at: None, copy }).await?;
            }
        }
        Ok((base.finish().await?, sent))
    }

    /// Where the blocks of `opened` differ from what the further replica holds, or may, since what would tell
    /// is lost; and how many bytes were compared.
    async fn compare(
        &self,
        opened: &Point,
        far: &Manifest,
        progress: &mut (impl FnMut(Length, Length) + Send),
    ) -> Result<(Vec<ExtentSet>, Length)> {
        let replica = self.writer.replica();
        let sizes_there: Vec<_> = far.disks.iter().map(|disk| disk.size).collect();
        let held = replica.open_to_compare(far, &sizes_there).await?;
        let total = sizes(opened);
        let (mut done, mut all) = (Length::ZERO, Vec::new());
        for (number, (near, held)) in opened.disks.iter().zip(&held.disks).enumerate() {
            let (mut differing, unreadable) = (ExtentSet::new(), far.unreadable(number));
            for block in blocks(near.size()) {
                let at = block.start();
                let is_held =
                    at.get() < held.size().get() && unreadable.within(block).next().is_none();
                let held = if is_held {
                    held.block_digest(at).await?
                } else {
                    ContentDigest::NONE
                };
                if near.block_digest(at).await? != held {
                    differing.insert(block);
                }
                done = done.saturating_add(block.length());
                if at.get().is_multiple_of(Length::mib(64).get()) {
                    progress(done, total);
                }
            }
            all.push(differing);
        }
        progress(total, total);
        Ok((all, total))
    }

    /// Brings what `opened` holds in the extents `changed` to the further replica, as its newest
    /// recovery point; how many bytes went over.
    async fn publish(&self, opened: &Point, gap: &Gap, changed: Vec<ExtentSet>) -> Result<Length> {
        let (mut logs, mut amends) = (Vec::new(), Vec::new());
        for (number, (disk, extents)) in opened.disks.iter().zip(changed).enumerate() {
            let losses = gap.far.open_losses().filter(|loss| loss.disk == number);
            amends.extend(losses.map(|loss| loss.clone().without(&extents)));
            logs.push(self.put(number, disk, extents, gap).await?);
        }
        let sent = sum(logs.iter().flatten().map(|log| log.length));
        let sequence = gap.point.sequence;
        let publication = Publication {
            first: gap.last.next(),
            sizes: opened.disks.iter().map(|disk| disk.size()).collect(),
            predecessors: vec![ContentDigest::NONE; logs.len()],
            logs: LogEntry {
                sequence,
                disks: logs,
            },
            after_loss: false,
            point: Some(gap.point),
            amends,
        };
        let state = self.kept(Extended {
            at: Some(sequence),
            copy: None,
        });
        transfer::publish(&self.policy, &self.writer, &publication, &state).await?;
        Ok(sent)
    }

    /// Puts a log of what disk number `number` holds in `extents`; none if that is nothing.
    async fn put(
        &self,
        number: usize,
        disk: &Arc<PointDisk>,
        extents: ExtentSet,
        gap: &Gap,
    ) -> Result<Option<LogObject>> {
        let ours = gap.far.disks.get(number).filter(|_| !extents.is_empty());
        let Some(ours) = ours else {
            return Ok(None);
        };
        let header = LogHeader {
            disk: ours.id,
            disk_size: disk.size(),
            epoch: self.writer.epoch(),
            first: gap.last.next(),
            last: gap.point.sequence,
            created: Clock::timestamp(),
        };
        let name = format!(".afterimage-{}-{number}.ailog", gap.far.name);
        let path = self.scratch.join(name);
        let extents = coarse_enough(extents, disk.size());
        let source = BlockingDisk::new(Arc::clone(disk), Handle::current());
        let made = blocking(move || {
            let mut log = FileWriter::create(&path, header, WriterOptions::default())?;
            for extent in extents.iter() {
                log_extent(&mut log, &source, extent)?;
            }
            Ok(log.seal(ContentDigest::NONE)?)
        });
        let log = made.await?;
        let put = self.writer.put_log(number, &log).await;
        // It is made anew where it is needed again.
        let _ = std::fs::remove_file(log.path());
        Ok(Some(put?))
    }
}

/// What lies between the two replicas.
struct Gap {
    /// The newest barrier of the further one.
    last: Sequence,
    /// The newest recovery point of the nearer one.
    point: RecoveryPoint,
    far: Manifest,
}

/// The disks as they are at the newest point, which is the first to go over.
fn disks_to_extend(manifest: &Manifest) -> Vec<ReplicaDisk> {
    let newest = manifest.latest_point().map(|point| point.sequence);
    let sizes = manifest.sizes_at(newest.or(manifest.last()).unwrap_or_default());
    let disks = manifest.disks.iter().zip(sizes);
    disks
        .map(|(disk, size)| ReplicaDisk {
            size,
            ..disk.clone()
        })
        .collect()
}

/// Whether an extension may have the replica: one that is new, or an extension's already.
fn admits_extension(kept: &Kept, is_new: bool) -> Result<(), NotAllowed> {
    if kept.extended.is_none() && !is_new {
        return Err(NotAllowed {
            reason: "it is the replica of a primary, or was failed over for good".into(),
            advice: "extend to another store",
        });
    }
    kept.replica.role.admits_primary()
}

fn another() -> NotAllowed {
    NotAllowed {
        reason: "the nearer replica is of another machine of this name by now".into(),
        advice: "extend that one to another store",
    }
}

fn older(near: Sequence, far: Sequence) -> NotAllowed {
    NotAllowed {
        reason: format!(
            "the newest recovery point is {near}, and the further replica is at {far} already"
        ),
        advice: "if the nearer replica was rolled back, fail over to the further one",
    }
}

fn sizes(point: &Point) -> Length {
    sum(point.disks.iter().map(|disk| disk.size()))
}

/// The blocks whose digests are compared.
fn blocks(size: Length) -> impl Iterator<Item = Extent> {
    let whole = Extent::whole(size).into_iter();
    whole.flat_map(|whole| whole.pieces(BlockSize::default().length()))
}

/// `extents`, in whole blocks where they are too many for the index of one log.
fn coarse_enough(extents: ExtentSet, size: Length) -> ExtentSet {
    if extents.runs() <= WriterOptions::default().pieces_max / 2 {
        return extents;
    }
    let block = BlockSize::default().length();
    let blocks = extents.iter();
    blocks
        .map(|extent| extent.aligned_out(block, size))
        .collect()
}
