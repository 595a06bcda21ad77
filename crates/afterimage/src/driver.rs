//! Carries a machine's actions out, and tells it what came of them.

use std::sync::Arc;
use std::time::Duration;

use afterimage_block::{ContentDigest, Length, Sequence, Timestamp};
use afterimage_replication::{
    Action, Barrier, Event, Failure, Health, Machine, PrimaryReport, Report, Request, State, Task,
};
use afterimage_retry::Time;
use afterimage_store::{BaseProgress, Writer};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};

use crate::error::blocking;
use crate::growing::Growing;
use crate::notes;
use crate::notice::Notice;
use crate::quiesce::{self, Ask};
use crate::resync::Pass;
use crate::shared::{Running, Shared};
use crate::transfer::{self, Claimed, Outcome};
use crate::{Error, Result};

/// How often the lengths of the open logs are looked at.
const WATCH: Duration = Duration::from_millis(500);

/// How often the replica hears how far a transfer is that takes long.
const TOLD_EVERY: Duration = Duration::from_mins(1);

/// What the owner asks of a running machine.
pub(crate) enum Command {
    Request(Request, oneshot::Sender<Result<()>>),
    /// A disk, whose file is long enough, is to grow.
    Grow(Growing),
}

/// What a task came to.
pub(crate) enum Done {
    Event(Event),
    /// A transfer's answer, and what the owner hears of it once the machine has.
    Transferred(Outcome),
    /// What came of a barrier, and the digests that the next logs name as their predecessors.
    Barrier(Event, Vec<ContentDigest>),
    Claimed(Claimed),
    Failed(Task, Failure),
    Aborted(Task),
}

/// The task that owns a machine while it runs.
pub(crate) struct Driver {
    machine: Machine,
    shared: Arc<Shared>,
    writer: Option<Writer>,
    /// The digests of the logs of the last barrier that the machine knows of. They are saved with it:
    /// those of a barrier that it has not heard of yet belong to another state.
    predecessors: Vec<ContentDigest>,
    tasks: JoinSet<()>,
    /// Gives the transfer up that was started last.
    give_up: Option<oneshot::Sender<()>>,
    done: mpsc::UnboundedSender<Done>,
    results: mpsc::UnboundedReceiver<Done>,
    guest: mpsc::UnboundedSender<Ask>,
    shown: Option<State>,
    /// The lengths of the open logs that the machine knows.
    lengths: Vec<Length>,
    /// The job that ran when it was last looked at.
    seen: Option<Running>,
    /// When the replica last heard of the present state while nothing was published.
    told: Option<Time>,
    telling: Option<AbortHandle>,
    stopped: Option<bool>,
}

impl Driver {
    pub(crate) fn new(machine: Machine, shared: Arc<Shared>) -> Self {
        let (done, results) = mpsc::unbounded_channel();
        let (guest, asked) = mpsc::unbounded_channel();
        // It ends by itself with the driver, once it has done what it was asked to: the guest is let
        // go on even where nothing else is waited for.
        let hook = shared.quiesce.clone();
        tokio::spawn(quiesce::run(hook, asked, done.clone()));
        Self {
            machine,
            predecessors: shared.generations.predecessors(),
            shared,
            writer: None,
            tasks: JoinSet::new(),
            give_up: None,
            guest,
            done,
            results,
            shown: None,
            lengths: Vec::new(),
            seen: None,
            told: None,
            telling: None,
            stopped: None,
        }
    }

