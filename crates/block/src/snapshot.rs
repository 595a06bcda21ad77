//! A disk as it was at one instant, while it goes on being written.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use crate::layers::Layers;
use crate::{
    BlockRead, BlockWrite, Error, Extent, ExtentSet, Length, Offset, RawDisk, Result, Run, RunKind,
    TrackedDisk,
};

/// Old contents are kept in pieces of this size.
const GRANULE: Length = Length::kib(64);
/// The most that is copied through memory at a time.
const COPY_MAX: Length = Length::mib(1);

/// A tracked disk as it was at a barrier. Reads are of that instant, whatever is written meanwhile.
///
/// Before a write changes a piece of the disk for the first time, its old contents are copied to an
/// unnamed temporary file, which is gone when the snapshot is dropped. If they cannot be kept, for
/// want of space, the write goes on and the snapshot is lost: every later read says so.
#[derive(Debug)]
pub struct Snapshot {
    tracked: Arc<TrackedDisk>,
    kept: Arc<Kept>,
}

/// The old contents that a snapshot keeps.
#[derive(Debug)]
pub(crate) struct Kept {
    /// As large as the disk; sparse.
    scratch: RawDisk,
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What was overwritten since, and so is read from the scratch file.
    copied: ExtentSet,
    lost: Option<(Extent, String)>,
}

impl Kept {
    pub(crate) fn new(folder: &Path, size: Length) -> Result<Self> {
        Ok(Self {
            scratch: RawDisk::scratch(folder, size)?,
            state: RwLock::default(),
        })
    }

    /// Copies the old contents of what a write to `extent` will change. Called before the write is
    /// made: what is marked as copied is never read from the disk again, and a reader holds the
    /// lock for as long as it reads what is not.
    pub(crate) fn preserve(&self, extent: Extent, disk: &dyn BlockWrite) {
        let whole = extent.aligned_out(GRANULE, disk.size());
        if self.read().copied.contains(whole) {
            return;
        }
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if state.lost.is_some() {
            return;
        }
        let gaps: Vec<_> = state.copied.gaps(whole).collect();
        match gaps.iter().try_for_each(|gap| self.copy(*gap, disk)) {
            Ok(()) => state.copied.insert(whole),
            Err(error) => {
                tracing::warn!(%error, "a snapshot is lost");
                state.lost = Some((whole, error.to_string()));
            }
        }
    }

    /// Copies the data of `extent`; its holes are holes of the scratch file already.
    fn copy(&self, extent: Extent, disk: &dyn BlockWrite) -> Result<()> {
        let mut at = extent.start();
        let mut buffer = Vec::new();
        while let Some(run) = disk.next_run(at)?
            && let Some(part) = run.extent.intersection(extent)
        {
            at = part.end();
            if run.kind == RunKind::Hole {
                continue;
            }
            for piece in part.pieces(COPY_MAX) {
                buffer.resize(piece.length().to_usize().unwrap_or_default(), 0);
                disk.read_at(piece.start(), &mut buffer)?;
                self.scratch.write_at(piece.start(), &buffer)?;
            }
        }
        Ok(())
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, unless the snapshot is lost.
    fn intact(&self) -> Result<RwLockReadGuard<'_, State>> {
        let state = self.read();
        match &state.lost {
            None => Ok(state),
            Some((extent, reason)) => Err(Error::SnapshotLost {
                extent: *extent,
                reason: reason.clone(),
            }),
        }
    }
}

impl Snapshot {
    pub(crate) fn new(tracked: Arc<TrackedDisk>, kept: Arc<Kept>) -> Self {
        Self { tracked, kept }
    }

    /// The bytes whose old contents are kept so far.
    pub fn kept(&self) -> Length {
        self.kept.read().copied.total()
    }

    fn layers<'a>(&'a self, state: &'a State) -> Layers<'a> {
        Layers {
            top: &self.kept.scratch,
            covered: &state.copied,
            base: self.tracked.as_ref(),
        }
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        self.tracked.release(&self.kept);
    }
}

impl BlockRead for Snapshot {
    fn size(&self) -> Length {
        self.tracked.size()
    }

    fn read_at(&self, offset: Offset, buf: &mut [u8]) -> Result<()> {
        let state = self.kept.intact()?;
        self.layers(&state).read_at(offset, buf)
    }

    fn next_run(&self, from: Offset) -> Result<Option<Run>> {
        let state = self.kept.intact()?;
        self.layers(&state).next_run(from)
    }
}
