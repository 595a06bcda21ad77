//! Two disks of one machine.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::thread;

use afterimage_block::{BlockRead, BlockWrite, Extent, Length, Offset, Run, RunKind};

use crate::buffer::Buffer;
use crate::line::{self, Flow};
use crate::spans::{Spans, data_at, read_blocks};
use crate::verdict::{Verdict, Verdicts, bytes_of};
use crate::{Control, Error, Grid, Progress, Result, Session, Side, is_zero};

/// Makes a target disk equal to a source disk of the same machine by comparing bytes: no digest is
/// as fast.
///
/// What is a hole on both disks is not read. Where the source has a hole or zeros and the target
/// does not read as zeros, the target is given a hole if it can have one. Each thread holds 256 KiB
/// of both disks at a time, or one block if that is larger; after a stop no more than four times
/// that a thread is compared again.
#[derive(Clone)]
pub struct LocalResync<'d> {
    source: &'d dyn BlockRead,
    target: &'d dyn BlockRead,
    /// The target once more, unless it is only compared.
    writer: Option<&'d dyn BlockWrite>,
    threads: NonZeroUsize,
    control: Control,
}

impl<'d> LocalResync<'d> {
    /// Makes `target` equal to `source`, on one thread.
    ///
    /// # Errors
    /// [`Error::SizesDiffer`].
    pub fn new(source: &'d dyn BlockRead, target: &'d dyn BlockWrite) -> Result<Self> {
        let compared = Self::dry_run(source, target)?;
        let writer = Some(target);
        Ok(Self { writer, ..compared })
    }

    /// Only finds out what differs, on one thread.
    ///
    /// # Errors
    /// [`Error::SizesDiffer`].
    pub fn dry_run(source: &'d dyn BlockRead, target: &'d dyn BlockRead) -> Result<Self> {
        let (source_size, target_size) = (source.size(), target.size());
        if source_size != target_size {
            return Err(Error::SizesDiffer {
                source_size,
                target_size,
            });
        }
        Ok(Self {
            source,
            target,
            writer: None,
            threads: NonZeroUsize::MIN,
            control: Control::default(),
        })
    }

    /// Reads, compares and writes on `threads` threads.
    pub const fn threads(mut self, threads: NonZeroUsize) -> Self {
        self.threads = threads;
        self
    }

    /// Is paused, resumed and cancelled by `control`.
    pub fn controlled_by(mut self, control: &Control) -> Self {
        self.control = control.clone();
        self
    }

    /// Goes on with `session` until nothing in its scope is in doubt, until `observe`, told of each step,
    /// breaks, or until it is cancelled; the session is then not complete.
    ///
    /// The target is flushed before this returns, with or without an error. Only then is what lies
    /// before the session's cursor durable, and the session worth storing.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Map`], [`Error::InvalidRun`] or [`Error::Write`] for the first
    /// block at fault, at which the cursor then stands; [`Error::Flush`], the cursor then being
    /// where it was before the call; [`Error::OtherDisk`] if the session is of another size.
    pub fn run(
        &self,
        session: &mut Session,
        observe: impl FnMut(Progress) -> ControlFlow<()> + Send,
    ) -> Result<()> {
        session.check_size(Side::Source, self.source.size())?;
        let grid = session.grid();
        let begun = session.progress();
        let (source_data, target_data) = self.first_data(session);
        let mut flow = Pairing {
            planned: session.cursor(),
            spans: Some((
                Spans::new(self.source, Side::Source, grid).knowing(source_data),
                Spans::new(self.target, Side::Target, grid).knowing(target_data),
            )),
            session,
            observe,
            control: &self.control,
            failed: None,
        };
        line::run(
            &mut flow,
            self.threads,
            |buffers: &mut Buffers, job: Result<Piece>| {
                // What is cancelled ends when this piece is finished.
                self.control.wait();
                job.map(|piece| piece.settle(self, grid, buffers))
            },
        );
        let ended = flow.failed.map_or(Ok(()), Err);
        if let Some(Err(source)) = self.writer.map(BlockWrite::flush) {
            session.rewind(begun);
            return Err(Error::Flush { source });
        }
        ended
    }

    /// The data that each disk holds where the session goes on. They are asked at the same time: a
    /// filesystem may walk all pages of a long run to find its end, and nothing can be planned meanwhile.
    fn first_data(&self, session: &Session) -> (Option<Extent>, Option<Extent>) {
        let doubt = session.next_in_doubt();
        let Some(doubt) = doubt.filter(|_| self.threads > NonZeroUsize::MIN) else {
            return (None, None);
        };
        let at = doubt.start();
        thread::scope(|scope| {
            let target = scope.spawn(|| data_at(self.target, at));
            (data_at(self.source, at), target.join().ok().flatten())
        })
    }
}

/// Blocks in doubt, of one kind on each disk.
struct Piece {
    extent: Extent,
    source: RunKind,
    target: RunKind,
}

/// The bytes of both disks.
#[derive(Default)]
struct Buffers {
    source: Buffer,
    target: Buffer,
}

/// What became of a piece, up to the first block at fault.
struct Settled {
    verdicts: Verdicts,
    read: Length,
    error: Option<Error>,
}

