//! Makes a disk what a recovery point is. Only what differs is read from the replica and written.

use std::sync::{Arc, PoisonError, RwLock};

use afterimage_block::{
    BlockRead, BlockWrite, ContentDigest, Extent, ExtentSet, Length, Offset, RawDisk, RunKind,
    Zeroing,
};
use afterimage_replication::Scope;
use afterimage_resync::BlockSize;
use afterimage_store::{PointDisk, block_digest};
use futures::future::try_join_all;

use crate::error::blocking;
use crate::{Error, Result};

/// A disk is dealt with in pieces of this size, some of them at the same time.
const WINDOW: Length = Length::mib(1);
const PARALLEL: usize = 4;

/// A disk that is pulled to.
pub(crate) struct Target {
    disk: RawDisk,
    /// The number of the present attempt.
    attempt: RwLock<u64>,
}

impl Target {
    pub(crate) fn new(disk: RawDisk) -> Self {
        let attempt = RwLock::default();
        Self { disk, attempt }
    }

    /// Begins an attempt. What an earlier one that was given up still has under way writes nothing
    /// from now on.
    fn begin(&self) -> u64 {
        let mut attempt = self.attempt.write().unwrap_or_else(PoisonError::into_inner);
        *attempt += 1;
        *attempt
    }

    fn write(&self, attempt: u64, parts: &[Part]) -> Result<()> {
        let current = self.attempt.read().unwrap_or_else(PoisonError::into_inner);
        if *current != attempt {
            return Err(Error::Abandoned("another pull has begun".into()));
        }
        for part in parts {
            match &part.content {
                Some(content) => self.disk.write_at(part.extent.start(), content)?,
                None => self.disk.write_zeroes(part.extent, Zeroing::Deallocate)?,
            }
        }
        Ok(())
    }

    fn grow_to(&self, size: Length) -> Result<()> {
        self.disk.lengthen(size)?;
        self.disk.grow_to(size);
        Ok(())
    }

    /// Makes it durable, with nothing behind `size`.
    fn end(&self, attempt: u64, size: Length) -> Result<()> {
        let (end, whole) = (Offset::new(size.get()), self.disk.size().get());
        let behind = Extent::between(end, Offset::new(whole)).map(|extent| Part {
            extent,
            content: None,
        });
        self.write(attempt, behind.as_slice())?;
        Ok(self.disk.flush()?)
    }

    fn is_hole(&self, extent: Extent) -> Result<bool> {
        let run = self.disk.next_run(extent.start())?;
        Ok(run.is_some_and(|run| run.kind == RunKind::Hole && run.extent.end() >= extent.end()))
    }

    /// The digests of the blocks of `extent`.
    fn digests(&self, extent: Extent) -> Result<Vec<ContentDigest>> {
        let mut content = vec![0; extent.length().to_usize().unwrap_or_default()];
        self.disk.read_at(extent.start(), &mut content)?;
        let block = BlockSize::default().length().to_usize().unwrap_or(1);
        Ok(content.chunks(block).map(block_digest).collect())
    }
}

/// What a part of a disk is to hold; nothing for zeros.
struct Part {
    extent: Extent,
    content: Option<Vec<u8>>,
}

/// What a pull did.
#[derive(Clone, Copy, Default)]
pub(crate) struct Moved {
    /// Bytes whose digests were compared.
    pub(crate) compared: Length,
    /// Bytes that were written.
    pub(crate) written: Length,
}

impl Moved {
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            compared: self.compared.saturating_add(other.compared),
            written: self.written.saturating_add(other.written),
        }
    }
}

/// One disk on its way to a point.
struct Pull<'a> {
    target: &'a Arc<Target>,
    point: &'a PointDisk,
    scope: &'a Scope,
    attempt: u64,
}

/// Makes `target` what `point` is, durably, and as large where it is smaller; where it is larger, what it
/// has more is zeros. Extents in `scope` are known to differ and taken as they
/// are; where all is in doubt, digests tell. `step` is told how many bytes are dealt with.
pub(crate) async fn pull(
    target: &Arc<Target>,
    point: &PointDisk,
    scope: &Scope,
    mut step: impl FnMut(Length),
) -> Result<Moved> {
    let pull = Pull {
        target,
        point,
        scope,
        attempt: target.begin(),
    };
    let size = point.size();
    let lengthened = Arc::clone(target);
    blocking(move || lengthened.grow_to(size)).await?;
    let doubtful = scope.extents(size);
    let aligned: ExtentSet = doubtful
        .iter()
        .map(|extent| extent.aligned_out(WINDOW, size))
        .collect();
    let mut windows = aligned.iter().flat_map(|extent| extent.pieces(WINDOW));
    let mut moved = Moved::default();
    loop {
        let batch: Vec<_> = windows.by_ref().take(PARALLEL).collect();
        if batch.is_empty() {
            break;
        }
        for done in try_join_all(batch.iter().map(|window| pull.window(*window))).await? {
            moved = moved.and(done);
        }
        step(batch.iter().fold(Length::ZERO, |sum, window| {
            sum.saturating_add(window.length())
        }));
    }
    let (target, attempt) = (Arc::clone(target), pull.attempt);
    blocking(move || target.end(attempt, size)).await?;
    Ok(moved)
}

impl Pull<'_> {
    async fn window(&self, window: Extent) -> Result<Moved> {
        let (wanted, compared): (Vec<_>, _) = match self.scope {
            Scope::Extents(known) => (known.within(window).collect(), Length::ZERO),
            Scope::Everything => (self.differing(window).await?, window.length()),
        };
        let written = wanted.iter().fold(Length::ZERO, |sum, extent| {
            sum.saturating_add(extent.length())
        });
        if !wanted.is_empty() {
            let mut parts = Vec::new();
            for extent in wanted {
                self.fetch(extent, &mut parts).await?;
            }
            let (target, attempt) = (Arc::clone(self.target), self.attempt);
            blocking(move || target.write(attempt, &parts)).await?;
        }
        Ok(Moved { compared, written })
    }

    /// The blocks of `window` whose digests differ.
    async fn differing(&self, window: Extent) -> Result<Vec<Extent>> {
        let run = self.point.next_run(window.start()).await?;
        let hole =
            run.is_some_and(|run| run.kind == RunKind::Hole && run.extent.end() >= window.end());
        if hole && self.target.is_hole(window)? {
            return Ok(Vec::new());
        }
        let target = Arc::clone(self.target);
        let digests = blocking(move || target.digests(window)).await?;
        let mut differing = ExtentSet::new();
        let blocks = window.pieces(BlockSize::default().length());
        for (block, digest) in blocks.zip(digests) {
            if self.point.block_digest(block.start()).await? != digest {
                differing.insert(block);
            }
        }
        Ok(differing.iter().collect())
    }

    /// Reads what `extent` is to hold.
    async fn fetch(&self, extent: Extent, parts: &mut Vec<Part>) -> Result<()> {
        let mut at = extent.start();
        while let Some(run) = self.point.next_run(at).await?
            && let Some(extent) = run.extent.intersection(extent)
        {
            at = extent.end();
            let content = match run.kind {
                RunKind::Data => Some(self.point.read(extent).await?),
                RunKind::Hole => None,
            };
            parts.push(Part { extent, content });
        }
        Ok(())
    }
}
