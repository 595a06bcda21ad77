//! Loops around a function, for callers who have a clock and can wait.

use std::future::Future;
use std::time::Duration;

use crate::{Class, Classify, Decision, GiveUp, Retry, Schedule, Time};

/// Makes the attempts that a [`Schedule`] allows, with the caller's clock and the caller's way to
/// wait: [`run`](Self::run) for blocking code, [`run_async`](Self::run_async) for any async runtime.
///
/// The [`Retry`] stays the caller's. Whoever stores it when he is told of a failure, or when the loop
/// is dropped at a shutdown, goes on after a restart where he was.
///
/// ```
/// use std::io;
/// use std::thread::sleep;
/// use std::time::{Duration, Instant};
/// use afterimage_retry::{Attempts, Retry, Schedule, Time};
///
/// let clock = Instant::now();
/// let now = || Time::new(clock.elapsed());
/// let millis = Duration::from_millis;
/// let schedule = Schedule::exponential(millis(1), 2, millis(50))?;
/// let mut retry = Retry::begin(now());
/// let answer = Attempts::new(&schedule, &mut retry, now, sleep).run(
///     |attempt| match attempt {
///         1..3 => Err(io::Error::from(io::ErrorKind::ConnectionReset)),
///         _ => Ok(attempt),
///     },
///     |error, retry| eprintln!("{error}; attempt {} at {}", retry.attempt(), retry.due()),
/// )?;
/// assert_eq!(answer, 3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// With tokio the last argument of `new` would be `tokio::time::sleep`.
#[derive(Debug)]
pub struct Attempts<'a, N, S> {
    schedule: &'a Schedule,
    retry: &'a mut Retry,
    now: N,
    sleep: S,
}

/// Why work was given up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("given up after {attempts} attempts, since {why}: {error}")]
pub struct GivenUp<E> {
    /// The error of the last attempt.
    pub error: E,
    /// Why there is no further one.
    pub why: GiveUp,
    /// How many were made.
    pub attempts: u32,
}

impl<E: Classify> Classify for GivenUp<E> {
    /// Trying is over.
    fn class(&self) -> Class {
        Class::NonRecoverable
    }
}

impl<'a, N: FnMut() -> Time, S> Attempts<'a, N, S> {
    /// Attempts by `schedule`, of which `retry` has counted those already made. `now` reads a clock
    /// that never runs backwards, on the time line of `retry`; `sleep` waits.
    pub fn new(schedule: &'a Schedule, retry: &'a mut Retry, now: N, sleep: S) -> Self {
        Self {
            schedule,
            retry,
            now,
            sleep,
        }
    }

    /// How long until the next attempt is due.
    fn wait(&mut self) -> Option<Duration> {
        let wait = self.retry.due().since((self.now)());
        (!wait.is_zero()).then_some(wait)
    }

    /// What is left to do after `error`.
    fn failed<E: Classify>(
        &mut self,
        error: E,
        told: &mut impl FnMut(&E, &Retry),
    ) -> Result<(), GivenUp<E>> {
        let attempts = self.retry.attempt();
        let now = (self.now)();
        match self.retry.failed_with(self.schedule, &error, now) {
            Decision::RetryAt(_) => {
                told(&error, self.retry);
                Ok(())
            }
            Decision::GiveUp(why) => Err(GivenUp {
                error,
                why,
                attempts,
            }),
        }
    }

    /// Makes attempts until one succeeds, and waits on this thread in between. `work` is given the
    /// number of the attempt, from 1; `told` hears of each failure that is followed by another
    /// attempt.
    ///
    /// # Errors
    /// [`GivenUp`] when the error will not pass or the schedule's budget is used up.
    pub fn run<T, E: Classify>(
        mut self,
        mut work: impl FnMut(u32) -> Result<T, E>,
        mut told: impl FnMut(&E, &Retry),
    ) -> Result<T, GivenUp<E>>
    where
        S: FnMut(Duration),
    {
        loop {
            while let Some(wait) = self.wait() {
                (self.sleep)(wait);
            }
            match work(self.retry.attempt()) {
                Ok(done) => return Ok(done),
                Err(error) => self.failed(error, &mut told)?,
            }
        }
    }

    /// As [`run`](Self::run), without blocking. May be dropped at any moment: the [`Retry`] says how
    /// far it was.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn run_async<T, E: Classify, W, F>(
        mut self,
        mut work: impl FnMut(u32) -> W,
        mut told: impl FnMut(&E, &Retry),
    ) -> Result<T, GivenUp<E>>
    where
        W: Future<Output = Result<T, E>>,
        S: FnMut(Duration) -> F,
        F: Future<Output = ()>,
    {
        loop {
            while let Some(wait) = self.wait() {
                (self.sleep)(wait).await;
            }
            match work(self.retry.attempt()).await {
                Ok(done) => return Ok(done),
                Err(error) => self.failed(error, &mut told)?,
            }
        }
    }
}
