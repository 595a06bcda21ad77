//! Replicas: every barrier reads back, one writer wins, damage is named.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking, and its disks are small"
)]

use std::path::Path;
use std::sync::Arc;

use afterimage_block::{
    BlockRead, BlockWrite, Change, ContentDigest, DiskId, Epoch, Extent, Length, MachineId,
    MemoryDisk, Offset, Sequence, SessionId, Timestamp,
};
use afterimage_changelog::{FileWriter, LogHeader, Packing, SealedLog, WriterOptions, to_native};
use afterimage_store::{
    BaseProgress, Claim, Consistency, Error, LogEntry, Manifest, NOTES, PointSelector, Publication,
    RecoveryPoint, Replica, ReplicaDisk, Store, Transition, Writer, block_digest,
};
use serde_json::Value;

const SIZE: Length = Length::new((66 << 20) + 512);
const DISK: DiskId = DiskId::from_bytes([1; 16]);
const MACHINE: MachineId = MachineId::from_bytes([2; 16]);

fn claim() -> Claim {
    Claim {
        machine: MACHINE,
        session: SessionId::random(),
        disks: vec![ReplicaDisk {
            id: DISK,
            name: "root".parse().unwrap(),
            size: SIZE,
        }],
    }
}

async fn claimed(replica: &Replica) -> Writer {
    replica
        .claim(claim(), |kept| Ok(kept.clone()))
        .await
        .unwrap()
}

async fn in_folder(folder: &Path) -> Replica {
    let store = Store::open(folder.to_str().unwrap()).await.unwrap();
    store.replica("web-01".parse().unwrap())
}

fn point(sequence: u64) -> RecoveryPoint {
    RecoveryPoint {
        sequence: Sequence::new(sequence),
        time: Timestamp::from_nanos(sequence * 1000),
        consistency: Consistency::Crash,
    }
}

/// A primary: a disk, and logs of what is written to it.
struct Primary {
    folder: tempfile::TempDir,
    disk: Arc<MemoryDisk>,
    last: ContentDigest,
    seed: u64,
}

impl Primary {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            disk: Arc::new(MemoryDisk::new(SIZE)),
            last: ContentDigest::NONE,
            seed: 42,
        }
    }

    fn random(&mut self, below: u64) -> u64 {
        self.seed = self
            .seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.seed >> 33) % below
    }

    /// Writes, zeroes and discards here and there, logged as generation `sequence`.
    fn generation(&mut self, sequence: u64) -> SealedLog {
        let path = self.folder.path().join(sequence.to_string());
        let header = LogHeader {
            disk: DISK,
            disk_size: SIZE,
            epoch: Epoch::new(1),
            first: Sequence::new(sequence),
            last: Sequence::new(sequence),
            created: Timestamp::default(),
        };
        let mut log = FileWriter::create(&path, header, WriterOptions::default()).unwrap();
        for _ in 0..12 {
            let start = self.random(SIZE.get());
            let length = (1 + self.random(300_000)).min(SIZE.get() - start);
            let extent = Extent::new(Offset::new(start), Length::new(length)).unwrap();
            let data = vec![u8::try_from(self.random(255)).unwrap() + 1; length as usize];
            let change = match self.random(5) {
                0 => Change::WriteZeroes(extent),
                1 => Change::Discard(extent),
                _ => Change::Write {
                    offset: extent.start(),
                    data: &data,
                },
            };
            change.apply_to(self.disk.as_ref()).unwrap();
            log.append(change, Timestamp::default()).unwrap();
        }
        log.seal(self.last).unwrap()
    }

    async fn copy(&self, writer: &Writer, sequence: u64) {
        let mut base = writer.base(0, BaseProgress::default()).await.unwrap();
        while base.next_page().is_some() {
            base.copy_page(self.disk.clone()).await.unwrap();
        }
        let roots = vec![base.finish().await.unwrap()];
        let barrier = Sequence::new(sequence);
        let point = Some(point(sequence));
        writer
            .publish_base(barrier, roots, point, &Value::Null)
            .await
            .unwrap();
    }

    async fn ship(&mut self, writer: &Writer, sequence: u64) {
        let log = self.generation(sequence);
        let publication = self.publication(writer, &log, sequence).await;
        writer.publish(&publication, &Value::Null).await.unwrap();
        // An answer that was lost: it is published again.
        writer.publish(&publication, &Value::Null).await.unwrap();
        self.last = log.summary().content;
    }

    async fn publication(&self, writer: &Writer, log: &SealedLog, sequence: u64) -> Publication {
        Publication {
            first: Sequence::new(sequence),
            logs: LogEntry {
                sequence: Sequence::new(sequence),
                disks: vec![Some(writer.put_log(0, log).await.unwrap())],
            },
            sizes: vec![log.header().disk_size],
            predecessors: vec![log.summary().predecessor],
            after_loss: false,
            point: Some(point(sequence)),
            amends: Vec::new(),
        }
    }
}

