//! A disk against the signatures of another that is far away.

use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;

use afterimage_block::{BlockRead, Change, Extent, Length, Offset, Run, RunKind};
use digest::Digest;
use sha2::Sha256;

use crate::buffer::Buffer;
use crate::line::{self, Flow};
use crate::spans::{Spans, read_blocks, window};
use crate::verdict::{Verdict, Verdicts};
use crate::{BlockIndex, Error, Grid, Result, Session, Side, Signature, is_zero};

/// Signatures of target blocks that follow each other.
#[derive(Debug)]
pub struct SignaturePage<'p, D: Digest = Sha256> {
    /// The block that the first signature is of.
    pub first: BlockIndex,
    /// One signature a block.
    pub signatures: &'p [Signature<D>],
}

impl<D: Digest> Clone for SignaturePage<'_, D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<D: Digest> Copy for SignaturePage<'_, D> {}

impl<'p, D: Digest> SignaturePage<'p, D> {
    /// Signatures of the blocks from `first` on.
    pub const fn new(first: BlockIndex, signatures: &'p [Signature<D>]) -> Self {
        Self { first, signatures }
    }

    /// The signature of `block`, if it is on the page.
    fn get(self, block: BlockIndex) -> Option<&'p Signature<D>> {
        let at = block.get().checked_sub(self.first.get())?;
        self.signatures.get(usize::try_from(at).ok()?)
    }
}

/// Compares a source disk with the signatures of a target and hands on what differs.
///
/// The caller asks which blocks are in doubt next, gets the target's signatures of them from
/// wherever they are kept, and feeds them a page at a time, in order. Pages may hold blocks that are
/// not in doubt; these are neither read nor compared. Between pages the caller may stop, store the
/// session, and go on later.
///
/// Reads 256 KiB at a time (or one block, if larger), overlapping the reading and hashing of up to
/// [`threads`](Self::threads) of them, and keeps at most four of them a thread in memory.
#[derive(Debug)]
pub struct Comparer<D: Digest = Sha256> {
    session: Session,
    threads: NonZeroUsize,
    buffers: Vec<Buffer>,
    /// A run of data that the source told of. Filesystems may take long to find the next hole, so
    /// that to ask for each page would cost more than the page.
    known_data: Option<Extent>,
    digest: PhantomData<fn() -> D>,
}

impl<D: Digest> Comparer<D> {
    /// Goes on with `session` where it is, on one thread.
    pub const fn new(session: Session) -> Self {
        Self {
            session,
            threads: NonZeroUsize::MIN,
            buffers: Vec::new(),
            known_data: None,
            digest: PhantomData,
        }
    }

    /// Reads and hashes on `threads` threads.
    pub const fn threads(mut self, threads: NonZeroUsize) -> Self {
        self.threads = threads;
        self
    }

    /// What is in doubt, how far it is, what it found.
    pub const fn session(&self) -> &Session {
        &self.session
    }

    /// The session, to be stored or gone on with otherwise.
    pub fn into_session(self) -> Session {
        self.session
    }

    /// The run of blocks whose signatures are wanted next; `None` when all is compared.
    pub fn next_in_doubt(&self) -> Option<Extent> {
        self.session.next_in_doubt()
    }

