//! Any manifest in a replica store.
//!
//! The first byte of the input says whether the rest is a manifest, or what is done to the true one.
//! Laws:
//!
//! - A manifest that is refused is refused to all who ask, and stays as it is.
//! - What a recovery point gives to read is the base with the listed logs on it, or an error: a
//!   manifest can hide things and damage things, and can make up nothing.
//! - What a writer makes of a manifest that was taken is taken again, and what it keeps reads as
//!   before.

use std::collections::BTreeMap;

use afterimage_block::{
    Extent, Length, MachineId, Offset, RunKind, Sequence, SessionId, Timestamp,
};
use afterimage_store::{
    Claim, Consistency, LogEntry, Manifest, PointDisk, PointSelector, Publication, RecoveryPoint,
    Replica, Transition, Writer, block_digest,
};
use arbitrary::Arbitrary;

use crate::head_and_parts;

mod edit;
mod fixture;

use edit::Edit;
use fixture::{DISK, Fixture, MACHINE, SIZE};

const EDITS_MAX: usize = 12;
/// Disks up to this size are read whole.
const SMALL: u64 = 1 << 20;
/// So many recovery points are read.
const POINTS_MAX: usize = 6;

#[derive(Arbitrary, Debug)]
struct Setting {
    points_max: u8,
    /// The sequence that is published after the last, counted from it.
    ahead: i8,
    after_loss: bool,
    fences: bool,
}

/// Checks the laws on `input`.
pub fn check(input: &[u8]) {
    let fixture = Fixture::get();
    match input.split_first() {
        Some((0, json)) => {
            let setting = Setting {
                points_max: 3,
                ahead: 1,
                after_loss: false,
                fences: true,
            };
            fixture.run(check_manifest(fixture, json, &setting));
        }
        Some((_, bytes)) => {
            let Some((setting, edits)) = head_and_parts::<Setting, Edit>(bytes, EDITS_MAX) else {
                return;
            };
            let mut manifest = fixture.manifest.clone();
            for edit in &edits {
                edit.apply(&mut manifest);
            }
            let json = serde_json::to_vec(&manifest).expect("a value can be written");
            fixture.run(check_manifest(fixture, &json, &setting));
        }
        None => {}
    }
}

/// The true manifest, as the seeds have it.
pub fn true_manifest() -> Vec<u8> {
    serde_json::to_vec(&Fixture::get().manifest).expect("a value can be written")
}

async fn check_manifest(fixture: &Fixture, json: &[u8], setting: &Setting) {
    let sealed = fixture::sealed(json);
    let store = fixture.store_with(&sealed).await;
    let replica = store.replica();
    let Ok(manifest) = replica.existing().await else {
        assert!(replica.open_point(Sequence::new(1)).await.is_err());
        assert!(
            replica
                .claim(claim(None), |kept| Ok(kept.clone()))
                .await
                .is_err()
        );
        assert!(fence(&replica).await.is_err());
        assert!(
            store.manifest().await == sealed,
            "a refusal changes nothing"
        );
        return;
    };
    selects(&manifest);
    let images = read_points(fixture, &replica, &manifest).await;
    let other = MachineId::from_bytes([9; 16]);
    assert!(
        replica
            .claim(claim(Some((&manifest, other))), |kept| Ok(kept.clone()))
            .await
            .is_err()
    );
    assert!(
        store.manifest().await == sealed,
        "a refusal changes nothing"
    );
    let ours = claim(Some((&manifest, manifest.machine)));
    if let Ok(writer) = replica.claim(ours, |kept| Ok(kept.clone())).await {
        assert!(writer.epoch() > manifest.fence.epoch);
        written(fixture, &writer, setting, &images).await;
        if setting.fences {
            fenced(&replica, &writer).await;
        }
    }
}

/// A claim to the replica of the fixture, or to one with these disks for this machine.
fn claim(replica: Option<(&Manifest, MachineId)>) -> Claim {
    Claim {
        machine: replica.map_or(MACHINE, |(_, machine)| machine),
        session: SessionId::from_bytes([4; 16]),
        disks: replica.map_or(vec![fixture::disk()], |(manifest, _)| {
            manifest.disks.clone()
        }),
    }
}

async fn fence(replica: &Replica) -> Result<Manifest, afterimage_store::Error> {
    let fences = |manifest: &Manifest| {
        Ok(Transition {
            state: manifest.state.clone(),
            fences: true,
        })
    };
    replica.transition(fences).await
}

/// Each recovery point is found by its number and by its time.
fn selects(manifest: &Manifest) {
    let latest = manifest.select(PointSelector::Latest).ok();
    assert_eq!(latest.as_ref(), manifest.latest_point());
    for point in &manifest.points {
        let found = manifest.select(PointSelector::Sequence(point.sequence));
        assert_eq!(found.ok(), Some(*point));
        let found = manifest.select(PointSelector::AtOrBefore(point.time));
        let found = found.expect("there is at least this one");
        assert!(found.time <= point.time && found.sequence >= point.sequence);
        assert!(Some(point.sequence) <= manifest.last());
    }
}