async fn contents(replica: &Replica, sequence: u64) -> Vec<u8> {
    let opened = replica.open_point(Sequence::new(sequence)).await.unwrap();
    let target = Arc::new(MemoryDisk::new(SIZE));
    opened.disks[0]
        .restore(target.clone(), |_| ())
        .await
        .unwrap();
    target.contents()
}

/// Every offered point is its barrier, through retention and folding; stored digests are those of
/// the content; reads of any range agree.
async fn points_read_back(replica: Replica) {
    let mut primary = Primary::new();
    let writer = claimed(&replica).await;
    primary.generation(1);
    primary.copy(&writer, 1).await;
    let mut images = vec![(1, primary.disk.contents())];
    for sequence in 2..50 {
        primary.ship(&writer, sequence).await;
        images.push((sequence, primary.disk.contents()));
        writer.retain(4).await.unwrap();
        let manifest = replica.existing().await.unwrap();
        assert!(
            manifest.points.len() <= 4 && manifest.logs.len() < 26,
            "{manifest:?}"
        );
        let oldest = manifest.points[0].sequence.get();
        images.retain(|(sequence, _)| *sequence >= oldest);
        if sequence % 6 == 0 {
            for (sequence, image) in &images {
                assert!(
                    contents(&replica, *sequence).await == *image,
                    "point {sequence}"
                );
            }
        }
    }
    let (last, image) = images.last().unwrap();
    let opened = replica.open_point(Sequence::new(*last)).await.unwrap();
    let disk = &opened.disks[0];
    for _ in 0..40 {
        let start = primary.random(SIZE.get());
        let length = (1 + primary.random(3_000_000)).min(SIZE.get() - start);
        let extent = Extent::new(Offset::new(start), Length::new(length)).unwrap();
        let expected = &image[start as usize..(start + length) as usize];
        assert!(disk.read(extent).await.unwrap() == expected, "{extent}");
        let block = Offset::new(start / 65_536 * 65_536);
        let end = (block.get() + 65_536).min(SIZE.get()) as usize;
        let expected = block_digest(&image[block.get() as usize..end]);
        assert_eq!(disk.block_digest(block).await.unwrap(), expected);
    }
}

#[tokio::test]
async fn points_read_back_from_memory() {
    let store = Store::open("memory://points").await.unwrap();
    points_read_back(store.replica("a".parse().unwrap())).await;
}

#[tokio::test]
async fn points_read_back_from_a_folder_and_little_is_left_behind() {
    let folder = tempfile::tempdir().unwrap();
    points_read_back(in_folder(folder.path()).await).await;
    let disk = folder.path().join(format!("machines/web-01/disks/{DISK}"));
    let count = |name: &str| std::fs::read_dir(disk.join(name)).unwrap().count();
    // What the last fold replaced is there until the next one.
    assert_eq!(count("roots"), 2);
    assert_eq!(count("pages"), 4);
    assert!(count("chunks") <= 2 * 67 && count("logs") < 26 + 22);
}

