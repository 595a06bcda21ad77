//! The process that protects a machine, as its driver runs it: started, saved, crashed, ended.

use std::rc::Rc;
use std::sync::Arc;

use afterimage_block::{Length, Sequence};
use afterimage_replication::{
    Action, Event, Health, Machine, PrimaryReport, Report, Request, ResyncReason, Role, State, Task,
};

use afterimage_store::BaseProgress;

use super::{MACHINE, World};
use crate::coverage::Mark;
use crate::disk::SECTOR;
use crate::error::Failed;
use crate::operator::Operation;
use crate::options;
use crate::oracle;
use crate::plant::Plant;
use crate::site::{Pending, Process, Side};
use crate::tracking::{
    Tracker, delete_other_logs, intent_path, intents, keep_intents, log_path, recover,
};
use crate::transfer::{Answer, Context, DiskHandle};
use crate::violation::{Broken, Invariant, ensure};

impl World {
    fn region(&self) -> Length {
        Length::new(u64::from(self.options.region) * SECTOR as u64)
    }

    /// Somebody starts a process that is down, seldom where it was stopped for good.
    pub(super) fn start_again(&mut self, number: usize) -> Result<(), Broken> {
        let stopped = self.sites[number].saved.clean && self.oracle.stopped;
        let lost = self.oracle.entitled != number;
        if (stopped || lost) && !self.hub.chance(100) {
            return Ok(());
        }
        self.start(number)
    }

    /// Starts the process of a primary that is down. It may crash before it runs.
    pub(super) fn start(&mut self, number: usize) -> Result<(), Broken> {
        let site = &self.sites[number];
        let operation = site.operation.as_ref().map(|running| &running.operation);
        let locked = matches!(operation, Some(Operation::Follow(_)));
        if site.saved.side != Side::Primary || site.process.is_some() || locked {
            return Ok(());
        }
        self.hub.trace(|| format!("site {number}: start"));
        // What else may put a whole disk in doubt.
        let excused = site.saved.clean || site.intents_lost || site.doubts_a_whole_disk();
        let started = self.try_start(number);
        let whole = self.sites[number].doubts_a_whole_disk();
        ensure(excused || !whole, Invariant::Proportional, || {
            format!("site {number} doubts a whole disk after a crash that lost no intents")
        })?;
        match started {
            Ok(()) => {
                self.sites[number].intents_lost = false;
                self.check_restarted(number)
            }
            Err(error) => {
                self.hub
                    .trace(|| format!("site {number}: not started: {error}"));
                Ok(())
            }
        }
    }

    fn try_start(&mut self, number: usize) -> Result<(), Failed> {
        let region = self.region();
        let crashes = |hub: &crate::hub::Hub| {
            if hub.recovery_fault() {
                hub.mark(Mark::CrashInRecovery);
                return Err(Failed::Simulated("a crash in recovery"));
            }
            Ok(())
        };
        let site = &mut self.sites[number];
        let bytes = serde_json::to_vec(&site.saved.machine).expect("machines serialize");
        let machine: Machine = serde_json::from_slice(&bytes).expect("it was saved");
        let mut disks = site.untracked();
        let (open, tracking, epoch) = (machine.open(), machine.tracking(), machine.epoch());
        let was_clean = site.saved.clean;
        let recovered = if was_clean || !machine.has_base() {
            None
        } else {
            Some(recover(&mut disks, open, tracking, epoch, &self.hub)?)
        };
        crashes(&self.hub)?;
        let images = recovered.as_ref().map(|_| site.images());
        let (mut machine, mut actions) = machine.restart(recovered, self.now);
        if was_clean && machine.has_base() && self.hub.has_faults() && self.hub.chance(100) {
            change_untracked(&site.disks[0], &self.hub);
            site.saved.changed = true;
        }
        if site.saved.changed {
            let changed = Event::ChangedUntracked { disk: 0 };
            actions.extend(machine.handle(changed, self.now));
        }
        if machine.state() == State::Disabled
            && let Ok(enabled) = machine.request(Request::Enable, self.now)
        {
            actions.extend(enabled);
        }
        let (next, tracking) = (machine.open(), machine.tracking());
        if !was_clean {
            // What was recovered is recorded before what it was recovered from is replaced.
            keep_intents(&disks, next, region)?;
            let site = &mut self.sites[number];
            site.saved.machine = machine.clone();
            let digests = disks.iter().map(|disk| disk.predecessor);
            site.saved.predecessors = digests.collect();
            if let Some(images) = images {
                site.note_barrier(open, images);
            }
        }
        if !self.hub.is_planted(Plant::OrphansKept) {
            delete_other_logs(&disks, &machine.unshipped().collect::<Vec<_>>());
        }
        crashes(&self.hub)?;
        let predecessors = disks.iter().map(|disk| disk.predecessor).collect();
        let tracker = Tracker::begin(disks, next, tracking, epoch, region, &self.hub)?;
        let site = &mut self.sites[number];
        site.saved.machine = machine.clone();
        site.saved.clean = false;
        site.saved.changed = false;
        site.process = Some(Process {
            machine,
            tracker,
            writer: None,
            pending: Vec::new(),
            predecessors,
            stopped: false,
            still: false,
            moved: false,
        });
        self.carry_out(number, actions);
        Ok(())
    }

