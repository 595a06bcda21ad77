//! Disks of numbered blocks, a primary that crashes, and a replica that applies what it is sent.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use afterimage_block::{Epoch, Extent, ExtentSet, Length, Offset, Sequence, Timestamp};
use afterimage_replication::{
    Action, ApplicationConsistent, Barrier, BarrierReached, Ended, Event, Failure, Machine, Policy,
    Position, Report, Request, ResyncReason, Scope, Shipment, State, Task, Tracking, Window,
};
use afterimage_retry::{Class, Time};

use crate::random::Random;

const DISKS: usize = 2;
/// Blocks of a new disk, and how many it grows to have at most.
const BLOCKS: usize = 12;
const BLOCKS_MAX: usize = 20;
const BLOCK: u64 = 512;

type Image = Vec<u32>;
/// Block and value, in the order of the writes.
type Log = Vec<(usize, u32)>;

#[derive(Clone, Default)]
struct Generation {
    logs: Vec<Option<Log>>,
    dirty: Vec<BTreeSet<usize>>,
}

impl Generation {
    fn new(tracking: Tracking) -> Self {
        let log = (tracking == Tracking::Logging).then(Log::new);
        Self {
            logs: vec![log; DISKS],
            dirty: vec![BTreeSet::new(); DISKS],
        }
    }
}

#[derive(Default)]
struct Replica {
    images: Option<Vec<Image>>,
    published: Option<Sequence>,
    last_point: Option<Sequence>,
    /// It may be failed over to without loss.
    prepared: bool,
}

pub(crate) struct World {
    random: Random,
    now: Time,
    disks: Vec<Image>,
    /// What is durable: the machine as it was last saved.
    saved: String,
    machine: Machine,
    pending: Vec<Action>,
    /// Unsealed generations that exist at the primary; the last takes the writes.
    open: BTreeMap<Sequence, Generation>,
    sealed: BTreeMap<Sequence, Vec<Option<Log>>>,
    /// The disks at each barrier.
    barriers: BTreeMap<Sequence, Vec<Image>>,
    snapshot: Option<Vec<Image>>,
    /// Blocks of all disks copied so far, in order.
    copied: Vec<u32>,
    replica: Replica,
    faults: bool,
    /// The guests were stopped before the stop was requested.
    stopped: bool,
    /// The guests hold still for an application-consistent point.
    still: bool,
    /// The barriers that found them so.
    found_still: BTreeSet<Sequence>,
    writes: u32,
    pub(crate) marks: BTreeMap<&'static str, u32>,
}

impl World {
    pub(crate) fn new(mut random: Random) -> Self {
        let quiesces = random.chance(50);
        let application = ApplicationConsistent {
            every: Duration::from_mins(1),
            quiesce_max: Duration::from_secs(10),
        };
        let policy = Policy {
            resync_threshold_percent: 90,
            resync_window: random.chance(30).then(Window::default),
            application_consistent: quiesces.then_some(application),
            ..Policy::default()
        };
        let mut machine = Machine::new(policy, vec![Length::new(BLOCKS as u64 * BLOCK); DISKS]);
        let actions = machine
            .request(Request::Enable, Time::ZERO)
            .expect("new machines enable");
        let first = Generation::new(Tracking::MapOnly);
        let mut world = Self {
            random,
            now: Time::ZERO,
            disks: vec![vec![0; BLOCKS]; DISKS],
            saved: String::new(),
            open: BTreeMap::from([(machine.open(), first)]),
            machine,
            pending: Vec::new(),
            sealed: BTreeMap::new(),
            barriers: BTreeMap::new(),
            snapshot: None,
            copied: Vec::new(),
            replica: Replica::default(),
            faults: true,
            stopped: false,
            still: false,
            found_still: BTreeSet::new(),
            writes: 0,
            marks: BTreeMap::new(),
        };
        world.take(actions);
        world
    }

    pub(crate) fn step(&mut self) {
        match self.random.below(100) {
            0..50 => self.write(),
            50..85 => self.carry_one_out(),
            85..97 => self.wait(),
            97 => self.crash(),
            _ => self.ask(),
        }
    }