#[tokio::test]
async fn a_second_claim_fences_the_first_off() {
    let folder = tempfile::tempdir().unwrap();
    let replica = in_folder(folder.path()).await;
    let mut primary = Primary::new();
    let first = claimed(&replica).await;
    primary.copy(&first, 1).await;
    let second = claimed(&replica).await;
    assert!(second.epoch() > first.epoch());
    let log = primary.generation(2);
    let publication = primary.publication(&first, &log, 2).await;
    let before = replica.existing().await.unwrap();
    let fenced = first.publish(&publication, &Value::Null).await.unwrap_err();
    assert!(matches!(fenced, Error::Fenced { .. }), "{fenced}");
    assert!(!fenced.is_recoverable());
    assert_eq!(replica.existing().await.unwrap(), before);
    second.publish(&publication, &Value::Null).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_that_race_one_holds_the_fence() {
    for url in ["memory://race".to_owned(), {
        let folder = tempfile::tempdir().unwrap().keep();
        folder.to_str().unwrap().to_owned()
    }] {
        let store = Store::open(&url).await.unwrap();
        let replica = store.replica("a".parse().unwrap());
        let tasks: Vec<_> = (0..12)
            .map(|_| {
                let replica = replica.clone();
                tokio::spawn(async move { claimed(&replica).await })
            })
            .collect();
        let mut writers = Vec::new();
        for task in tasks {
            writers.push(task.await.unwrap());
        }
        let mut epochs: Vec<_> = writers.iter().map(Writer::epoch).collect();
        epochs.sort();
        epochs.dedup();
        assert_eq!(epochs.len(), 12, "every claim has an epoch of its own");
        let mut alive = 0;
        for writer in &writers {
            alive += usize::from(writer.set_state(&Value::Null).await.is_ok());
        }
        assert_eq!(alive, 1);
        if !url.starts_with("memory") {
            std::fs::remove_dir_all(url).unwrap();
        }
    }
}

#[tokio::test]
async fn a_transition_can_fence_and_keeps_what_is_published() {
    let store = Store::open("memory://transition").await.unwrap();
    let replica = store.replica("a".parse().unwrap());
    let writer = claimed(&replica).await;
    let fence = |fences| {
        move |_: &afterimage_store::Manifest| {
            Ok(Transition {
                state: Value::from("failed over"),
                fences,
            })
        }
    };
    replica.transition(fence(false)).await.unwrap();
    writer.set_state(&Value::Null).await.unwrap();
    let manifest = replica.transition(fence(true)).await.unwrap();
    assert_eq!(manifest.state, Value::from("failed over"));
    assert!(matches!(
        writer.set_state(&Value::Null).await,
        Err(Error::Fenced { .. })
    ));
    let refuses = |_: &Value| Err(Error::Refused("failed over".into()));
    assert!(matches!(
        replica.claim(claim(), refuses).await,
        Err(Error::Refused(_))
    ));
}

#[tokio::test]
async fn a_claim_changes_what_is_kept_and_fences_off_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let replica = in_folder(folder.path()).await;
    let writer = claimed(&replica).await;
    writer.set_state(&"prepared".into()).await.unwrap();
    let before = replica.existing().await.unwrap();
    let taken_back = |kept: &Value| {
        assert_eq!(*kept, "prepared");
        Ok("replicating".into())
    };
    let again = replica.claim(claim(), taken_back).await.unwrap();
    let after = replica.existing().await.unwrap();
    assert_eq!(
        (after.state, after.fence.epoch),
        ("replicating".into(), again.epoch())
    );
    assert!(again.epoch() > before.fence.epoch);
}

