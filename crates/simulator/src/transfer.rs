//! What goes over to the replica, as a driver sends it: the claim, the first copy, deltas, differences,
//! and that a delta was the last.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use afterimage_block::{
    BlockRead, ContentDigest, DiskId, Epoch, Extent, ExtentSet, Length, MachineId, Sequence,
    SessionId, Snapshot, Timestamp, TrackedDisk,
};
use afterimage_changelog::{Error as LogError, FileWriter, LogHeader, SealedLog, WriterOptions};
use afterimage_replication::{Event, Position, PrimaryReport, ReplicaState, Role, Scope, Shipment};
use afterimage_resync::{BlockSize, Comparer, Session, Signature, SignaturePage};
use afterimage_store::{
    BaseProgress, Claim, Consistency, Error as StoreError, Inlining, LogEntry, Manifest, PointDisk,
    Publication, RecoveryPoint, Replica, ReplicaDisk, Store, Writer,
};
use serde_json::Value;

use crate::coverage::Mark;
use crate::error::Failed;
use crate::hub::Hub;
use crate::objects::Objects;
use crate::plant::Plant;
use crate::tracking::log_path;

/// Signatures that are fetched for one step of a comparison.
const SIGNATURES: usize = 1;

/// What a task tells the machine.
pub(crate) struct Answer {
    pub(crate) event: Event,
    /// What a claim brought.
    pub(crate) writer: Option<Box<Writer>>,
    /// What a barrier brought: the digests that the next logs name as their predecessors.
    pub(crate) predecessors: Option<Vec<ContentDigest>>,
}

impl From<Event> for Answer {
    fn from(event: Event) -> Self {
        Self {
            event,
            writer: None,
            predecessors: None,
        }
    }
}

/// One disk, as transfers need it.
#[derive(Clone)]
pub(crate) struct DiskHandle {
    pub(crate) id: DiskId,
    pub(crate) tracked: Arc<TrackedDisk>,
    pub(crate) logs: std::path::PathBuf,
}

/// What all transfers of a site have in common.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) hub: Hub,
    pub(crate) objects: Objects,
    pub(crate) inlining: Inlining,
    pub(crate) machine: MachineId,
    pub(crate) identity: Vec<ReplicaDisk>,
    pub(crate) disks: Vec<DiskHandle>,
    pub(crate) report: PrimaryReport,
    /// How far the first copies are: durable.
    pub(crate) base: Rc<RefCell<Vec<BaseProgress>>>,
}

/// The name of the one machine.
pub(crate) const NAME: &str = "machine";

/// The replica, seen through `objects`; its manifests hold so much of the logs.
pub(crate) async fn replica(objects: Objects, inlining: Inlining) -> Result<Replica, Failed> {
    let store = Store::with_objects(Arc::new(objects)).await?;
    Ok(store.with_inlining(inlining).replica(NAME.parse()?))
}

/// What a manifest carries for the state machine.
pub(crate) fn parse_state(state: &Value) -> Result<ReplicaState, StoreError> {
    if state.is_null() {
        return Ok(ReplicaState::default());
    }
    serde_json::from_value(state.clone()).map_err(|error| StoreError::Damaged {
        object: "manifest.json".into(),
        reason: error.to_string(),
    })
}

pub(crate) fn encode_state(state: &ReplicaState) -> Value {
    serde_json::to_value(state).unwrap_or_default()
}

impl Context {
    fn kept(&self, role: Role, epoch: Epoch) -> Value {
        encode_state(&ReplicaState {
            role,
            primary: Some(self.report.clone()),
            lineage: epoch,
        })
    }

    /// Claims the replica, which was last claimed in epoch `known`.
    pub(crate) async fn claim(self, known: Epoch) -> Result<Answer, Failed> {
        let replica = replica(self.objects.clone(), self.inlining).await?;
        let claim = Claim {
            machine: self.machine,
            session: SessionId::random(),
            disks: self.identity.clone(),
        };
        let ignored = self.hub.is_planted(Plant::LineageIgnored);
        let admits = |state: &Value| {
            let mut state = parse_state(state)?;
            let known = if ignored { state.lineage } else { known };
            state.claimed(known).map_err(|refusal| {
                self.hub.mark(Mark::FormerPrimaryRefused);
                StoreError::Refused(refusal.to_string())
            })?;
            Ok(encode_state(&state))
        };
        let writer = replica.claim(claim, admits).await?;
        let manifest = writer.replica().existing().await?;
        self.hub.mark(Mark::Claimed);
        let position = manifest.last().map_or(Position::Empty, Position::At);
        let epoch = writer.epoch();
        Ok(Answer {
            writer: Some(Box::new(writer)),
            ..Event::Claimed { epoch, position }.into()
        })
    }

