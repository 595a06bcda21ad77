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
    /// The reading when it started, in nanoseconds.
    origin: Arc<AtomicU64>,
    started: Instant,
    rate: u32,
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
            origin: Arc::new(AtomicU64::new(nanos(wall.unwrap_or_default()))),
            started: Instant::now(),
            rate,
        }
    }

    /// Lets a clock that has just started go on from `time`, a reading of a former run, if the wall
    /// clock was set back meanwhile.
    pub(crate) fn not_before(&self, time: Time) {
        self.origin
            .fetch_max(nanos(time.since_origin()), Ordering::Relaxed);
    }

    /// The present.
    pub fn now(&self) -> Time {
        let elapsed = self.started.elapsed().saturating_mul(self.rate);
        let origin = Duration::from_nanos(self.origin.load(Ordering::Relaxed));
        Time::new(origin + elapsed)
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

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_clock_set_back_does_not_turn_time_back() {
        let clock = Clock::real();
        let later = clock.now() + Duration::from_hours(1);
        clock.not_before(later);
        let resumed = clock.now();
        assert!(resumed >= later);
        std::thread::sleep(Duration::from_millis(1));
        assert!(clock.now() > resumed, "nor does it stand still");
    }
}
