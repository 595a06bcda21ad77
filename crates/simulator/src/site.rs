//! One site: its disks, what it keeps durably, and the process that protects its machine while it runs.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use afterimage_block::{ContentDigest, DiskId, Epoch, Sequence};
use afterimage_replication::{Barrier, Machine, Scope, Standby, Task};
use afterimage_retry::Time;
use afterimage_store::{BaseProgress, Writer};
use futures::future::LocalBoxFuture;

use crate::disk::SimDisk;
use crate::error::Failed;
use crate::operator::{Operation, Outcome};
use crate::tracking::{Images, Tracker, Untracked};
use crate::transfer::Answer;

/// What a site is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Nothing,
    Primary,
    FailedOver(FailedOver),
    Standby(Standby),
}

/// A failover whose images are at a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FailedOver {
    pub(crate) point: Sequence,
    /// The epoch that it began.
    pub(crate) fence: Epoch,
    /// What the site was before.
    pub(crate) before: Option<Standby>,
    /// The epoch that its commit began.
    pub(crate) committed: Option<Epoch>,
}

/// What a site keeps through a crash.
#[derive(Clone, Debug)]
pub(crate) struct Saved {
    pub(crate) side: Side,
    pub(crate) machine: Machine,
    pub(crate) predecessors: Vec<ContentDigest>,
    /// Whether the last process ended in order.
    pub(crate) clean: bool,
    /// Whether the first disk was changed since, which its file shows.
    pub(crate) changed: bool,
}

/// What is under way in a process.
pub(crate) enum Pending {
    Barrier(Barrier),
    /// An answer that the machine has not heard yet.
    Answer(Task, Result<Answer, Failed>),
    Transfer(Task, LocalBoxFuture<'static, Result<Answer, Failed>>),
    /// A transfer that was given up.
    Aborted(Task),
    /// The replica is told that it has no primary any more, which is not answered.
    Release(LocalBoxFuture<'static, Result<(), Failed>>),
    Discard(Vec<Sequence>),
    HoldStill,
    GoOn,
}

/// A process that protects the machine.
pub(crate) struct Process {
    pub(crate) machine: Machine,
    pub(crate) tracker: Tracker,
    pub(crate) writer: Option<Writer>,
    pub(crate) pending: Vec<Pending>,
    /// Those of the last barrier that the machine knows of.
    pub(crate) predecessors: Vec<ContentDigest>,
    /// The guest was stopped for good.
    pub(crate) stopped: bool,
    /// The guest holds still.
    pub(crate) still: bool,
    /// It was told to, and wrote all the same.
    pub(crate) moved: bool,
}

impl Process {
    /// Gives a transfer up. If it has ended by itself, that is its answer.
    pub(crate) fn give_up(&mut self, task: Task) {
        let running =
            |pending: &&mut Pending| matches!(pending, Pending::Transfer(of, _) if *of == task);
        if let Some(pending) = self.pending.iter_mut().find(running) {
            *pending = Pending::Aborted(task);
        }
    }
}

/// What an observer of the site knows.
#[derive(Default)]
pub(crate) struct Record {
    /// What the disks held at each barrier.
    pub(crate) barriers: BTreeMap<Sequence, Rc<Images>>,
    /// How many writes had been acknowledged then.
    pub(crate) counts: BTreeMap<Sequence, usize>,
    /// When each write was acknowledged.
    pub(crate) acknowledged: Vec<Time>,
    /// The barriers that found the guest still.
    pub(crate) still: BTreeSet<Sequence>,
    /// Sealed logs that were damaged, or lost by a fault.
    pub(crate) damaged: BTreeSet<Sequence>,
}

/// An operation of the site's operator.
pub(crate) struct Running {
    pub(crate) operation: Operation,
    pub(crate) work: LocalBoxFuture<'static, Result<Outcome, Failed>>,
}

/// One site.
pub(crate) struct Site {
    pub(crate) folders: Vec<PathBuf>,
    pub(crate) disks: Vec<Arc<SimDisk>>,
    pub(crate) ids: Vec<DiskId>,
    pub(crate) saved: Saved,
    pub(crate) base: Rc<RefCell<Vec<BaseProgress>>>,
    pub(crate) process: Option<Process>,
    pub(crate) operation: Option<Running>,
    pub(crate) record: Record,
    /// Whether a fault has taken intents since the last start.
    pub(crate) intents_lost: bool,
}

impl Site {
    /// Whether the machine, as it is recorded, knows of one of its disks nothing more than that it may differ.
    pub(crate) fn doubts_a_whole_disk(&self) -> bool {
        let doubt = self.saved.machine.doubt();
        doubt.contains(&Scope::Everything)
    }

    pub(crate) fn untracked(&self) -> Vec<Untracked> {
        let disks = self.ids.iter().zip(&self.disks).zip(&self.folders);
        disks
            .zip(&self.saved.predecessors)
            .map(|(((id, raw), logs), predecessor)| Untracked {
                id: *id,
                raw: Arc::clone(raw),
                logs: logs.clone(),
                predecessor: *predecessor,
            })
            .collect()
    }

    pub(crate) fn images(&self) -> Images {
        self.disks.iter().map(|disk| disk.contents()).collect()
    }

    pub(crate) fn holds(&self, images: &Images) -> bool {
        let disks = self.disks.iter().zip(images);
        images.len() == self.disks.len() && disks.into_iter().all(|(disk, image)| disk.holds(image))
    }

    /// Whether something is under way.
    pub(crate) fn is_busy(&self) -> bool {
        let process = self.process.as_ref();
        self.operation.is_some() || process.is_some_and(|process| !process.pending.is_empty())
    }

    /// Whether a guest runs on the disks now, and takes its turn. Where `unclaimed` says so, also on
    /// those that are not to be served yet.
    pub(crate) fn has_guest(&self, unclaimed: bool) -> bool {
        match (&self.saved.side, &self.process) {
            (Side::Primary, Some(process)) => {
                let served = unclaimed || !process.machine.must_claim_first();
                served && !process.stopped && !process.still
            }
            (Side::FailedOver(failover), _) => failover.committed.is_some(),
            _ => false,
        }
    }

    /// Takes note of a barrier.
    pub(crate) fn note_barrier(&mut self, sequence: Sequence, images: Images) {
        let record = &mut self.record;
        record.barriers.insert(sequence, Rc::new(images));
        record.counts.insert(sequence, record.acknowledged.len());
        record.still.remove(&sequence);
    }

    /// Forgets the disks' state, logs and intents: the machine is another from now on.
    pub(crate) fn clear_folders(&self) {
        for folder in &self.folders {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            for entry in entries {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}