    /// Copies what the base still lacks from the snapshots, and publishes it.
    pub(crate) async fn copy(
        self,
        writer: Writer,
        base: Sequence,
        point: Option<Timestamp>,
        snapshots: Vec<Arc<Snapshot>>,
    ) -> Result<Answer, Failed> {
        let mut roots = Vec::new();
        for (number, snapshot) in snapshots.into_iter().enumerate() {
            let progress = self.base.borrow().get(number).cloned().unwrap_or_default();
            let mut copy = writer.base(number, progress).await?;
            let source: Arc<dyn BlockRead> = if self.hub.is_planted(Plant::CopyOfRunningDisk) {
                Arc::clone(&self.disks[number].tracked) as _
            } else {
                snapshot
            };
            while copy.next_page().is_some() {
                copy.copy_page(Arc::clone(&source)).await?;
                if let Some(progress) = self.base.borrow_mut().get_mut(number) {
                    *progress = copy.progress();
                }
            }
            roots.push(copy.finish().await?);
        }
        let recovery = point.map(|time| RecoveryPoint {
            sequence: base,
            time,
            consistency: Consistency::Crash,
        });
        let state = self.kept(Role::Replica, writer.epoch());
        writer.publish_base(base, roots, recovery, &state).await?;
        self.hub.mark(Mark::Copied);
        Ok(Event::Copied.into())
    }

    /// Ships the logs of one generation, publishes them, and drops old points.
    pub(crate) async fn ship(
        self,
        writer: Writer,
        shipment: Shipment,
        points_max: usize,
    ) -> Result<Answer, Failed> {
        if self.hub.is_planted(Plant::AcknowledgedEarly) && self.hub.chance(50) {
            return Ok(Event::Shipped.into());
        }
        let (mut logs, mut predecessors) = (Vec::new(), Vec::new());
        for (number, disk) in self.disks.iter().enumerate() {
            let mut present = shipment.present.get(number).copied().unwrap_or_default();
            if self.hub.is_planted(Plant::ShipmentLacksDisk) && self.hub.chance(50) {
                present = false;
            }
            let log = match SealedLog::open(&log_path(&disk.logs, shipment.sequence)) {
                _ if !present => None,
                Ok(log) => Some(log),
                Err(_) => return Ok(Event::LogUnreadable { disk: number }.into()),
            };
            let predecessor = log.as_ref().map(|log| log.summary().predecessor);
            predecessors.push(predecessor.unwrap_or(ContentDigest::NONE));
            logs.push(match log {
                Some(log) => Some(writer.put_log(number, &log).await?),
                None => None,
            });
        }
        let consistency = if shipment.application_consistent {
            Consistency::Application
        } else {
            Consistency::Crash
        };
        let publication = Publication {
            first: shipment.sequence,
            logs: LogEntry {
                sequence: shipment.sequence,
                disks: logs,
            },
            sizes: shipment.sizes.clone(),
            predecessors,
            after_loss: shipment.after_loss,
            point: shipment.point.then_some(RecoveryPoint {
                sequence: shipment.sequence,
                time: shipment.time,
                consistency,
            }),
            amends: Vec::new(),
        };
        let state = self.kept(Role::Replica, writer.epoch());
        if shipment.point {
            let kept = |_: &Manifest| points_max;
            let publish = writer.publish_retaining(&publication, &state, kept);
            publish.await?;
            // What fails is done the next time: the new point is there in any case.
            let _ = writer.retain(points_max).await;
        } else {
            writer.publish(&publication, &state).await?;
        }
        Ok(Event::Shipped.into())
    }

    /// Records that the last delta is there and the machine stopped.
    pub(crate) async fn prepare(self, writer: Writer, through: Sequence) -> Result<Answer, Failed> {
        let state = self.kept(Role::PreparedForFailover { through }, writer.epoch());
        writer.set_state(&state).await?;
        Ok(Event::Prepared.into())
    }

    /// Tells the replica that its primary no longer replicates.
    pub(crate) async fn release(self, writer: Writer) -> Result<(), Failed> {
        let state = self.kept(Role::Replica, writer.epoch());
        writer.set_state(&state).await?;
        Ok(())
    }

    /// Records that the machine is idle, and alive.
    pub(crate) async fn heartbeat(self, writer: Writer) -> Result<Answer, Failed> {
        let state = self.kept(Role::Replica, writer.epoch());
        writer.set_state(&state).await?;
        Ok(Event::Heard.into())
    }

