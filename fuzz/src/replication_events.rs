//! Any requests, answers and events, in any order, to a protected machine.
//!
//! Laws, after every step:
//!
//! - A request is taken exactly if it is among those that are allowed; one that is refused changes
//!   nothing.
//! - Barriers go one at a time, and transfers too; each barrier ends the open generation and begins a
//!   later one; what is shipped is the oldest that is not.
//! - Generations wait in order, after the newest durable and before the open one. None is discarded
//!   while it waits.
//! - Once a timeout is handled the next one lies in the future.
//!
//! And every few steps, since it takes as long as all others together: the machine reads back from
//! its own JSON as what it was.

use std::time::Duration;

use afterimage_block::{Epoch, Extent, ExtentSet, Length, Offset, Sequence, Timestamp};
use afterimage_replication::{
    Action, ApplicationConsistent, BarrierReached, Ended, Event, Failure, Health, Machine, Policy,
    Position, Request, Scope, State, Task, TimeOfDay, Tracking, Window,
};
use afterimage_retry::{Class, Time};
use arbitrary::Arbitrary;

use crate::head_and_parts;

const STEPS_MAX: usize = 96;

#[derive(Arbitrary, Debug)]
struct Setting {
    sizes: [u32; 3],
    disks: u8,
    policy: Wishes,
}

#[derive(Arbitrary, Debug)]
struct Wishes {
    interval_secs: u16,
    threshold: u8,
    automatic: bool,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Ask(u8),
    /// Answers the barrier that is under way.
    Barrier(Reached),
    /// Answers the transfer that is under way.
    Succeed(u8),
    Fail(Flop),
    /// Something that nobody asked for.
    Stray(Stray),
    /// Time passes, and the timeout comes if it is due.
    Wait(u32),
    /// The next timeout comes when it is due.
    Timeout,
    Restart(Option<Reached>),
    Policy(Wishes),
}

#[derive(Arbitrary, Debug)]
struct Reached {
    quiet: bool,
    disks: Vec<Loss>,
    dropped: Vec<Doubt>,
    map_only: bool,
}

#[derive(Arbitrary, Debug)]
enum Loss {
    Sealed(u64),
    Lost(Doubt),
}

#[derive(Arbitrary, Debug)]
enum Doubt {
    Nothing,
    Extent(u32, u32),
    Everything,
}

#[derive(Arbitrary, Debug)]
struct Flop {
    barrier: bool,
    hopeless: bool,
    pause_secs: Option<u32>,
}

#[derive(Arbitrary, Debug)]
enum Stray {
    Claimed { epoch: u64, at: Option<u64> },
    Reached(Reached),
    Quiet,
    Quiesced,
    Copied,
    Shipped,
    Resynchronized,
    Prepared,
    LogsGrew(Vec<u64>),
    LogUnreadable(u8),
    LogNearlyFull,
    ChangedUntracked(u8),
    Failed(u8, bool),
}

/// Checks the laws on what `input` says.
pub fn check(input: &[u8]) {
    let Some((setting, steps)) = head_and_parts::<Setting, Step>(input, STEPS_MAX) else {
        return;
    };
    let disks = usize::from(setting.disks % 4);
    let sizes = setting.sizes.iter().take(disks);
    let sizes = sizes.map(|sectors| Length::new(u64::from(*sectors) * 512));
    let mut world = World {
        machine: Machine::new(setting.policy.policy(), sizes.collect()),
        disks,
        now: Time::ZERO,
        barrier: None,
        transfer: None,
        given_up: None,
        asked: false,
    };
    for (number, step) in steps.iter().enumerate() {
        let open = world.machine.open();
        world.step(step);
        world.check();
        assert!(world.machine.open() >= open, "generations go on");
        if number % 8 == 7 || number + 1 == steps.len() {
            world.reads_back();
        }
    }
}

/// A machine, and what a driver would know of it.
struct World {
    machine: Machine,
    disks: usize,
    now: Time,
    /// The sequence that the barrier under way begins, and whether quiet is an answer.
    barrier: Option<bool>,
    transfer: Option<Task>,
    /// The transfer that is to be given up.
    given_up: Option<Task>,
    /// The guest was asked to hold still, and not yet let go on.
    asked: bool,
}