#[tokio::test]
async fn what_others_note_is_left_as_it_is_by_a_writer() {
    let folder = tempfile::tempdir().unwrap();
    let replica = in_folder(folder.path()).await;
    let writer = claimed(&replica).await;
    let state = serde_json::json!({"says": "primary", NOTES: "stale"});
    let kept = async || replica.existing().await.unwrap().state;
    writer.set_state(&state).await.unwrap();
    assert_eq!(kept().await, serde_json::json!({"says": "primary"}));
    let noted = serde_json::json!({"says": "primary", NOTES: "of another"});
    let note = |_: &Manifest| {
        Ok(Transition {
            state: noted.clone(),
            fences: false,
        })
    };
    replica.transition(note).await.unwrap();
    writer.set_state(&state).await.unwrap();
    assert_eq!(kept().await, noted);
}

#[tokio::test]
async fn the_logs_between_two_barriers_say_what_changed() {
    let folder = tempfile::tempdir().unwrap();
    let replica = in_folder(folder.path()).await;
    let writer = claimed(&replica).await;
    let mut primary = Primary::new();
    primary.copy(&writer, 1).await;
    let mut images = vec![primary.disk.contents()];
    for sequence in 2..5 {
        primary.ship(&writer, sequence).await;
        images.push(primary.disk.contents());
    }
    let manifest = replica.existing().await.unwrap();
    let between = async |after, through| {
        let (after, through) = (Sequence::new(after), Sequence::new(through));
        let changed = replica.changed_between(&manifest, after, through).await;
        changed.unwrap()
    };
    let changed = between(2, 4).await.unwrap().remove(0);
    let mut image = images[1].clone();
    for extent in changed.iter() {
        let (start, end) = (extent.start().get() as usize, extent.end().get() as usize);
        image[start..end].copy_from_slice(&images[3][start..end]);
    }
    assert!(image == images[3] && images[1] != images[3]);
    assert!(changed.total() < SIZE);
    assert!(between(3, 3).await.unwrap()[0].is_empty());
    for unknown in [(0, 3), (3, 9), (4, 2)] {
        assert_eq!(between(unknown.0, unknown.1).await, None);
    }
}

#[tokio::test]
async fn other_machines_and_other_disks_are_refused() {
    let store = Store::open("memory://others").await.unwrap();
    let replica = store.replica("a".parse().unwrap());
    claimed(&replica).await;
    let mut other = claim();
    other.machine = MachineId::random();
    let error = replica
        .claim(other, |kept| Ok(kept.clone()))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::NameTaken { .. }), "{error}");
    let mut renamed = claim();
    renamed.disks[0].id = DiskId::from_bytes([3; 16]);
    let error = replica
        .claim(renamed, |kept| Ok(kept.clone()))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::OtherDisks { .. }), "{error}");
    assert!(error.to_string().contains("it has `root`"), "{error}");
}

#[tokio::test]
async fn gaps_are_refused_except_after_a_loss_and_broken_chains_always() {
    let store = Store::open("memory://gaps").await.unwrap();
    let replica = store.replica("a".parse().unwrap());
    let writer = claimed(&replica).await;
    let mut primary = Primary::new();
    primary.copy(&writer, 1).await;
    primary.ship(&writer, 2).await;
    let log = primary.generation(4);
    let mut publication = primary.publication(&writer, &log, 4).await;
    let error = writer
        .publish(&publication, &Value::Null)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::OutOfSequence { .. }), "{error}");
    publication.after_loss = true;
    let error = writer
        .publish(&publication, &Value::Null)
        .await
        .unwrap_err();
    assert!(
        matches!(error, Error::OutOfSequence { .. }),
        "no point: {error}"
    );
    publication.point = None;
    writer.publish(&publication, &Value::Null).await.unwrap();
    primary.last = ContentDigest::new([9; 32]);
    let log = primary.generation(5);
    let publication = primary.publication(&writer, &log, 5).await;
    let error = writer
        .publish(&publication, &Value::Null)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::BrokenChain { .. }), "{error}");
}