    /// Runs the machine until it is stopped; whether the replica holds every write then.
    pub(crate) async fn run(
        mut self,
        first: Vec<Action>,
        mut commands: mpsc::Receiver<Command>,
    ) -> Result<bool> {
        let mut watch = tokio::time::interval(WATCH);
        self.carry_out(first)?;
        loop {
            if let Some(complete) = self.stopped {
                return self.end(complete).await;
            }
            let timeout = self.machine.next_timeout();
            let word = self.word_due();
            tokio::select! {
                Some(done) = self.results.recv() => self.note(done)?,
                Some(command) = commands.recv() => self.command(command)?,
                () = self.shared.clock.sleep_until(timeout.unwrap_or_default()), if timeout.is_some() => {
                    let actions = self.machine.handle_timeout(self.now());
                    self.carry_out(actions)?;
                }
                () = self.shared.clock.sleep_until(word.unwrap_or_default()), if word.is_some() => {
                    self.tell();
                }
                _ = watch.tick() => self.watch()?,
                Some(_) = self.tasks.join_next() => {}
            }
        }
    }

    fn now(&self) -> Time {
        self.shared.clock.now()
    }

    fn command(&mut self, command: Command) -> Result<()> {
        let (request, answer) = match command {
            Command::Request(request, answer) => (request, answer),
            Command::Grow(growing) => return self.grow(growing),
        };
        let requested = self.machine.request(request, self.now());
        let actions = match requested {
            Ok(actions) => {
                let _ = answer.send(Ok(()));
                actions
            }
            Err(refused) => {
                let _ = answer.send(Err(refused.into()));
                return Ok(());
            }
        };
        self.carry_out(actions)
    }

    /// Asks for the barrier at which a disk grows. It is answered once that is recorded.
    fn grow(&mut self, growing: Growing) -> Result<()> {
        match self.machine.request(Request::ChangeDisks, self.now()) {
            Ok(actions) => {
                self.shared.generations.prepare_growth(growing);
                self.carry_out(actions)
            }
            Err(refused) => {
                let _ = growing.answer.send(Err(refused.into()));
                Ok(())
            }
        }
    }

    fn note(&mut self, done: Done) -> Result<()> {
        let (mut told, mut lacking, mut grown) = (None, None, Vec::new());
        let event = match done {
            Done::Event(event) => event,
            Done::Transferred(outcome) => {
                (told, lacking) = (outcome.notice, outcome.lacks);
                outcome.event
            }
            Done::Barrier(event, predecessors) => {
                self.predecessors = predecessors;
                self.lengths.clear();
                grown = self.shared.generations.take_grown();
                event
            }
            Done::Claimed(claimed) => {
                let epoch = claimed.writer.epoch();
                self.shared.generations.set_epoch(epoch);
                self.writer = Some(claimed.writer);
                lacking = claimed.lacks;
                Event::Claimed {
                    epoch,
                    position: claimed.position,
                }
            }
            Done::Failed(task, failure) => Event::Failed { task, failure },
            Done::Aborted(task) => Event::Aborted { task },
        };
        tracing::debug!(?event);
        let mut actions = Vec::new();
        for growing in &grown {
            let enlarged = Event::Enlarged {
                disk: growing.disk,
                size: growing.size,
                unproven: growing.unproven.clone(),
            };
            actions.extend(self.machine.handle(enlarged, self.now()));
        }
        actions.extend(self.machine.handle(event, self.now()));
        self.carry_out(actions)?;
        for growing in grown {
            let (disk, size) = (growing.disk, growing.size);
            self.shared.tell(Notice::Grown { disk, size });
            let _ = growing.answer.send(Ok(()));
        }
        if let Some(lacks) = lacking {
            let event = Event::ReplicaDamaged { lacks };
            let actions = self.machine.handle(event, self.now());
            self.carry_out(actions)?;
        }
        if let Some(notice) = told {
            self.shared.tell(notice);
        }
        Ok(())
    }

    /// Looks at the open logs, which may outgrow their share of the disks between two barriers, and at
    /// how far the job is that runs.
    fn watch(&mut self) -> Result<()> {
        let (lengths, now) = (self.shared.generations.open_lengths(), self.now());
        let mut actions = Vec::new();
        // Most of the time nothing happens, and there may be thousands of machines.
        if self.lengths != lengths {
            self.lengths.clone_from(&lengths);
            actions = self.machine.handle(Event::LogsGrew(lengths), now);
        }
        if self.shared.generations.nearly_full() {
            actions.extend(self.machine.handle(Event::LogNearlyFull, now));
        }
        let running = self.shared.running();
        if self.seen != running
            && let Some(task) = running.and_then(|running| running.kind.task())
        {
            actions.extend(self.machine.handle(Event::Progressed { task }, now));
        }
        self.seen = running;
        if actions.is_empty() {
            return Ok(());
        }
        self.carry_out(actions)
    }