impl World {
    fn step(&mut self, step: &Step) {
        match step {
            Step::Ask(number) => self.ask(*number),
            Step::Barrier(reached) => {
                let quiet = self.barrier == Some(true) && reached.quiet;
                self.handle(if quiet {
                    Event::Quiet
                } else {
                    Event::BarrierReached(reached.event(self.disks))
                });
            }
            Step::Succeed(how) => {
                if let Some(event) = self.transfer.map(|task| self.success(task, *how)) {
                    self.handle(event);
                }
            }
            Step::Fail(flop) => {
                let task = if flop.barrier {
                    self.barrier.map(|_| Task::Barrier)
                } else {
                    self.transfer
                };
                if let Some(task) = task.filter(|task| self.given_up == Some(*task)) {
                    self.handle(Event::Aborted { task });
                } else if let Some(task) = task {
                    let failure = failure(flop.hopeless, flop.pause_secs);
                    self.handle(Event::Failed { task, failure });
                }
            }
            Step::Stray(stray) => self.handle(stray.event()),
            Step::Wait(secs) => {
                self.now = self.now + Duration::from_secs((*secs).into());
                if self.machine.next_timeout().is_some_and(|at| at <= self.now) {
                    self.timeout();
                }
            }
            Step::Timeout => {
                if let Some(at) = self.machine.next_timeout() {
                    self.now = self.now.max(at);
                    self.timeout();
                }
            }
            Step::Restart(recovered) => self.restart(recovered.as_ref()),
            Step::Policy(wishes) => {
                let policy = wishes.policy();
                self.machine.set_policy(policy).expect("it is in range");
            }
        }
    }

    fn ask(&mut self, number: u8) {
        use Request::{CancelResync, Disable, Enable, Resume, Resync, Stop, Suspend};
        let requests = [Enable, Suspend, Resume, Resync, Stop, Disable, CancelResync];
        let request = requests[usize::from(number) % requests.len()];
        let before = self.machine.clone();
        let allowed = self.machine.allowed();
        match self.machine.request(request, self.now) {
            Ok(actions) => {
                assert!(allowed.contains(&request), "{request:?} is not allowed");
                self.take(&actions);
            }
            Err(refused) => {
                assert!(!allowed.contains(&request), "{refused}");
                assert_eq!(refused.allowed, allowed);
                assert_eq!(json(&self.machine), json(&before));
            }
        }
    }

    fn success(&self, task: Task, how: u8) -> Event {
        match task {
            Task::Claim => Event::Claimed {
                epoch: self.machine.epoch().next(),
                position: match (how % 4, self.machine.durable()) {
                    (0, _) | (_, None) => Position::Empty,
                    // An answer was lost, and the replica is further than is known here.
                    (1, Some(at)) => Position::At(self.machine.unshipped().next().unwrap_or(at)),
                    (_, Some(at)) => Position::At(at),
                },
            },
            Task::Copy => Event::Copied,
            Task::Ship if how.is_multiple_of(8) => Event::LogUnreadable { disk: how.into() },
            Task::Ship => Event::Shipped,
            Task::Resync => Event::Resynchronized { left: Vec::new() },
            Task::Prepare => Event::Prepared,
            Task::Heartbeat => Event::Heard,
            Task::Barrier | Task::Quiesce => unreachable!("this is no transfer"),
        }
    }

    fn handle(&mut self, event: Event) {
        let answered = answered(&event);
        let actions = self.machine.handle(event, self.now);
        if answered == Some(Task::Barrier) {
            self.barrier = None;
        } else if answered.is_some() && answered == self.transfer {
            (self.transfer, self.given_up) = (None, None);
        }
        self.take(&actions);
    }

    fn timeout(&mut self) {
        let actions = self.machine.handle_timeout(self.now);
        self.take(&actions);
        if let Some(at) = self.machine.next_timeout() {
            assert!(at > self.now, "due again at once: {:?}", self.machine);
        }
    }

