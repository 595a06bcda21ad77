//! Every reachable state of two sites, one replica and an operator, for a bounded number of writes and
//! epochs: failovers, commits, reversals, failbacks, crashes, lost answers and operators who ask for
//! things at the wrong time.
//!
//! In none of them may two primaries ship, is a committed failover's content lost, does a planned one lose
//! writes, or is a disk of no state failed over to.

mod model;

use std::collections::{BTreeMap, HashSet, VecDeque};

use model::{Rules, World};

/// More than are reached; the search has to end by itself.
const STATES_MAX: usize = 100_000;

/// What was found, and how often each kind of step was taken.
struct Searched {
    violation: Option<String>,
    steps: BTreeMap<&'static str, u64>,
}

fn search(rules: Rules) -> Searched {
    let first = World::new();
    let mut seen = HashSet::from([first.clone()]);
    let mut queue = VecDeque::from([first]);
    let mut steps = BTreeMap::new();
    while let Some(world) = queue.pop_front() {
        for (step, next) in world.steps(rules) {
            *steps.entry(step).or_default() += 1;
            if let Some(what) = next.violation(rules) {
                let violation = Some(format!("{what}, after {step}: {next:?}"));
                return Searched { violation, steps };
            }
            if seen.insert(next.clone()) {
                queue.push_back(next);
            }
        }
        assert!(seen.len() < STATES_MAX, "the configuration is not small");
    }
    println!("{} states", seen.len());
    Searched {
        violation: None,
        steps,
    }
}

#[test]
fn no_reachable_state_has_two_primaries_that_can_ship() {
    let found = search(Rules::default());
    assert_eq!(found.violation, None);
    for step in [
        "write",
        "claim",
        "claim, answer lost",
        "ship",
        "stop",
        "start",
        "crash",
        "planned failover",
        "unplanned failover",
        "commit",
        "cancel",
        "reverse",
        "reverse again",
        "follow",
        "pull",
        "pulled",
        "failback",
        "refused: another history",
    ] {
        assert!(found.steps.contains_key(step), "never: {step}");
    }
}

#[test]
fn a_rule_that_is_left_out_is_found() {
    let epochs_ignored = Rules {
        ignore_lineage: true,
        ..Rules::default()
    };
    assert!(search(epochs_ignored).violation.is_some());
    let reversed_any_time = Rules {
        reverse_uncommitted: true,
        ..Rules::default()
    };
    assert!(search(reversed_any_time).violation.is_some());
    let served = Rules {
        serve_unclaimed: true,
        ..Rules::default()
    };
    assert!(search(served).violation.is_some());
    let half_pulled = Rules {
        fail_back_half_pulled: true,
        ..Rules::default()
    };
    assert!(search(half_pulled).violation.is_some());
}
