//! The life of a replica, whatever its store does: claimed, copied, published, retained, claimed
//! again; every point that was published reads back, byte for byte.

#![allow(dead_code, reason = "each test takes what it needs")]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::Write;
use std::sync::Arc;

use afterimage_block::{
    BlockRead, BlockWrite, Change, ContentDigest, DiskId, Epoch, Extent, ExtentSet, Length,
    MachineId, MemoryDisk, Offset, Sequence, SessionId, Timestamp,
};
use afterimage_changelog::{FileWriter, LogHeader, SealedLog, WriterOptions};
use afterimage_store::{
    BaseProgress, Claim, Consistency, Error, Inlining, Key, LogEntry, Manifest, Publication,
    RecoveryPoint, Replica, ReplicaDisk, Scrub, Writer,
};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Has most logs of a history in the manifest for a while, and then in packs.
pub(crate) const PACKING: Inlining = Inlining {
    log_max: Length::mib(2),
    total_max: Length::mib(4),
};
/// Several chunks and a crooked end.
pub(crate) const SIZE: Length = Length::new((12 << 20) + 512);
const DISK: DiskId = DiskId::from_bytes([1; 16]);
const POINTS_MAX: usize = 4;
/// A log that is put in several parts comes at this step.
const LARGE_AT: u64 = 4;

/// Does `operation` until it is done, as long as its failures are such that can pass.
pub(crate) async fn done<T: Debug>(operation: impl AsyncFnMut() -> Result<T, Error>) -> T {
    settled(operation).await.unwrap()
}

/// Does `operation` until it is done or fails for good.
pub(crate) async fn settled<T: Debug>(
    mut operation: impl AsyncFnMut() -> Result<T, Error>,
) -> Result<T, Error> {
    for _ in 0..5000 {
        match operation().await {
            Err(error) if error.is_recoverable() => {}
            result => return result,
        }
    }
    panic!("it fails again and again");
}

/// The key of a file with these bytes.
pub(crate) fn key(byte: u8) -> Key {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(format!("{byte:02x}").repeat(32).as_bytes())
        .unwrap();
    Key::from_file(file.path()).unwrap()
}

/// A manifest with this JSON.
pub(crate) fn sealed(json: &[u8]) -> Vec<u8> {
    let digest = ContentDigest::new(Sha256::digest(json).into());
    [json, format!("\n{digest}\n").as_bytes()].concat()
}

pub(crate) async fn claim(replica: &Replica) -> Writer {
    let claim = Claim {
        machine: MachineId::from_bytes([2; 16]),
        session: SessionId::random(),
        disks: vec![ReplicaDisk {
            id: DISK,
            name: "root".parse().unwrap(),
            size: SIZE,
        }],
    };
    done(async || replica.claim(claim.clone(), |kept| Ok(kept.clone())).await).await
}

/// A disk, and logs of what is written to it.
pub(crate) struct Primary {
    folder: tempfile::TempDir,
    pub(crate) disk: Arc<MemoryDisk>,
    last: ContentDigest,
    random: fastrand::Rng,
}