#[tokio::test]
async fn a_log_goes_on_where_the_one_before_it_was_lost() {
    let store = Store::open("memory://lost").await.unwrap();
    let replica = store.replica("a".parse().unwrap());
    let writer = claimed(&replica).await;
    let mut primary = Primary::new();
    primary.copy(&writer, 1).await;
    primary.ship(&writer, 2).await;
    // Sealed, and then unreadable: the next log names it all the same.
    primary.last = primary.generation(3).summary().content;
    let lost = Publication {
        first: Sequence::new(3),
        logs: LogEntry {
            sequence: Sequence::new(3),
            disks: vec![None],
        },
        sizes: vec![SIZE],
        predecessors: vec![ContentDigest::NONE],
        after_loss: false,
        point: None,
        amends: Vec::new(),
    };
    writer.publish(&lost, &Value::Null).await.unwrap();
    let log = primary.generation(4);
    let mut next = primary.publication(&writer, &log, 4).await;
    next.point = None;
    writer.publish(&next, &Value::Null).await.unwrap();
    primary.last = ContentDigest::new([9; 32]);
    let log = primary.generation(5);
    let broken = primary.publication(&writer, &log, 5).await;
    let error = writer.publish(&broken, &Value::Null).await.unwrap_err();
    assert!(matches!(error, Error::BrokenChain { .. }), "{error}");
}

#[tokio::test]
async fn points_are_chosen_by_number_and_by_time() {
    let store = Store::open("memory://choice").await.unwrap();
    let replica = store.replica("a".parse().unwrap());
    let writer = claimed(&replica).await;
    let mut primary = Primary::new();
    primary.copy(&writer, 1).await;
    primary.ship(&writer, 2).await;
    let manifest = replica.existing().await.unwrap();
    let select = |selector| manifest.select(selector).map(|point| point.sequence.get());
    assert_eq!(select(PointSelector::Latest).unwrap(), 2);
    assert_eq!(
        select(PointSelector::Sequence(Sequence::new(1))).unwrap(),
        1
    );
    assert_eq!(
        select(PointSelector::AtOrBefore(Timestamp::from_nanos(1999))).unwrap(),
        1
    );
    let error = select(PointSelector::Sequence(Sequence::new(7))).unwrap_err();
    assert!(error.to_string().contains("1 to 2"), "{error}");
    assert!(select(PointSelector::AtOrBefore(Timestamp::from_nanos(3))).is_err());
}

#[tokio::test]
async fn a_copy_that_was_cut_goes_on_at_its_page() {
    let store = Store::open("memory://cut").await.unwrap();
    let replica = store.replica("a".parse().unwrap());
    let writer = claimed(&replica).await;
    let mut primary = Primary::new();
    primary.generation(1);
    let mut base = writer.base(0, BaseProgress::default()).await.unwrap();
    base.copy_page(primary.disk.clone()).await.unwrap();
    let kept = serde_json::to_string(&base.progress()).unwrap();
    drop(base);
    let progress: BaseProgress = serde_json::from_str(&kept).unwrap();
    let mut base = writer.base(0, progress).await.unwrap();
    assert_eq!(base.next_page().unwrap().start().get(), 64 << 20);
    base.copy_page(primary.disk.clone()).await.unwrap();
    assert_eq!(base.next_page(), None);
    let roots = vec![base.finish().await.unwrap()];
    writer
        .publish_base(Sequence::new(1), roots, None, &Value::Null)
        .await
        .unwrap();
    assert!(contents(&replica, 1).await == primary.disk.contents());
}

