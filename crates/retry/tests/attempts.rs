//! The loops: virtual clocks, no runtime.

use std::cell::Cell;
use std::future::{Future, ready};
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use afterimage_retry::{
    Attempts, Budget, Class, Classified, Classify, GiveUp, Retry, Schedule, Time,
};

/// A clock that goes on when somebody waits.
#[derive(Default)]
struct Clock(Cell<Time>);

impl Clock {
    fn now(&self) -> Time {
        self.0.get()
    }

    fn wait(&self, pause: Duration) {
        self.0.set(self.now() + pause);
    }
}

fn reset() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

fn minutes(n: u64) -> Time {
    Time::new(Duration::from_secs(60 * n))
}

/// Runs a future that never has to wait for another thread.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut context = Context::from_waker(Waker::noop());
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(done) = future.as_mut().poll(&mut context) {
            return done;
        }
    }
}

#[test]
fn both_loops_keep_the_schedule() {
    let schedule = Schedule::default();
    let succeeds_at = |attempt| {
        if attempt < 6 {
            Err(reset())
        } else {
            Ok(attempt)
        }
    };
    let (blocking, non_blocking) = (Clock::default(), Clock::default());
    let mut heard = Vec::new();
    let mut retry = Retry::begin(Time::ZERO);
    let done = Attempts::new(
        &schedule,
        &mut retry,
        || blocking.now(),
        |p| blocking.wait(p),
    )
    .run(succeeds_at, |_, retry| heard.push(retry.due()));
    assert_eq!(done.unwrap(), 6);
    assert_eq!(heard, [1, 2, 4, 8, 10].map(minutes));

    let mut retry = Retry::begin(Time::ZERO);
    let mut heard_too = Vec::new();
    let sleep = |pause| {
        non_blocking.wait(pause);
        ready(())
    };
    let attempts = Attempts::new(&schedule, &mut retry, || non_blocking.now(), sleep);
    let work = |attempt| ready(succeeds_at(attempt));
    let done = block_on(attempts.run_async(work, |_, retry| heard_too.push(retry.due())));
    assert_eq!(done.unwrap(), 6);
    assert_eq!((heard_too, non_blocking.now()), (heard, blocking.now()));
}

#[test]
fn a_loop_that_is_dropped_goes_on_where_it_was() {
    let schedule = Schedule::default();
    let clock = Clock::default();
    let mut retry = Retry::begin(Time::ZERO);
    let forever = |_| std::future::pending::<()>();
    {
        let attempts = Attempts::new(&schedule, &mut retry, || clock.now(), forever);
        let mut running = pin!(attempts.run_async(|_| ready(Err::<(), _>(reset())), |_, _| ()));
        let mut context = Context::from_waker(Waker::noop());
        assert!(running.as_mut().poll(&mut context).is_pending());
    }
    let stored = serde_json::to_string(&retry).unwrap();
    let mut retry: Retry = serde_json::from_str(&stored).unwrap();
    let mut made = Vec::new();
    let done = Attempts::new(&schedule, &mut retry, || clock.now(), |p| clock.wait(p)).run(
        |attempt| {
            made.push((attempt, clock.now()));
            if attempt < 3 { Err(reset()) } else { Ok(()) }
        },
        |_, _| (),
    );
    assert!(done.is_ok());
    assert_eq!(
        made,
        [(2, minutes(1)), (3, minutes(2))],
        "the first is not made again"
    );
}

#[test]
fn loops_end_with_the_budget_or_the_error() {
    let budget = Budget {
        attempts_max: Some(3),
        elapsed_max: None,
    };
    let schedule = Schedule::default().with_budget(budget);
    let clock = Clock::default();
    let mut retry = Retry::begin(Time::ZERO);
    let attempts = Attempts::new(&schedule, &mut retry, || clock.now(), |p| clock.wait(p));
    let given_up = attempts.run(|_| Err::<(), _>(reset()), |_, _| ());
    let given_up = given_up.unwrap_err();
    assert_eq!((given_up.why, given_up.attempts), (GiveUp::Attempts, 3));
    assert_eq!(given_up.class(), Class::NonRecoverable);

    let mut retry = Retry::begin(clock.now());
    let attempts = Attempts::new(&schedule, &mut retry, || clock.now(), |p| clock.wait(p));
    let refused = |_| Err::<(), _>(Classified::non_recoverable("no such key"));
    let given_up = attempts.run(refused, |_, _| ()).unwrap_err();
    assert_eq!(
        (given_up.why, given_up.attempts),
        (GiveUp::NonRecoverable, 1)
    );
    assert!(given_up.to_string().contains("no such key"), "{given_up}");
}

#[test]
fn what_the_other_side_asks_for_is_waited_for() {
    let schedule = Schedule::default();
    let clock = Clock::default();
    let mut retry = Retry::begin(Time::ZERO);
    let busy = || Classified::recoverable("busy").after(Duration::from_secs(90));
    Attempts::new(&schedule, &mut retry, || clock.now(), |p| clock.wait(p))
        .run(|n| if n == 1 { Err(busy()) } else { Ok(()) }, |_, _| ())
        .unwrap();
    assert_eq!(clock.now(), Time::new(Duration::from_secs(90)));
}
