//! Time for the state machine, from the wall clock, never running backwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use afterimage_block::Timestamp;
use afterimage_retry::Time;

/// The time line on which a machine lives: it starts at the wall clock's reading and goes on with
/// the monotonic clock, optionally faster, so that a demonstration need not wait for half an hour.
#[derive(Clone, Debug)]
pub struct Clock {
    origin: Duration,
    started: Instant,
    rate: u32,
    /// The latest reading of a former run, in nanoseconds: time goes on from there if the wall clock
    /// was set back meanwhile.
    floor: Arc<AtomicU64>,
}

impl Clock {
    /// Real time.
    pub fn real() -> Self {
        Self::accelerated(1)
    }

    /// Time that passes `rate` times as fast as real time, from now on.
    ///
    /// # Panics
    /// If `rate` is zero.
    pub fn accelerated(rate: u32) -> Self {
        assert!(rate > 0, "time must pass");
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            origin: wall.unwrap_or_default(),
            started: Instant::now(),
            rate,
            floor: Arc::default(),
        }
    }

    /// Holds the clock at or after `time`, a reading of a former run.
    pub(crate) fn not_before(&self, time: Time) {
        let nanos = u64::try_from(time.since_origin().as_nanos()).unwrap_or(u64::MAX);
        self.floor.fetch_max(nanos, Ordering::Relaxed);
    }

    /// The present.
    pub fn now(&self) -> Time {
        let elapsed = self.started.elapsed().saturating_mul(self.rate);
        let floor = Duration::from_nanos(self.floor.load(Ordering::Relaxed));
        Time::new((self.origin + elapsed).max(floor))
    }

    /// The present, as it is shown to people.
    pub fn timestamp() -> Timestamp {
        SystemTime::now().into()
    }

    /// Waits until `time` has come.
    pub async fn sleep_until(&self, time: Time) {
        tokio::time::sleep(time.since(self.now()) / self.rate).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_clock_set_back_does_not_turn_time_back() {
        let clock = Clock::real();
        let later = clock.now() + Duration::from_secs(3600);
        clock.not_before(later);
        assert!(clock.now() >= later);
    }
}
