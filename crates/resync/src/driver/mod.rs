//! Both ends on threads, over any two halves of a stream.
//!
//! ```text
//! reader thread --> messages --+                    +--> frames --> writer thread
//!                              +--> state machine --+
//! worker threads -> outcomes --+    (this thread)   +--> work ----> worker threads
//! ```
//!
//! Reading, hashing, writing and sending go on at the same time. This thread only ever waits for
//! the next event, so that two ends that both wait to send cannot hold each other up.

mod wire;
mod worker;

use std::io::{Read, Write};
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use afterimage_block::{BlockRead, BlockWrite, Extent};

use crate::protocol::{Message, Role};
use crate::remote::{Cursor, Outcome, RemoteProgress, Source, Target, Terms, Work};
use crate::{Control, Digests, Error, Reread, Result};

use wire::Wire;
use worker::Disk;

/// How many events may wait: enough to keep threads busy, few since each may hold a block.
const EVENTS: usize = 8;

/// How many bytes of frames may wait for the writer, unless one frame has more.
const QUEUED: usize = 4 << 20;

/// How long to wait for why the other end closed the stream.
const LAST_WORD: Duration = Duration::from_secs(1);

/// What happens to an end.
enum Event {
    Message(Message),
    Outcome(Result<Outcome>),
    /// What was looked at lies in this hole.
    Hole(Extent),
    /// A frame of so many bytes is written.
    Sent(usize),
    /// Nothing more can be received.
    Lost(Error),
    /// Nothing more can be sent.
    Unsendable(Error),
    /// A worker panicked.
    Panicked,
    Cancelled,
}

type SaveError = Box<dyn std::error::Error + Send + Sync>;
type Save<'a> = dyn FnMut(&Cursor) -> Result<(), SaveError> + 'a;
type Conclude<'a> = dyn FnMut() -> Result<(), SaveError> + 'a;
type Keep<'a> = dyn FnMut(&Digests) + 'a;
type Observe<'a> = dyn FnMut(RemoteProgress) -> ControlFlow<()> + 'a;

/// Runs one end of a remote resync on threads of its own.
///
/// The stream's halves are handed over and dropped when the resync ends. After an error a thread may
/// go on waiting for the other end until the stream closes: a stream that can hang for ever, such as
/// a socket, should be given a timeout, longer than the other end takes to hash its disk.
///
/// ```
/// use afterimage_block::{BlockWrite, Epoch, Length, MemoryDisk, Offset, SessionId};
/// use afterimage_resync::{Algorithm, BlockSize, Driver, Grid, remote::Terms};
///
/// let (near, far) = (MemoryDisk::new(Length::gib(1)), MemoryDisk::new(Length::gib(1)));
/// near.write_at(Offset::new(5 << 20), b"new")?;
/// let terms = Terms {
///     session: SessionId::random(),
///     epoch: Epoch::new(1),
///     grid: Grid::new(Length::gib(1), BlockSize::default()),
///     algorithm: Algorithm::default(),
/// };
/// let (to_far, from_near) = (std::io::pipe()?, std::io::pipe()?);
/// let ((far_in, near_out), (near_in, far_out)) = (to_far, from_near); // or the halves of a socket
/// let sent = std::thread::scope(|scope| {
///     scope.spawn(|| Driver::new(terms).run_target(&far, far_in, far_out));
///     Driver::new(terms).run_source(&near, near_in, near_out)
/// })?;
/// assert_eq!(sent.sent, Length::kib(64));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "nothing runs before run_source or run_target"]
pub struct Driver<'a> {
    terms: Terms,
    threads: NonZeroUsize,
    cursor: Option<Cursor>,
    known: Option<Digests>,
    is_afresh: bool,
    reread: Option<Reread>,
    control: Control,
    save: Box<Save<'a>>,
    conclude: Box<Conclude<'a>>,
    keep: Option<Box<Keep<'a>>>,
    observe: Box<Observe<'a>>,
}