    /// Makes the machine durable, then does what it asks for.
    fn carry_out(&mut self, actions: Vec<Action>) -> Result<()> {
        self.save()?;
        self.show_state();
        for action in actions {
            tracing::debug!(?action);
            self.act(action);
        }
        Ok(())
    }

    fn save(&self) -> Result<()> {
        self.shared.folder.update(|saved| {
            saved.replication = self.machine.clone();
            saved.time = self.now();
            for (disk, predecessor) in saved.disks.iter_mut().zip(&self.predecessors) {
                disk.predecessor = *predecessor;
            }
            for (disk, size) in saved.disks.iter_mut().zip(self.machine.sizes()) {
                disk.size = *size;
            }
            if !self.machine.has_base() {
                // What was copied before belongs to another base.
                for disk in &mut saved.disks {
                    disk.base = BaseProgress::default();
                }
            }
        })?;
        self.shared
            .generations
            .forget_intents_before(self.machine.open());
        Ok(())
    }

    fn show_state(&mut self) {
        let state = self.machine.state();
        if self.shown != Some(state) {
            self.shown = Some(state);
            self.told = None;
            self.shared.tell(Notice::State {
                state,
                health: self.machine.health(),
                problem: self
                    .machine
                    .problem()
                    .map(|(_, failure)| failure.message.clone()),
            });
        }
    }

    fn act(&mut self, action: Action) {
        let shared = Arc::clone(&self.shared);
        let report = self.report(&action);
        match action {
            Action::Claim => {
                let (known, has_base) = (self.machine.durable(), self.machine.has_base());
                let epoch = self.machine.epoch();
                let sizes = self.machine.sizes_to_claim();
                self.spawn_transfer(Task::Claim, async move {
                    let known = has_base || known.is_some();
                    let disks = shared.disks_of(&sizes);
                    let claimed = transfer::claim(&shared, known, epoch, disks).await?;
                    Ok(Done::Claimed(claimed))
                });
            }
            Action::Barrier(barrier) => self.spawn(Task::Barrier, reach(shared, barrier)),
            Action::Quiesce { within } => {
                // The hook lasts as long as the driver.
                let _ = self.guest.send(Ask::HoldStill { within });
            }
            Action::Thaw => {
                let _ = self.guest.send(Ask::GoOn);
            }
            Action::Copy { base, point } => self.transfer(Task::Copy, |writer| async move {
                // An idle machine has nothing to report for a long time after this.
                let report = PrimaryReport {
                    state: State::Replicating,
                    health: Health::Normal,
                    ..report
                };
                let copied = transfer::copy(&shared, &writer, base, point, report).await?;
                Ok(Done::Transferred(copied))
            }),
            Action::Ship(shipment) => self.transfer(Task::Ship, |writer| async move {
                let shipped = transfer::ship(&shared, &writer, shipment, report).await?;
                Ok(Done::Transferred(shipped))
            }),
            Action::Resync {
                sequence,
                scopes,
                reason,
                sizes,
            } => self.transfer(Task::Resync, |writer| async move {
                let (shared, writer) = (&shared, &writer);
                let pass = Pass {
                    shared,
                    writer,
                    sequence,
                    sizes,
                };
                let resynchronized = pass.run(&scopes, reason, report).await?;
                Ok(Done::Transferred(resynchronized))
            }),
            Action::Prepare => {
                let through = self.machine.durable().unwrap_or_default();
                self.transfer(Task::Prepare, move |writer| async move {
                    transfer::prepare(&shared, &writer, through, report).await?;
                    Ok(Done::Event(Event::Prepared))
                });
            }
            Action::Heartbeat => self.transfer(Task::Heartbeat, |writer| async move {
                let heard = transfer::heartbeat(&shared, &writer, report).await?;
                Ok(Done::Transferred(heard))
            }),
            Action::Abort(_) => {
                // If it has ended by itself, that is its answer.
                let _ = self.give_up.take().map(|give_up| give_up.send(()));
            }
            Action::Release => self.release(report),
            Action::Discard(sequences) => self.discard(sequences),
            Action::ReleaseSnapshot => self.shared.generations.release_snapshots(),
            Action::Report(report) => self.pass_on(report),
            Action::Stopped { complete } => self.stopped = Some(complete),
            _ => tracing::error!("the machine asks for something unknown"),
        }
    }

