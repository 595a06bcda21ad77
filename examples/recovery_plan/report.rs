//! What the operator sees of a run.

use std::time::Duration;

use afterimage_plan::{Action, Outcome, Run, State, Task, Work};
use anyhow::Result;
use serde_json::json;

use super::work::Site;

fn title(task: &Task) -> String {
    match &task.work {
        Work::Machine(name) => format!("machine {name}"),
        Work::Action(Action::Command { argv, .. }) => format!("command {}", argv.join(" ")),
        Work::Action(Action::Pause { message }) => format!("pause: {message}"),
    }
}

/// A task that has just ended.
pub(super) fn ended(task: &Task) {
    println!("{}", line(task));
}

/// A task that only the operator can end.
pub(super) fn waits(task: &Task) {
    let Task { id, group, .. } = task;
    println!("{group}: {}: `resume --done {id}` goes on", title(task));
}

fn line(task: &Task) -> String {
    let state = match &task.state {
        State::Waiting => "has not begun".into(),
        State::Begun { .. } => "is under way".into(),
        State::Ended { begun, at, outcome } => {
            let took = humantime::format_duration(Duration::from_millis(at.saturating_sub(*begun)));
            match outcome {
                Outcome::Done(result) => format!("done in {took}: {result}"),
                Outcome::Failed(error) => format!("FAILED after {took}: {error}"),
            }
        }
    };
    format!("{}: {}: {state}", task.group, title(task))
}

/// The whole run.
pub(super) fn print(site: &Site, run: &Run, json: bool) -> Result<()> {
    if json {
        println!(
            "{}",
            json!({ "site": serde_json::to_value(site)?, "run": serde_json::to_value(run)? })
        );
        return Ok(());
    }
    for task in run.tasks() {
        println!("{:3}  {}", task.id, line(task));
    }
    let took = run.elapsed().map(Duration::from_millis);
    let took = took.map_or("nothing".into(), |took| {
        humantime::format_duration(took).to_string()
    });
    let end = if run.is_over() { "over" } else { "not over" };
    println!("the run is {end}; from the first begin to the last end it took {took}");
    Ok(())
}
