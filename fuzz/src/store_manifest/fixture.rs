//! A replica of one small disk with ten logs, always the same: three in objects of their own, four in a pack
//! and three in the manifest; together so long that a fold is worth it.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use afterimage_block::{
    Change, ContentDigest, DiskId, Epoch, Extent, Length, MachineId, MemoryDisk, Offset, Sequence,
    SessionId, Timestamp,
};
use afterimage_changelog::{FileWriter, LogHeader, SealedLog, WriterOptions};
use afterimage_store::{
    BaseProgress, Claim, Consistency, Inlining, LogEntry, Manifest, Publication, RecoveryPoint,
    Replica, ReplicaDisk, Store, Writer,
};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::runtime::{Builder, Runtime};

use crate::scratch;

pub(super) const SIZE: Length = Length::kib(192);
pub(super) const DISK: DiskId = DiskId::from_bytes([1; 16]);
pub(super) const MACHINE: MachineId = MachineId::from_bytes([2; 16]);
const LAST: u64 = 11;
/// The last of the long logs.
const LONG: u64 = 4;
const INLINING: Inlining = Inlining {
    log_max: Length::kib(2),
    total_max: Length::kib(4),
};

/// The replica, and what is known of it.
pub(super) struct Fixture {
    pub(super) manifest: Value,
    runtime: Runtime,
    objects: InMemory,
    base: Vec<u8>,
    /// What each log does, as a write and a zeroed extent.
    steps: BTreeMap<Sequence, Step>,
}

/// What one log holds.
struct Step {
    offset: Offset,
    data: Vec<u8>,
    zeroed: Extent,
}

/// A store with a manifest of the fuzzer's.
pub(super) struct Forged {
    objects: Arc<InMemory>,
    store: Store,
}

static FIXTURE: LazyLock<Fixture> = LazyLock::new(Fixture::make);

/// The fixture's disk, as its machine names it.
pub(super) fn disk() -> ReplicaDisk {
    ReplicaDisk {
        id: DISK,
        name: "root".parse().expect("it is a name"),
        size: SIZE,
    }
}

fn path() -> Path {
    Path::from("machines/web/manifest.json")
}

fn replica(store: &Store) -> Replica {
    store.replica("web".parse().expect("it is a name"))
}

impl Fixture {
    pub(super) fn get() -> &'static Self {
        &FIXTURE
    }

    pub(super) fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    fn make() -> Self {
        let runtime = Builder::new_current_thread().build();
        let runtime = runtime.expect("a runtime can be made");
        let mut base: Vec<u8> = (0..=u8::MAX).cycle().take(192 << 10).collect();
        base[64 << 10..128 << 10].fill(0);
        let steps = (2..=LAST).map(|at| (Sequence::new(at), Step::of(at)));
        let mut fixture = Self {
            manifest: Value::Null,
            runtime,
            objects: InMemory::new(),
            base,
            steps: steps.collect(),
        };
        let (objects, manifest) = fixture.runtime.block_on(fixture.fill());
        fixture.objects = objects;
        fixture.manifest = manifest;
        fixture
    }

    /// Fills a store with a base and the logs.
    async fn fill(&self) -> (InMemory, Value) {
        let objects = Arc::new(InMemory::new());
        let store = Store::with_objects(Arc::clone(&objects) as _).await;
        let store = store.expect("memory honours conditions");
        let replica = replica(&store.with_inlining(INLINING));
        let claim = Claim {
            machine: MACHINE,
            session: SessionId::from_bytes([3; 16]),
            disks: vec![disk()],
        };
        let writer = replica
            .claim(claim, |kept| Ok(kept.clone()))
            .await
            .expect("it is new");
        let source = Arc::new(MemoryDisk::with_contents(&self.base));
        let mut base = writer.base(0, BaseProgress::default()).await.expect("new");
        while base.next_page().is_some() {
            base.copy_page(source.clone()).await.expect("it is copied");
        }
        let roots = vec![base.finish().await.expect("all is copied")];
        let first = Sequence::new(1);
        let published = writer.publish_base(first, roots, Some(point(first)), &Value::Null);
        published.await.expect("it is published");
        let mut predecessor = ContentDigest::NONE;
        for (sequence, step) in &self.steps {
            predecessor = publish(&writer, *sequence, step, predecessor).await;
        }
        let mut manifest: Value =
            serde_json::from_slice(json_of(&read(&objects).await)).expect("it is JSON");
        manifest["commit"] = json!(SessionId::from_bytes([5; 16]));
        let objects = objects.fork();
        (objects, manifest)
    }

    /// A store that is the fixture's, but for the manifest.
    pub(super) async fn store_with(&self, manifest: &[u8]) -> Forged {
        let objects = Arc::new(self.objects.fork());
        let payload = PutPayload::from(manifest.to_vec());
        objects
            .put(&path(), payload)
            .await
            .expect("memory takes it");
        let store = Store::with_objects(Arc::clone(&objects) as _).await;
        Forged {
            objects,
            store: store.expect("memory honours conditions"),
        }
    }

    /// Whether the checkpoint of disk number `disk` is the base; logs are folded into it.
    pub(super) fn is_base(&self, manifest: &Manifest, disk: usize) -> bool {
        let checkpoint = manifest.checkpoint.as_ref();
        let root = checkpoint.and_then(|checkpoint| checkpoint.roots.get(disk));
        root.is_some_and(|root| json!(root) == self.manifest["checkpoint"]["roots"][0])
    }

    /// The disk with these logs on it; logs that the fixture has not change nothing.
    pub(super) fn image(&self, logs: impl Iterator<Item = Sequence>) -> Vec<u8> {
        let disk = MemoryDisk::with_contents(&self.base);
        for change in logs
            .filter_map(|log| self.steps.get(&log))
            .flat_map(Step::changes)
        {
            change.apply_to(&disk).expect("it lies on the disk");
        }
        disk.contents()
    }
}