impl<'a> Driver<'a> {
    /// On as many workers as the machine has processors, from the beginning, without saving.
    pub fn new(terms: Terms) -> Self {
        Self {
            terms,
            threads: thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            cursor: None,
            known: None,
            is_afresh: false,
            reread: None,
            control: Control::default(),
            save: Box::new(|_| Ok(())),
            conclude: Box::new(|| Ok(())),
            keep: None,
            observe: Box::new(|_| ControlFlow::Continue(())),
        }
    }

    /// Reads, hashes and writes on so many threads.
    pub const fn threads(mut self, threads: NonZeroUsize) -> Self {
        self.threads = threads;
        self
    }

    /// Goes on with what this end saved last, which spares it most of the hashing.
    pub fn resume(mut self, cursor: Cursor) -> Self {
        self.cursor = Some(cursor);
        self
    }

    /// Gives each cursor to `save`, which must store it durably in place of the last one before it
    /// returns. A target that is ever to be resumed must be given this.
    pub fn save(mut self, save: impl FnMut(&Cursor) -> Result<(), SaveError> + 'a) -> Self {
        self.save = Box::new(save);
        self
    }

    /// Has `conclude` called at the target once both disks are found equal and before the source is told
    /// so: where what was written is not in its place yet, it is put there now. What fails here fails the
    /// resync at both ends.
    pub fn conclude(mut self, conclude: impl FnMut() -> Result<(), SaveError> + 'a) -> Self {
        self.conclude = Box::new(conclude);
        self
    }

    /// Begins with what is known of this end's disk from an earlier resync, which spares it the hashing.
    /// Not looked at by one that is resumed.
    pub fn knowing(mut self, digests: Digests) -> Self {
        self.known = Some(digests);
        self
    }

    /// Gives `keep` what is known of the disk at the end, even of a resync that failed if the disk can
    /// still be told: to begin the next one with.
    pub fn keep(mut self, keep: impl FnMut(&Digests) + 'a) -> Self {
        self.keep = Some(Box::new(keep));
        self
    }

    /// Has both ends hash all of their disks, whatever they know from before.
    pub fn afresh(mut self) -> Self {
        self.is_afresh = true;
        self
    }

    /// Is paused, resumed and cancelled by `control`: this end does nothing to its disk while it is paused,
    /// and the other one waits. Cancelled, it ends with [`Error::Stopped`] at once but for what it is
    /// doing, also while it waits for the other end, and tells that.
    pub fn controlled_by(mut self, control: &Control) -> Self {
        self.control = control.clone();
        self
    }

    /// Has the target read so much of its disk once more before it agrees to be equal, whichever end asks
    /// for it.
    pub const fn reread(mut self, reread: Reread) -> Self {
        self.reread = Some(reread);
        self
    }

    /// Tells `observe` how far it is; the resync stops when that breaks.
    pub fn observe(mut self, observe: impl FnMut(RemoteProgress) -> ControlFlow<()> + 'a) -> Self {
        self.observe = Box::new(observe);
        self
    }

    /// Sends what differs of `disk` to the target at the other end, until both agree to be equal.
    ///
    /// # Errors
    /// [`Error::is_recoverable`] tells whether a new connection can help. The other end is told.
    pub fn run_source(
        mut self,
        disk: &dyn BlockRead,
        reader: impl Read + Send + 'static,
        writer: impl Write + Send + 'static,
    ) -> Result<RemoteProgress> {
        let disk = Disk::source(disk, self.terms)?;
        let machine = Source::new(self.terms, self.start(Role::Source)?)?;
        self.run(machine, &disk, reader, writer)
    }

    /// Finds out what [`run_source`](Self::run_source) would send, and sends nothing. The target's end
    /// ends with [`Error::Peer`] for [`Reason::Stopped`](crate::protocol::Reason::Stopped), its disk as
    /// it was.
    ///
    /// # Errors
    /// As [`run_source`](Self::run_source).
    pub fn dry_run_source(
        mut self,
        disk: &dyn BlockRead,
        reader: impl Read + Send + 'static,
        writer: impl Write + Send + 'static,
    ) -> Result<RemoteProgress> {
        let disk = Disk::source(disk, self.terms)?;
        let machine = Source::dry_run(self.terms, self.start(Role::Source)?)?;
        self.run(machine, &disk, reader, writer)
    }