    /// What differs from the replica after a restart is known.
    fn check_restarted(&mut self, number: usize) -> Result<(), Broken> {
        let last = self
            .oracle
            .manifest
            .as_ref()
            .and_then(afterimage_store::Manifest::last);
        let (Some(last), true) = (last, self.oracle.entitled == number) else {
            return Ok(());
        };
        // What a point holds was read when it was published.
        let newest = match self.oracle.points.get(&last) {
            Some(images) => Rc::clone(images),
            None => Rc::new(self.contents(last)?),
        };
        let site = &self.sites[number];
        match &site.process {
            Some(process) if process.machine.has_base() => {
                oracle::check_tracked(site, &process.machine, &newest, &self.hub)
            }
            _ => Ok(()),
        }
    }

    /// Makes the machine durable, then does what it asks for.
    pub(super) fn carry_out(&mut self, number: usize, actions: Vec<Action>) {
        self.save(number);
        for action in actions {
            self.act(number, action);
        }
    }

    fn save(&mut self, number: usize) {
        let site = &mut self.sites[number];
        let Some(process) = &mut site.process else {
            return;
        };
        if !self.hub.is_planted(Plant::SavedLate) || self.hub.chance(700) {
            site.saved.machine = process.machine.clone();
            site.saved.predecessors.clone_from(&process.predecessors);
        }
        if !process.machine.has_base() {
            // What was copied before belongs to another base.
            site.base.borrow_mut().fill(BaseProgress::default());
        }
        let open = process.machine.open();
        process.tracker.forget_intents_before(open);
    }

