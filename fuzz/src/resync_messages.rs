//! Any bytes as a stored resync session, and any signatures as those of the other disk.
//!
//! The first byte of the input says which. Laws:
//!
//! - A session that is read back is stored as the same again, lies on its disk, and can be gone on
//!   with to its end, where all that was in doubt is compared.
//! - Changes are what the source holds, in order, in doubt and on the page; no other block is touched.
//! - A block is left alone only if its signature is that of the source: a lie can cost a transfer, and
//!   nothing but a signature of the very content can save one.
//! - A page that does not hold the next block changes nothing, however far from the disk it begins.

use afterimage_block::{BlockWrite, Change, Extent, ExtentSet, Length, MemoryDisk, Offset};
use afterimage_resync::{
    BlockIndex, BlockSize, Comparer, Error, Scope, Session, Signature, SignaturePage, sign,
};
use arbitrary::Arbitrary;

use crate::head_and_parts;

/// Disks up to this size are compared to their end.
const SMALL: u64 = 1 << 20;

const PAGES_MAX: usize = 32;

/// Checks the laws on `input`.
pub fn check(input: &[u8]) {
    match input.split_first() {
        Some((0, json)) => stored(json),
        Some((_, bytes)) => {
            if let Some((setting, pages)) = head_and_parts::<Setting, Page>(bytes, PAGES_MAX) {
                setting.check(&pages);
            }
        }
        None => {}
    }
}

fn stored(json: &[u8]) {
    let Ok(session) = serde_json::from_slice::<Session>(json) else {
        return;
    };
    let again = serde_json::to_vec(&session).expect("a session can be stored");
    let again: Session = serde_json::from_slice(&again).expect("what was stored is read");
    assert_eq!(again, session);
    let (size, progress) = (session.grid().size(), session.progress());
    assert!(session.cursor().get() <= size.get(), "behind the disk");
    assert!(progress.summary.compared <= progress.total);
    assert!(progress.total <= size);
    assert_eq!(
        session.is_complete(),
        progress.summary.compared == progress.total
    );
    if let Some(next) = session.next_in_doubt() {
        assert!(next.start() >= session.cursor());
        assert!(next.end().get() <= size.get());
    }
    if size.get().is_multiple_of(512) {
        go_on(session);
    }
}

/// Goes on with `session` on a disk that is one hole.
fn go_on(session: Session) {
    let size = session.grid().size();
    let disk = MemoryDisk::new(size);
    let mut comparer: Comparer = Comparer::new(session);
    let mut zeroed = Length::ZERO;
    while let Some(next) = comparer.next_in_doubt() {
        let first = comparer.session().grid().index_at(next.start());
        // Every other block is zeros already.
        let signatures = [Signature::Zero, Signature::from([1; 32])];
        let page = SignaturePage::new(first, &signatures);
        let taken = comparer.compare(&disk, page, |change| {
            let Change::WriteZeroes(extent) = change else {
                panic!("a hole is zeros: {change:?}");
            };
            assert!(next.start() <= extent.start() && extent.end().get() <= size.get());
            zeroed = zeroed.saturating_add(extent.length());
            Ok::<(), Error>(())
        });
        taken.expect("a disk in memory does not fail");
        let cursor = comparer.session().cursor();
        assert!(cursor > next.start(), "it moves on");
        if size.get() > SMALL {
            return;
        }
    }
    let summary = comparer.session().summary();
    let progress = comparer.session().progress();
    assert_eq!(summary.compared, progress.total);
    assert!(zeroed <= summary.zeroed);
}

#[derive(Arbitrary, Debug)]
struct Setting {
    sectors: u16,
    large_blocks: bool,
    source: Vec<Patch>,
    /// Extents in doubt; everything if there are none.
    doubt: Vec<(u16, u16)>,
    threads: u8,
}

#[derive(Arbitrary, Debug)]
struct Patch {
    at: u32,
    length: u16,
    fill: u8,
}

#[derive(Arbitrary, Debug)]
struct Page {
    /// Where it begins; where it should if `None`.
    first: Option<u64>,
    signatures: Vec<Claim>,
}

/// What the other side says of a block.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Claim {
    /// That it is as the source's block of this page.
    Equal,
    Zero,
    Other([u8; 4]),
    /// That it is as this block of the source, which may be another one.
    Of(u8),
}

impl Setting {
    fn check(&self, pages: &[Page]) {
        let size = Length::new(u64::from(self.sectors) % 2048 * 512);
        let block = if self.large_blocks { 16 } else { 4 };
        let block = BlockSize::try_from(Length::kib(block)).expect("it is a power of two");
        let source = self.source_disk(size);
        let Some(scope) = self.scope(size, block) else {
            return;
        };
        let threads = usize::from(self.threads % 3) + 1;
        let comparer = Comparer::new(Session::new(scope));
        let mut run = Run {
            contents: source.contents(),
            source,
            comparer: comparer.threads(threads.try_into().expect("at least one")),
            size,
            block,
        };
        for page in pages {
            run.feed(page);
        }
    }

    fn source_disk(&self, size: Length) -> MemoryDisk {
        let disk = MemoryDisk::new(size);
        for patch in &self.source {
            let at = u64::from(patch.at) % size.get().max(1);
            let length = u64::from(patch.length).min(size.get() - at.min(size.get()));
            let data = vec![patch.fill; usize::from(patch.length)];
            let length = usize::try_from(length).expect("it is short");
            let written = disk.write_at(Offset::new(at), &data[..length]);
            written.expect("it lies on the disk");
        }
        disk
    }