    /// Compares the blocks of `page` that are in doubt and gives `sink` what differs, in order:
    /// [`Change::Write`] with the source's bytes, or [`Change::WriteZeroes`] where the source has a
    /// hole or zeros. Adjacent blocks come as one change up to what is read at once.
    ///
    /// The cursor moves past a block once it is found equal or `sink` took it. After an error it
    /// stands at the block at fault, and the same page may be fed again.
    ///
    /// # Errors
    /// [`Error::WrongPage`] if the page does not hold the block that is next in doubt,
    /// [`Error::OtherDisk`] if `source` is not of the session's size, [`Error::Read`],
    /// [`Error::Map`], [`Error::InvalidRun`] if it fails, and whatever `sink` returns.
    pub fn compare<E: From<Error> + Send>(
        &mut self,
        source: &dyn BlockRead,
        page: SignaturePage<'_, D>,
        sink: impl FnMut(Change<'_>) -> Result<(), E> + Send,
    ) -> Result<(), E>
    where
        Signature<D>: Sync,
    {
        self.session.check_size(Side::Source, source.size())?;
        let Some(limit) = self.page_limit(page)? else {
            return Ok(());
        };
        let grid = self.session.grid();
        let windows = limit.length().get() / window(grid, limit).length().get();
        let windows = usize::try_from(windows).unwrap_or(usize::MAX);
        let threads = NonZeroUsize::new(windows.min(self.threads.get()));
        let spans = Spans::new(source, Side::Source, grid).knowing(self.known_data);
        let mut flow = Feeding {
            planned: limit.start(),
            limit,
            spans: Some(spans),
            session: &mut self.session,
            buffers: &mut self.buffers,
            sink,
            failed: None,
        };
        line::run(
            &mut flow,
            threads.unwrap_or(NonZeroUsize::MIN),
            |(): &mut (), job| job.map(|piece| piece.compare(source, grid, page)),
        );
        self.known_data = flow.spans.and_then(|spans| spans.known_data());
        flow.failed.map_or(Ok(()), Err)
    }

    /// From the block that is next in doubt to the end of the page.
    fn page_limit(&self, page: SignaturePage<'_, D>) -> Result<Option<Extent>> {
        let Some(next) = self.next_in_doubt() else {
            return Ok(None);
        };
        let grid = self.session.grid();
        let blocks = page.signatures.len() as u64;
        let held = grid.run(page.first, blocks);
        let held = held.filter(|held| held.start() <= next.start());
        let limit = held.and_then(|held| Extent::between(next.start(), held.end()));
        limit.map(Some).ok_or_else(|| Error::WrongPage {
            expected: grid.index_at(next.start()),
            first: page.first,
            count: page.signatures.len(),
        })
    }
}

/// Blocks of the source that are in doubt.
struct Piece {
    extent: Extent,
    kind: RunKind,
    buffer: Buffer,
}

/// A piece once its blocks are compared, up to the first that could not be read.
struct Compared {
    piece: Piece,
    verdicts: Verdicts,
    read: Length,
    error: Option<Error>,
}

impl Piece {
    fn compare<D: Digest>(
        mut self,
        source: &dyn BlockRead,
        grid: Grid,
        page: SignaturePage<'_, D>,
    ) -> Compared {
        let mut verdicts = Verdicts::default();
        let blocks = self.extent.pieces(grid.block_size().length());
        let target = |block: Extent| page.get(grid.index_at(block.start()));
        let (mut read, mut error) = (Length::ZERO, None);
        if self.kind == RunKind::Hole {
            blocks.for_each(|block| verdicts.push(block, zero_verdict(target(block))));
        } else {
            let buffer = &mut self.buffer;
            let (bytes, failed) = read_blocks(source, Side::Source, grid, self.extent, buffer);
            for (block, bytes) in blocks.zip(bytes.chunks(grid.block_len())) {
                verdicts.push(block, verdict(bytes, target(block)));
            }
            (read, error) = (Length::of(bytes), failed);
        }
        Compared {
            piece: self,
            verdicts,
            read,
            error,
        }
    }
}

/// What becomes of a target block with this signature if the source has these bytes there.
fn verdict<D: Digest>(bytes: &[u8], target: Option<&Signature<D>>) -> Verdict {
    match target {
        _ if is_zero(bytes) => zero_verdict(target),
        Some(Signature::Digest(digest)) if D::digest(bytes) == *digest => Verdict::Equal,
        _ => Verdict::Send,
    }
}

/// What becomes of a target block with this signature if the source has zeros there.
fn zero_verdict<D: Digest>(target: Option<&Signature<D>>) -> Verdict {
    if target.is_some_and(Signature::is_zero) {
        Verdict::Equal
    } else {
        Verdict::Zero
    }
}

/// One page on its way through the threads.
struct Feeding<'a, S, E> {
    session: &'a mut Session,
    /// The rest of the page.
    limit: Extent,
    /// Where to plan from.
    planned: Offset,
    /// Gone after it failed.
    spans: Option<Spans<'a>>,
    buffers: &'a mut Vec<Buffer>,
    sink: S,
    failed: Option<E>,
}

impl<S, E> Flow for Feeding<'_, S, E>
where
    S: FnMut(Change<'_>) -> Result<(), E> + Send,
    E: From<Error> + Send,
{
    type Job = Result<Piece>;
    type Done = Result<Compared>;

    fn plan(&mut self) -> Option<Self::Job> {
        let spans = self.spans.as_mut()?;
        let doubt = self.session.scope().next_from(self.planned)?;
        let within = doubt.intersection(self.limit)?;
        let planned = spans.next(within);
        if let Ok(Run { extent, .. }) = planned {
            self.planned = extent.end();
        } else {
            self.spans = None;
        }
        Some(planned.map(|Run { extent, kind }| Piece {
            extent,
            kind,
            buffer: self.buffers.pop().unwrap_or_default(),
        }))
    }

    fn finish(&mut self, done: Self::Done) -> ControlFlow<()> {
        let taken = done.map_err(E::from).and_then(|done| {
            let taken = self.hand_on(&done);
            self.buffers.push(done.piece.buffer);
            taken?;
            done.error.map_or(Ok(()), |error| Err(error.into()))
        });
        match taken {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.failed = Some(error);
                ControlFlow::Break(())
            }
        }
    }
}

impl<S, E> Feeding<'_, S, E>
where
    S: FnMut(Change<'_>) -> Result<(), E>,
{
    /// Gives the sink what differs and moves the cursor along.
    fn hand_on(&mut self, done: &Compared) -> Result<(), E> {
        self.session.add_read(done.read);
        for (extent, verdict) in done.verdicts.iter() {
            let Piece {
                extent: whole,
                ref buffer,
                ..
            } = done.piece;
            if let Some(change) = verdict.change(extent, buffer, whole) {
                (self.sink)(change)?;
            }
            self.session.advance(extent, verdict);
        }
        Ok(())
    }
}