    fn act(&mut self, number: usize, action: Action) {
        self.hub.trace(|| format!("site {number}: {action:?}"));
        let Some(context) = self.context(number, &action) else {
            return;
        };
        let Some(process) = &mut self.sites[number].process else {
            return;
        };
        let writer = process.writer.clone();
        let transfer = |task, work| Pending::Transfer(task, work);
        let pending = match (action, writer) {
            (Action::Claim, _) => {
                if process.writer.is_some() {
                    self.hub.mark(Mark::ClaimedAgain);
                }
                let known = process.machine.epoch();
                transfer(Task::Claim, Box::pin(context.claim(known)))
            }
            (Action::Barrier(barrier), _) => Pending::Barrier(barrier),
            (Action::Quiesce { .. }, _) => Pending::HoldStill,
            (Action::Thaw, _) => Pending::GoOn,
            (Action::Discard(sequences), _) => Pending::Discard(sequences),
            (Action::ReleaseSnapshot, _) => return process.tracker.snapshots.clear(),
            (Action::Abort(task), _) => return process.give_up(task),
            (Action::Report(report), _) => return self.hear(&report),
            (Action::Stopped { complete }, _) => return self.end(number, complete),
            (Action::Copy { base, point }, Some(writer)) => {
                let snapshots = process.tracker.snapshots.clone();
                transfer(
                    Task::Copy,
                    Box::pin(context.copy(writer, base, point, snapshots)),
                )
            }
            (Action::Ship(shipment), Some(writer)) => {
                let max = usize::try_from(process.machine.policy().recovery_points_max);
                let max = max.unwrap_or(usize::MAX);
                transfer(Task::Ship, Box::pin(context.ship(writer, shipment, max)))
            }
            (
                Action::Resync {
                    sequence, scopes, ..
                },
                Some(writer),
            ) => transfer(
                Task::Resync,
                Box::pin(context.resync(writer, sequence, scopes)),
            ),
            (Action::Release, Some(writer)) => {
                process.writer = None;
                Pending::Release(Box::pin(context.release(writer)))
            }
            (Action::Prepare, Some(writer)) => {
                let through = process.machine.durable().unwrap_or_default();
                transfer(Task::Prepare, Box::pin(context.prepare(writer, through)))
            }
            (Action::Heartbeat, Some(writer)) => {
                transfer(Task::Heartbeat, Box::pin(context.heartbeat(writer)))
            }
            (action, _) => match task_of(&action) {
                Some(task) => Pending::Answer(task, Err(Failed::NotClaimed)),
                None => return,
            },
        };
        if let Some(process) = &mut self.sites[number].process {
            process.pending.push(pending);
        }
    }

    /// What a transfer of `action` needs.
    fn context(&self, number: usize, action: &Action) -> Option<Context> {
        let site = &self.sites[number];
        let process = site.process.as_ref()?;
        let machine = &process.machine;
        let brought = match action {
            Action::Ship(shipment) => shipment.sequence,
            _ => Sequence::ZERO,
        };
        let disks = process.tracker.disks.iter();
        Some(Context {
            hub: self.hub.clone(),
            objects: self.objects(number),
            inlining: self.options.inlining,
            machine: MACHINE,
            identity: self.identity(),
            disks: disks
                .map(|disk| DiskHandle {
                    id: disk.id,
                    tracked: Arc::clone(&disk.device),
                    logs: disk.logs.clone(),
                })
                .collect(),
            report: PrimaryReport {
                state: machine.state(),
                health: machine.health().max(Health::Normal),
                pending: machine.unshipped_bytes_after(brought),
                interval_secs: machine.policy().interval.as_secs(),
                time: self.hub.wall(),
                statistics: None,
                positions: Some(machine.positions()),
                idle_secs: matches!(action, Action::Heartbeat)
                    .then(|| machine.policy().heartbeat().as_secs()),
                rpo: None,
            },
            base: Rc::clone(&site.base),
        })
    }

    fn hear(&self, report: &Report) {
        match report {
            Report::GaveUp { .. } => self.hub.mark(Mark::Critical),
            Report::CrashConsistentOnly { .. } => self.hub.mark(Mark::CrashConsistentOnly),
            Report::RecoveryPointsLate { .. } => self.hub.mark(Mark::PointsLate),
            Report::Stalled { .. } => self.hub.mark(Mark::Stalled),
            Report::ResyncRequired(ResyncReason::ExistingCopy) => {
                self.hub.mark(Mark::EnabledAgain);
            }
            _ => {}
        }
    }

    /// Carries out one thing that is under way at a site, in the process or at its operator's.
    pub(super) fn work(&mut self, number: usize) -> Result<(), Broken> {
        let count = match &self.sites[number].process {
            Some(process) => process.pending.len(),
            None => 0,
        };
        let operations = usize::from(self.sites[number].operation.is_some());
        if count + operations == 0 {
            return Ok(());
        }
        let mut at = self.hub.below(count + operations);
        if at >= count {
            return self.work_at_operation(number);
        }
        let Some(process) = &mut self.sites[number].process else {
            return Ok(());
        };
        let for_the_guest =
            |pending: &Pending| matches!(pending, Pending::HoldStill | Pending::GoOn);
        if for_the_guest(&process.pending[at]) {
            // These are carried out in their order.
            at = process.pending.iter().position(for_the_guest).unwrap_or(at);
        }
        let pending = process.pending.remove(at);
        self.carry_one_out(number, pending)
    }