#[tokio::test]
async fn damage_is_named_and_never_read_as_data() {
    let folder = tempfile::tempdir().unwrap();
    let replica = in_folder(folder.path()).await;
    let writer = claimed(&replica).await;
    let mut primary = Primary::new();
    primary.generation(1);
    primary.copy(&writer, 1).await;
    primary.ship(&writer, 2).await;
    let disk = folder.path().join(format!("machines/web-01/disks/{DISK}"));
    for kind in ["roots", "pages", "chunks", "logs"] {
        let mut objects: Vec<_> = std::fs::read_dir(disk.join(kind))
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        objects.sort();
        let object = &objects[0];
        let whole = std::fs::read(object).unwrap();
        let mut flipped = whole.clone();
        let at = if kind == "logs" { 200 } else { whole.len() / 2 };
        flipped[at] ^= 4;
        for damage in [Some(flipped), Some(whole[..whole.len() - 1].to_vec()), None] {
            match &damage {
                Some(bytes) => std::fs::write(object, bytes).unwrap(),
                None => std::fs::remove_file(object).unwrap(),
            }
            let result = restore(&replica, 2).await;
            let error = result.expect_err("damage is not data").to_string();
            let name = object.file_name().unwrap().to_str().unwrap();
            assert!(error.contains(name), "{kind}: {error}");
        }
        std::fs::write(object, whole).unwrap();
        restore(&replica, 2).await.unwrap();
    }
}

async fn restore(replica: &Replica, sequence: u64) -> Result<(), Error> {
    let opened = replica.open_point(Sequence::new(sequence)).await?;
    opened.disks[0]
        .restore(Arc::new(MemoryDisk::new(SIZE)), |_| ())
        .await
}

/// A flipped bit of a digest or a number still reads as JSON, and used to be written back for good.
#[tokio::test]
async fn no_flipped_bit_of_a_manifest_passes() {
    let folder = tempfile::tempdir().unwrap();
    let replica = in_folder(folder.path()).await;
    let writer = claimed(&replica).await;
    Primary::new().copy(&writer, 1).await;
    let path = folder.path().join("machines/web-01/manifest.json");
    let whole = std::fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        std::fs::write(&path, &flipped).unwrap();
        assert!(replica.manifest().await.is_err(), "byte {at}");
        let changed = writer.set_state(&serde_json::Value::Null).await;
        assert!(changed.is_err(), "byte {at}");
        assert!(std::fs::read(&path).unwrap() == flipped, "byte {at}");
    }
}

#[tokio::test]
async fn damaged_manifests_and_newer_stores_are_refused_untouched() {
    let folder = tempfile::tempdir().unwrap();
    let replica = in_folder(folder.path()).await;
    let writer = claimed(&replica).await;
    let mut primary = Primary::new();
    primary.copy(&writer, 1).await;
    primary.ship(&writer, 2).await;
    let path = folder.path().join("machines/web-01/manifest.json");
    let whole = std::fs::read(&path).unwrap();
    for cut in 0..whole.len() {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let error = replica.manifest().await.unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
    }
    let text = String::from_utf8(whole.clone()).unwrap();
    let newer = text.replacen("\"format\":7", "\"format\":9", 1);
    std::fs::write(&path, &newer).unwrap();
    let error = replica
        .claim(claim(), |kept| Ok(kept.clone()))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::OtherFormat { found: 9 }), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), newer);
    let other = text.replacen("web-01", "web-02", 1);
    std::fs::write(&path, other).unwrap();
    assert!(matches!(
        replica.manifest().await,
        Err(Error::Damaged { .. })
    ));
    std::fs::write(&path, &whole).unwrap();
    let before_seals = r#"{"format":2,"commit":"none"}"#;
    std::fs::write(&path, before_seals).unwrap();
    let error = replica.manifest().await.unwrap_err();
    assert!(matches!(error, Error::OtherFormat { found: 2 }), "{error}");
    std::fs::write(&path, &whole).unwrap();
    std::fs::write(folder.path().join("afterimage.json"), r#"{"format":9}"#).unwrap();
    let error = Store::open(folder.path().to_str().unwrap())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::OtherFormat { found: 9 }), "{error}");
}