    /// The liveness phase: no more faults, and as much time as it takes.
    pub(crate) fn calm_down(&mut self) {
        self.faults = false;
        for _ in 0..2_000 {
            self.ask_for_what_is_missing();
            self.carry_one_out();
            self.wait();
        }
        // What is under way ends without another timeout.
        for _ in 0..1_000 {
            self.carry_one_out();
        }
    }

    /// What an owner does who wants the machine protected.
    fn ask_for_what_is_missing(&mut self) {
        for request in [Request::Resume, Request::Enable, Request::Resync] {
            let allowed = self.machine.allowed();
            // One that was not cancelled comes by itself.
            let cancelled = self.machine.state() == State::WaitingForStartResynchronize
                && !allowed.contains(&Request::CancelResync);
            if allowed.contains(&request) && (request != Request::Resync || cancelled) {
                let actions = self.machine.request(request, self.now).expect("allowed");
                self.take(actions);
            }
        }
    }

    pub(crate) fn converged(&self) -> bool {
        let current = self.replica.images.as_ref() == Some(&self.disks);
        let point = self.replica.last_point == self.replica.published;
        self.machine.state() == State::Replicating && current && point && !self.still
    }

    pub(crate) fn describe(&self) -> String {
        format!(
            "{:?} {:?}, pending {:?}\n{:?}\n{:?}",
            self.machine, self.replica.published, self.pending, self.replica.images, self.disks
        )
    }

    fn mark(&mut self, mark: &'static str) {
        *self.marks.entry(mark).or_default() += 1;
    }

    fn write(&mut self) {
        if self.stopped || self.still || self.machine.must_claim_first() {
            return;
        }
        assert!(
            !self.replica.prepared,
            "written to while the replica is prepared"
        );
        let disk = self.random.below(DISKS);
        let block = self.random.below(self.disks[disk].len());
        self.writes += 1;
        self.disks[disk][block] = self.writes;
        let lost = self.faults && self.random.chance(1);
        let mut open = self.open.last_entry().expect("a generation is open");
        let generation = open.get_mut();
        generation.dirty[disk].insert(block);
        if let Some(log) = &mut generation.logs[disk] {
            log.push((block, self.writes));
        }
        if lost {
            generation.logs[disk] = None;
            self.mark("log lost");
        }
        let lengths = self.open_lengths();
        let actions = self.machine.handle(Event::LogsGrew(lengths), self.now);
        self.take(actions);
    }

    fn open_lengths(&self) -> Vec<Length> {
        let (_, generation) = self.open.last_key_value().expect("a generation is open");
        let length = |log: &Option<Log>| log.as_ref().map_or(0, |log| log.len() as u64 * BLOCK);
        generation
            .logs
            .iter()
            .map(|log| Length::new(length(log)))
            .collect()
    }

    fn wait(&mut self) {
        if let Some(at) = self.machine.next_timeout() {
            self.now = self.now.max(at);
        }
        let actions = self.machine.handle_timeout(self.now);
        self.take(actions);
    }

    fn ask(&mut self) {
        let allowed = self.machine.allowed();
        if allowed.is_empty() {
            return; // it is being stopped
        }
        let request = allowed[self.random.below(allowed.len())];
        match request {
            Request::Suspend => self.mark("suspend"),
            Request::Disable => self.mark("disable"),
            Request::CancelResync => self.mark("cancel resync"),
            Request::Stop => {
                self.mark("stop");
                self.stopped = true;
            }
            _ => {}
        }
        let actions = self
            .machine
            .request(request, self.now)
            .expect("it is allowed");
        self.take(actions);
    }

    /// Makes the machine durable, then takes its actions on.
    fn take(&mut self, actions: Vec<Action>) {
        self.saved = serde_json::to_string(&self.machine).expect("machines serialize");
        if !self.machine.has_base() {
            self.copied.clear();
        }
        self.pending.extend(actions);
    }

