//! Jobs worked on by several threads, planned and finished in order.
//!
//! ```text
//! plan (one at a time) --> work (all threads) --> finish (one at a time, in the order planned)
//! ```
//!
//! Planning waits when it is too far ahead of finishing, so that what is in flight, and what is done
//! again after a stop, stays bounded.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// What comes before and after the work.
pub(crate) trait Flow: Send {
    type Job: Send;
    type Done: Send;

    /// The next job; once `None`, always `None`.
    fn plan(&mut self) -> Option<Self::Job>;

    /// Takes in a job's result, in the order in which jobs were planned, until it breaks.
    fn finish(&mut self, done: Self::Done) -> ControlFlow<()>;
}

/// How many jobs a thread may be planned ahead of the oldest that is not finished.
const AHEAD_PER_THREAD: u64 = 4;

/// Runs `flow` to its end or until it breaks, on this thread and `threads - 1` more. Each has a
/// scratch `S` of its own, which stays in its core's cache.
pub(crate) fn run<F: Flow, S: Default>(
    flow: &mut F,
    threads: NonZeroUsize,
    work: impl Fn(&mut S, F::Job) -> F::Done + Sync,
) {
    if threads.get() == 1 {
        let mut scratch = S::default();
        while let Some(job) = flow.plan() {
            if flow.finish(work(&mut scratch, job)).is_break() {
                break;
            }
        }
        return;
    }
    let line = Line {
        ahead: AHEAD_PER_THREAD * threads.get() as u64,
        moved: Condvar::new(),
        state: Mutex::new(State {
            flow,
            planned: 0,
            finished: 0,
            early: BTreeMap::new(),
            stopped: false,
        }),
    };
    thread::scope(|scope| {
        for _ in 1..threads.get() {
            scope.spawn(|| line.serve(&work));
        }
        line.serve(&work);
    });
}

struct Line<'f, F: Flow> {
    ahead: u64,
    /// Something was finished, or all is to stop.
    moved: Condvar,
    state: Mutex<State<'f, F>>,
}

struct State<'f, F: Flow> {
    flow: &'f mut F,
    planned: u64,
    finished: u64,
    /// Results that came before an older one's.
    early: BTreeMap<u64, F::Done>,
    stopped: bool,
}

impl<'f, F: Flow> Line<'f, F> {
    fn serve<S: Default>(&self, work: &(impl Fn(&mut S, F::Job) -> F::Done + Sync)) {
        let _stop = StopOnPanic(self);
        let mut scratch = S::default();
        while let Some((number, job)) = self.take() {
            let done = work(&mut scratch, job);
            self.put(number, done);
        }
    }

    fn take(&self) -> Option<(u64, F::Job)> {
        let mut state = self.state();
        while !state.stopped && state.planned - state.finished >= self.ahead {
            let woken = self.moved.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
        if state.stopped {
            return None;
        }
        let job = state.flow.plan()?;
        let number = state.planned;
        state.planned += 1;
        Some((number, job))
    }

    fn put(&self, number: u64, done: F::Done) {
        let mut state = self.state();
        state.early.insert(number, done);
        while !state.stopped {
            let next = state.finished;
            let Some(done) = state.early.remove(&next) else {
                break;
            };
            state.finished += 1;
            state.stopped = state.flow.finish(done).is_break();
        }
        drop(state);
        self.moved.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State<'f, F>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends the other threads home when a disk or a callback panics, so that the panic surfaces instead
/// of a wait for a result that never comes.
struct StopOnPanic<'l, 'f, F: Flow>(&'l Line<'f, F>);

impl<F: Flow> Drop for StopOnPanic<'_, '_, F> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.state().stopped = true;
            self.0.moved.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    /// Jobs numbered from 0 to `count`, stopped after `stop_after`.
    struct Numbers {
        planned: u64,
        count: u64,
        finished: Vec<u64>,
        stop_after: u64,
    }

    impl Flow for Numbers {
        type Job = u64;
        type Done = u64;

        fn plan(&mut self) -> Option<u64> {
            let ahead = self.planned - self.finished.len() as u64;
            assert!(ahead < 3 * AHEAD_PER_THREAD, "{ahead} jobs in flight");
            let number = (self.planned < self.count).then_some(self.planned);
            self.planned += u64::from(number.is_some());
            number
        }

        fn finish(&mut self, done: u64) -> ControlFlow<()> {
            self.finished.push(done);
            if done == self.stop_after {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        }
    }

    fn numbers(stop_after: u64, threads: usize) -> (Numbers, u64) {
        let mut flow = Numbers {
            planned: 0,
            count: 200,
            finished: Vec::new(),
            stop_after,
        };
        let worked = AtomicU64::new(0);
        let threads = NonZeroUsize::new(threads).expect("at least one");
        run(&mut flow, threads, |(): &mut (), number| {
            worked.fetch_add(1, Ordering::Relaxed);
            if number % 50 == 0 {
                // Long enough for the other threads to be done with all the rest, if they may.
                thread::sleep(Duration::from_millis(20));
            }
            number
        });
        (flow, worked.into_inner())
    }

    #[test]
    fn results_come_in_order_and_a_slow_job_holds_the_others_back() {
        for threads in [1, 2, 3] {
            let (flow, worked) = numbers(u64::MAX, threads);
            assert_eq!(flow.finished, (0..200).collect::<Vec<_>>());
            assert_eq!(worked, 200);
        }
    }

    #[test]
    fn nothing_is_finished_after_a_break() {
        for threads in [1, 3] {
            let (flow, worked) = numbers(70, threads);
            assert_eq!(flow.finished, (0..=70).collect::<Vec<_>>());
            assert!(worked <= 71 + 3 * AHEAD_PER_THREAD);
        }
    }
}
