//! A search of the machine: from a new one, everything that can happen next, again and again.
//!
//! Numbers and times have no bounds, so machines that differ in nothing that decides are taken for
//! one: what is found has all happened, by the shortest way there is.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::LazyLock;
use std::time::Duration;

use afterimage_block::{Epoch, Extent, ExtentSet, Length, Offset, Sequence, Timestamp};
use afterimage_replication::{
    Action, ApplicationConsistent, Barrier, BarrierReached, Ended, Event, Failure, Machine, Policy,
    Position, Report, Scope, State, Task, Tracking,
};
use afterimage_retry::{Class, Time};

/// Fewer are reached; the search has to end by itself.
const MACHINES_MAX: usize = 20_000;

/// The events that are tried, apart from requests.
pub(crate) const EVENTS: [&str; 28] = [
    "claimed, no base there",
    "claimed, at the newest acknowledged",
    "claimed, an older state there",
    "barrier reached",
    "barrier reached, log lost",
    "barrier reached, no log to be had",
    "nothing was written",
    "guest holds still",
    "copied",
    "shipped",
    "log unreadable",
    "resynchronized",
    "resynchronized in part",
    "prepared",
    "heard",
    "logs outgrew their quota",
    "log nearly full",
    "changed untracked",
    "replica damaged",
    "failed, recoverable",
    "failed, not recoverable",
    "given up",
    "moved on",
    "barrier failed",
    "hook failed",
    "time",
    "restart",
    "restart after a crash",
];

/// The actions that must be among those found.
pub(crate) const ACTIONS: [&str; 24] = [
    "Claim",
    "Barrier",
    "Barrier + snapshot",
    "Barrier, disks change",
    "Barrier, logs dropped",
    "Barrier, resynchronization",
    "Quiesce",
    "Thaw",
    "Copy",
    "Ship",
    "Resync",
    "Prepare",
    "Heartbeat",
    "Abort",
    "Release",
    "Discard",
    "ReleaseSnapshot",
    "Report RetryAt",
    "Report GaveUp",
    "Report ResyncRequired",
    "Report CrashConsistentOnly",
    "Report Stalled",
    "Report MovesAgain",
    "Stopped",
];

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Edge {
    /// The state's place in [`State::ALL`], for the order.
    place: usize,
    pub(crate) from: String,
    pub(crate) event: String,
    pub(crate) to: String,
}

/// The actions of all edges that look alike.
#[derive(Default)]
pub(crate) struct Seen {
    edges: usize,
    actions: BTreeMap<String, usize>,
}

impl Seen {
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.actions.keys().map(String::as_str)
    }

    fn add(&mut self, actions: &[Action]) {
        self.edges += 1;
        let names: BTreeSet<String> = actions.iter().map(name).collect();
        for name in names {
            *self.actions.entry(name).or_default() += 1;
        }
    }

    /// The actions, with a question mark where they are not always asked for.
    pub(crate) fn actions(&self) -> String {
        let shown = self.actions.iter().map(|(name, times)| {
            let sometimes = if *times < self.edges { "?" } else { "" };
            format!("{name}{sometimes}")
        });
        shown.collect::<Vec<_>>().join("; ")
    }
}

#[derive(Clone)]
struct Node {
    machine: Machine,
    now: Time,
    /// Actions that wait for their answer.
    pending: Vec<Action>,
    /// What the replica has.
    replica: Option<Sequence>,
    /// Whether a transfer was reported not to move, the last that was heard of it.
    stalled: bool,
}

/// Every edge that is found.
pub(crate) static EDGES: LazyLock<BTreeMap<Edge, Seen>> = LazyLock::new(|| {
    let mut edges = BTreeMap::new();
    for quiesces in [true, false] {
        search(policy(quiesces), &mut edges);
    }
    edges
});

/// Where the guest is asked to hold still, a resynchronization waits for approval.
fn policy(quiesces: bool) -> Policy {
    let application = ApplicationConsistent {
        every: Duration::from_mins(1),
        ..ApplicationConsistent::default()
    };
    Policy {
        automatic_resync: !quiesces,
        application_consistent: quiesces.then_some(application),
        ..Policy::default()
    }
}

fn search(policy: Policy, edges: &mut BTreeMap<Edge, Seen>) {
    let first = Node {
        machine: Machine::new(policy, vec![Length::mib(1)]),
        now: Time::ZERO,
        pending: Vec::new(),
        replica: None,
        stalled: false,
    };
    let mut known = HashSet::from([first.what_decides()]);
    let mut queue = VecDeque::from([first]);
    while let Some(node) = queue.pop_front() {
        node.ignores_what_it_did_not_ask_for();
        for (event, next, actions) in node.steps() {
            let from = node.machine.state();
            let edge = Edge {
                place: State::ALL
                    .iter()
                    .position(|state| *state == from)
                    .expect("one of them"),
                from: from.to_string(),
                event,
                to: next.machine.state().to_string(),
            };
            edges.entry(edge).or_default().add(&actions);
            if known.insert(next.what_decides()) {
                queue.push_back(next);
            }
        }
        assert!(known.len() < MACHINES_MAX, "the search does not end");
    }
}