    /// Makes `disk` equal to that of the source at the other end. On success it is durable.
    ///
    /// # Errors
    /// As [`run_source`](Self::run_source). The disk is then partly written.
    pub fn run_target(
        mut self,
        disk: &dyn BlockWrite,
        reader: impl Read + Send + 'static,
        writer: impl Write + Send + 'static,
    ) -> Result<RemoteProgress> {
        let disk = Disk::target(disk, self.terms)?;
        let machine = Target::new(self.terms, self.start(Role::Target)?)?;
        self.run(machine, &disk, reader, writer)
    }

    /// Finds out what [`run_target`](Self::run_target) would be sent, and is sent nothing. The source's end
    /// ends well, and its progress says that it only compared.
    ///
    /// # Errors
    /// As [`run_source`](Self::run_source), and [`Error::Violation`] if the source is of a release that
    /// cannot do this.
    pub fn dry_run_target(
        mut self,
        disk: &dyn BlockRead,
        reader: impl Read + Send + 'static,
        writer: impl Write + Send + 'static,
    ) -> Result<RemoteProgress> {
        let disk = Disk::read_target(disk, self.terms)?;
        let machine = Target::dry_run(self.terms, self.start(Role::Target)?)?;
        self.run(machine, &disk, reader, writer)
    }

    /// What the machine is to know at its start.
    fn start(&mut self, role: Role) -> Result<Option<Cursor>> {
        let (cursor, known) = (self.cursor.take(), self.known.take());
        if self.is_afresh {
            return Ok(None);
        }
        let known = known.filter(|_| cursor.is_none());
        let known = known.map(|digests| Cursor::knowing(self.terms, role, &digests));
        Ok(known.transpose()?.or(cursor))
    }

    fn run(
        mut self,
        machine: impl Machine,
        disk: &Disk<'_>,
        reader: impl Read + Send + 'static,
        writer: impl Write + Send + 'static,
    ) -> Result<RemoteProgress> {
        let mut machine = if self.is_afresh {
            machine.afresh()
        } else {
            machine
        };
        if let Some(reread) = self.reread {
            machine = machine.rereading(reread);
        }
        let (sender, events) = sync_channel(EVENTS);
        let cancelled = sender.clone();
        // Where there is no room for it, there are events, after each of which it is looked for.
        let tell = move || drop(cancelled.try_send(Event::Cancelled));
        let member = self.control.join(tell);
        let mut wire = Wire::open(reader, writer, self.terms.grid.block_size(), &sender)?;
        let ended = thread::scope(|scope| {
            let _leave = member.leave_at_last();
            let (jobs, queue) = channel();
            let queue = Arc::new(Mutex::new(queue));
            for _ in 0..self.threads.get() {
                let (queue, sender, member) = (queue.clone(), sender.clone(), &member);
                scope.spawn(move || worker::serve(disk, &queue, &sender, member));
            }
            drop(sender);
            self.steer(&mut machine, &mut wire, events, jobs)
        })
        .inspect_err(|error| wire.part(error))
        .and_then(|()| wire.close());
        if let Some(keep) = &mut self.keep
            && let Some(digests) = machine.digests()
        {
            keep(&digests);
        }
        ended.map(|()| machine.progress())
    }

