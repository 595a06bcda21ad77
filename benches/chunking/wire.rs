//! What goes over a stream beside the changed blocks, with the tree and as a list of all digests.

use std::io::{self, PipeWriter, Write, pipe};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use afterimage_block::{BlockRead, BlockWrite, Epoch, RawDisk, SessionId};
use afterimage_resync::remote::Terms;
use afterimage_resync::{Algorithm, BlockIndex, BlockSize, Digests, Driver, Grid};

use crate::{Images, SIZE};

/// What the ends know of their disks.
pub(crate) type Known = [Option<Digests>; 2];

/// What went over a stream.
pub(crate) struct Pushed {
    pub(crate) digests: u64,
    /// Bytes of blocks.
    pub(crate) sent: u64,
    /// All other bytes, either way.
    pub(crate) beside: u64,
    pub(crate) known: Known,
}

/// What so many changed blocks cost.
pub(crate) struct Row {
    pub(crate) changed: u64,
    pub(crate) beside: u64,
}

/// The costs on a disk in blocks of one size.
pub(crate) struct Table {
    pub(crate) block: BlockSize,
    /// Bytes of a list of all digests.
    pub(crate) list: u64,
    pub(crate) rows: Vec<Row>,
}

/// Counts what is written.
struct Counted(PipeWriter, Arc<AtomicU64>);

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.0.write(bytes)?;
        self.1.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Makes the target equal over a pipe.
pub(crate) fn push(
    source: &RawDisk,
    target: &RawDisk,
    block: BlockSize,
    known: Option<&Known>,
) -> Pushed {
    let terms = Terms {
        session: SessionId::random(),
        epoch: Epoch::new(1),
        grid: Grid::new(source.size(), block),
        algorithm: Algorithm::default(),
    };
    let driver = |end: usize| {
        let known = known.and_then(|known| known[end].clone());
        known.into_iter().fold(Driver::new(terms), Driver::knowing)
    };
    let bytes = Arc::new(AtomicU64::new(0));
    let ((far_in, near_out), (near_in, far_out)) =
        (pipe().expect("a pipe"), pipe().expect("a pipe"));
    let (near_out, far_out) = (
        Counted(near_out, bytes.clone()),
        Counted(far_out, bytes.clone()),
    );
    let mut known = Known::default();
    let [near_known, far_known] = &mut known;
    let progress = thread::scope(|scope| {
        scope.spawn(|| {
            let far = driver(1).keep(|digests| *far_known = Some(digests.clone()));
            far.run_target(target, far_in, far_out)
        });
        let near = driver(0).keep(|digests| *near_known = Some(digests.clone()));
        near.run_source(source, near_in, near_out)
    });
    let progress = progress.expect("two images and a pipe between them");
    let sent = progress.sent.get();
    Pushed {
        digests: progress.digests,
        sent,
        beside: bytes.load(Ordering::Relaxed) - sent,
        known,
    }
}

/// Prints the costs of none to all blocks changed, spread over the disk.
pub(crate) fn run(images: &Images, block: BlockSize) -> Table {
    let image = |name| images.image(&format!("{name} in {block}"), SIZE);
    let (source, target) = (image("source"), image("target"));
    let grid = Grid::new(source.size(), block);
    let list = grid.blocks() * 32;
    println!(
        "\nwire cost, {} in {block}: a list of all digests has {list} bytes",
        source.size()
    );
    println!(
        "{:>8} {:>12} {:>12} {:>12} {:>16}",
        "changed", "digests", "bytes beside", "of the list", "of the changes"
    );
    let mut counts = [0, 1, 10, 100, grid.blocks().div_ceil(100), grid.blocks()];
    counts.sort_unstable();
    let rows = counts.map(|changed| {
        for number in 0..changed {
            let block = BlockIndex::new(number * grid.blocks() / changed);
            let extent = grid.block(block).expect("a block of the disk");
            let write = target.write_at(extent.start(), &[number.to_le_bytes()[0]; 512]);
            write.expect("room for a sector");
        }
        let Pushed {
            digests,
            sent,
            beside,
            ..
        } = push(&source, &target, block, None);
        let percent = |of: u64| {
            let tenths = (beside * 1000).checked_div(of);
            tenths.map_or("-".into(), |tenths| {
                format!("{}.{} %", tenths / 10, tenths % 10)
            })
        };
        println!(
            "{changed:>8} {digests:>12} {beside:>12} {:>12} {:>16}",
            percent(list),
            percent(sent)
        );
        Row { changed, beside }
    });
    Table {
        block,
        list,
        rows: rows.into(),
    }
}
