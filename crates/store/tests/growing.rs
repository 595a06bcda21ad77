//! Disks that grow: every barrier has its size and content, whatever is folded, swept or damaged.

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
use afterimage_changelog::{FileWriter, LogHeader, SealedLog, WriterOptions};
use afterimage_store::{
    BaseProgress, Claim, Consistency, Error, LogEntry, Manifest, Publication, RecoveryPoint,
    Replica, ReplicaDisk, Store, Writer, block_digest,
};
use proptest::prelude::*;
use serde_json::Value;
use sha2::{Digest, Sha256};

const DISK: DiskId = DiskId::from_bytes([1; 16]);
/// Ends of disks within a block, at a block's, a chunk's and a page's end, and behind.
const SIZES: [u64; 7] = [
    512,
    (1 << 16) + 512,
    3 << 16,
    1 << 20,
    (5 << 20) + (2 << 16),
    64 << 20,
    (65 << 20) + 1024,
];

fn claim(size: u64) -> Claim {
    Claim {
        machine: MachineId::from_bytes([2; 16]),
        session: SessionId::random(),
        disks: vec![ReplicaDisk {
            id: DISK,
            name: "root".parse().unwrap(),
            size: Length::new(size),
        }],
    }
}

async fn claimed(replica: &Replica, size: u64) -> Writer {
    let claimed = replica.claim(claim(size), |kept| Ok(kept.clone()));
    claimed.await.unwrap()
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

/// What happens in one generation.
#[derive(Clone, Debug)]
struct Step {
    /// The size from then on, by its number; nothing where it would be no larger.
    size: usize,
    /// Whether the log of the generation says so, or the next one begins with it.
    recorded: bool,
    /// Where is written, in 512ths of the disk, and what; zeros are zeroed.
    writes: Vec<(u64, u8)>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let write = (0..513_u64, 0..4_u8);
    let step = (
        0..SIZES.len() * 2,
        any::<bool>(),
        prop::collection::vec(write, 0..4),
    );
    let step = step.prop_map(|(size, recorded, writes)| Step {
        size: size.min(SIZES.len() - 1),
        recorded,
        writes,
    });
    prop::collection::vec(step, 1..16)
}

struct Primary {
    folder: tempfile::TempDir,
    disk: MemoryDisk,
    last: ContentDigest,
}

fn enlarged(disk: &MemoryDisk, size: u64) -> MemoryDisk {
    let larger = MemoryDisk::new(Length::new(size));
    larger.write_at(Offset::ZERO, &disk.contents()).unwrap();
    larger
}

impl Primary {
    fn size(&self) -> u64 {
        self.disk.size().get()
    }

    /// The log of generation `sequence`.
    fn generation(&mut self, sequence: u64, step: &Step) -> SealedLog {
        let grows = SIZES[step.size] > self.size();
        if grows && !step.recorded {
            self.disk = enlarged(&self.disk, SIZES[step.size]);
        }
        let header = LogHeader {
            disk: DISK,
            disk_size: self.disk.size(),
            epoch: Epoch::new(1),
            first: Sequence::new(sequence),
            last: Sequence::new(sequence),
            created: Timestamp::default(),
        };
        let path = self.folder.path().join(sequence.to_string());
        let mut log = FileWriter::create(&path, header, WriterOptions::default()).unwrap();
        for (place, byte) in &step.writes {
            let end = self.size();
            let length = 3000.min(end);
            let start = ((end / 512) * place).min(end - length);
            let extent = Extent::new(Offset::new(start), Length::new(length)).unwrap();
            let data = vec![*byte; length as usize];
            let change = match byte {
                0 => Change::WriteZeroes(extent),
                _ => Change::Write {
                    offset: extent.start(),
                    data: &data,
                },
            };
            change.apply_to(&self.disk).unwrap();
            log.append(change, Timestamp::default()).unwrap();
        }
        if grows && step.recorded {
            let size = SIZES[step.size];
            log.resize(Length::new(size), Timestamp::default()).unwrap();
            self.disk = enlarged(&self.disk, size);
        }
        let sealed = log.seal(self.last).unwrap();
        self.last = sealed.summary().content;
        sealed
    }

    async fn publication(&self, writer: &Writer, log: &SealedLog, sequence: u64) -> Publication {
        Publication {
            first: Sequence::new(sequence),
            logs: LogEntry {
                sequence: Sequence::new(sequence),
                disks: vec![Some(writer.put_log(0, log).await.unwrap())],
            },
            sizes: vec![self.disk.size()],
            predecessors: vec![log.summary().predecessor],
            after_loss: false,
            point: Some(point(sequence)),
            amends: Vec::new(),
        }
    }
}

async fn begun(replica: &Replica, size: u64) -> (Primary, Writer) {
    let primary = Primary {
        folder: tempfile::tempdir().unwrap(),
        disk: MemoryDisk::new(Length::new(size)),
        last: ContentDigest::NONE,
    };
    primary
        .disk
        .write_at(Offset::new(size - 512), &[9; 512])
        .unwrap();
    let writer = claimed(replica, size).await;
    let mut base = writer.base(0, BaseProgress::default()).await.unwrap();
    while base.next_page().is_some() {
        base.copy_page(Arc::new(enlarged(&primary.disk, size)))
            .await
            .unwrap();
    }
    let roots = vec![base.finish().await.unwrap()];
    let published = writer.publish_base(Sequence::new(1), roots, Some(point(1)), &Value::Null);
    published.await.unwrap();
    (primary, writer)
}

/// The disk at barrier `sequence` is `image`, by its runs, its digests and all its bytes.
async fn is_at(replica: &Replica, sequence: u64, image: &[u8]) {
    let opened = replica.open_point(Sequence::new(sequence)).await.unwrap();
    let disk = &opened.disks[0];
    assert_eq!(disk.size().get(), image.len() as u64, "point {sequence}");
    let target = Arc::new(MemoryDisk::new(disk.size()));
    disk.restore(target.clone(), |_| ()).await.unwrap();
    assert!(target.contents() == image, "point {sequence}");
    for block in Extent::whole(disk.size()).unwrap().pieces(Length::kib(64)) {
        let content = &image[block.start().get() as usize..block.end().get() as usize];
        let digest = disk.block_digest(block.start()).await.unwrap();
        assert_eq!(digest, block_digest(content), "{block} of point {sequence}");
    }
}

async fn is_undamaged(replica: &Replica) {
    let mut scrub = replica.scrub();
    while let Some(step) = scrub.step().await.unwrap() {
        assert!(step.damage.is_empty(), "{:?}", step.damage);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// However it grows and is written to, through retention and folds.
    #[test]
    fn every_point_has_its_size_and_content(first in 0..4_usize, steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let replica = in_folder(folder.path()).await;
            let (mut primary, writer) = begun(&replica, SIZES[first]).await;
            let mut images = vec![(1, primary.disk.contents())];
            for (step, sequence) in steps.iter().zip(2..) {
                let log = primary.generation(sequence, step);
                let publication = primary.publication(&writer, &log, sequence).await;
                writer.publish(&publication, &Value::Null).await.unwrap();
                // An answer that was lost: it is published again.
                writer.publish(&publication, &Value::Null).await.unwrap();
                images.push((sequence, primary.disk.contents()));
                writer.retain(3).await.unwrap();
                let kept = replica.existing().await.unwrap().points[0].sequence.get();
                images.retain(|(sequence, _)| *sequence >= kept);
            }
            for (sequence, image) in &images {
                is_at(&replica, *sequence, image).await;
            }
            is_undamaged(&replica).await;
        });
    }
}

