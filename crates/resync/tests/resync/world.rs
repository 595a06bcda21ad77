//! Two disks that differ, and what a resync of them must find.

use std::num::NonZeroUsize;

use afterimage_block::{BlockRead, Change, Extent, ExtentSet, Length, Offset};
use afterimage_resync::{
    BlockSize, Comparer, Error, Scope, Session, Signature, SignaturePage, Signer, Summary,
};
use proptest::prelude::*;

use crate::disk::{SECTOR, TestDisk, extent, range};

#[derive(Clone, Debug)]
enum Edit {
    Hole,
    Zeroes,
    Bytes(u8),
}

/// Edits of sector runs: of both disks, the source only, the target only.
type Edits = Vec<(Edit, prop::sample::Index, usize)>;

pub(crate) struct World {
    pub(crate) source: TestDisk,
    pub(crate) target: TestDisk,
    pub(crate) block: BlockSize,
    pub(crate) doubtful: ExtentSet,
    pub(crate) threads: NonZeroUsize,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (size, block) = (self.source.size(), self.block);
        write!(f, "{size} in {block}, {:?} in doubt", self.doubtful)
    }
}

fn edits(most: usize) -> impl Strategy<Value = Edits> {
    let edit = prop_oneof![
        2 => Just(Edit::Hole),
        1 => Just(Edit::Zeroes),
        3 => any::<u8>().prop_map(Edit::Bytes)
    ];
    prop::collection::vec((edit, any::<prop::sample::Index>(), 1..600_usize), 0..most)
}

fn edit(disk: &TestDisk, edits: &Edits) {
    let sectors = disk.bytes().len() / SECTOR;
    for (edit, at, length) in edits {
        let from = at.index(sectors);
        let length = (*length).min(sectors - from);
        let extent = extent((from * SECTOR) as u64, (length * SECTOR) as u64);
        match *edit {
            Edit::Hole => disk.punch(extent),
            Edit::Zeroes => disk.put(extent, |_| 0),
            Edit::Bytes(seed) => disk.put(extent, |at| {
                seed.wrapping_add((at / 700).to_le_bytes()[0]) | 1
            }),
        }
    }
}

fn doubt(sectors: usize) -> impl Strategy<Value = ExtentSet> {
    let size = (sectors * SECTOR) as u64;
    let run = (0..size, 1..300_000_u64);
    let some = prop::collection::vec(run, 0..6).prop_map(move |runs| {
        let extents = runs.into_iter();
        extents
            .map(|(at, length)| extent(at, length.min(size - at)))
            .collect()
    });
    prop_oneof![1 => some, 1 => Just(ExtentSet::from(extent(0, size)))]
}

/// As many cases as the environment asks for in `PROPTEST_CASES`, or this many.
pub(crate) fn cases(count: u32) -> ProptestConfig {
    if std::env::var_os("PROPTEST_CASES").is_some() {
        ProptestConfig::default()
    } else {
        ProptestConfig::with_cases(count)
    }
}

/// Worlds of up to 1 MiB, which is four windows, with a last block of any number of sectors.
pub(crate) fn worlds() -> impl Strategy<Value = World> {
    (1..2100_usize)
        .prop_flat_map(|sectors| {
            let block = (12..=18_u32).prop_map(|bits| 1_u64 << bits);
            let edits = (edits(8), edits(4), edits(4));
            (Just(sectors), block, edits, doubt(sectors), 1..4_usize)
        })
        .prop_map(|(sectors, block, (both, left, right), doubtful, threads)| {
            let source = TestDisk::new(sectors * SECTOR);
            edit(&source, &both);
            let target = source.clone();
            edit(&source, &left);
            edit(&target, &right);
            let block = BlockSize::try_from(Length::new(block)).unwrap();
            let threads = NonZeroUsize::new(threads).unwrap();
            World {
                source,
                target,
                block,
                doubtful,
                threads,
            }
        })
}

impl World {
    pub(crate) fn scope(&self) -> Scope {
        Scope::new(self.source.size(), self.block, &self.doubtful).unwrap()
    }

    pub(crate) fn session(&self) -> Session {
        Session::new(self.scope())
    }

    /// The blocks that are touched by what is in doubt, by looking at each block of the disk.
    pub(crate) fn blocks_in_doubt(&self) -> Vec<Extent> {
        let whole = extent(0, self.source.size().get());
        let blocks = whole.pieces(self.block.length());
        blocks
            .filter(|block| self.doubtful.overlaps(*block))
            .collect()
    }

    /// What must be found, but for what is read.
    pub(crate) fn expected(&self) -> Summary {
        let (source, target) = (self.source.bytes(), self.target.bytes());
        let mut summary = Summary::default();
        for block in self.blocks_in_doubt() {
            let (ours, theirs) = (&source[range(block)], &target[range(block)]);
            let kind = if ours == theirs {
                &mut summary.equal
            } else if ours.iter().all(|byte| *byte == 0) {
                &mut summary.zeroed
            } else {
                &mut summary.sent
            };
            *kind = kind.saturating_add(block.length());
            summary.compared = summary.compared.saturating_add(block.length());
        }
        summary
    }

    /// The target's bytes after the resync: the source's wherever they were in doubt.
    pub(crate) fn healed(&self) -> Vec<u8> {
        let (source, mut target) = (self.source.bytes(), self.target.bytes());
        for block in self.blocks_in_doubt() {
            target[range(block)].copy_from_slice(&source[range(block)]);
        }
        target
    }

    /// The bytes of the blocks in doubt that are not wholly holes on `disk`.
    pub(crate) fn stored(&self, disk: &TestDisk) -> Length {
        let blocks = self.blocks_in_doubt().into_iter();
        blocks
            .filter(|block| disk.is_stored(*block))
            .fold(Length::ZERO, |sum, block| {
                sum.saturating_add(block.length())
            })
    }

    /// The target's signatures, of every block.
    pub(crate) fn signatures(&self) -> Vec<Signature> {
        let all = Scope::whole(self.target.size(), self.block);
        let signer = Signer::new(&self.target, all, Offset::ZERO).unwrap();
        signer.map(|signed| signed.unwrap().1).collect()
    }
}

/// Feeds all that is in doubt in pages of `page` blocks.
pub(crate) fn feed<E: From<Error> + Send>(
    comparer: &mut Comparer,
    source: &TestDisk,
    signatures: &[Signature],
    page: usize,
    mut sink: impl FnMut(Change<'_>) -> Result<(), E> + Send,
) -> Result<(), E> {
    while let Some(doubt) = comparer.next_in_doubt() {
        let next = comparer.session().grid().index_at(doubt.start()).get();
        let first = usize::try_from(next).unwrap() / page * page;
        let held = &signatures[first..(first + page).min(signatures.len())];
        let first = afterimage_resync::BlockIndex::new(first as u64);
        comparer.compare(source, SignaturePage::new(first, held), &mut sink)?;
    }
    Ok(())
}
