//! What all parts of a run share: chance, faults, counts, and the trace.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use afterimage_block::Timestamp;
use afterimage_retry::Time;
use bytes::Bytes;
use object_store::path::Path;
use object_store::{PutOptions, PutPayload};

use crate::coverage::{Coverage, Mark};
use crate::options::Rates;
use crate::plant::Plant;
use crate::random::Random;

/// The sites that a machine can run at.
pub(crate) const SITES: usize = 2;
/// The third site, which the replica is replicated on to.
pub(crate) const THIRD: usize = SITES;
/// Who sends requests to stores.
const PARTIES: usize = SITES + 1;

/// How a site is connected to the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Link {
    #[default]
    Up,
    Down,
    /// Requests arrive, and answers do not.
    OneWay,
}

/// A request that arrives late, or again.
pub(crate) struct Late {
    /// Whose it is.
    pub(crate) party: usize,
    pub(crate) location: Path,
    pub(crate) request: LateRequest,
}

/// What it asks for.
pub(crate) enum LateRequest {
    Put(PutPayload, PutOptions),
    Delete,
}

/// What all parts of a run share.
#[derive(Clone)]
pub(crate) struct Hub(Arc<Shared>);

struct Shared {
    random: Mutex<Random>,
    coverage: Mutex<Coverage>,
    rates: Rates,
    plant: Option<Plant>,
    faults: AtomicBool,
    traces: bool,
    /// A request to the store waits for its turn.
    paused: AtomicBool,
    line: Mutex<Line>,
    /// The thread that the world runs on.
    home: ThreadId,
}

#[derive(Default)]
struct Line {
    links: [Link; PARTIES],
    late: Vec<Late>,
    /// The last answer of the store that was no manifest.
    answer: Bytes,
    /// Who replaced a manifest since it was last looked at, in order.
    published: Vec<usize>,
    trace: Vec<String>,
    now: Time,
    /// How far the wall clock is from where it should be.
    skew_secs: i64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").finish_non_exhaustive()
    }
}

impl Hub {
    pub(crate) fn new(random: Random, rates: Rates, plant: Option<Plant>, traces: bool) -> Self {
        Self(Arc::new(Shared {
            random: Mutex::new(random),
            coverage: Mutex::default(),
            rates,
            plant,
            faults: AtomicBool::new(true),
            traces,
            paused: AtomicBool::new(false),
            line: Mutex::default(),
            home: thread::current().id(),
        }))
    }

    pub(crate) fn with_random<T>(&self, draw: impl FnOnce(&mut Random) -> T) -> T {
        draw(&mut lock(&self.0.random))
    }

    pub(crate) fn below(&self, limit: usize) -> usize {
        self.with_random(|random| random.below(limit))
    }

    pub(crate) fn chance(&self, permille: u32) -> bool {
        self.with_random(|random| random.chance(permille))
    }

    /// The last answer of the store that was no manifest.
    pub(crate) fn last_answer(&self) -> Bytes {
        lock(&self.0.line).answer.clone()
    }

    /// The same, after which it is `answer`.
    pub(crate) fn exchange_answer(&self, answer: Bytes) -> Bytes {
        std::mem::replace(&mut lock(&self.0.line).answer, answer)
    }

    pub(crate) fn mark(&self, mark: Mark) {
        lock(&self.0.coverage).mark(mark);
        self.trace(|| format!("  * {mark}"));
    }

    pub(crate) fn coverage(&self) -> Coverage {
        lock(&self.0.coverage).clone()
    }

    pub(crate) fn is_planted(&self, plant: Plant) -> bool {
        self.0.plant == Some(plant)
    }

    pub(crate) fn has_faults(&self) -> bool {
        self.0.faults.load(Ordering::Relaxed)
    }

    /// No more faults, and all are connected.
    pub(crate) fn calm(&self) {
        self.0.faults.store(false, Ordering::Relaxed);
        lock(&self.0.line).links = [Link::Up; PARTIES];
    }

    /// Whether a fault comes that comes `permille` times in a thousand.
    fn fault(&self, permille: u32) -> bool {
        self.has_faults() && permille > 0 && self.chance(permille)
    }

    pub(crate) fn store_fault(&self) -> bool {
        self.fault(self.0.rates.store)
    }

    pub(crate) fn disk_fault(&self) -> bool {
        self.fault(self.0.rates.disk)
    }

    pub(crate) fn log_fault(&self) -> bool {
        self.fault(self.0.rates.log)
    }

    /// Whether a crash takes write intents with it: more often where there are those of a generation that
    /// is not recorded, which is seldom.
    pub(crate) fn intents_are_lost(&self, unrecorded: bool) -> bool {
        self.fault(self.0.rates.intents * if unrecorded { 6 } else { 1 })
    }

    pub(crate) fn power_fails(&self) -> bool {
        self.fault(self.0.rates.power)
    }

    pub(crate) fn recovery_fault(&self) -> bool {
        self.fault(self.0.rates.recovery)
    }

    pub(crate) fn is_hot(&self) -> bool {
        self.chance(self.0.rates.hot)
    }

    pub(crate) fn pause(&self) {
        self.0.paused.store(true, Ordering::Relaxed);
    }

    pub(crate) fn take_paused(&self) -> bool {
        self.0.paused.swap(false, Ordering::Relaxed)
    }

    pub(crate) fn link(&self, party: usize) -> Link {
        lock(&self.0.line)
            .links
            .get(party)
            .copied()
            .unwrap_or_default()
    }

    pub(crate) fn set_link(&self, party: usize, link: Link) {
        if let Some(place) = lock(&self.0.line).links.get_mut(party) {
            *place = link;
        }
    }

    pub(crate) fn put_off(&self, late: Late) {
        lock(&self.0.line).late.push(late);
    }

    /// Forgets the late requests of `party`.
    pub(crate) fn forget_late(&self, party: usize) {
        lock(&self.0.line).late.retain(|late| late.party != party);
    }

    /// Whether this is the world's thread, not one that works for it while it waits.
    pub(crate) fn is_home(&self) -> bool {
        thread::current().id() == self.0.home
    }

    /// One of the requests that are late.
    pub(crate) fn take_late(&self) -> Option<Late> {
        let count = lock(&self.0.line).late.len();
        (count > 0).then(|| {
            let at = self.below(count);
            lock(&self.0.line).late.remove(at)
        })
    }

    pub(crate) fn published(&self, party: usize) {
        lock(&self.0.line).published.push(party);
    }

    pub(crate) fn take_published(&self) -> Vec<usize> {
        std::mem::take(&mut lock(&self.0.line).published)
    }

    pub(crate) fn set_now(&self, now: Time) {
        lock(&self.0.line).now = now;
    }

    /// The wall clock jumps.
    pub(crate) fn skew(&self, by_secs: i64) {
        lock(&self.0.line).skew_secs = by_secs;
    }

    /// What the wall clock shows.
    pub(crate) fn wall(&self) -> Timestamp {
        let line = lock(&self.0.line);
        let base = Duration::from_hours(24 * 365 * 50) + line.now.since_origin();
        let skew = Duration::from_secs(line.skew_secs.unsigned_abs());
        let shown = if line.skew_secs < 0 {
            base.saturating_sub(skew)
        } else {
            base + skew
        };
        Timestamp::from_nanos(u64::try_from(shown.as_nanos()).unwrap_or(u64::MAX))
    }

    pub(crate) fn trace(&self, line: impl FnOnce() -> String) {
        if self.0.traces {
            let line = line();
            lock(&self.0.line).trace.push(line);
        }
    }

    pub(crate) fn take_trace(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.0.line).trace)
    }
}