impl Primary {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            disk: Arc::new(MemoryDisk::new(SIZE)),
            last: ContentDigest::NONE,
            random: fastrand::Rng::with_seed(seed),
        }
    }

    fn log(&self, sequence: u64) -> FileWriter {
        let path = self.folder.path().join(sequence.to_string());
        let header = LogHeader {
            disk: DISK,
            disk_size: SIZE,
            epoch: Epoch::new(1),
            first: Sequence::new(sequence),
            last: Sequence::new(sequence),
            created: Timestamp::default(),
        };
        FileWriter::create(&path, header, WriterOptions::default()).unwrap()
    }

    /// Writes, zeroes and discards here and there, logged as generation `sequence`. Some chunks are
    /// again what they were before.
    pub(crate) fn generation(&mut self, sequence: u64) -> SealedLog {
        let mut log = self.log(sequence);
        let chunk = Offset::new(self.random.u64(0..3) << 20);
        let again = vec![self.random.u8(1..3); 1 << 20];
        self.write(&mut log, chunk, &again);
        let lengths = if sequence == LARGE_AT {
            9 << 20..10 << 20
        } else {
            1..100_000
        };
        for _ in 0..if sequence == LARGE_AT { 1 } else { 6 } {
            let length = self.random.u64(lengths.clone());
            let start = self.random.u64(0..SIZE.get() - length);
            let extent = Extent::new(Offset::new(start), Length::new(length)).unwrap();
            let data = vec![self.random.u8(1..); extent.length().to_usize().unwrap()];
            let change = match self.random.u8(0..5) {
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

    /// One write, logged as generation `sequence`.
    pub(crate) fn rewrite(&mut self, sequence: u64, offset: Offset, data: &[u8]) -> SealedLog {
        let mut log = self.log(sequence);
        self.write(&mut log, offset, data);
        log.seal(self.last).unwrap()
    }

    /// What the disk holds in `extents`, logged as generation `sequence`, without a predecessor.
    pub(crate) fn copied(&mut self, sequence: u64, extents: &ExtentSet) -> SealedLog {
        let mut log = self.log(sequence);
        for extent in extents
            .iter()
            .flat_map(|extent| extent.pieces(Length::mib(1)))
        {
            let mut data = vec![0; extent.length().to_usize().unwrap()];
            self.disk.read_at(extent.start(), &mut data).unwrap();
            self.write(&mut log, extent.start(), &data);
        }
        self.last = ContentDigest::NONE;
        log.seal(ContentDigest::NONE).unwrap()
    }

    /// Makes the disk what it was; the next log follows none.
    pub(crate) fn put_back(&mut self, image: &[u8]) {
        self.disk.write_at(Offset::ZERO, image).unwrap();
        self.last = ContentDigest::NONE;
    }

    fn write(&self, log: &mut FileWriter, offset: Offset, data: &[u8]) {
        let change = Change::Write { offset, data };
        change.apply_to(self.disk.as_ref()).unwrap();
        log.append(change, Timestamp::default()).unwrap();
    }

    /// Ships `log` and keeps as many points as are kept.
    pub(crate) async fn ship(&mut self, writer: &Writer, log: &SealedLog, state: &Value) {
        let publication = self.publication(writer, log).await;
        let kept = |_: &Manifest| POINTS_MAX;
        let publish = async || writer.publish_retaining(&publication, state, kept).await;
        done(publish).await;
        self.last = log.summary().content;
        done(async || writer.retain(POINTS_MAX).await).await;
    }

    pub(crate) async fn copy(&self, writer: &Writer) {
        let mut base = done(async || writer.base(0, BaseProgress::default()).await).await;
        while base.next_page().is_some() {
            done(async || base.copy_page(self.disk.clone()).await).await;
        }
        // The root is written by the end of the copy, which can be made again from its progress.
        let progress = base.progress();
        let root = done(async || writer.base(0, progress.clone()).await?.finish().await).await;
        let publish = async || {
            let point = Some(point(1));
            writer
                .publish_base(Sequence::new(1), vec![root], point, &Value::Null)
                .await
        };
        done(publish).await;
    }

    /// What publishes `log`, which is stored then.
    pub(crate) async fn publication(&self, writer: &Writer, log: &SealedLog) -> Publication {
        let object = done(async || writer.put_log(0, log).await).await;
        let sequence = log.header().last;
        Publication {
            first: sequence,
            logs: LogEntry {
                sequence,
                disks: vec![Some(object)],
            },
            sizes: vec![log.header().disk_size],
            predecessors: vec![log.summary().predecessor],
            after_loss: false,
            point: Some(point(sequence.get())),
            amends: Vec::new(),
        }
    }
}

fn point(sequence: u64) -> RecoveryPoint {
    RecoveryPoint {
        sequence: Sequence::new(sequence),
        time: Timestamp::from_nanos(sequence * 1000),
        consistency: Consistency::Crash,
    }
}

/// The disk at barrier `sequence`.
pub(crate) async fn contents(replica: &Replica, sequence: u64) -> Vec<u8> {
    done(async || {
        let opened = replica.open_point(Sequence::new(sequence)).await?;
        let target = Arc::new(MemoryDisk::new(SIZE));
        opened.disks[0].restore(target.clone(), |_| ()).await?;
        Ok(target.contents())
    })
    .await
}

/// Lives through `generations`; what the points must read back as.
pub(crate) async fn live(replica: &Replica, seed: u64, generations: u64) -> BTreeMap<u64, Vec<u8>> {
    let mut primary = Primary::new(seed);
    let mut writer = claim(replica).await;
    primary.generation(1);
    primary.copy(&writer).await;
    let mut images = BTreeMap::from([(1, primary.disk.contents())]);
    for sequence in 2..2 + generations {
        if primary.random.u8(0..4) == 0 {
            let fenced = std::mem::replace(&mut writer, claim(replica).await);
            let late = settled(async || fenced.set_state(&Value::from("late")).await).await;
            assert!(matches!(late, Err(Error::Fenced { .. })), "{late:?}");
        }
        let log = primary.generation(sequence);
        let state = Value::from(sequence);
        primary.ship(&writer, &log, &state).await;
        images.insert(sequence, primary.disk.contents());
        let manifest = done(async || replica.existing().await).await;
        assert_eq!(manifest.state, state);
        let kept: Vec<_> = manifest
            .points
            .iter()
            .map(|point| point.sequence.get())
            .collect();
        let first = (sequence + 1).saturating_sub(POINTS_MAX as u64).max(1);
        assert_eq!(
            kept,
            (first..=sequence).collect::<Vec<_>>(),
            "no point is lost or too many"
        );
        images.retain(|sequence, _| kept.contains(sequence));
        if sequence % 5 == 0 {
            let (any, image) = images.iter().next().unwrap();
            assert!(contents(replica, *any).await == *image, "point {any}");
        }
    }
    images
}

/// The objects that a scrub calls damaged.
pub(crate) async fn damaged(mut scrub: Scrub) -> Vec<String> {
    let mut damaged = Vec::new();
    while let Some(step) = scrub.step().await.unwrap() {
        damaged.extend(step.damage.into_iter().map(|damage| damage.object));
    }
    damaged
}

/// Every point reads back.
pub(crate) async fn check(replica: &Replica, images: &BTreeMap<u64, Vec<u8>>) {
    for (sequence, image) in images {
        assert!(
            contents(replica, *sequence).await == *image,
            "point {sequence}"
        );
    }
}

/// Two writers claim the replica and publish the same generation, at the same time. One of them
/// wins, and the point is what it wrote.
pub(crate) async fn race(replica: &Replica, seed: u64, both_claim_first: bool) {
    let (mut one, mut two) = (Primary::new(seed), Primary::new(seed));
    one.copy(&claim(replica).await).await;
    two.random = fastrand::Rng::with_seed(seed ^ 1);
    let logs = (one.generation(2), two.generation(2));
    let gate = tokio::sync::Barrier::new(2);
    let run = async |primary: &Primary, log: &SealedLog| {
        let writer = claim(replica).await;
        if both_claim_first {
            gate.wait().await;
        }
        let publication = primary.publication(&writer, log).await;
        let publish = async || writer.publish(&publication, &Value::Null).await;
        let result = settled(publish).await.map(drop);
        (writer, publication, result)
    };
    let (first, second) = tokio::join!(run(&one, &logs.0), run(&two, &logs.1));
    let manifest = done(async || replica.existing().await).await;
    let holds = |publication: &Publication| manifest.logs == [publication.logs.clone()];
    assert!(
        holds(&first.1) != holds(&second.1),
        "one of them is published"
    );
    for (writer, publication, result) in [&first, &second] {
        match result {
            Ok(()) => assert!(holds(publication), "what is acknowledged is there"),
            Err(Error::Fenced { .. } | Error::OutOfSequence { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        if both_claim_first {
            // The fence alone decides then, and its holder knows that it has won.
            let holds_fence = manifest.fence.epoch == writer.epoch();
            assert_eq!(
                (result.is_ok(), holds(publication)),
                (holds_fence, holds_fence)
            );
        }
    }
    let winner = if holds(&first.1) { &one } else { &two };
    assert!(contents(replica, 2).await == winner.disk.contents());
}