    fn restart(&mut self, recovered: Option<&Reached>) {
        let machine = serde_json::from_str(&json(&self.machine));
        let machine: Machine = machine.expect("what was stored is read");
        let recovered = recovered.map(|reached| reached.event(self.disks));
        let (machine, actions) = machine.restart(recovered, self.now);
        self.machine = machine;
        (self.barrier, self.transfer, self.given_up) = (None, None, None);
        self.take(&actions);
    }

    fn take(&mut self, actions: &[Action]) {
        for action in actions {
            match action {
                Action::Barrier(barrier) => {
                    assert_eq!(self.barrier, None, "two barriers at a time");
                    assert_eq!(barrier.ends, self.machine.open());
                    assert!(barrier.next > barrier.ends);
                    assert!(!barrier.application_consistent || self.asked);
                    self.barrier = Some(barrier.may_be_quiet);
                }
                Action::Claim => self.start(Task::Claim),
                Action::Copy { .. } => self.start(Task::Copy),
                Action::Ship(shipment) => {
                    self.start(Task::Ship);
                    let oldest = self.machine.unshipped().next();
                    assert_eq!(oldest, Some(shipment.sequence));
                }
                Action::Resync { scopes, .. } => {
                    self.start(Task::Resync);
                    assert_eq!(scopes.len(), self.disks);
                }
                Action::Prepare => {
                    self.start(Task::Prepare);
                    assert_eq!(self.machine.unshipped().next(), None);
                }
                Action::Heartbeat => {
                    self.start(Task::Heartbeat);
                    assert_eq!(self.machine.unshipped().next(), None);
                }
                Action::Discard(discarded) => {
                    let waits = |at: &Sequence| self.machine.unshipped().any(|one| one == *at);
                    assert!(!discarded.iter().any(waits), "it still waits");
                }
                Action::Quiesce { .. } => self.asked = true,
                Action::Thaw => self.asked = false,
                Action::Abort(task) => {
                    assert_eq!(self.transfer, Some(*task), "it is not under way");
                    assert_eq!(self.given_up, None, "it is given up already");
                    self.given_up = Some(*task);
                }
                Action::Release
                | Action::ReleaseSnapshot
                | Action::Report(_)
                | Action::Stopped { .. } => {}
                other => panic!("an action that this target does not know: {other:?}"),
            }
        }
    }

    fn start(&mut self, task: Task) {
        assert_eq!(self.transfer, None, "two transfers at a time: {task:?}");
        self.transfer = Some(task);
    }

    /// The machine reads back from its own JSON as what it was.
    fn reads_back(&self) {
        let stored = json(&self.machine);
        let again: Machine = serde_json::from_str(&stored).expect("what was stored is read");
        assert_eq!(json(&again), stored);
        assert_eq!(again.state(), self.machine.state());
        assert_eq!(again.health(), self.machine.health());
    }

    fn check(&self) {
        let machine = &self.machine;
        assert_eq!(machine.doubt().len(), self.disks);
        let history = machine.durable().into_iter().chain(machine.unshipped());
        let history: Vec<_> = history.chain([machine.open()]).collect();
        assert!(history.is_sorted_by(|a, b| a < b), "{history:?}");
        let (state, health) = (machine.state(), machine.health());
        assert_eq!(machine.problem().is_some(), state == State::Critical);
        assert!(state != State::Disabled || health == Health::NotApplicable);
    }
}

fn json(machine: &Machine) -> String {
    serde_json::to_string(machine).expect("a machine can be stored")
}

fn failure(hopeless: bool, pause_secs: Option<u32>) -> Failure {
    Failure {
        class: if hopeless {
            Class::NonRecoverable
        } else {
            Class::Recoverable
        },
        retry_after: pause_secs.map(|secs| Duration::from_secs(secs.into())),
        message: "made up".into(),
    }
}