    /// When the replica is to hear how the machine stands, where nothing else tells it for long: during a
    /// transfer that takes long, and while nothing is sent.
    fn word_due(&self) -> Option<Time> {
        self.writer.as_ref()?;
        let every = self.word_every()?;
        Some(self.told.map_or(Time::ZERO, |told| told + every))
    }

    fn word_every(&self) -> Option<Duration> {
        let policy = self.machine.policy();
        match self.machine.state() {
            State::InitialReplicationInProgress | State::Resynchronizing => {
                Some(TOLD_EVERY.max(policy.interval))
            }
            State::WaitingForInitialReplication
            | State::Suspended
            | State::ResynchronizeSuspended => Some(policy.heartbeat()),
            _ => None,
        }
    }

    /// Tells the replica how the machine stands, beside what it does. Where it cannot be told now, it is the
    /// next time.
    fn tell(&mut self) {
        let (Some(writer), Some(every)) = (self.writer.clone(), self.word_every()) else {
            return;
        };
        self.told = Some(self.now());
        let shared = Arc::clone(&self.shared);
        let report = PrimaryReport {
            idle_secs: Some(every.as_secs()),
            ..self.standing(Sequence::ZERO)
        };
        let telling = self.tasks.spawn(async move {
            if let Err(error) = transfer::tell(&shared, &writer, &report).await {
                tracing::debug!(%error, "the replica does not hear how the machine stands");
            }
        });
        if let Some(before) = self.telling.replace(telling) {
            before.abort();
        }
    }

    /// Tells the replica that it has no primary any more. Where it cannot be told it finds out by
    /// itself.
    fn release(&mut self, report: PrimaryReport) {
        let shared = Arc::clone(&self.shared);
        if let Some(writer) = self.writer.take() {
            self.tasks.spawn(async move {
                if let Err(error) = transfer::release(&shared, &writer, report).await {
                    tracing::warn!(%error, "the replica is not told that protection ended");
                }
            });
        }
    }

    fn discard(&mut self, sequences: Vec<Sequence>) {
        let shared = Arc::clone(&self.shared);
        self.tasks
            .spawn_blocking(move || shared.generations.discard(&sequences));
    }

    /// How the machine sees itself, for its replica to keep once it has what `action` brings.
    fn report(&self, action: &Action) -> PrimaryReport {
        let brought = match action {
            Action::Ship(shipment) => shipment.sequence,
            _ => Sequence::ZERO,
        };
        PrimaryReport {
            idle_secs: matches!(action, Action::Heartbeat)
                .then(|| self.machine.policy().heartbeat().as_secs()),
            ..self.standing(brought)
        }
    }

    /// How the machine sees itself, once the replica has what was written before `brought`, too.
    fn standing(&self, brought: Sequence) -> PrimaryReport {
        PrimaryReport {
            state: self.machine.state(),
            health: self.machine.health(),
            pending: self.machine.unshipped_bytes_after(brought),
            interval_secs: self.machine.policy().interval.as_secs(),
            time: Timestamp::from(std::time::SystemTime::now()),
            statistics: Some(self.machine.statistics(self.now())),
            positions: Some(self.machine.positions()),
            idle_secs: None,
            rpo: self.machine.rpo(self.now()),
        }
    }

