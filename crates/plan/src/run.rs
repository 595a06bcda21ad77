//! A run of a plan: what is to be done next, and what became of it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Action, OnError, Plan};

/// What a run does to each machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Test failover.
    Test,
    /// Planned failover.
    Planned,
    /// Unplanned failover.
    Unplanned,
    /// Reverse replication.
    Reverse,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Test => "test",
            Self::Planned => "planned",
            Self::Unplanned => "unplanned",
            Self::Reverse => "reverse",
        })
    }
}

/// What a task does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Work {
    /// This machine, as the run's kind says.
    Machine(String),
    /// A command, or a pause that the operator ends.
    Action(Action),
}

/// What came of a task, in words for the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It is done: with what result.
    Done(String),
    /// It failed: why.
    Failed(String),
}

/// How far a task is. Times are milliseconds on the caller's clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Not begun.
    Waiting,
    /// Handed out; its end is unknown.
    Begun {
        /// When.
        at: u64,
    },
    /// Ended.
    Ended {
        /// When it began.
        begun: u64,
        /// When it ended.
        at: u64,
        /// What came of it.
        outcome: Outcome,
    },
}

/// One task of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Its number in the run, from 0.
    pub id: usize,
    /// Tasks of one stage run in parallel, stages one after the other.
    pub stage: usize,
    /// The group's name.
    pub group: String,
    /// What it does.
    pub work: Work,
    /// How far it is.
    pub state: State,
}

/// A report about a task that is not under way: the caller's mistake, nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("task {0} is not under way")]
pub struct TaskError(pub usize);

/// The format in which runs are saved.
const FORMAT: u32 = 1;

/// A run of a plan; serialize it after each call that changes it. What is read back is checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Saved")]
pub struct Run {
    format: u32,
    kind: Kind,
    on_error: OnError,
    tasks: Vec<Task>,
}

/// A run as it was read, before it is believed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    format: u32,
    kind: Kind,
    on_error: OnError,
    tasks: Vec<Task>,
}

/// Why what was read is not a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SavedError {
    /// Another release's format.
    #[error("a run of format {0} is not known here")]
    Format(u32),
    /// The task at this place has another's number, or stands behind a later stage.
    #[error("task {0} is not at its place")]
    Order(usize),
    /// A task has begun although one of an earlier stage has not ended.
    #[error("task {0} began before its time")]
    Early(usize),
}

impl TryFrom<Saved> for Run {
    type Error = SavedError;

    fn try_from(saved: Saved) -> Result<Self, SavedError> {
        if saved.format != FORMAT {
            return Err(SavedError::Format(saved.format));
        }
        let (mut stage, mut open) = (0, None);
        for (place, task) in saved.tasks.iter().enumerate() {
            if task.id != place || task.stage < stage {
                return Err(SavedError::Order(place));
            }
            stage = task.stage;
            if open.is_some_and(|open| open < stage) && task.state != State::Waiting {
                return Err(SavedError::Early(place));
            }
            if open.is_none() && !task.ended() {
                open = Some(stage);
            }
        }
        Ok(Self {
            format: saved.format,
            kind: saved.kind,
            on_error: saved.on_error,
            tasks: saved.tasks,
        })
    }
}

impl Run {
    /// A run that has begun nothing. The plan is copied: a later change of the file is without effect.
    pub fn new(plan: &Plan, kind: Kind) -> Self {
        let mut run = Self {
            format: FORMAT,
            kind,
            on_error: plan.on_error,
            tasks: Vec::new(),
        };
        let mut stage = 0;
        for group in &plan.groups {
            for action in &group.before {
                run.push(&mut stage, &group.name, [Work::Action(action.clone())]);
            }
            run.push(
                &mut stage,
                &group.name,
                group.machines.iter().cloned().map(Work::Machine),
            );
            for action in &group.after {
                run.push(&mut stage, &group.name, [Work::Action(action.clone())]);
            }
        }
        run
    }

    fn push(&mut self, stage: &mut usize, group: &str, works: impl IntoIterator<Item = Work>) {
        for work in works {
            let id = self.tasks.len();
            let group = group.to_owned();
            self.tasks.push(Task {
                id,
                stage: *stage,
                group,
                work,
                state: State::Waiting,
            });
        }
        *stage += 1;
    }

    /// What the run does to each machine.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// All tasks in order: the report.
    pub fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    /// Records all tasks that may begin as begun `now`, and returns them. Save the run, then do them.
    pub fn begin(&mut self, now: u64) -> Vec<Task> {
        let Some(stage) = self.next_stage() else {
            return Vec::new();
        };
        let mut begun = Vec::new();
        for task in self.tasks.iter_mut().filter(|task| task.stage == stage) {
            if task.state == State::Waiting {
                task.state = State::Begun { at: now };
                begun.push(task.clone());
            }
        }
        begun
    }