impl Node {
    fn what_decides(&self) -> String {
        let machine = &self.machine;
        let pending: BTreeSet<_> = self.pending.iter().map(name).collect();
        let doubt = machine.doubt();
        let doubt: Vec<_> = doubt.iter().map(Scope::is_nothing).collect();
        format!(
            "{:?}",
            (
                (machine.state(), machine.allowed(), machine.tracking()),
                (pending, machine.unshipped().next().is_some()),
                doubt,
                (self.replica > machine.durable(), self.stalled),
            )
        )
    }

    /// All that can happen next: its name, what it makes, and what is asked for.
    fn steps(&self) -> Vec<(String, Self, Vec<Action>)> {
        let mut steps = Vec::new();
        for request in self.machine.allowed() {
            let mut next = self.clone();
            let actions = next.machine.request(request, next.now).expect("allowed");
            steps.push(next.asked_for(format!("{request:?}"), actions));
        }
        for (place, action) in self.pending.iter().enumerate() {
            let mut answers = self.answers(action);
            if let Some(task) = task_of(action)
                && self.pending.contains(&Action::Abort(task))
            {
                answers.push(("given up", Event::Aborted { task }));
            }
            for (name, event) in answers {
                let mut next = self.clone();
                next.pending.remove(place);
                let task = task_of(action);
                next.pending.retain(
                    |pending| !matches!(pending, Action::Abort(asked) if Some(*asked) == task),
                );
                next.replica = self.replica_after(action, &event);
                let actions = next.machine.handle(event, next.now);
                steps.push(next.asked_for(name.into(), actions));
            }
        }
        let spontaneous = [
            (
                "logs outgrew their quota",
                Event::LogsGrew(vec![Length::mib(1)]),
            ),
            ("log nearly full", Event::LogNearlyFull),
            ("changed untracked", Event::ChangedUntracked { disk: 0 }),
            (
                "replica damaged",
                Event::ReplicaDamaged {
                    lacks: vec![Scope::Everything],
                },
            ),
        ];
        for (name, event) in spontaneous {
            let mut next = self.clone();
            let actions = next.machine.handle(event, next.now);
            steps.push(next.asked_for(name.into(), actions));
        }
        if let Some(task) = self.pending.iter().find_map(task_of) {
            let mut next = self.clone();
            let actions = next.machine.handle(Event::Progressed { task }, next.now);
            steps.push(next.asked_for("moved on".into(), actions));
        }
        if let Some(at) = self.machine.next_timeout() {
            let mut next = self.clone();
            next.now = at.max(self.now);
            let actions = next.machine.handle_timeout(next.now);
            steps.push(next.asked_for("time".into(), actions));
        }
        for crashed in [false, true] {
            let mut next = self.clone();
            next.pending.clear();
            let again = crashed && next.machine.has_base();
            let recovered = again.then(|| reached_as(&self.machine, sealed()));
            let (machine, actions) = next.machine.restart(recovered, next.now);
            next.machine = machine;
            let name = if crashed {
                "restart after a crash"
            } else {
                "restart"
            };
            steps.push(next.asked_for(name.into(), actions));
        }
        steps
    }

    fn asked_for(mut self, event: String, actions: Vec<Action>) -> (String, Self, Vec<Action>) {
        if event != "moved on" {
            let stalls = |action: &Action| matches!(action, Action::Report(Report::Stalled { .. }));
            self.stalled = actions.iter().any(stalls);
        }
        let awaited =
            |action: &&Action| task_of(action).is_some() || matches!(action, Action::Abort(_));
        let wait = actions.iter().filter(awaited);
        self.pending.extend(wait.cloned());
        (event, self, actions)
    }

    fn answers(&self, action: &Action) -> Vec<(&'static str, Event)> {
        let claimed = |position| Event::Claimed {
            epoch: Epoch::new(1),
            position,
        };
        let mut answers = match action {
            Action::Claim => match self.replica {
                None => vec![("claimed, no base there", claimed(Position::Empty))],
                Some(at) => vec![
                    ("claimed, no base there", claimed(Position::Empty)),
                    (
                        "claimed, at the newest acknowledged",
                        claimed(Position::At(at)),
                    ),
                    (
                        "claimed, an older state there",
                        claimed(Position::At(Sequence::ZERO)),
                    ),
                ],
            },
            Action::Barrier(barrier) => barriers(barrier),
            Action::Quiesce { .. } => vec![("guest holds still", Event::Quiesced)],
            Action::Copy { .. } => vec![("copied", Event::Copied)],
            Action::Ship(_) => vec![
                ("shipped", Event::Shipped),
                ("log unreadable", Event::LogUnreadable { disk: 0 }),
            ],
            Action::Resync { .. } => {
                let resynchronized = |left| Event::Resynchronized { left: vec![left] };
                vec![
                    ("resynchronized", resynchronized(Scope::NOTHING)),
                    ("resynchronized in part", resynchronized(some())),
                ]
            }
            Action::Prepare => vec![("prepared", Event::Prepared)],
            Action::Heartbeat => vec![("heard", Event::Heard)],
            _ => Vec::new(),
        };
        if let Some(task) = task_of(action) {
            answers.extend(failures(task));
        }
        answers
    }