    /// Compares the disks with the replica within `scopes` and publishes what differs.
    pub(crate) async fn resync(
        self,
        writer: Writer,
        sequence: Sequence,
        scopes: Vec<Scope>,
    ) -> Result<Answer, Failed> {
        let manifest = writer.replica().existing().await?;
        let last = manifest.last().ok_or(Failed::NotClaimed)?;
        let point = writer.replica().open_point(last).await?;
        let (mut logs, mut left) = (Vec::new(), Vec::new());
        let disks = self.disks.iter().zip(&point.disks).zip(&scopes);
        for (number, ((disk, replica), scope)) in disks.enumerate() {
            let mut doubtful = scope.extents(replica.size());
            if let (Some(last), true) = (
                doubtful.iter().last(),
                self.hub.is_planted(Plant::ScopeCutShort),
            ) {
                doubtful.remove(last);
            }
            if doubtful.is_empty() {
                logs.push(None);
                left.push(Scope::NOTHING);
                continue;
            }
            let epoch = writer.epoch();
            let found = self.compare(disk, replica, doubtful, sequence, epoch).await;
            let (log, more) = found?;
            logs.push(Some(writer.put_log(number, &log).await?));
            let _ = std::fs::remove_file(log.path());
            let forgotten = self.hub.is_planted(Plant::LeftoversForgotten);
            left.push(if forgotten {
                Scope::NOTHING
            } else {
                more.into()
            });
        }
        let publication = Publication {
            first: sequence,
            sizes: manifest.disks.iter().map(|disk| disk.size).collect(),
            predecessors: vec![ContentDigest::NONE; logs.len()],
            logs: LogEntry {
                sequence,
                disks: logs,
            },
            after_loss: true,
            point: None,
            amends: Vec::new(),
        };
        let state = self.kept(Role::Replica, writer.epoch());
        writer.publish(&publication, &state).await?;
        self.hub.mark(Mark::Resynchronized);
        Ok(Event::Resynchronized { left }.into())
    }

    /// Logs what differs on one disk, for as long as the log has room; also what is left.
    async fn compare(
        &self,
        disk: &DiskHandle,
        replica: &PointDisk,
        doubtful: ExtentSet,
        sequence: Sequence,
        epoch: Epoch,
    ) -> Result<(SealedLog, ExtentSet), Failed> {
        let mut log = self.begin_differences(disk, sequence, epoch)?;
        let session = Session::of(replica.size(), BlockSize::default(), &doubtful)?;
        let mut comparer: Comparer = Comparer::new(session);
        let skips = self.hub.is_planted(Plant::DifferenceNotSent);
        while let Some(next) = comparer.next_in_doubt() {
            let signatures = signatures(replica, next).await?;
            let first = comparer.session().grid().index_at(next.start());
            let page = SignaturePage::new(first, &signatures);
            let time = self.hub.wall();
            let hub = &self.hub;
            let compared = comparer.compare::<Failed>(disk.tracked.as_ref(), page, |change| {
                if !skips || hub.chance(500) {
                    log.append(change, time)?;
                }
                Ok(())
            });
            match compared {
                Err(Failed::Log(LogError::OverQuota { .. })) if log.records() > 0 => {
                    self.hub.mark(Mark::PartialResync);
                    let left = not_before(doubtful, next);
                    return Ok((log.seal(ContentDigest::NONE)?, left));
                }
                compared => compared?,
            }
        }
        Ok((log.seal(ContentDigest::NONE)?, ExtentSet::new()))
    }

    /// The log that the differences of one disk go to; at times it has little room.
    fn begin_differences(
        &self,
        disk: &DiskHandle,
        sequence: Sequence,
        epoch: Epoch,
    ) -> Result<FileWriter, Failed> {
        let header = LogHeader {
            disk: disk.id,
            disk_size: disk.tracked.size(),
            epoch,
            first: sequence,
            last: sequence,
            created: self.hub.wall(),
        };
        let narrow = self.hub.has_faults() && self.hub.chance(200);
        let room = if narrow {
            Length::kib(80)
        } else {
            Length::mib(4)
        };
        let options = WriterOptions::default().with_quota(room);
        let path = log_path(&disk.logs, sequence);
        Ok(FileWriter::create(&path, header, options)?)
    }
}

/// The part of `extents` from the start of `next` on.
fn not_before(mut extents: ExtentSet, next: Extent) -> ExtentSet {
    if let Some(before) = Extent::between(afterimage_block::Offset::ZERO, next.start()) {
        extents.remove(before);
    }
    extents
}

/// The replica's signatures of the first blocks of `extent`.
async fn signatures(replica: &PointDisk, extent: Extent) -> Result<Vec<Signature>, Failed> {
    let mut signatures = Vec::new();
    for block in extent
        .pieces(BlockSize::default().length())
        .take(SIGNATURES)
    {
        let digest = replica.block_digest(block.start()).await?;
        signatures.push(Signature::from(digest));
    }
    Ok(signatures)
}