    /// The first stage that is not over, unless a failure before it stops the run.
    fn next_stage(&self) -> Option<usize> {
        let stage = self.tasks.iter().find(|task| !task.ended())?.stage;
        let stopped = self.on_error == OnError::Stop
            && self
                .tasks
                .iter()
                .any(|task| task.stage < stage && task.failed());
        (!stopped).then_some(stage)
    }

    /// Tasks handed out whose end is unknown; after a crash, those to find out about.
    pub fn begun(&self) -> impl Iterator<Item = &Task> {
        self.tasks
            .iter()
            .filter(|task| matches!(task.state, State::Begun { .. }))
    }

    /// Whether nothing is under way and nothing more will begin.
    pub fn is_over(&self) -> bool {
        self.next_stage().is_none()
    }

    /// Records the end of a task, a pause's too when the operator ends it.
    ///
    /// # Errors
    /// The task is not under way.
    pub fn finish(&mut self, id: usize, now: u64, outcome: Outcome) -> Result<(), TaskError> {
        let (task, begun) = self.under_way(id)?;
        task.state = State::Ended {
            begun,
            at: now,
            outcome,
        };
        Ok(())
    }

    /// Milliseconds from the first task's begin to the last one's end: the recovery time, as far as
    /// the run is. `None` as long as none has ended. Zero if the clock went back.
    pub fn elapsed(&self) -> Option<u64> {
        let times = |task: &Task| match task.state {
            State::Ended { begun, at, .. } => Some((begun, at)),
            State::Waiting | State::Begun { .. } => None,
        };
        let first = self
            .tasks
            .iter()
            .filter_map(times)
            .map(|(begun, _)| begun)
            .min()?;
        let last = self
            .tasks
            .iter()
            .filter_map(times)
            .map(|(_, at)| at)
            .max()?;
        Some(last.saturating_sub(first))
    }

    /// Takes a begun task back, so that [`Run::begin`] hands it out again. Only for a task that is
    /// proved not to have happened, or that may happen twice.
    ///
    /// # Errors
    /// The task is not under way.
    pub fn again(&mut self, id: usize) -> Result<(), TaskError> {
        self.under_way(id)?.0.state = State::Waiting;
        Ok(())
    }

    fn under_way(&mut self, id: usize) -> Result<(&mut Task, u64), TaskError> {
        let task = self.tasks.get_mut(id).ok_or(TaskError(id))?;
        match task.state {
            State::Begun { at } => Ok((task, at)),
            State::Waiting | State::Ended { .. } => Err(TaskError(id)),
        }
    }
}

impl Task {
    /// Whether it ended, well or not.
    pub fn ended(&self) -> bool {
        matches!(self.state, State::Ended { .. })
    }

    /// Whether it ended well.
    pub fn succeeded(&self) -> bool {
        self.ended() && !self.failed()
    }

    /// Whether it ended with an error.
    pub fn failed(&self) -> bool {
        matches!(
            &self.state,
            State::Ended {
                outcome: Outcome::Failed(_),
                ..
            }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two stages: `a` ended, then `b` waits.
    const SAVED: &str = r#"{"format":1,"kind":"test","on_error":"stop","tasks":[
        {"id":0,"stage":0,"group":"g","work":{"machine":"a"},
         "state":{"ended":{"begun":5,"at":9,"outcome":{"done":"fine"}}}},
        {"id":1,"stage":1,"group":"g","work":{"machine":"b"},"state":"waiting"}]}"#;

    fn read(text: &str) -> Result<Run, String> {
        serde_json::from_str(text).map_err(|error: serde_json::Error| error.to_string())
    }

    #[test]
    fn a_saved_run_of_this_format_is_read_for_ever() {
        let run = read(SAVED).expect("a run");
        assert_eq!(run.elapsed(), Some(4));
        assert!(!run.is_over());
        let again = serde_json::to_string(&run).expect("serializes");
        assert_eq!(again, SAVED.replace(['\n', ' '], ""));
    }

    #[test]
    fn a_damaged_run_is_not_believed() {
        let damaged = |from: &str, to: &str| read(&SAVED.replacen(from, to, 1)).expect_err(to);
        assert!(damaged("\"format\":1", "\"format\":2").contains("format 2"));
        assert!(damaged("\"id\":1", "\"id\":0").contains("task 1 is not at its place"));
        assert!(damaged("\"stage\":0", "\"stage\":2").contains("task 1 is not at its place"));
        assert!(damaged("\"waiting\"", "\"asleep\"").contains("asleep"));
        let early = SAVED
            .replace("\"waiting\"", r#"{"begun":{"at":3}}"#)
            .replacen(
                r#"{"ended":{"begun":5,"at":9,"outcome":{"done":"fine"}}}"#,
                "\"waiting\"",
                1,
            );
        assert!(
            read(&early)
                .expect_err("early")
                .contains("task 1 began before")
        );
    }
}