/// Recovery points are read of the records as they stand in the log.
#[tokio::test]
async fn a_compressed_log_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let replica = in_folder(folder.path()).await;
    let writer = claimed(&replica).await;
    let mut primary = Primary::new();
    primary.copy(&writer, 1).await;
    let log = primary.generation(2);
    let packing = Packing::default().with_compression();
    let options = WriterOptions::default().with_packing(packing);
    let path = primary.folder.path().join("compressed");
    let log = to_native(&log, &path, *log.header(), options, ContentDigest::NONE).unwrap();
    let error = writer.put_log(0, &log).await.unwrap_err();
    assert!(matches!(error, Error::Refused(_)), "{error}");
}

#[tokio::test]
async fn a_folder_that_is_gone_is_unreachable_and_not_a_new_store() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("replicas");
    let replica = in_folder(&path).await;
    let writer = claimed(&replica).await;
    let mut primary = Primary::new();
    primary.copy(&writer, 1).await;
    let away = folder.path().join("away");
    std::fs::rename(&path, &away).unwrap();
    let log = primary.generation(2);
    let error = writer.put_log(0, &log).await.unwrap_err();
    assert!(
        matches!(error, Error::Unreachable(_)) && error.is_recoverable(),
        "{error}"
    );
    let error = replica.existing().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable(_)), "{error}");
    let error = Store::open_existing(path.to_str().unwrap())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Unreachable(_)), "{error}");
    assert!(!path.exists(), "nothing was made in its place");
    std::fs::rename(&away, &path).unwrap();
    let publication = primary.publication(&writer, &log, 2).await;
    writer.publish(&publication, &Value::Null).await.unwrap();
}

#[tokio::test]
async fn unknown_urls_are_refused() {
    for url in ["", "ftp://x", "https://host/x", "http://host/x", "://"] {
        assert!(
            matches!(Store::open(url).await, Err(Error::Url { .. })),
            "{url}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_point_is_a_block_device_for_threads() {
    let store = Store::open("memory://device").await.unwrap();
    let replica = store.replica("a".parse().unwrap());
    let writer = claimed(&replica).await;
    let primary = Primary::new();
    primary
        .disk
        .write_at(Offset::new(5 << 20), &[3; 4096])
        .unwrap();
    primary.copy(&writer, 1).await;
    let point = replica.open_point(Sequence::new(1)).await.unwrap();
    let runtime = tokio::runtime::Handle::current();
    let device = afterimage_store::BlockingDisk::new(point.disks[0].clone(), runtime);
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = [0; 8192];
        device
            .read_at(Offset::new((5 << 20) - 4096), &mut bytes)
            .unwrap();
        let hole = device.next_run(Offset::ZERO).unwrap().unwrap();
        assert_eq!(hole.extent.end(), Offset::new(5 << 20));
        bytes
    });
    let bytes = read.await.unwrap();
    assert!(bytes[..4096] == [0; 4096] && bytes[4096..] == [3; 4096]);
}

#[tokio::test]
async fn secrets_in_a_url_are_refused_and_not_repeated() {
    for (url, shown) in [
        ("az://container/x?sig=canary", "az://container/x"),
        ("s3://id:canary@bucket/x", "s3://id"),
        ("gs://bucket#canary", "gs://bucket"),
        ("ftp://user:canary@host", "ftp://user"),
    ] {
        let error = Store::open(url).await.unwrap_err();
        assert!(matches!(&error, Error::SecretInUrl { url } if url == shown));
        assert!(!format!("{error} {error:?}").contains("canary"), "{error}");
    }
}

#[cfg(not(feature = "_http"))]
#[tokio::test]
async fn a_cloud_that_is_not_built_in_names_its_feature() {
    for (url, feature) in [
        ("az://container/x", "azure"),
        ("abfss://container@account.dfs.core.windows.net/x", "azure"),
        ("s3://bucket", "aws"),
        ("gs://bucket", "gcp"),
    ] {
        let error = Store::open(url).await.unwrap_err();
        assert!(
            error.to_string().contains(&format!("`{feature}`")),
            "{error}"
        );
    }
}