    fn scope(&self, size: Length, block: BlockSize) -> Option<Scope> {
        if self.doubt.is_empty() {
            return Some(Scope::whole(size, block));
        }
        let extents = self.doubt.iter().filter_map(|(sector, sectors)| {
            let start = Offset::new(u64::from(*sector) * 512);
            Extent::new(start, Length::new(u64::from(*sectors) * 512)).ok()
        });
        let extents: ExtentSet = extents.collect();
        let inside = extents
            .iter()
            .all(|extent| extent.end().get() <= size.get());
        let scope = Scope::new(size, block, &extents);
        assert_eq!(scope.is_ok(), inside);
        scope.ok()
    }
}

/// A comparison, and what it should come to.
struct Run {
    source: MemoryDisk,
    contents: Vec<u8>,
    comparer: Comparer,
    size: Length,
    block: BlockSize,
}

impl Run {
    fn feed(&mut self, page: &Page) {
        let before = self.comparer.session().clone();
        let Some(next) = before.next_in_doubt() else {
            return;
        };
        let grid = before.grid();
        let first = page
            .first
            .map_or(grid.index_at(next.start()), BlockIndex::new);
        let numbered = page.signatures.iter().zip(numbers(first));
        let signatures: Vec<_> = numbered
            .map(|(claim, number)| self.signature(*claim, number))
            .collect();
        let mut made: Vec<(Extent, bool)> = Vec::new();
        let (contents, source) = (&self.contents, &self.source);
        let taken =
            self.comparer
                .compare(source, SignaturePage::new(first, &signatures), |change| {
                    let extent = change.extent().expect("a change changes something");
                    let held = &contents[range(extent)];
                    match change {
                        Change::Write { data, .. } => assert!(data == held),
                        Change::WriteZeroes(_) => assert!(held.iter().all(|byte| *byte == 0)),
                        Change::Discard(_) => panic!("nothing is given back"),
                    }
                    made.push((extent, matches!(change, Change::Write { .. })));
                    Ok::<(), Error>(())
                });
        if let Err(error) = taken {
            assert!(matches!(error, Error::WrongPage { .. }), "{error}");
            assert_eq!(self.comparer.session(), &before);
            assert!(made.is_empty());
            return;
        }
        let expected = self.expected(&before, first, &signatures);
        assert_eq!(cut(&made, self.block), expected);
        assert!(self.comparer.session().cursor() > next.start());
        assert!(self.comparer.session().cursor().get() <= self.size.get());
        let summary = self.comparer.session().summary();
        let sum = summary.equal.get() + summary.sent.get() + summary.zeroed.get();
        assert_eq!(summary.compared.get(), sum);
        let json = serde_json::to_vec(self.comparer.session());
        stored(&json.expect("a session can be stored"));
    }

    /// The source's bytes of a block; none behind the disk.
    fn bytes(&self, number: u64) -> &[u8] {
        let grid = self.comparer.session().grid();
        let block = grid.block(BlockIndex::new(number));
        block.map_or(&[], |block| &self.contents[range(block)])
    }

    fn signature(&self, claim: Claim, number: u64) -> Signature {
        match claim {
            Claim::Equal => sign(self.bytes(number)),
            Claim::Zero => Signature::Zero,
            Claim::Other(bytes) => {
                let mut digest = [0; 32];
                digest[..4].copy_from_slice(&bytes);
                Signature::from(digest)
            }
            Claim::Of(other) => sign(self.bytes(other.into())),
        }
    }

    /// The blocks of the page from the cursor on that are in doubt and differ, and whether they hold
    /// data.
    fn expected(
        &self,
        before: &Session,
        first: BlockIndex,
        signatures: &[Signature],
    ) -> Vec<(Extent, bool)> {
        let grid = before.grid();
        let in_doubt = |block: Extent| {
            let next = before.scope().next_from(block.start());
            next.is_some_and(|next| next.contains(block)) && block.start() >= before.cursor()
        };
        let numbered = signatures.iter().zip(numbers(first));
        numbered
            .filter_map(|(theirs, number)| {
                let block = grid
                    .block(BlockIndex::new(number))
                    .filter(|b| in_doubt(*b))?;
                let ours: Signature = sign(self.bytes(number));
                (ours != *theirs).then_some((block, !ours.is_zero()))
            })
            .collect()
    }
}

/// The numbers from `first` on; a page may begin at the last that there is.
fn numbers(first: BlockIndex) -> impl Iterator<Item = u64> {
    std::iter::successors(Some(first.get()), |number| Some(number.saturating_add(1)))
}

/// Changes, cut into blocks.
fn cut(changes: &[(Extent, bool)], block: BlockSize) -> Vec<(Extent, bool)> {
    let pieces = |(extent, data): &(Extent, bool)| {
        let data = *data;
        extent
            .pieces(block.length())
            .map(move |piece| (piece, data))
    };
    changes.iter().flat_map(pieces).collect()
}

fn range(extent: Extent) -> std::ops::Range<usize> {
    let at = |offset: Offset| usize::try_from(offset.get()).expect("the disk is small");
    at(extent.start())..at(extent.end())
}