/// What folds replaced of a tree is deleted, also where the tree that replaced it is larger; and the
/// manifest forgets sizes that nothing is held of any more.
#[tokio::test]
async fn little_is_left_behind() {
    let folder = tempfile::tempdir().unwrap();
    let replica = in_folder(folder.path()).await;
    let (mut primary, writer) = begun(&replica, SIZES[1]).await;
    // Three folds of 128 generations.
    let last = 390;
    for sequence in 2..=last {
        let size = (sequence as usize / 60).min(SIZES.len() - 1);
        let writes = vec![(0, 7), (511, sequence as u8)];
        let step = Step {
            size,
            recorded: sequence % 2 == 0,
            writes,
        };
        let log = primary.generation(sequence, &step);
        let publication = primary.publication(&writer, &log, sequence).await;
        writer.publish(&publication, &Value::Null).await.unwrap();
        writer.retain(1).await.unwrap();
    }
    is_at(&replica, last, &primary.disk.contents()).await;
    let manifest = replica.existing().await.unwrap();
    assert!(manifest.growths.len() <= 3, "{:?}", manifest.growths);
    let disk = folder.path().join(format!("machines/web-01/disks/{DISK}"));
    let count = |name: &str| std::fs::read_dir(disk.join(name)).unwrap().count();
    assert_eq!(count("roots"), 2);
    assert!(count("pages") <= 4, "{} pages", count("pages"));
    assert!(count("chunks") <= 8, "{} chunks", count("chunks"));
}