    fn carry_one_out(&mut self, number: usize, pending: Pending) -> Result<(), Broken> {
        match pending {
            Pending::Answer(task, answer) => self.answer(number, task, answer),
            Pending::Aborted(task) => self.handle(number, Event::Aborted { task }),
            Pending::Transfer(task, mut work) => {
                let Some(answer) = self.advance(&mut work) else {
                    self.keep(number, Pending::Transfer(task, work));
                    return self.handle(number, Event::Progressed { task });
                };
                self.look()?;
                self.answer(number, task, answer)
            }
            Pending::Release(mut work) => {
                match self.advance(&mut work) {
                    None => self.keep(number, Pending::Release(work)),
                    Some(Ok(())) => self.hub.mark(Mark::Released),
                    Some(Err(_)) => {} // it finds out by itself
                }
                Ok(())
            }
            Pending::Barrier(barrier) => {
                self.barrier(number, &barrier);
                Ok(())
            }
            Pending::Discard(sequences) => {
                if let Some(process) = &self.sites[number].process {
                    process.tracker.discard(&sequences);
                }
                Ok(())
            }
            Pending::HoldStill => {
                self.set_still(number, true);
                if self.hub.has_faults() && self.hub.chance(100) {
                    self.hub.mark(Mark::HookHung);
                    return Ok(());
                }
                if self.hub.has_faults() && self.hub.chance(100) {
                    self.hub.mark(Mark::HookFailed);
                    let failed = Failed::Simulated("the quiesce hook failed");
                    return self.answer(number, Task::Quiesce, Err(failed));
                }
                self.handle(number, Event::Quiesced)
            }
            Pending::GoOn => {
                if !self.hub.is_planted(Plant::NeverThawed) {
                    self.set_still(number, false);
                }
                Ok(())
            }
        }
    }

    fn keep(&mut self, number: usize, pending: Pending) {
        if let Some(process) = &mut self.sites[number].process {
            process.pending.push(pending);
        }
    }

    fn set_still(&mut self, number: usize, still: bool) {
        if let Some(process) = &mut self.sites[number].process {
            process.still = still;
            process.moved = false;
        }
    }

    fn barrier(&mut self, number: usize, barrier: &afterimage_replication::Barrier) {
        if self.hub.disk_fault() {
            self.sites[number].disks[0].fail_next_flush();
        }
        let site = &mut self.sites[number];
        let Some(process) = &mut site.process else {
            return;
        };
        let still = process.still && !process.moved;
        let copies_again = barrier.snapshot && process.machine.has_base();
        let reached = process.tracker.barrier(barrier);
        let predecessors = Some(process.tracker.predecessors());
        let answer = reached.map(|(event, images)| {
            if let Event::BarrierReached(_) = &event {
                site.note_barrier(barrier.ends, images);
                if still {
                    site.record.still.insert(barrier.ends);
                }
            } else {
                self.hub.mark(Mark::Quiet);
            }
            let writer = None;
            Answer {
                event,
                writer,
                predecessors,
            }
        });
        if let (Ok(answer), true) = (
            &answer,
            self.hub.is_planted(Plant::PredecessorOfLostBarrier),
        ) && let Some(digests) = &answer.predecessors
        {
            site.saved.predecessors.clone_from(digests);
        }
        if answer.is_ok() && copies_again {
            self.hub.mark(Mark::CopiedAgain);
        }
        if answer.is_ok() && !barrier.dropped.is_empty() {
            self.hub.mark(Mark::Overflow);
        }
        self.keep(number, Pending::Answer(Task::Barrier, answer));
    }

