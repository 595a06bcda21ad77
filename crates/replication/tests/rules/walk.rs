//! A machine that is taken to a state, and time that goes on.

use std::time::Duration;

use afterimage_block::{Length, Timestamp};
use afterimage_replication::{
    Action, Barrier, BarrierReached, Ended, Event, Machine, Policy, Position, Request, Scope, State,
};
use afterimage_retry::Time;

pub(crate) struct Walk {
    pub(crate) machine: Machine,
    pub(crate) now: Time,
}

impl Walk {
    /// A machine with one disk that has just come to replicate by `policy`.
    pub(crate) fn replicating(policy: Policy, now: Time) -> Self {
        let mut walk = Self::copying(policy, now);
        walk.tell(Event::Copied);
        assert_eq!(walk.machine.state(), State::Replicating);
        walk
    }

    /// A machine with one disk of which the first copy is under way.
    pub(crate) fn copying(policy: Policy, now: Time) -> Self {
        let (mut walk, actions) = Self::enabled(policy, now);
        walk.reach(&actions);
        walk
    }

    /// A machine with one disk that has just claimed an empty replica, and what it does then.
    pub(crate) fn enabled(policy: Policy, now: Time) -> (Self, Vec<Action>) {
        let machine = Machine::new(policy, vec![Length::mib(1)]);
        let mut walk = Self { machine, now };
        let actions = walk.machine.request(Request::Enable, now);
        assert_eq!(actions, Ok(vec![Action::Claim]));
        let actions = walk.claimed();
        (walk, actions)
    }

    /// An empty replica is claimed.
    pub(crate) fn claimed(&mut self) -> Vec<Action> {
        self.tell(Event::Claimed {
            epoch: self.machine.epoch().next(),
            position: Position::Empty,
        })
    }

    pub(crate) fn tell(&mut self, event: Event) -> Vec<Action> {
        self.machine.handle(event, self.now)
    }

    pub(crate) fn ask(&mut self, request: Request) -> Vec<Action> {
        self.machine.request(request, self.now).expect("allowed")
    }

    /// The next timeout comes.
    pub(crate) fn timeout(&mut self) -> Vec<Action> {
        self.now = self.machine.next_timeout().expect("something is awaited");
        self.machine.handle_timeout(self.now)
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
    }

    /// Nothing was written, which the replica hears.
    pub(crate) fn quiet(&mut self) {
        if self.tell(Event::Quiet).contains(&Action::Heartbeat) {
            self.tell(Event::Heard);
        }
    }

    /// Reaches the barrier that is among `actions`.
    pub(crate) fn reach(&mut self, actions: &[Action]) -> Vec<Action> {
        let reached = reached(&barrier(actions), Ended::Sealed(Length::new(512)));
        self.tell(reached)
    }

    /// Reaches it, and the write of a log was lost.
    pub(crate) fn lose(&mut self, actions: &[Action]) -> Vec<Action> {
        let reached = reached(&barrier(actions), Ended::Lost(Scope::Everything));
        self.tell(reached)
    }
}

/// The barrier among `actions`.
pub(crate) fn barrier(actions: &[Action]) -> Barrier {
    let barriers = actions.iter().filter_map(|action| match action {
        Action::Barrier(barrier) => Some(barrier.clone()),
        _ => None,
    });
    let barriers: Vec<_> = barriers.collect();
    assert_eq!(barriers.len(), 1, "{actions:?}");
    barriers[0].clone()
}

/// What comes of `barrier`, and of the disk's log.
pub(crate) fn reached(barrier: &Barrier, disk: Ended) -> Event {
    Event::BarrierReached(BarrierReached {
        time: Timestamp::default(),
        disks: vec![disk],
        dropped: vec![Scope::NOTHING],
        tracking: barrier.tracking,
    })
}
