//! The requests that are reckoned are those that a store is asked for.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use afterimage_block::{
    Change, ContentDigest, DiskId, Epoch, Length, MachineId, MemoryDisk, Offset, Sequence,
    SessionId, Timestamp,
};
use afterimage_capacity::{Assumptions, MONTH, Plan, Recording};
use afterimage_changelog::{FileWriter, LogHeader, SealedLog, WriterOptions};
use afterimage_store::{
    BaseProgress, Claim, Consistency, LogEntry, Publication, RecoveryPoint, ReplicaDisk, Store,
    Writer,
};
use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use serde_json::Value;

/// A store that counts puts, gets and deletions.
#[derive(Debug, Default)]
struct Counted {
    inner: InMemory,
    counts: Arc<[AtomicU32; 3]>,
}

impl Counted {
    fn count(&self, which: usize) {
        self.counts[which].fetch_add(1, Ordering::SeqCst);
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Counted {
    async fn put_opts(&self, at: &Path, of: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.count(0);
        self.inner.put_opts(at, of, options).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        self.count(1);
        self.inner.get_opts(at, options).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let counts = Arc::clone(&self.counts);
        let paths = paths.inspect(move |_| {
            counts[2].fetch_add(1, Ordering::SeqCst);
        });
        self.inner.delete_stream(paths.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

const SIZE: Length = Length::mib(256);
const POINTS: u64 = 4;
/// Generations that are folded at once: 128, but for those that points need.
const FOLDED: u64 = 128 - (POINTS - 1);
/// Before this generation, points are still being gathered; whole folds come after it.
const COUNTED_FROM: u64 = 1 + POINTS + FOLDED;
const GENERATIONS: u64 = FOLDED * 2;

/// Writes here and there, a third of them to the same place.
fn generation(
    folder: &std::path::Path,
    disk: DiskId,
    sequence: u64,
    last: ContentDigest,
) -> SealedLog {
    let header = LogHeader {
        disk,
        disk_size: SIZE,
        epoch: Epoch::new(1),
        first: Sequence::new(sequence),
        last: Sequence::new(sequence),
        created: Timestamp::default(),
    };
    let path = folder.join(format!("{disk}.{sequence}"));
    let mut log = FileWriter::create(&path, header, WriterOptions::default()).unwrap();
    for write in 0..6 {
        let place = if write % 3 == 0 {
            7
        } else {
            sequence * 13 + write * 101
        };
        let change = Change::Write {
            offset: Offset::new(place * 4096 % (SIZE.get() - 4096)),
            data: &[u8::try_from(sequence % 250).unwrap(); 4096],
        };
        // One generation in each interval.
        log.append(change, Timestamp::from_nanos(sequence * 30_000_000_000))
            .unwrap();
    }
    log.seal(last).unwrap()
}

/// Publishes a first copy of empty disks.
async fn copy(writer: &Writer, disks: usize, state: &Value) {
    let source = Arc::new(MemoryDisk::new(SIZE));
    let mut roots = Vec::new();
    for disk in 0..disks {
        let mut base = writer.base(disk, BaseProgress::default()).await.unwrap();
        while base.next_page().is_some() {
            base.copy_page(source.clone()).await.unwrap();
        }
        roots.push(base.finish().await.unwrap());
    }
    let published = writer.publish_base(Sequence::new(1), roots, None, state);
    published.await.unwrap();
}

#[tokio::test]
async fn requests_are_those_of_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let objects = Arc::new(Counted::default());
    let store = Store::with_objects(Arc::clone(&objects) as _)
        .await
        .unwrap();
    let replica = store.replica("web-01".parse().unwrap());
    let ids = [1, 2].map(|number| DiskId::from_bytes([number; 16]));
    let disks = ids.map(|id| ReplicaDisk {
        id,
        name: format!("disk-{id}").parse().unwrap(),
        size: SIZE,
    });
    let (machine, session) = (MachineId::random(), SessionId::random());
    let claim = Claim {
        machine,
        session,
        disks: disks.to_vec(),
    };
    let writer = replica.claim(claim, |kept| Ok(kept.clone())).await.unwrap();
    let state = Value::Null;
    copy(&writer, ids.len(), &state).await;

    let mut recording = Recording::new();
    let numbers = ids.map(|_| recording.add_disk(SIZE));
    let mut last = [ContentDigest::NONE; 2];
    for sequence in 2..COUNTED_FROM + GENERATIONS {
        if sequence == COUNTED_FROM {
            objects
                .counts
                .iter()
                .for_each(|count| count.store(0, Ordering::SeqCst));
        }
        // The second disk is written to in every other interval.
        let mut logs = vec![None, None];
        for disk in 0..if sequence % 2 == 0 { 2 } else { 1 } {
            let log = generation(folder.path(), ids[disk], sequence, last[disk]);
            if sequence >= COUNTED_FROM {
                recording.record_log(numbers[disk], &log).unwrap();
            }
            logs[disk] = Some(writer.put_log(disk, &log).await.unwrap());
            last[disk] = log.summary().content;
        }
        let publication = Publication {
            first: Sequence::new(sequence),
            logs: LogEntry {
                sequence: Sequence::new(sequence),
                disks: logs,
            },
            sizes: vec![SIZE; 2],
            predecessors: vec![ContentDigest::NONE; 2],
            after_loss: false,
            point: Some(RecoveryPoint {
                sequence: Sequence::new(sequence),
                time: Timestamp::from_nanos(sequence),
                consistency: Consistency::Crash,
            }),
            amends: Vec::new(),
        };
        let points = usize::try_from(POINTS).unwrap();
        let publish = writer.publish_retaining(&publication, &state, |_| points);
        publish.await.unwrap();
        writer.retain(points).await.unwrap();
    }

    let plan = Plan::of(
        &recording,
        &Assumptions {
            merged: false,
            ..Assumptions::default()
        },
    );
    assert_eq!(
        (plan.intervals, plan.changed_intervals),
        (GENERATIONS, GENERATIONS)
    );
    // The last change is made where the last interval begins.
    let months = f64::from(u32::try_from(GENERATIONS - 1).unwrap()) * 30.0 / MONTH.as_secs_f64();
    let planned = plan.requests_month * months;
    let counted = objects
        .counts
        .each_ref()
        .map(|count| f64::from(count.load(Ordering::SeqCst)));
    for (name, planned, counted) in [
        ("puts", planned.puts, counted[0]),
        ("gets", planned.gets, counted[1]),
        ("deletes", planned.deletes, counted[2]),
    ] {
        let ratio = planned / counted;
        // Chunks that were all zeros before are neither read nor deleted, which a plan does not know.
        let most = if name == "puts" { 1.1 } else { 1.25 };
        assert!(
            (0.95..most).contains(&ratio),
            "{name}: {planned} planned, {counted} counted"
        );
    }
}
