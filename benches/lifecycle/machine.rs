//! A protected machine with one disk, as the benches need it.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use afterimage::block::{BlockRead, BlockWrite, Offset, TrackedDisk};
use afterimage::{
    MachineName, Notice, Policy, ProtectedMachine, Protection, Replica, State, Store,
};
use benches::Noise;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

fn name() -> MachineName {
    "bench".parse().expect("a name")
}

/// The replica that machines in `folder` have.
pub(crate) async fn replica(folder: &Path) -> Replica {
    let url = folder.join("replicas").display().to_string();
    let store = Store::open_existing(&url).await.expect("the store");
    store.replica(name())
}

/// Removes the replica and what the machine knows of it.
pub(crate) fn forget(folder: &Path) {
    for part in ["replicas", "state"] {
        fs::remove_dir_all(folder.join(part)).expect("what the machine left");
    }
}

/// A machine that runs.
pub(crate) struct Running {
    machine: ProtectedMachine,
    notices: Receiver<Notice>,
    seed: u64,
}

impl Running {
    /// Protects `image`, with the replica and its own state in `folder`, at the shortest interval.
    pub(crate) async fn start(folder: &Path, image: &Path) -> Self {
        let url = folder.join("replicas").display().to_string();
        let policy = Policy {
            interval: Policy::INTERVAL_MIN,
            ..Policy::default()
        };
        let protection = Protection::new(name(), vec![image.to_owned()], url)
            .state_folder(folder.join("state"))
            .policy(policy);
        let (machine, notices) = protection.start().await.expect("a protected machine");
        Self {
            machine,
            notices,
            seed: 0,
        }
    }

    /// Waits for the first recovery point and for the machine to settle; the time until the point
    /// since `started`.
    pub(crate) async fn first_point(&mut self, started: Instant) -> Duration {
        let (mut elapsed, mut replicating) = (None, false);
        loop {
            match self.notice().await {
                Notice::RecoveryPoint { .. } => elapsed = Some(started.elapsed()),
                Notice::State { state, .. } => replicating = state == State::Replicating,
                _ => {}
            }
            if let Some(elapsed) = elapsed.filter(|_| replicating) {
                return elapsed;
            }
        }
    }

    /// Waits for the next recovery point; the time since its barrier, and what was sent for it.
    async fn recovery_point(&mut self) -> (Duration, u64) {
        loop {
            if let Notice::RecoveryPoint { time, sent, .. } = self.notice().await {
                let barrier = UNIX_EPOCH + Duration::from_nanos(time.as_nanos());
                let elapsed = barrier.elapsed().expect("a clock that runs forward");
                return (elapsed, sent.get());
            }
        }
    }

    async fn notice(&mut self) -> Notice {
        loop {
            match self.notices.recv().await {
                Ok(Notice::Retry { error, .. } | Notice::GaveUp { error, .. }) => {
                    panic!("replication failed: {error}")
                }
                Ok(notice) => return notice,
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => panic!("the machine has ended"),
            }
        }
    }

    /// Makes random writes of `length` bytes, `total` in all, and waits until they are at the
    /// replica; the time from the barrier until then.
    pub(crate) async fn delta(&mut self, total: usize, length: usize) -> Duration {
        loop {
            let disk = Arc::clone(&self.machine.disks()[0]);
            self.seed += 1;
            let seed = self.seed;
            let write = move || write_at_random(&disk, total, length, seed);
            let written = tokio::task::spawn_blocking(write).await;
            written.expect("a disk that takes writes");
            let mut sent = 0;
            while sent < total as u64 {
                let (elapsed, part) = self.recovery_point().await;
                sent += part;
                if part >= total as u64 {
                    return elapsed;
                }
                // A barrier came in between: this is not the delta that was asked for.
            }
        }
    }

    pub(crate) async fn stop(self) {
        let complete = self.machine.stop().await.expect("a machine that stops");
        assert!(complete, "the replica holds every write");
    }
}

fn write_at_random(disk: &TrackedDisk, total: usize, length: usize, seed: u64) {
    let mut noise = Noise::seeded(seed);
    let data = noise.bytes(length);
    let places = disk.size().get() / length as u64;
    for _ in 0..total / length {
        let at = Offset::new(noise.below(places) * length as u64);
        disk.write_at(at, &data).expect("a disk that takes writes");
    }
}