    /// The machine hears what came of a task.
    fn answer(
        &mut self,
        number: usize,
        task: Task,
        answer: Result<Answer, Failed>,
    ) -> Result<(), Broken> {
        let Some(process) = &mut self.sites[number].process else {
            return Ok(());
        };
        let event = match answer {
            Ok(answer) => {
                if let Some(writer) = answer.writer {
                    process.tracker.set_epoch(writer.epoch());
                    process.writer = Some(*writer);
                }
                if let Some(predecessors) = answer.predecessors {
                    process.predecessors = predecessors;
                }
                answer.event
            }
            Err(error) => Event::Failed {
                task,
                failure: error.failure(),
            },
        };
        if let Event::LogUnreadable { .. } = event {
            let sequence = process.machine.unshipped().next();
            oracle::check_unreadable(&self.sites[number].record, sequence)?;
        }
        self.handle(number, event)
    }

    pub(super) fn handle(&mut self, number: usize, event: Event) -> Result<(), Broken> {
        let Some(process) = &mut self.sites[number].process else {
            return Ok(());
        };
        if !matches!(event, Event::LogsGrew(_) | Event::Progressed { .. }) {
            self.hub.trace(|| format!("site {number}: heard {event:?}"));
        }
        let shipped = event == Event::Shipped;
        let actions = process.machine.handle(event, self.now);
        let durable = process.machine.durable();
        self.carry_out(number, actions);
        if shipped {
            let last = self
                .oracle
                .manifest
                .as_ref()
                .and_then(afterimage_store::Manifest::last);
            ensure(durable <= last, Invariant::NothingIsLost, || {
                format!("{durable:?} is taken for durable, and the replica is at {last:?}")
            })?;
        }
        Ok(())
    }

    /// The owner of a machine asks for something.
    pub(super) fn ask(&mut self, number: usize) {
        let Some(process) = &mut self.sites[number].process else {
            return;
        };
        if self.oracle.entitled != number && process.machine.state() == State::Critical {
            // Its owner sees that it is no longer the primary.
            self.sites[number].process = None;
            return;
        }
        if self.hub.chance(20) {
            let policy = self.hub.with_random(options::policy);
            if process.machine.set_policy(policy).is_ok() {
                self.hub.mark(Mark::PolicyChanged);
                self.save(number);
            }
            return;
        }
        let mut allowed = process.machine.allowed();
        if !self.hub.chance(100) {
            allowed.retain(|request| *request != Request::Disable);
        }
        let likely = match process.machine.state() {
            State::Replicating => Request::Stop,
            _ => Request::Resume,
        };
        if allowed.contains(&likely) && self.hub.chance(600) {
            allowed = vec![likely];
        }
        if likely != Request::Stop && !self.hub.chance(100) {
            allowed.retain(|request| *request != Request::Stop);
        }
        let Some(request) = allowed.get(self.hub.below(allowed.len())).copied() else {
            return;
        };
        if process.stopped {
            return;
        }
        match request {
            Request::Suspend => self.hub.mark(Mark::Suspended),
            Request::Resync => self.hub.mark(Mark::ResyncRequested),
            Request::Disable => self.hub.mark(Mark::Disabled),
            Request::Stop => {
                process.stopped = !self.hub.is_planted(Plant::StoppedWhileWriting);
                process.still = false;
            }
            _ => {}
        }
        self.hub
            .trace(|| format!("site {number}: asked to {request:?}"));
        if let Ok(actions) = process.machine.request(request, self.now) {
            self.carry_out(number, actions);
        }
    }

    /// The machine is stopped, and its process ends in order.
    fn end(&mut self, number: usize, complete: bool) {
        let site = &mut self.sites[number];
        let Some(process) = site.process.take() else {
            return;
        };
        site.saved.clean = process.tracker.close();
        site.saved.machine = process.machine;
        // A former primary may say so as well, of what it wrote itself: another one has gone on since.
        if complete && self.oracle.entitled == number {
            self.oracle.stopped = true;
            self.just_stopped = Some(number);
        }
        self.hub.mark(if complete {
            Mark::StoppedComplete
        } else {
            Mark::StoppedIncomplete
        });
    }