    /// Turns the machine until it is finished. Takes the channels, so that all threads end with it.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "dropped before the threads are joined"
    )]
    fn steer(
        &mut self,
        machine: &mut impl Machine,
        wire: &mut Wire,
        events: Receiver<Event>,
        jobs: Sender<Work>,
    ) -> Result<()> {
        let mut last = RemoteProgress::default();
        let mut is_concluded = !machine.is_to_conclude();
        loop {
            while let Some(work) = machine.poll_work() {
                if let Work::Save(cursor) = &work {
                    (self.save)(cursor).map_err(|source| Error::Save { source })?;
                } else if jobs.send(work).is_err() {
                    return Err(Error::Stopped);
                }
            }
            if machine.is_finished() && !is_concluded {
                (self.conclude)().map_err(|source| Error::Conclude { source })?;
                is_concluded = true;
            }
            let mut is_drained = false;
            while !is_drained && wire.queued() < QUEUED {
                match machine.poll_transmit() {
                    Some(message) => wire.send(&message),
                    None => is_drained = true,
                }
            }
            let progress = machine.progress();
            if progress != last && (self.observe)(progress).is_break() && !machine.is_finished() {
                return Err(Error::Stopped);
            }
            last = progress;
            if machine.is_finished() && is_drained {
                return Ok(());
            }
            if self.control.is_cancelled() && !machine.is_finished() {
                return Err(Error::Stopped);
            }
            match events.recv() {
                Ok(Event::Message(message)) => machine.handle_message(message)?,
                Ok(Event::Outcome(outcome)) => machine.handle_outcome(outcome?)?,
                Ok(Event::Hole(extent)) => machine.handle_hole(extent)?,
                Ok(Event::Sent(bytes)) => wire.sent(bytes),
                Ok(Event::Lost(error)) => return Err(error),
                Ok(Event::Unsendable(error)) => return Err(last_word(&events, error)),
                Ok(Event::Cancelled) => {}
                Ok(Event::Panicked) | Err(mpsc::RecvError) => {
                    return Err(Error::Stopped);
                }
            }
        }
    }
}

/// Why nothing can be sent: what the other end said before it closed the stream, if it did, else
/// `error`, since that it is closed may be noticed before what was said is received.
fn last_word(events: &Receiver<Event>, error: Error) -> Error {
    let deadline = Instant::now() + LAST_WORD;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match events.recv_timeout(left) {
            Ok(Event::Message(Message::Error(farewell))) => return Error::Peer { farewell },
            Ok(Event::Lost(_)) | Err(_) => return error,
            Ok(_) if left.is_zero() => return error,
            Ok(_) => {}
        }
    }
}

/// What both ends are to a driver.
trait Machine: Sized {
    /// Whether something is to be done once the disks are found equal.
    fn is_to_conclude(&self) -> bool;
    fn afresh(self) -> Self;
    fn rereading(self, reread: Reread) -> Self;
    fn digests(&self) -> Option<Digests>;
    fn poll_work(&mut self) -> Option<Work>;
    fn poll_transmit(&mut self) -> Option<Message>;
    fn handle_message(&mut self, message: Message) -> Result<()>;
    fn handle_outcome(&mut self, outcome: Outcome) -> Result<()>;
    fn handle_hole(&mut self, extent: Extent) -> Result<()>;
    fn is_finished(&self) -> bool;
    fn progress(&self) -> RemoteProgress;
}

macro_rules! machine {
    ($end:ty, $role:expr) => {
        impl Machine for $end {
            fn is_to_conclude(&self) -> bool {
                $role == Role::Target && !self.progress().is_dry
            }
            fn afresh(self) -> Self {
                self.afresh()
            }
            fn rereading(self, reread: Reread) -> Self {
                self.rereading(reread)
            }
            fn digests(&self) -> Option<Digests> {
                self.digests().into()
            }
            fn poll_work(&mut self) -> Option<Work> {
                self.poll_work()
            }
            fn poll_transmit(&mut self) -> Option<Message> {
                self.poll_transmit()
            }
            fn handle_message(&mut self, message: Message) -> Result<()> {
                self.handle_message(message)
            }
            fn handle_outcome(&mut self, outcome: Outcome) -> Result<()> {
                self.handle_outcome(outcome)
            }
            fn handle_hole(&mut self, extent: Extent) -> Result<()> {
                self.handle_hole(extent)
            }
            fn is_finished(&self) -> bool {
                self.is_finished()
            }
            fn progress(&self) -> RemoteProgress {
                self.progress()
            }
        }
    };
}

machine!(Source, Role::Source);
machine!(Target, Role::Target);