/// Reads the recovery points; those that read whole.
async fn read_points(
    fixture: &Fixture,
    replica: &Replica,
    manifest: &Manifest,
) -> BTreeMap<Sequence, Vec<u8>> {
    let mut images = BTreeMap::new();
    let points = manifest.points.iter().map(|point| point.sequence);
    for sequence in points.chain(manifest.last()).take(POINTS_MAX) {
        let Ok(point) = replica.open_point(sequence).await else {
            continue;
        };
        assert_eq!(point.disks.len(), manifest.disks.len());
        for (number, (disk, told)) in point.disks.iter().zip(&manifest.disks).enumerate() {
            assert_eq!(disk.size(), told.size);
            let Some(image) = read_disk(disk).await else {
                continue;
            };
            if told.id == DISK && told.size == SIZE {
                images.insert(sequence, image.clone());
            }
            if told.id == DISK && told.size == SIZE && fixture.is_base(manifest, number) {
                let logs = manifest.logs.iter();
                let logs = logs.filter(|entry| entry.sequence <= sequence);
                let logs = logs.filter(|entry| matches!(entry.disks.get(number), Some(Some(_))));
                let expected = fixture.image(logs.map(|entry| entry.sequence));
                assert!(image == expected, "made up: {sequence} {manifest:?}");
            }
        }
    }
    images
}

/// Reads a disk: all of it and its runs if it is small, a little of it if it is not.
async fn read_disk(disk: &PointDisk) -> Option<Vec<u8>> {
    let size = disk.size().get();
    if size > SMALL {
        for start in [0, size / 2, size - 4096] {
            let extent = Extent::new(Offset::new(start), Length::kib(4));
            // An error is as good as bytes, as long as it comes.
            let _ = disk.read(extent.expect("it is inside")).await;
            let _ = disk.next_run(Offset::new(start)).await;
            let _ = disk.block_digest(Offset::new(start)).await;
        }
        return None;
    }
    let image = disk.read(Extent::whole(disk.size())?).await.ok()?;
    let mut at = Offset::ZERO;
    while let Some(run) = disk.next_run(at).await.ok()? {
        assert_eq!(run.extent.start(), at);
        let bytes = &image[range(run.extent)];
        assert!(run.kind == RunKind::Data || bytes.iter().all(|byte| *byte == 0));
        at = run.extent.end();
    }
    assert_eq!(at.get(), size);
    for (number, block) in image.chunks(64 << 10).enumerate() {
        let at = Offset::new(number as u64 * (64 << 10));
        assert_eq!(disk.block_digest(at).await.ok()?, block_digest(block));
    }
    Some(image)
}

fn range(extent: Extent) -> std::ops::Range<usize> {
    let at = |offset: Offset| usize::try_from(offset.get()).expect("the disk is small");
    at(extent.start())..at(extent.end())
}

/// A writer publishes and retains.
async fn written(
    fixture: &Fixture,
    writer: &Writer,
    setting: &Setting,
    images: &BTreeMap<Sequence, Vec<u8>>,
) {
    let replica = writer.replica();
    let manifest = replica.existing().await.expect("it was taken");
    let sequence = manifest.last().map_or(0, Sequence::get);
    let sequence = Sequence::new(sequence.saturating_add_signed(setting.ahead.into()));
    let publication = Publication {
        first: sequence,
        logs: LogEntry {
            sequence,
            disks: vec![None; manifest.disks.len()],
        },
        sizes: manifest.sizes_at(sequence),
        predecessors: Vec::new(),
        after_loss: setting.after_loss,
        point: (!setting.after_loss).then_some(RecoveryPoint {
            sequence,
            time: Timestamp::from_nanos(sequence.get()),
            consistency: Consistency::Application,
        }),
        amends: Vec::new(),
    };
    if let Ok(published) = writer.publish(&publication, &manifest.state).await {
        let next = manifest.last() < Some(sequence);
        assert!(next || manifest.logs.last() == Some(&publication.logs));
        let found = replica.existing().await.expect("what is written is taken");
        assert_eq!(found, published);
        assert_eq!(found.last(), Some(sequence));
    }
    let points_max = usize::from(setting.points_max % 16);
    let retained = writer.retain(points_max).await;
    let found = replica.existing().await.expect("what is written is taken");
    if retained.is_ok() {
        assert!(found.whole_points().count() <= points_max.max(1));
    }
    for (sequence, image) in read_points(fixture, replica, &found).await {
        let before = images.get(&sequence);
        assert!(before.is_none_or(|before| *before == image), "{sequence}");
    }
}

/// Nobody writes once the replica is failed over.
async fn fenced(replica: &Replica, writer: &Writer) {
    let Ok(manifest) = fence(replica).await else {
        return;
    };
    assert!(manifest.fence.epoch > writer.epoch());
    assert!(writer.set_state(&serde_json::Value::Null).await.is_err());
    assert!(writer.retain(1).await.is_err() || manifest.points.len() <= 1);
    let found = replica.existing().await.expect("what is written is taken");
    assert_eq!(found, manifest);
}
