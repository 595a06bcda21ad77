//! A machine of several disks that writes to each of them in every interval.

#![allow(dead_code, reason = "each test takes what it needs")]

use std::sync::Arc;

use afterimage_block::{
    Change, ContentDigest, DiskId, Epoch, Length, MachineId, MemoryDisk, Offset, Sequence,
    SessionId, Timestamp,
};
use afterimage_changelog::{FileWriter, LogHeader, SealedLog, WriterOptions};
use afterimage_store::{
    BaseProgress, Claim, Consistency, Error, LogEntry, Manifest, Publication, RecoveryPoint,
    Replica, ReplicaDisk, Writer,
};
use futures::future::try_join_all;
use serde_json::json;

pub(crate) const SIZE: Length = Length::mib(64);

/// The machine, and its writer.
pub(crate) struct Machine {
    folder: tempfile::TempDir,
    disks: Vec<Arc<MemoryDisk>>,
    pub(crate) writer: Writer,
    last: Sequence,
}

fn id(disk: usize) -> DiskId {
    DiskId::from_bytes([u8::try_from(disk + 1).unwrap(); 16])
}

/// A new writer of the replica of a machine with so many disks.
pub(crate) async fn claim(replica: &Replica, disks: usize) -> Writer {
    let disk = |disk| ReplicaDisk {
        id: id(disk),
        name: format!("disk-{disk}").parse().unwrap(),
        size: SIZE,
    };
    let claim = Claim {
        machine: MachineId::from_bytes([2; 16]),
        session: SessionId::random(),
        disks: (0..disks).map(disk).collect(),
    };
    let claimed = replica.claim(claim, |kept| Ok(kept.clone()));
    claimed.await.unwrap()
}

impl Machine {
    /// With its first copy at barrier 1, all zeros.
    pub(crate) async fn new(replica: &Replica, disks: usize) -> Self {
        let writer = claim(replica, disks).await;
        let disks = || (0..disks).map(|_| Arc::new(MemoryDisk::new(SIZE)));
        let mut roots = Vec::new();
        for (number, disk) in disks().enumerate() {
            let mut base = writer.base(number, BaseProgress::default()).await.unwrap();
            while base.next_page().is_some() {
                base.copy_page(disk.clone()).await.unwrap();
            }
            roots.push(base.finish().await.unwrap());
        }
        let last = Sequence::new(1);
        let state = json!({});
        let published = writer.publish_base(last, roots, None, &state);
        published.await.unwrap();
        Self {
            folder: tempfile::tempdir().unwrap(),
            disks: disks().collect(),
            writer,
            last,
        }
    }

    /// The next generation, `writes` to each disk of `length` bytes each, 64 KiB apart.
    pub(crate) fn write(&self, writes: u64, length: usize) -> Vec<SealedLog> {
        let sequence = self.last.next();
        let logs = self.disks.iter().enumerate();
        let log = |(number, disk): (usize, &Arc<MemoryDisk>)| {
            let path = self.folder.path().join(format!("{sequence}-{number}"));
            let header = LogHeader {
                disk: id(number),
                disk_size: SIZE,
                epoch: Epoch::new(1),
                first: sequence,
                last: sequence,
                created: Timestamp::default(),
            };
            let mut log = FileWriter::create(&path, header, WriterOptions::default()).unwrap();
            let data = vec![u8::try_from(sequence.get() % 250 + 1).unwrap(); length];
            for write in 0..writes {
                let change = Change::Write {
                    offset: Offset::new(write << 16),
                    data: &data,
                };
                change.apply_to(disk.as_ref()).unwrap();
                log.append(change, Timestamp::default()).unwrap();
            }
            log.seal(ContentDigest::NONE).unwrap()
        };
        logs.map(log).collect()
    }

    /// Puts and publishes `logs` as the next generation.
    pub(crate) async fn ship(&mut self, logs: &[SealedLog]) -> Result<Manifest, Error> {
        let sequence = self.last.next();
        let put = logs.iter().enumerate();
        let put = put.map(async |(number, log)| self.writer.put_log(number, log).await.map(Some));
        let disks = try_join_all(put).await?;
        let publication = Publication {
            first: sequence,
            logs: LogEntry { sequence, disks },
            sizes: vec![SIZE; logs.len()],
            predecessors: vec![ContentDigest::NONE; logs.len()],
            after_loss: false,
            point: Some(RecoveryPoint {
                sequence,
                time: Timestamp::from_nanos(sequence.get()),
                consistency: Consistency::Crash,
            }),
            amends: Vec::new(),
        };
        let manifest = self.writer.publish(&publication, &json!({})).await?;
        self.last = sequence;
        Ok(manifest)
    }

    /// The same machine once it shipped what `write` logged.
    pub(crate) async fn shipped(&mut self, writes: u64, length: usize) {
        let logs = self.write(writes, length);
        self.ship(&logs).await.unwrap();
    }

    /// The newest barrier.
    pub(crate) fn last(&self) -> Sequence {
        self.last
    }

    /// What the first disk holds.
    pub(crate) fn contents(&self) -> Vec<u8> {
        self.disks[0].contents()
    }

    /// The newest point is what the disks hold.
    pub(crate) async fn check(&self) {
        let point = self.writer.replica().open_point(self.last).await.unwrap();
        for (opened, disk) in point.disks.iter().zip(&self.disks) {
            let restored = Arc::new(MemoryDisk::new(SIZE));
            opened.restore(restored.clone(), |_| ()).await.unwrap();
            assert!(restored.contents() == disk.contents());
        }
    }
}
