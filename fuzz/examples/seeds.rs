//! Writes the seeds of every target into `corpus/`: the same bytes every time.
//!
//! `cargo run --example seeds`, in this folder.

use std::path::Path;

use afterimage_block::{
    Change, ContentDigest, DiskId, Epoch, Extent, Length, Offset, Sequence, Timestamp,
};
use afterimage_changelog::{FileWriter, LogHeader, WriterOptions};

type Result<T = (), E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

fn main() -> Result {
    for (number, log) in logs()?.iter().enumerate() {
        // Once as it is, once to be given checksums.
        for mode in [0, 1] {
            let name = format!("seed-{number}-{mode}");
            write("changelog_reader", &name, &[&[mode][..], log].concat())?;
        }
    }
    noise("changelog_apply", &[64, 512, 2048])
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

/// A sealed log, the same never sealed, the same torn, and a sealed one without records.
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
    Ok(vec![sealed, open, torn, std::fs::read(&path)?])
}