    fn replica_after(&self, action: &Action, event: &Event) -> Option<Sequence> {
        match (action, event) {
            (Action::Copy { base, .. }, Event::Copied) => Some(*base),
            (Action::Ship(shipment), Event::Shipped) => Some(shipment.sequence),
            (Action::Resync { sequence, .. }, Event::Resynchronized { .. }) => Some(*sequence),
            (_, Event::Claimed { position, .. }) => match position {
                Position::Empty => None,
                Position::At(at) => Some(*at),
            },
            _ => self.replica,
        }
    }

    /// Answers that are late, come twice or were never asked for change nothing.
    fn ignores_what_it_did_not_ask_for(&self) {
        let copy = Action::Copy {
            base: Sequence::ZERO,
            point: None,
        };
        let resync = Action::Resync {
            sequence: Sequence::ZERO,
            scopes: Vec::new(),
            reason: afterimage_replication::ResyncReason::Requested,
            sizes: Vec::new(),
        };
        let stored =
            |machine: &Machine| serde_json::to_string(machine).expect("machines serialize");
        let before = stored(&self.machine);
        for action in [Action::Claim, copy, resync, Action::Prepare] {
            let task = task_of(&action);
            if self.pending.iter().any(|pending| task_of(pending) == task) {
                continue;
            }
            for (name, event) in self.answers(&action) {
                let mut machine = self.machine.clone();
                let actions = machine.handle(event, self.now);
                assert_eq!(actions, [], "{name} was not awaited in {machine:?}");
                assert_eq!(stored(&machine), before, "{name}");
            }
        }
    }
}

fn failures(task: Task) -> Vec<(&'static str, Event)> {
    let failed = |class| {
        let failure = Failure {
            class,
            retry_after: None,
            message: "it is tried".into(),
        };
        Event::Failed { task, failure }
    };
    match task {
        Task::Barrier => vec![("barrier failed", failed(Class::Recoverable))],
        Task::Quiesce => vec![("hook failed", failed(Class::Recoverable))],
        _ => vec![
            ("failed, recoverable", failed(Class::Recoverable)),
            ("failed, not recoverable", failed(Class::NonRecoverable)),
        ],
    }
}

fn barriers(barrier: &Barrier) -> Vec<(&'static str, Event)> {
    let reached = |disk, tracking| {
        Event::BarrierReached(BarrierReached {
            time: Timestamp::default(),
            disks: vec![disk],
            dropped: vec![Scope::NOTHING],
            tracking,
        })
    };
    let mut answers = vec![
        ("barrier reached", reached(sealed(), barrier.tracking)),
        (
            "barrier reached, log lost",
            reached(Ended::Lost(some()), barrier.tracking),
        ),
    ];
    if barrier.tracking == Tracking::Logging {
        let reached = reached(sealed(), Tracking::MapOnly);
        answers.push(("barrier reached, no log to be had", reached));
    }
    if barrier.may_be_quiet {
        answers.push(("nothing was written", Event::Quiet));
    }
    answers
}

fn reached_as(machine: &Machine, disk: Ended) -> BarrierReached {
    BarrierReached {
        time: Timestamp::default(),
        disks: vec![disk],
        dropped: vec![Scope::NOTHING],
        tracking: machine.tracking(),
    }
}

fn sealed() -> Ended {
    Ended::Sealed(Length::new(512))
}

/// A part of the disk.
fn some() -> Scope {
    let extent = Extent::new(Offset::ZERO, Length::new(512)).expect("small");
    Scope::Extents([extent].into_iter().collect::<ExtentSet>())
}

/// The task that answers an action.
fn task_of(action: &Action) -> Option<Task> {
    Some(match action {
        Action::Claim => Task::Claim,
        Action::Barrier(_) => Task::Barrier,
        Action::Copy { .. } => Task::Copy,
        Action::Ship(_) => Task::Ship,
        Action::Resync { .. } => Task::Resync,
        Action::Prepare => Task::Prepare,
        Action::Heartbeat => Task::Heartbeat,
        Action::Quiesce { .. } => Task::Quiesce,
        _ => return None,
    })
}

/// An action as the table shows it.
fn name(action: &Action) -> String {
    match action {
        Action::Barrier(barrier) if barrier.changes_disks => "Barrier, disks change".into(),
        Action::Barrier(barrier) if barrier.snapshot => "Barrier + snapshot".into(),
        Action::Barrier(barrier) if barrier.next != barrier.ends.next() => {
            "Barrier, resynchronization".into()
        }
        Action::Barrier(barrier) if barrier.tracking == Tracking::MapOnly => {
            "Barrier, logs dropped".into()
        }
        Action::Report(report) => format!("Report {}", first_word(&format!("{report:?}"))),
        other => first_word(&format!("{other:?}")).into(),
    }
}

fn first_word(debug: &str) -> &str {
    debug
        .split(|c: char| !c.is_alphanumeric())
        .next()
        .unwrap_or(debug)
}
