//! Writes the seeds of every target into `corpus/`: the same bytes every time.
//!
//! `cargo run --example seeds`, in this folder.

use std::path::Path;

use afterimage_block::{
    Change, ContentDigest, DiskId, Epoch, Extent, ExtentSet, Length, MemoryDisk, Offset, Sequence,
    Timestamp,
};
use afterimage_changelog::{
    DiskStates, FileWriter, HrlId, HrlOptions, HrlWriter, LogHeader, Provenance, StateDigest,
    WriterOptions,
};
use afterimage_resync::{
    BlockIndex, BlockSize, Comparer, Error, Session, Signature, SignaturePage,
};

type Result<T = (), E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

fn main() -> Result {
    for (number, log) in logs()?.iter().enumerate() {
        // Once as it is, once to be given checksums.
        for mode in [0, 1] {
            let name = format!("seed-{number}-{mode}");
            write("changelog_reader", &name, &[&[mode][..], log].concat())?;
        }
        write(
            "changelog_salvage",
            &format!("seed-{number}-whole"),
            &[&[0][..], log].concat(),
        )?;
        // One byte, of a record's payload.
        let damage = [0x02, 0xF0, 0x00, 0xFF];
        write(
            "changelog_salvage",
            &format!("seed-{number}-damaged"),
            &[&damage[..], log].concat(),
        )?;
    }
    for (number, log) in hrls()?.iter().enumerate() {
        for mode in [0, 1] {
            let name = format!("seed-{number}-{mode}");
            write("hrl_reader", &name, &[&[mode][..], log].concat())?;
        }
    }
    noise("changelog_apply", &[64, 512, 2048])?;
    noise("changelog_merge", &[64, 512, 2048])?;
    noise("intent_log", &[64, 256, 1024])?;
    noise("replication_events", &[256, 1024, 4096])?;
    for (number, history) in histories().iter().enumerate() {
        write("replication_events", &format!("seed-way-{number}"), history)?;
    }
    sessions()?;
    noise("resync_messages", &[64, 512, 2048])?;
    noise("nbd_server", &[32, 256, 1024, 3000])?;
    let manifest = afterimage_fuzz::store_manifest::true_manifest();
    write(
        "store_manifest",
        "seed-true",
        &[&[0][..], &manifest].concat(),
    )?;
    noise("store_manifest", &[4, 16, 64, 200])
}

fn write(target: &str, name: &str, bytes: &[u8]) -> Result {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    std::fs::create_dir_all(&folder)?;
    Ok(std::fs::write(folder.join(name), bytes)?)
}

/// Seeds of these lengths for a target whose input is made up of whatever bytes there are.
fn noise(target: &str, lengths: &[usize]) -> Result {
    let mut state = 0x0041_4649_4d47_u64;
    for (number, length) in lengths.iter().enumerate() {
        let next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        };
        let bytes: Vec<u8> = std::iter::repeat_with(next).take(*length).collect();
        write(target, &format!("seed-{number}"), &bytes)?;
    }
    Ok(())
}

/// A sealed log, the same never sealed, the same torn, a sealed one without records, the golden ones that
/// are stored in other ways, and one whose footer has pages and states of the disk.
fn logs() -> Result<Vec<Vec<u8>>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("log");
    let header = LogHeader {
        disk: DiskId::from_bytes([1; 16]),
        disk_size: Length::kib(64),
        epoch: Epoch::new(2),
        first: Sequence::new(3),
        last: Sequence::new(3),
        created: Timestamp::from_nanos(4),
    };
    let begin = || FileWriter::create(&path, header, WriterOptions::default());
    let mut log = begin()?;
    let zeros = Extent::new(Offset::new(1024), Length::new(100))?;
    let gone = Extent::new(Offset::new(4096), Length::new(8192))?;
    let write = |at, data| Change::Write {
        offset: Offset::new(at),
        data,
    };
    let changes = [
        write(1000, &[0xA5; 300]),
        Change::WriteZeroes(zeros),
        Change::Discard(gone),
        write(5000, b"after-image"),
        write(65_000, &[1; 536]),
    ];
    for change in changes {
        log.append(change, Timestamp::from_nanos(5))?;
    }
    log.bookmark("label", Timestamp::from_nanos(6))?;
    let open = std::fs::read(&path)?;
    log.seal(ContentDigest::new([7; 32]))?;
    let sealed = std::fs::read(&path)?;
    let torn = open[..open.len() - 20].to_vec();
    begin()?.seal(ContentDigest::NONE)?;
    let empty = std::fs::read(&path)?;
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/changelog/tests/golden");
    let stored = ["compressed", "encrypted", "compressed-encrypted"]
        .map(|way| std::fs::read(golden.join(format!("version-1-{way}.ailog"))));
    let stored = stored.into_iter().collect::<std::io::Result<Vec<_>>>()?;
    let mut log = begin()?;
    for place in 0..260 {
        let gone = Extent::new(Offset::new(place * 240), Length::new(200))?;
        log.append(Change::Discard(gone), Timestamp::from_nanos(7))?;
    }
    let states = DiskStates {
        before: Some(StateDigest::new([8; 32])),
        after: Some(StateDigest::new([9; 32])),
    };
    log.seal(Provenance::from(ContentDigest::NONE).with_states(states))?;
    let paged = std::fs::read(&path)?;
    Ok([vec![sealed, open, torn, empty], stored, vec![paged]].concat())
}