impl Piece {
    /// Compares the disks and makes the target equal.
    fn settle(self, disks: &LocalResync<'_>, grid: Grid, buffers: &mut Buffers) -> Settled {
        let mut read = Length::ZERO;
        let mut load = |disk, side, kind, extent: Option<Extent>, buffer| {
            let Some(extent) = extent.filter(|_| kind == RunKind::Data) else {
                return (extent, None);
            };
            let (bytes, error) = read_blocks(disk, side, grid, extent, buffer);
            read = read.saturating_add(Length::of(bytes));
            (Extent::new(extent.start(), Length::of(bytes)).ok(), error)
        };
        let Buffers { source, target } = &mut *buffers;
        let whole = Some(self.extent);
        let (good, source_error) = load(disks.source, Side::Source, self.source, whole, source);
        // Only what could be read of the source is read of the target, so its error comes first.
        let (good, target_error) = load(disks.target, Side::Target, self.target, good, target);
        let mut verdicts =
            good.map_or_else(Verdicts::default, |good| self.judge(good, grid, buffers));
        let write_error = disks
            .writer
            .and_then(|target| self.write(target, buffers, &mut verdicts));
        Settled {
            verdicts,
            read,
            error: write_error.or(target_error).or(source_error),
        }
    }

    fn judge(&self, good: Extent, grid: Grid, buffers: &Buffers) -> Verdicts {
        let mut verdicts = Verdicts::default();
        if self.verdict(good, buffers) == Verdict::Equal {
            verdicts.push(good, Verdict::Equal);
        } else {
            for block in good.pieces(grid.block_size().length()) {
                verdicts.push(block, self.verdict(block, buffers));
            }
        }
        verdicts
    }

    fn verdict<'b>(&self, extent: Extent, buffers: &'b Buffers) -> Verdict {
        let bytes = |kind, buffer: &'b Buffer| {
            let stored = kind == RunKind::Data;
            stored.then(|| bytes_of(buffer, self.extent, extent))
        };
        let source = bytes(self.source, &buffers.source);
        let target = bytes(self.target, &buffers.target);
        match (source, target) {
            (None, None) => Verdict::Equal,
            (None, Some(target)) if is_zero(target) => Verdict::Equal,
            (Some(source), None) if is_zero(source) => Verdict::Equal,
            (Some(source), Some(target)) if source == target => Verdict::Equal,
            (Some(source), _) if !is_zero(source) => Verdict::Send,
            _ => Verdict::Zero,
        }
    }

    /// Writes what differs; keeps the verdicts up to the write that failed.
    fn write(
        &self,
        target: &dyn BlockWrite,
        buffers: &Buffers,
        verdicts: &mut Verdicts,
    ) -> Option<Error> {
        let failed = verdicts
            .iter()
            .enumerate()
            .find_map(|(at, (extent, verdict))| {
                let change = verdict.change(extent, &buffers.source, self.extent)?;
                let source = change.apply_to(target).err()?;
                Some((at, Error::Write { extent, source }))
            });
        let (at, error) = failed?;
        verdicts.truncate(at);
        Some(error)
    }
}

/// Both disks on their way through the threads.
struct Pairing<'a, O> {
    session: &'a mut Session,
    /// Where to plan from.
    planned: Offset,
    /// The source's and the target's; gone after one failed.
    spans: Option<(Spans<'a>, Spans<'a>)>,
    observe: O,
    control: &'a Control,
    failed: Option<Error>,
}

impl<O> Pairing<'_, O> {
    /// The longest run of blocks at the start of `doubt` that is of one kind on each disk.
    fn pair(&mut self, doubt: Extent) -> Option<Result<Piece>> {
        let (source_spans, target_spans) = self.spans.as_mut()?;
        let runs = source_spans.next(doubt).and_then(|source| {
            let target = target_spans.next(source.extent)?;
            Ok((source.kind, target))
        });
        Some(runs.map(|(source, Run { extent, kind })| Piece {
            extent,
            source,
            target: kind,
        }))
    }
}

impl<O: FnMut(Progress) -> ControlFlow<()> + Send> Flow for Pairing<'_, O> {
    type Job = Result<Piece>;
    type Done = Result<Settled>;

    fn plan(&mut self) -> Option<Self::Job> {
        let doubt = self.session.scope().next_from(self.planned)?;
        let piece = self.pair(doubt)?;
        match &piece {
            Ok(piece) => self.planned = piece.extent.end(),
            Err(_) => self.spans = None,
        }
        Some(piece)
    }

    fn finish(&mut self, done: Self::Done) -> ControlFlow<()> {
        let error = match done {
            Err(error) => Some(error),
            Ok(settled) => {
                self.session.add_read(settled.read);
                for (extent, verdict) in settled.verdicts.iter() {
                    self.session.advance(extent, verdict);
                }
                settled.error
            }
        };
        if error.is_some() {
            self.failed = error;
            return ControlFlow::Break(());
        }
        let flow = (self.observe)(self.session.progress());
        if self.control.is_cancelled() {
            return ControlFlow::Break(());
        }
        flow
    }
}