    fn crash(&mut self) {
        self.mark("crash");
        self.pending.clear();
        self.snapshot = None;
        self.restart(true);
    }

    fn restart(&mut self, crashed: bool) {
        self.stopped = false;
        let mut machine: Machine = serde_json::from_str(&self.saved).expect("it was saved");
        self.enlarge_unseen(&mut machine);
        let first = machine.open();
        let recovered = crashed.then(|| self.recover(first, machine.tracking()));
        self.open.clear();
        let (machine, actions) = machine.restart(recovered, self.now);
        self.open
            .insert(machine.open(), Generation::new(machine.tracking()));
        self.machine = machine;
        self.take(actions);
    }

    /// Makes a disk larger at random: which, its size and what of its new part is no hole.
    fn enlarge(&mut self) -> Option<(usize, Length, Scope)> {
        let disk = self.random.below(DISKS);
        let has_room = self.disks[disk].len() < BLOCKS_MAX;
        if !has_room || !self.random.chance(30) {
            return None;
        }
        let mut unproven = BTreeSet::new();
        for _ in 0..=self.random.below(2) {
            let holds = u32::from(self.random.chance(20)) * u32::MAX;
            if holds != 0 {
                unproven.insert(self.disks[disk].len());
            }
            self.disks[disk].push(holds);
        }
        if !unproven.is_empty() {
            self.mark("enlarged with data");
        }
        Some((disk, sizes(&self.disks)[disk], scope(&unproven)))
    }

    /// Somebody enlarges a disk while nothing runs.
    fn enlarge_unseen(&mut self, machine: &mut Machine) {
        if self.replica.prepared || !self.faults {
            return; // what is known to be prepared stays as it is
        }
        if let Some((disk, size, unproven)) = self.enlarge() {
            self.mark("found larger");
            machine.found_larger(disk, size, &unproven);
        }
    }

    /// Reads the regions of every generation that the saved state does not know as sealed again.
    fn recover(&mut self, first: Sequence, tracking: Tracking) -> BarrierReached {
        let mut dirty = vec![BTreeSet::new(); DISKS];
        for generation in self.open.range(first..).map(|(_, generation)| generation) {
            for (all, more) in dirty.iter_mut().zip(&generation.dirty) {
                all.extend(more);
            }
        }
        self.barriers.insert(first, self.disks.clone());
        let reread = |disk: usize| {
            dirty[disk]
                .iter()
                .map(|b| (*b, self.disks[disk][*b]))
                .collect()
        };
        let logs: Vec<Log> = (0..DISKS).map(reread).collect();
        let ended = |disk: usize| match tracking {
            Tracking::Logging => Ended::Sealed(Length::new(logs[disk].len() as u64 * BLOCK)),
            Tracking::MapOnly => Ended::Lost(scope(&dirty[disk])),
        };
        let disks = (0..DISKS).map(ended).collect();
        if tracking == Tracking::Logging {
            self.sealed
                .insert(first, logs.into_iter().map(Some).collect());
        }
        BarrierReached {
            time: Timestamp::default(),
            disks,
            dropped: vec![Scope::NOTHING; DISKS],
            tracking,
        }
    }

    fn carry_one_out(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let mut at = self.random.below(self.pending.len());
        let for_the_guest =
            |action: &Action| matches!(action, Action::Quiesce { .. } | Action::Thaw);
        if for_the_guest(&self.pending[at]) {
            // These are carried out in their order.
            at = self.pending.iter().position(for_the_guest).unwrap_or(at);
        }
        let action = self.pending.remove(at);
        if let Action::Abort(task) = action {
            return self.abort(task);
        }
        let fails = self.faults && self.random.chance(15);
        let task = task_of(&action);
        if let (true, Some(task)) = (fails, task) {
            if self.random.chance(50) && !matches!(task, Task::Barrier | Task::Quiesce) {
                self.mark("lost answer");
                self.carry_out(action);
                // What is left of a copy ends with its attempt.
                self.pending
                    .retain(|action| !matches!(action, Action::Copy { .. }));
            }
            return self.fail(task);
        }
        if let Some(event) = self.carry_out(action) {
            let actions = self.machine.handle(event, self.now);
            self.take(actions);
        }
    }