    /// What was stopped and is said to be complete is at the replica.
    pub(super) fn check_stopped(&mut self) -> Result<(), Broken> {
        let last = self.oracle.newest_point();
        let (Some(number), Some(last)) = (self.just_stopped.take(), last) else {
            return Ok(());
        };
        let newest = self.contents(last)?;
        let site = &self.sites[number];
        ensure(site.holds(&newest), Invariant::PlannedLosesNothing, || {
            let found = oracle::difference(&site.images(), &newest);
            format!("site {number} is stopped and complete, and yet {found}")
        })
    }

    /// What a process is doing ends at once.
    pub(super) fn crash(&mut self, number: usize) {
        self.abandon(number);
        let power = self.hub.power_fails();
        let site = &mut self.sites[number];
        let Some(process) = site.process.take() else {
            return;
        };
        self.hub
            .mark(if power { Mark::PowerCut } else { Mark::Crash });
        let reached = |pending: &Pending| matches!(pending, Pending::Answer(Task::Barrier, Ok(_)));
        let unrecorded = process.pending.iter().any(reached);
        for pending in &process.pending {
            match pending {
                Pending::Transfer(..) => self.hub.mark(Mark::CrashInTransfer),
                Pending::Answer(Task::Barrier, _) => self.hub.mark(Mark::CrashAfterBarrier),
                _ => {}
            }
        }
        drop(process);
        if power {
            site.disks.iter().for_each(|disk| disk.cut_power());
        }
        if self.hub.intents_are_lost(unrecorded) {
            site.intents_lost |=
                lose_intents(&site.folders[0], site.saved.machine.open(), &self.hub);
        }
        if self.hub.is_planted(Plant::IntentAfterWrite) {
            unmark_last(&site.folders[0]);
        }
    }
}

fn task_of(action: &Action) -> Option<Task> {
    match action {
        Action::Copy { .. } => Some(Task::Copy),
        Action::Ship(_) => Some(Task::Ship),
        Action::Resync { .. } => Some(Task::Resync),
        Action::Prepare => Some(Task::Prepare),
        Action::Heartbeat => Some(Task::Heartbeat),
        _ => None,
    }
}

/// Somebody changes a disk that nothing tracks.
fn change_untracked(disk: &crate::disk::SimDisk, hub: &crate::hub::Hub) {
    let mut contents = disk.contents();
    let at = hub.below(contents.len() / SECTOR) * SECTOR;
    contents[at..at + SECTOR].fill(0x77);
    disk.replace(contents);
    hub.mark(Mark::ChangedUntracked);
}

/// The intent file of the generation that is recorded as open is gone, or that of the newest, which its
/// log tells of, or the head of that is damaged; whether it was. That one without a log is gone which
/// nobody has recorded yet cannot be seen.
fn lose_intents(folder: &std::path::Path, open: Sequence, hub: &crate::hub::Hub) -> bool {
    let newest = intents(folder).pop().unwrap_or(open);
    let path = intent_path(folder, newest);
    let later = newest > open && log_path(folder, newest).exists();
    let lost = match hub.below(4) {
        0..3 if later => std::fs::remove_file(path),
        0..2 => std::fs::remove_file(intent_path(folder, open)),
        _ => std::fs::read(&path).and_then(|mut bytes| {
            let at = hub.below(128);
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << hub.below(8);
            }
            std::fs::write(&path, bytes)
        }),
    };
    if lost.is_ok() {
        hub.mark(Mark::IntentsLost);
    }
    lost.is_ok()
}

/// The last entry of the newest intent file was not durable.
fn unmark_last(folder: &std::path::Path) {
    let Some(newest) = intents(folder).pop() else {
        return;
    };
    let path = intent_path(folder, newest);
    let Ok(mut bytes) = std::fs::read(&path) else {
        return;
    };
    let used = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .unwrap_or_default();
    if used > 128 {
        bytes[(used & !15)..].fill(0);
        let _ = std::fs::write(&path, bytes);
    }
}

/// Whether a failover of the replica waits for its completion.
pub(super) fn waits(role: Role) -> bool {
    matches!(role, Role::FailedOverWaitingCompletion { .. })
}