/// Logs that were lost say no more how large the disk is: the publication does.
#[tokio::test]
async fn a_disk_grows_without_a_log() {
    let folder = tempfile::tempdir().unwrap();
    let replica = in_folder(folder.path()).await;
    let (primary, writer) = begun(&replica, SIZES[1]).await;
    let publication = Publication {
        first: Sequence::new(2),
        logs: LogEntry {
            sequence: Sequence::new(2),
            disks: vec![None],
        },
        sizes: vec![Length::new(SIZES[4])],
        predecessors: vec![ContentDigest::NONE],
        after_loss: true,
        point: None,
        amends: Vec::new(),
    };
    writer.publish(&publication, &Value::Null).await.unwrap();
    is_at(&replica, 2, &enlarged(&primary.disk, SIZES[4]).contents()).await;
    is_at(&replica, 1, &primary.disk.contents()).await;
}

/// A disk under replication never shrinks: neither by a claim nor by a log or its publication.
#[tokio::test]
async fn a_smaller_disk_is_refused_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let replica = in_folder(folder.path()).await;
    // Until there is a base, it is what the claim says.
    claimed(&replica, SIZES[4]).await;
    let (mut primary, writer) = begun(&replica, SIZES[3]).await;
    let refused = replica.claim(claim(SIZES[2]), |kept| Ok(kept.clone()));
    let is_named = |error: Error| match &error {
        Error::Shrunk { disk, was, is } => {
            assert_eq!(
                (disk.as_str(), was.get(), is.get()),
                ("root", SIZES[3], SIZES[2])
            );
            assert!(!error.is_recoverable());
        }
        other => panic!("{other}"),
    };
    is_named(refused.await.unwrap_err());
    let before = replica.existing().await.unwrap();
    let step = Step {
        size: 0,
        recorded: false,
        writes: Vec::new(),
    };
    let log = primary.generation(2, &step);
    let mut publication = primary.publication(&writer, &log, 2).await;
    publication.sizes = vec![Length::new(SIZES[2])];
    is_named(
        writer
            .publish(&publication, &Value::Null)
            .await
            .unwrap_err(),
    );
    publication.sizes = Vec::new();
    let error = writer
        .publish(&publication, &Value::Null)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Refused(_)), "{error}");
    let sizes = [Length::new(SIZES[2])];
    let compared = replica.open_to_compare(&before, &sizes);
    is_named(compared.await.unwrap_err());
    assert_eq!(replica.existing().await.unwrap(), before);
    primary.disk = MemoryDisk::new(Length::new(SIZES[2]));
    let log = primary.generation(2, &step);
    let error = writer.put_log(0, &log).await.unwrap_err();
    assert!(matches!(error, Error::Refused(_)), "{error}");
}

/// A log that leaves the disk with another size than the manifest says is none that it names.
#[tokio::test]
async fn a_log_of_another_size_is_damage() {
    let folder = tempfile::tempdir().unwrap();
    let replica = in_folder(folder.path()).await;
    let (mut primary, writer) = begun(&replica, SIZES[3]).await;
    let step = Step {
        size: 4,
        recorded: true,
        writes: vec![(1, 1)],
    };
    let log = primary.generation(2, &step);
    let mut publication = primary.publication(&writer, &log, 2).await;
    publication.sizes = vec![Length::new(SIZES[5])];
    writer.publish(&publication, &Value::Null).await.unwrap();
    let error = replica.open_point(Sequence::new(2)).await.unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
}

/// The manifest in the folder is `json`, sealed.
async fn with_manifest(folder: &Path, json: &str) -> Result<Option<Manifest>, Error> {
    let replica = in_folder(folder).await;
    let machine = folder.join("machines/web-01");
    std::fs::create_dir_all(&machine).unwrap();
    let digest = ContentDigest::new(Sha256::digest(json).into());
    std::fs::write(machine.join("manifest.json"), format!("{json}\n{digest}\n")).unwrap();
    replica.manifest().await
}