    /// Gives a transfer up, before or after it has done what it was to do; or it ended before.
    fn abort(&mut self, task: Task) {
        let running = |action: &Action| task_of(action) == Some(task);
        let Some(at) = self.pending.iter().position(running) else {
            return self.mark("abort too late");
        };
        self.mark("abort");
        let action = self.pending.remove(at);
        let logs = |shipment: &Shipment| self.sealed.contains_key(&shipment.sequence);
        let possible = !matches!(&action, Action::Ship(shipment) if !logs(shipment));
        if possible && self.random.chance(30) {
            self.carry_out(action);
            self.pending.retain(|action| !running(action));
        }
        let actions = self.machine.handle(Event::Aborted { task }, self.now);
        self.take(actions);
    }

    fn fail(&mut self, task: Task) {
        let class = if self.random.chance(5) {
            Class::NonRecoverable
        } else {
            Class::Recoverable
        };
        let failure = Failure {
            class,
            retry_after: None,
            message: "simulated".into(),
        };
        let actions = self
            .machine
            .handle(Event::Failed { task, failure }, self.now);
        self.take(actions);
    }

    fn carry_out(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Claim => {
                if self.replica.prepared {
                    self.mark("taken back");
                }
                self.replica.prepared = false;
                Some(Event::Claimed {
                    epoch: Epoch::new(1),
                    position: self.replica.published.map_or(Position::Empty, Position::At),
                })
            }
            Action::Barrier(barrier) => {
                if barrier.changes_disks
                    && let Some((disk, size, unproven)) = self.enlarge()
                {
                    self.mark("enlarged");
                    let enlarged = Event::Enlarged {
                        disk,
                        size,
                        unproven,
                    };
                    let actions = self.machine.handle(enlarged, self.now);
                    self.take(actions);
                }
                Some(self.barrier(&barrier))
            }
            Action::Quiesce { .. } => {
                self.still = true;
                // At times the hook hangs, or its answer is lost.
                let answered = !self.faults || self.random.chance(80);
                answered.then_some(Event::Quiesced)
            }
            Action::Thaw => {
                self.still = false;
                None
            }
            Action::Report(report) => {
                self.hear(&report);
                None
            }
            Action::Copy { base, point } => self.copy(base, point.is_some()),
            Action::Ship(shipment) => {
                let Some(logs) = self.sealed.get(&shipment.sequence).cloned() else {
                    let given_up = self.pending.contains(&Action::Abort(Task::Ship));
                    assert!(given_up, "unshipped logs are kept");
                    return Some(Event::LogUnreadable { disk: 0 });
                };
                self.check_sequence(&shipment);
                if shipment.application_consistent {
                    self.mark("application-consistent point");
                    let still = self.found_still.contains(&shipment.sequence);
                    assert!(still && shipment.point, "the guests wrote at {shipment:?}");
                }
                self.publish(shipment.sequence, &logs, &shipment.sizes, shipment.point);
                Some(Event::Shipped)
            }
            Action::Resync {
                sequence,
                scopes,
                sizes,
                ..
            } => {
                self.mark("resync");
                if self.machine.state() == State::Resynchronizing {
                    let present = self::sizes(&self.disks);
                    assert_eq!(sizes, present, "disks of other sizes cannot be compared");
                }
                let left = self.resync(sequence, &scopes, &sizes);
                Some(Event::Resynchronized { left })
            }
            Action::Heartbeat => Some(Event::Heard),
            Action::Prepare => {
                let images = self.replica.images.as_ref();
                assert_eq!(images, Some(&self.disks), "prepared without the last delta");
                self.replica.prepared = true;
                Some(Event::Prepared)
            }
            Action::Discard(sequences) => {
                for sequence in sequences {
                    self.sealed.remove(&sequence);
                }
                None
            }
            Action::ReleaseSnapshot => {
                self.snapshot = None;
                None
            }
            Action::Stopped { .. } => {
                self.pending.clear();
                self.snapshot = None;
                let clean = self
                    .open
                    .values()
                    .all(|g| g.dirty.iter().all(BTreeSet::is_empty));
                self.restart(!clean);
                None
            }
            _ => None,
        }
    }

    fn barrier(&mut self, barrier: &Barrier) -> Event {
        let quiet = self.open_is_untouched();
        if barrier.may_be_quiet && quiet {
            return Event::Quiet;
        }
        let ended = self
            .open
            .get(&barrier.ends)
            .cloned()
            .expect("it is the open generation");
        self.open
            .insert(barrier.next, Generation::new(barrier.tracking));
        self.barriers.insert(barrier.ends, self.disks.clone());
        if self.still {
            self.found_still.insert(barrier.ends);
        }
        if barrier.snapshot {
            self.mark(if self.copied.is_empty() {
                "snapshot"
            } else {
                "resnapshot"
            });
            self.snapshot = Some(self.disks.clone());
        }
        if barrier.tracking == Tracking::MapOnly {
            self.mark("overflow");
        }
        let disks = (0..DISKS)
            .map(|disk| match &ended.logs[disk] {
                Some(log) => Ended::Sealed(Length::new(log.len() as u64 * BLOCK)),
                None => Ended::Lost(scope(&ended.dirty[disk])),
            })
            .collect();
        let dropped = (0..DISKS)
            .map(|disk| self.dropped(disk, &barrier.dropped))
            .collect();
        self.sealed.insert(barrier.ends, ended.logs);
        Event::BarrierReached(BarrierReached {
            time: Timestamp::default(),
            disks,
            dropped,
            tracking: barrier.tracking,
        })
    }

    fn hear(&mut self, report: &Report) {
        match report {
            Report::CrashConsistentOnly { .. } => self.mark("crash-consistent only"),
            Report::RecoveryPointsLate { rpo } => {
                assert!(*rpo >= Duration::from_mins(15), "{rpo:?} is not late");
                self.mark("late");
            }
            Report::ResyncRequired(ResyncReason::ExistingCopy) => self.mark("existing copy"),
            Report::RecoveryPointsOnTime => self.mark("on time again"),
            _ => {}
        }
    }

    fn open_is_untouched(&self) -> bool {
        let (_, generation) = self.open.last_key_value().expect("a generation is open");
        generation.dirty.iter().all(BTreeSet::is_empty)
    }

    fn dropped(&self, disk: usize, sequences: &[Sequence]) -> Scope {
        let logs = sequences
            .iter()
            .filter_map(|sequence| self.sealed.get(sequence));
        let blocks = logs.filter_map(|logs| logs[disk].as_ref()).flatten();
        scope(&blocks.map(|(block, _)| *block).collect())
    }

    /// Copies a part; only the whole is an answer.
    fn copy(&mut self, base: Sequence, point: bool) -> Option<Event> {
        // A copy is of the sizes that it was begun with.
        let sizes = blocks(&self.machine.sizes_to_claim());
        let snapshot = self.snapshot.as_ref()?.iter().zip(&sizes);
        let snapshot: Vec<_> = snapshot.map(|(disk, size)| &disk[..*size]).collect();
        let snapshot = snapshot.concat();
        let more = 1 + self.random.below(DISKS * BLOCKS);
        let end = (self.copied.len() + more).min(snapshot.len());
        let part = &snapshot[self.copied.len()..end];
        self.copied.extend_from_slice(part);
        if end < snapshot.len() {
            self.pending.push(Action::Copy {
                base,
                point: point.then(Timestamp::default),
            });
            return None;
        }
        if self.replica.published.is_none() {
            let mut copied = self.copied.as_slice();
            let disks = sizes
                .iter()
                .map(|size| copied.split_off(..*size).expect("all are copied"));
            self.replica.images = Some(disks.map(Vec::from).collect());
            self.published(base, point);
        }
        Some(Event::Copied)
    }

    /// Reads one part of the scope now and the other after more writes. At times there is room for a
    /// first part only.
    fn resync(&mut self, sequence: Sequence, scopes: &[Scope], sizes: &[Length]) -> Vec<Scope> {
        let mut left = vec![BTreeSet::new(); DISKS];
        let room = if self.faults && self.random.chance(20) {
            3
        } else {
            DISKS * BLOCKS_MAX
        };
        let mut logs: Vec<Option<Log>> = vec![Some(Log::new()); DISKS];
        for disk in 0..DISKS {
            for extent in scopes[disk].extents(sizes[disk]).iter() {
                for piece in extent.pieces(Length::new(BLOCK)) {
                    if self.random.chance(30) {
                        self.write();
                    }
                    let block = usize::try_from(piece.start().get() / BLOCK).expect("small");
                    let log = logs[disk].as_mut().expect("made above");
                    if log.len() >= room {
                        left[disk].insert(block);
                        self.mark("partial resync");
                        continue;
                    }
                    log.push((block, self.disks[disk][block]));
                }
            }
        }
        self.publish(sequence, &logs, sizes, false);
        if !self.machine.doubt().iter().all(Scope::is_nothing) {
            self.mark("second pass");
        }
        left.iter().map(scope).collect()
    }

    /// A store takes logs in sequence, except after a loss, and then makes no point of them.
    fn check_sequence(&self, shipment: &Shipment) {
        let published = self.replica.published;
        let follows = published.map(Sequence::next) == Some(shipment.sequence);
        let known = published >= Some(shipment.sequence);
        let after_loss = shipment.after_loss && !shipment.point;
        assert!(
            follows || known || after_loss,
            "{shipment:?} after {published:?}"
        );
    }

    fn publish(&mut self, sequence: Sequence, logs: &[Option<Log>], sizes: &[Length], point: bool) {
        if self.replica.published >= Some(sequence) {
            return; // it was published and the answer was lost
        }
        let images = self.replica.images.as_mut().expect("logs follow a base");
        for ((image, log), size) in images.iter_mut().zip(logs).zip(blocks(sizes)) {
            assert!(image.len() <= size, "a disk shrank at {sequence}");
            image.resize(size, 0);
            for (block, value) in log.iter().flatten() {
                image[*block] = *value;
            }
        }
        self.published(sequence, point);
    }

    fn published(&mut self, sequence: Sequence, point: bool) {
        self.replica.published = Some(sequence);
        if point {
            self.replica.last_point = Some(sequence);
            let barrier = &self.barriers[&sequence];
            let images = self.replica.images.as_ref();
            assert_eq!(
                images,
                Some(barrier),
                "recovery point {sequence} is not its barrier"
            );
            self.mark("point");
        }
    }
}

fn sizes(disks: &[Image]) -> Vec<Length> {
    let size = |disk: &Image| Length::new(disk.len() as u64 * BLOCK);
    disks.iter().map(size).collect()
}

fn blocks(sizes: &[Length]) -> Vec<usize> {
    let blocks = |size: &Length| usize::try_from(size.get() / BLOCK).expect("small");
    sizes.iter().map(blocks).collect()
}

fn task_of(action: &Action) -> Option<Task> {
    match action {
        Action::Claim => Some(Task::Claim),
        Action::Barrier(_) => Some(Task::Barrier),
        Action::Copy { .. } => Some(Task::Copy),
        Action::Ship(_) => Some(Task::Ship),
        Action::Resync { .. } => Some(Task::Resync),
        Action::Prepare => Some(Task::Prepare),
        Action::Heartbeat => Some(Task::Heartbeat),
        Action::Quiesce { .. } => Some(Task::Quiesce),
        _ => None,
    }
}

fn scope(blocks: &BTreeSet<usize>) -> Scope {
    let extent = |block: &usize| {
        Extent::new(Offset::new(*block as u64 * BLOCK), Length::new(BLOCK)).expect("small")
    };
    Scope::Extents(blocks.iter().map(extent).collect::<ExtentSet>())
}