    fn transfer<F: Future<Output = Result<Done>> + Send + 'static>(
        &mut self,
        task: Task,
        work: impl FnOnce(Writer) -> F,
    ) {
        match self.writer.clone() {
            Some(writer) => self.spawn_transfer(task, work(writer)),
            // The machine asks for transfers only once it has claimed the replica.
            None => self.spawn(task, async { Err(Error::NotRunning) }),
        }
    }

    /// Runs a transfer, which can be given up wherever it waits.
    fn spawn_transfer(
        &mut self,
        task: Task,
        work: impl Future<Output = Result<Done>> + Send + 'static,
    ) {
        let (give_up, given_up) = oneshot::channel();
        self.give_up = Some(give_up);
        self.spawn(task, async move {
            tokio::select! {
                done = work => done,
                Ok(()) = given_up => Ok(Done::Aborted(task)),
            }
        });
    }

    fn spawn(&mut self, task: Task, work: impl Future<Output = Result<Done>> + Send + 'static) {
        let (done, shared) = (self.done.clone(), Arc::clone(&self.shared));
        self.tasks.spawn(async move {
            let result = work.await;
            if let Err(error) = &result
                && error.shuts_out()
                && let Err(error) = notes::tell_of_divergence(&shared).await
            {
                tracing::warn!(%error, "the replica's status does not show this side");
            }
            // Nobody listens any more once the machine is stopped.
            let _ = done.send(result.unwrap_or_else(|error| Done::Failed(task, error.failure())));
        });
    }

    fn pass_on(&self, report: Report) {
        self.shared.tell(match report {
            Report::RetryAt {
                task,
                failure,
                attempt,
                due,
            } => Notice::Retry {
                task,
                attempt,
                in_secs: due.since(self.now()).as_secs(),
                error: failure.message,
            },
            Report::GaveUp { task, failure } => Notice::GaveUp {
                task,
                error: failure.message,
            },
            Report::ResyncRequired(reason) => Notice::ResyncRequired { reason },
            Report::CrashConsistentOnly { failure } => Notice::CrashConsistentOnly {
                error: failure.message,
            },
            Report::RecoveryPointsLate { rpo } => Notice::RecoveryPointsLate {
                rpo_secs: rpo.as_secs(),
            },
            Report::RecoveryPointsOnTime => Notice::RecoveryPointsOnTime,
            Report::Stalled { task, idle } => Notice::Stalled {
                task,
                idle_secs: idle.as_secs(),
            },
            Report::MovesAgain { task } => Notice::MovesAgain { task },
            _ => return,
        });
    }

    /// Leaves everything in order: where nothing was written since the last barrier, the next start
    /// has nothing to read again.
    async fn end(mut self, complete: bool) -> Result<bool> {
        // Waited for: whoever starts next finds the state folder free.
        self.tasks.shutdown().await;
        self.shared.generations.release_snapshots();
        let fingerprints = self.shared.generations.close();
        self.shared.folder.update(|saved| {
            saved.replication = self.machine.clone();
            saved.clean = fingerprints.is_some();
            for (disk, closed_as) in saved
                .disks
                .iter_mut()
                .zip(fingerprints.into_iter().flatten())
            {
                disk.closed_as = closed_as;
            }
        })?;
        self.shared.tell(Notice::Stopped { complete });
        Ok(complete)
    }
}

async fn reach(shared: Arc<Shared>, barrier: Barrier) -> Result<Done> {
    blocking(move || {
        let event = shared.generations.barrier(&barrier)?;
        Ok(Done::Barrier(event, shared.generations.predecessors()))
    })
    .await
}

/// The bytes of a whole, as a sum that cannot overflow.
pub(crate) fn sum(lengths: impl IntoIterator<Item = Length>) -> Length {
    lengths
        .into_iter()
        .fold(Length::ZERO, Length::saturating_add)
}