/// Manifests say where disks grew; those of before any did are as they always were.
#[tokio::test]
async fn stored_sizes_are_read_as_they_were_written() {
    let folder = tempfile::tempdir().unwrap();
    let grown = include_str!("golden/grown.json").trim_end();
    let manifest = with_manifest(folder.path(), grown).await.unwrap().unwrap();
    let sizes = |sequence| {
        let sizes = manifest.sizes_at(Sequence::new(sequence));
        sizes.into_iter().map(Length::get).collect::<Vec<_>>()
    };
    assert_eq!(sizes(4), [1 << 20, 1 << 20]);
    assert_eq!(sizes(5), [4 << 20, 1 << 20]);
    assert_eq!(sizes(6), [4 << 20, 1 << 20]);
    assert_eq!(sizes(7), [(6 << 20) + 512, 1 << 20]);
    let (before, rest) = grown.split_once(r#""growths""#).unwrap();
    let (_, after) = rest.split_once("],").unwrap();
    let never = format!("{before}{after}");
    let manifest = with_manifest(folder.path(), &never).await.unwrap().unwrap();
    assert_eq!(manifest.growths, []);
    let written = serde_json::to_string(&manifest).unwrap();
    assert_eq!(written, never.replacen(r#""format":5"#, r#""format":7"#, 1));
    for (is, wrong) in [
        (r#""at":7,"was":4194304"#, r#""at":7,"was":8388608"#),
        (r#""at":7,"was":4194304"#, r#""at":5,"was":4194304"#),
        (r#"{"disk":0,"at":7"#, r#"{"disk":2,"at":7"#),
    ] {
        let error = with_manifest(folder.path(), &grown.replace(is, wrong)).await;
        assert!(matches!(error, Err(Error::Damaged { .. })), "{wrong}");
    }
}

/// What was damaged where the smaller disk ended is put anew by the larger one, or is lacking up to there.
#[tokio::test]
async fn the_end_of_the_smaller_disk_is_mended() {
    let folder = tempfile::tempdir().unwrap();
    let replica = in_folder(folder.path()).await;
    let (mut primary, writer) = begun(&replica, SIZES[1]).await;
    let step = Step {
        size: 4,
        recorded: true,
        writes: Vec::new(),
    };
    let log = primary.generation(2, &step);
    let publication = primary.publication(&writer, &log, 2).await;
    writer.publish(&publication, &Value::Null).await.unwrap();
    let chunks = folder
        .path()
        .join(format!("machines/web-01/disks/{DISK}/chunks"));
    let chunk = std::fs::read_dir(chunks)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let lose = async || {
        std::fs::remove_file(&chunk).unwrap();
        let mut scrub = replica.scrub();
        let mut damage = Vec::new();
        while let Some(step) = scrub.step().await.unwrap() {
            damage.extend(step.damage);
        }
        assert_eq!(replica.record(&damage).await.unwrap(), 1);
        assert!(replica.existing().await.unwrap().latest_point().is_none());
    };
    let source = || Arc::new(enlarged(&primary.disk, SIZES[4])) as Arc<dyn BlockRead>;
    lose().await;
    let lacks = writer.mend(&[source()]).await.unwrap();
    assert!(lacks[0].is_empty(), "{lacks:?}");
    is_at(&replica, 2, &primary.disk.contents()).await;
    is_at(&replica, 1, &primary.disk.contents()[..SIZES[1] as usize]).await;
    is_undamaged(&replica).await;
    lose().await;
    primary.disk.write_at(Offset::ZERO, &[1; 512]).unwrap();
    let changed = Arc::new(enlarged(&primary.disk, SIZES[4])) as Arc<dyn BlockRead>;
    let lacks = writer.mend(&[changed]).await.unwrap();
    let whole = Extent::whole(Length::new(SIZES[1])).unwrap();
    assert_eq!(lacks[0], afterimage_block::ExtentSet::from(whole));
    let manifest = replica.existing().await.unwrap();
    assert_eq!(manifest.unreadable(0), lacks[0]);
    let sizes = manifest.sizes_at(Sequence::new(2));
    let compared = replica.open_to_compare(&manifest, &sizes).await.unwrap();
    assert_eq!(compared.disks[0].size().get(), SIZES[4]);
}
