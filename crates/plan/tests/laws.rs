//! Any order of ends, failures and crashes keeps the plan's order and fails no machine over twice.

use std::collections::BTreeMap;

use afterimage_plan::{Action, Kind, OnError, Outcome, Plan, Run, Work};
use proptest::prelude::*;

const PLAN: &str = "name = 'p'
[[group]]
name = 'a'
machines = ['a1', 'a2', 'a3']
after = [{ pause = { message = 'look' } }]
[[group]]
name = 'b'
before = [{ command = { argv = ['true'], limit_secs = 5 } }]
machines = ['b1', 'b2']";

fn done() -> Outcome {
    Outcome::Done("done".into())
}

fn failed() -> Outcome {
    Outcome::Failed("failed".into())
}

/// Whether the process dies in this step, and if so on which side of the run's becoming durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Crash {
    No,
    BeforeSave,
    AfterSave,
}

fn crashes() -> impl Strategy<Value = Crash> {
    prop::sample::select(vec![Crash::No, Crash::BeforeSave, Crash::AfterSave])
}

proptest! {
    #[test]
    fn order_holds_and_nothing_happens_twice(
        steps in prop::collection::vec((any::<prop::sample::Index>(), crashes(), 0..8_u8), 0..40),
        go_on in any::<bool>(),
    ) {
        let mut plan = Plan::parse(PLAN).expect("a plan");
        plan.on_error = if go_on { OnError::Continue } else { OnError::Stop };
        let mut run = Run::new(&plan, Kind::Unplanned);
        let mut handed_out = BTreeMap::new();
        for (now, (pick, crash, failure)) in (0_u64..).zip(steps) {
            let saved = serde_json::to_string(&run).expect("serializes");
            let tasks = run.begin(now);
            if crash == Crash::BeforeSave {
                // What was not saved was not done: the run of before goes on.
                run = serde_json::from_str(&saved).expect("reads back");
                continue;
            }
            for task in tasks {
                *handed_out.entry(task.id).or_insert(0) += 1;
                let before = run.tasks().iter().filter(|other| other.stage < task.stage);
                for other in before {
                    prop_assert!(other.ended(), "{} began before {}", task.id, other.id);
                    prop_assert!(go_on || !other.failed(), "began after a failure");
                }
            }
            if crash == Crash::AfterSave {
                let saved = serde_json::to_string(&run).expect("serializes");
                let read: Run = serde_json::from_str(&saved).expect("reads back");
                prop_assert_eq!(&read, &run);
                run = read;
            }
            let begun: Vec<usize> = run.begun().map(|task| task.id).collect();
            if begun.is_empty() {
                prop_assert!(run.is_over());
                break;
            }
            let id = *pick.get(&begun);
            let outcome = if failure == 0 { failed() } else { done() };
            prop_assert!(run.finish(id, now, outcome.clone()).is_ok());
            prop_assert!(run.finish(id, now, outcome).is_err());
            prop_assert!(run.again(id).is_err());
        }
        prop_assert!(handed_out.values().all(|times| *times == 1));
    }
}

#[test]
fn a_pause_waits_for_the_operator() {
    let mut run = Run::new(&Plan::parse(PLAN).expect("a plan"), Kind::Planned);
    for task in run.begin(0) {
        run.finish(task.id, 1, done()).expect("under way");
    }
    let pause = run.begin(2).pop().expect("the pause");
    assert!(matches!(pause.work, Work::Action(Action::Pause { .. })));
    assert!(run.begin(3).is_empty() && !run.is_over());
    run.finish(pause.id, 4, done()).expect("under way");
    assert_eq!(run.begin(5).len(), 1);
}

#[test]
fn a_task_proved_not_done_is_handed_out_again() {
    let mut run = Run::new(&Plan::parse(PLAN).expect("a plan"), Kind::Planned);
    let first = run.begin(0).swap_remove(0);
    run.again(first.id).expect("under way");
    let again: Vec<usize> = run.begin(1).iter().map(|task| task.id).collect();
    assert_eq!(again, [first.id]);
}
