//! A run of a plan: what is to be done next, and what became of it.

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

/// What a task does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Work {
    /// This machine, as the run's kind says.
    Machine(String),
    /// A command, or a pause that the operator ends.
    Action(Action),
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
        /// Why it failed, if it did.
        error: Option<String>,
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

/// A run of a plan; serialize it after each call that changes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    kind: Kind,
    on_error: OnError,
    tasks: Vec<Task>,
}

impl Run {
    /// A run that has begun nothing. The plan is copied: a later change of the file is without effect.
    pub fn new(plan: &Plan, kind: Kind) -> Self {
        let mut run = Self {
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
        let open = |task: &&Task| !matches!(task.state, State::Ended { .. });
        let stage = self.tasks.iter().find(open)?.stage;
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
    pub fn finish(&mut self, id: usize, now: u64, error: Option<String>) -> Result<(), TaskError> {
        let (task, begun) = self.under_way(id)?;
        task.state = State::Ended {
            begun,
            at: now,
            error,
        };
        Ok(())
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
    /// Whether it ended with an error.
    pub fn failed(&self) -> bool {
        matches!(self.state, State::Ended { error: Some(_), .. })
    }
}