impl Forged {
    pub(super) fn replica(&self) -> Replica {
        replica(&self.store)
    }

    /// The bytes of the manifest.
    pub(super) async fn manifest(&self) -> Vec<u8> {
        read(&self.objects).await
    }
}

/// The length of a manifest's seal.
const SEAL: usize = 66;

fn json_of(manifest: &[u8]) -> &[u8] {
    &manifest[..manifest.len() - SEAL]
}

/// A manifest with this JSON: what is fuzzed is behind the seal.
pub(super) fn sealed(json: &[u8]) -> Vec<u8> {
    let digest = ContentDigest::new(Sha256::digest(json).into());
    [json, format!("\n{digest}\n").as_bytes()].concat()
}

async fn read(objects: &InMemory) -> Vec<u8> {
    let found = objects.get(&path()).await.expect("there is a manifest");
    found.bytes().await.expect("memory gives it").into()
}

fn point(sequence: Sequence) -> RecoveryPoint {
    RecoveryPoint {
        sequence,
        time: Timestamp::from_nanos(sequence.get() * 1000),
        consistency: Consistency::Crash,
    }
}

/// Ships the log of one step; its digest.
async fn publish(
    writer: &Writer,
    sequence: Sequence,
    step: &Step,
    predecessor: ContentDigest,
) -> ContentDigest {
    let folder = scratch();
    let log = step.log(&folder.path().join("log"), sequence, predecessor);
    let object = writer.put_log(0, &log).await.expect("it is stored");
    let publication = Publication {
        first: sequence,
        logs: LogEntry {
            sequence,
            disks: vec![Some(object)],
        },
        sizes: vec![log.header().disk_size],
        predecessors: vec![predecessor],
        after_loss: false,
        // Not every barrier is a recovery point.
        point: (!sequence.get().is_multiple_of(3)).then(|| point(sequence)),
        amends: Vec::new(),
    };
    let published = writer.publish(&publication, &Value::Null).await;
    published.expect("it is published");
    log.summary().content
}

impl Step {
    fn of(number: u64) -> Self {
        let length = if number <= LONG { 17_000 } else { 900 };
        let zeroed = Extent::new(Offset::new(number * 16_000), Length::new(700));
        Self {
            offset: Offset::new(number * 17_000),
            data: vec![u8::try_from(number).expect("there are few"); length],
            zeroed: zeroed.expect("it is an extent"),
        }
    }

    fn changes(&self) -> [Change<'_>; 2] {
        let write = Change::Write {
            offset: self.offset,
            data: &self.data,
        };
        [write, Change::WriteZeroes(self.zeroed)]
    }

    fn log(
        &self,
        path: &std::path::Path,
        sequence: Sequence,
        predecessor: ContentDigest,
    ) -> SealedLog {
        let header = LogHeader {
            disk: DISK,
            disk_size: SIZE,
            epoch: Epoch::new(1),
            first: sequence,
            last: sequence,
            created: Timestamp::default(),
        };
        let log = FileWriter::create(path, header, WriterOptions::default());
        let mut log = log.expect("a log can be made");
        for change in self.changes() {
            log.append(change, Timestamp::default()).expect("it fits");
        }
        log.seal(predecessor).expect("a log can be sealed")
    }
}