/// What `event` is the answer to.
fn answered(event: &Event) -> Option<Task> {
    match event {
        Event::Claimed { .. } => Some(Task::Claim),
        Event::BarrierReached(_) | Event::Quiet => Some(Task::Barrier),
        Event::Copied => Some(Task::Copy),
        Event::Shipped | Event::LogUnreadable { .. } => Some(Task::Ship),
        Event::Resynchronized { .. } => Some(Task::Resync),
        Event::Prepared => Some(Task::Prepare),
        Event::Heard => Some(Task::Heartbeat),
        Event::Failed { task, .. } | Event::Aborted { task } => Some(*task),
        _ => None,
    }
}

fn hour(number: u8) -> TimeOfDay {
    let hour = i8::try_from(number % 24).unwrap_or_default();
    TimeOfDay::new(hour, 30).expect("it is in range")
}

impl Wishes {
    fn policy(&self) -> Policy {
        let policy = Policy {
            interval: Duration::from_secs(1 + u64::from(self.interval_secs) % 900),
            resync_threshold_percent: 1 + self.threshold % 100,
            automatic_resync: self.automatic,
            // What the interval and the threshold leave over says whether there are these two.
            resync_window: (self.interval_secs >= 0x8000).then(|| Window {
                from: hour(self.threshold),
                ..Window::default()
            }),
            application_consistent: (self.threshold >= 0x80).then(ApplicationConsistent::default),
            ..Policy::default()
        };
        policy.validate().expect("it is in range");
        policy
    }
}

impl Doubt {
    fn scope(&self) -> Scope {
        match *self {
            Self::Nothing => Scope::NOTHING,
            Self::Everything => Scope::Everything,
            Self::Extent(start, length) => {
                let (start, length) = (Offset::new(start.into()), Length::new(length.into()));
                let extent: ExtentSet = Extent::new(start, length).into_iter().collect();
                extent.into()
            }
        }
    }
}

impl Reached {
    /// The event of a machine with so many disks.
    fn event(&self, disks: usize) -> BarrierReached {
        let ended = |number: usize| match self.disks.get(number) {
            Some(Loss::Lost(doubt)) => Ended::Lost(doubt.scope()),
            Some(Loss::Sealed(length)) => Ended::Sealed(Length::new(*length)),
            None => Ended::Sealed(Length::ZERO),
        };
        let dropped = |number: usize| {
            self.dropped
                .get(number)
                .map_or(Scope::NOTHING, Doubt::scope)
        };
        BarrierReached {
            time: Timestamp::default(),
            disks: (0..disks).map(ended).collect(),
            dropped: (0..disks).map(dropped).collect(),
            tracking: if self.map_only {
                Tracking::MapOnly
            } else {
                Tracking::Logging
            },
        }
    }
}

impl Stray {
    fn event(&self) -> Event {
        match self {
            Self::Claimed { epoch, at } => Event::Claimed {
                epoch: Epoch::new(*epoch >> 1),
                position: at.map_or(Position::Empty, |at| Position::At(Sequence::new(at))),
            },
            // As many disks as the fuzzer likes, and not as many as there are.
            Self::Reached(reached) => Event::BarrierReached(reached.event(reached.disks.len())),
            Self::Quiet => Event::Quiet,
            Self::Quiesced => Event::Quiesced,
            Self::Copied => Event::Copied,
            Self::Shipped => Event::Shipped,
            Self::Resynchronized => Event::Resynchronized { left: Vec::new() },
            Self::Prepared => Event::Prepared,
            Self::LogsGrew(lengths) => {
                Event::LogsGrew(lengths.iter().map(|length| Length::new(*length)).collect())
            }
            Self::LogUnreadable(disk) => Event::LogUnreadable {
                disk: (*disk).into(),
            },
            Self::LogNearlyFull => Event::LogNearlyFull,
            Self::ChangedUntracked(disk) => Event::ChangedUntracked {
                disk: (*disk).into(),
            },
            Self::Failed(task, hopeless) => {
                use Task::{Barrier, Claim, Copy, Prepare, Quiesce, Resync, Ship};
                let tasks = [Claim, Barrier, Copy, Ship, Resync, Prepare, Quiesce];
                Event::Failed {
                    task: tasks[usize::from(*task) % tasks.len()],
                    failure: failure(*hopeless, None),
                }
            }
        }
    }
}