/// An HRL that was closed, one without checksums of its data, and the first as it was before.
fn hrls() -> Result<Vec<Vec<u8>>> {
    let folder = tempfile::tempdir()?;
    let make = |name: &str, checksums| -> Result<(Vec<u8>, Vec<u8>)> {
        let path = folder.path().join(name);
        let options = HrlOptions::new(HrlId::from_bytes([2; 16]), Timestamp::default());
        let mut log = HrlWriter::create(&path, &options.with_data_checksums(checksums))?;
        for (at, data) in [
            (1000, &[0xA5; 300][..]),
            (1100, b"after-image"),
            (0, &[1; 50]),
        ] {
            let offset = Offset::new(at);
            log.append(Change::Write { offset, data }, Timestamp::default())?;
            log.sync()?;
        }
        let open = std::fs::read(&path)?;
        log.close(Timestamp::default())?;
        Ok((open, std::fs::read(&path)?))
    };
    let (open, closed) = make("1", true)?;
    let (_, unchecked) = make("2", false)?;
    Ok(vec![closed, unchecked, open])
}

/// Ways through the life of a machine: to deltas, through a retry, to a resynchronization, to a stop.
///
/// A step is four bytes of which the last says which, and its fields; see `Step` of the target.
fn histories() -> Vec<Vec<u8>> {
    // Three sizes, one disk, and a policy.
    let setting = [&[0, 1, 0, 0].repeat(3)[..], &[1, 30, 0, 49, 1]].concat();
    let ask = |request| vec![0, 0, 0, 0x00, request];
    let barrier = vec![0, 0, 0, 0x20, 0, 0, 0, 0];
    let lossy = vec![0, 0, 0, 0x20, 0, 1, 0, 0, 0, 0x80, 0, 0, 0, 0xC0, 0, 0, 0];
    let done = vec![0, 0, 0, 0x40, 3];
    let fails = vec![0, 0, 0, 0x60, 0, 0, 0];
    let timeout = vec![0, 0, 0, 0xB0];
    let restart = vec![0, 0, 0, 0xD0, 0];
    let copied = [ask(0), done.clone(), barrier.clone(), done.clone()].concat();
    let delta = [timeout.clone(), barrier, done.clone()].concat();
    let delta = [delta.clone(), delta].concat();
    let resync = [
        timeout.clone(),
        lossy,
        done.clone(),
        delta.clone(),
        delta.clone(),
    ]
    .concat();
    let failed = [timeout.clone(), delta[4..12].to_vec(), fails, timeout, done].concat();
    let way = |parts: &[&[u8]]| [&setting[..], &copied[..], &parts.concat()[..]].concat();
    vec![
        way(&[&delta, &ask(4), &delta, &delta]),
        way(&[&failed, &restart, &delta]),
        way(&[&resync, &ask(1), &ask(2), &delta]),
        way(&[&delta, &ask(3), &delta, &restart, &delta]),
    ]
}

/// Sessions as they are stored: new, half way, of a part of a disk, and of the largest.
fn sessions() -> Result {
    let block = BlockSize::default();
    let part: ExtentSet = Extent::new(Offset::new(70_000), Length::new(200_000))?.into();
    let small = Session::whole(Length::kib(160), block);
    let mut comparer: Comparer = Comparer::new(small.clone());
    let page = [Signature::Zero, Signature::from([1; 32])];
    let page = SignaturePage::new(BlockIndex::new(0), &page);
    let disk = MemoryDisk::new(Length::kib(160));
    comparer.compare(&disk, page, |_| Ok::<(), Error>(()))?;
    let sessions = [
        small,
        comparer.into_session(),
        Session::of(Length::mib(1), block, &part)?,
        Session::whole(Length::new(u64::MAX / 512 * 512), block),
    ];
    for (number, session) in sessions.iter().enumerate() {
        let bytes = [&[0][..], &serde_json::to_vec(session)?].concat();
        write("resync_messages", &format!("seed-session-{number}"), &bytes)?;
    }
    Ok(())
}
