//! A limit on bytes a second.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Lets bytes through at a rate, those of one second at once. Who comes while others wait waits behind
/// them.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Bytes a second; `None` is without limit.
    rate: Option<u64>,
    /// When what was let through so far is through at that rate.
    free: Mutex<Option<Instant>>,
}

impl Pace {
    pub(crate) fn new(rate: Option<u64>) -> Self {
        let rate = rate.map(|rate| rate.max(1));
        let free = Mutex::default();
        Self { rate, free }
    }

    /// Bytes a second.
    #[cfg(feature = "serve")]
    pub(crate) fn rate(&self) -> Option<u64> {
        self.rate
    }

    /// Waits until `bytes` more may pass.
    pub(crate) async fn take(&self, bytes: usize) {
        if let Some(until) = self.reserve(bytes) {
            tokio::time::sleep_until(until).await;
        }
    }

    fn reserve(&self, bytes: usize) -> Option<Instant> {
        let micros = (bytes as u64).saturating_mul(1_000_000) / self.rate?;
        let now = Instant::now();
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = free.map_or(now, |free| free.max(now));
        let end = begin + Duration::from_micros(micros);
        *free = Some(end);
        end.checked_sub(Duration::from_secs(1))
            .filter(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_pass_at_the_rate() {
        let pace = Pace::new(Some(1000));
        let begun = Instant::now();
        for _ in 0..50 {
            pace.take(100).await;
        }
        assert_eq!(begun.elapsed().as_secs(), 4, "5 s less the first second's");
        Pace::new(None).take(usize::MAX).await;
    }
}
