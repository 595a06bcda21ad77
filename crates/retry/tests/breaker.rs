//! The laws of circuit breakers.

use std::num::NonZeroU32;
use std::time::Duration;

use afterimage_retry::{Admission, Breaker, BreakerPolicy, Class, Time};
use proptest::prelude::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    Admit,
    Succeed,
    Fail,
    Refuse,
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Admit),
        1 => Just(Step::Succeed),
        4 => Just(Step::Fail),
        1 => Just(Step::Refuse),
        2 => (1..40_u64).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    #[test]
    fn an_open_breaker_admits_one_probe_a_cool_down_and_never_shuts_for_good(
        steps in steps(), failures in 1..6_u32,
    ) {
        let policy = BreakerPolicy {
            failures: NonZeroU32::new(failures).unwrap(),
            cool_down: Duration::from_secs(30),
        };
        let mut breaker = Breaker::default();
        let mut now = Time::ZERO;
        let (mut in_a_row, mut last_probe) = (0, None::<Time>);
        for step in steps {
            match step {
                Step::Admit => match breaker.admit(&policy, now) {
                    Admission::Go => prop_assert!(in_a_row < failures),
                    Admission::Probe => {
                        prop_assert!(in_a_row >= failures);
                        prop_assert!(last_probe.is_none_or(|at| now.since(at) >= policy.cool_down));
                        last_probe = Some(now);
                    }
                    Admission::NotBefore(until) => {
                        prop_assert!(now < until && until.since(now) <= policy.cool_down);
                    }
                },
                Step::Succeed | Step::Refuse => {
                    if let Step::Succeed = step {
                        breaker.succeeded();
                    } else {
                        breaker.failed(&policy, Class::NonRecoverable, now);
                    }
                    (in_a_row, last_probe) = (0, None);
                }
                Step::Fail => {
                    breaker.failed(&policy, Class::Recoverable, now);
                    in_a_row += 1;
                }
                Step::Wait(secs) => now = now + Duration::from_secs(secs),
            }
            prop_assert_eq!(breaker.is_open(), in_a_row >= failures);
            let stored = serde_json::to_string(&breaker).unwrap();
            prop_assert_eq!(serde_json::from_str::<Breaker>(&stored).unwrap(), breaker);
        }
    }
}

#[test]
fn late_failures_do_not_keep_it_open() {
    let policy = BreakerPolicy::default();
    let mut breaker = Breaker::default();
    for _ in 0..5 {
        breaker.failed(&policy, Class::Recoverable, Time::ZERO);
    }
    let late = Time::new(Duration::from_secs(59));
    breaker.failed(&policy, Class::Recoverable, late);
    let minute = Time::new(Duration::from_mins(1));
    assert_eq!(breaker.admit(&policy, minute), Admission::Probe);
}
