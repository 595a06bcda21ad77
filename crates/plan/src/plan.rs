//! The plan file and its validation.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// Machines in a plan at most.
const MACHINES_MAX: usize = 100;
/// Seconds a command may take at most.
const LIMIT_SECS_MAX: u64 = 86_400;

/// What is wrong with a plan. None of these mends itself: the file must be changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is not TOML, or not a plan.
    #[error("cannot read the plan: {0}")]
    Syntax(#[from] toml::de::Error),
    /// A name, message or list that must say something says nothing.
    #[error("{what} of {place} is empty")]
    Empty {
        /// The key.
        what: &'static str,
        /// Where it stands.
        place: String,
    },
    /// A group or machine stands twice.
    #[error("{0} stands twice in the plan")]
    Twice(String),
    /// More machines than a plan may have.
    #[error("the plan has {0} machines, at most {MACHINES_MAX} are allowed")]
    TooMany(usize),
    /// A time limit out of range.
    #[error("limit_secs {limit} in {place} is not between 1 and {LIMIT_SECS_MAX}")]
    Limit {
        /// The limit as given, in seconds.
        limit: u64,
        /// Where it stands.
        place: String,
    },
    /// A machine that does not exist.
    #[error("machine {0} is not in the store")]
    Unknown(String),
}

/// A recovery plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Its name.
    pub name: String,
    /// What a failure does to the rest.
    #[serde(default)]
    pub on_error: OnError,
    /// The groups, in order.
    #[serde(rename = "group")]
    pub groups: Vec<Group>,
}

/// What a failure does to the rest of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// Nothing more begins.
    #[default]
    Stop,
    /// The run goes on.
    Continue,
}

/// Machines that fail over in parallel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Its machines.
    pub machines: Vec<String>,
    /// Actions before the machines, in order.
    #[serde(default)]
    pub before: Vec<Action>,
    /// Actions after the machines, in order.
    #[serde(default)]
    pub after: Vec<Action>,
}

/// An action before or after a group's machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Action {
    /// A program is run, without a shell.
    Command {
        /// Program and arguments.
        argv: Vec<String>,
        /// Time limit in seconds, 1 to 86400.
        limit_secs: u64,
    },
    /// The run waits for the operator.
    Pause {
        /// What the operator has to do.
        message: String,
    },
}

impl Plan {
    /// Reads a plan and checks all that can be checked without a store.
    ///
    /// # Errors
    /// What is wrong with it first.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let plan: Self = toml::from_str(text)?;
        plan.check()?;
        Ok(plan)
    }

    /// Checks the plan against the machines that exist.
    ///
    /// # Errors
    /// What is wrong with it first.
    pub fn validate<'a>(&self, existing: impl IntoIterator<Item = &'a str>) -> Result<(), Error> {
        self.check()?;
        let existing: BTreeSet<&str> = existing.into_iter().collect();
        let mut machines = self.groups.iter().flat_map(|group| &group.machines);
        match machines.find(|machine| !existing.contains(machine.as_str())) {
            Some(machine) => Err(Error::Unknown(machine.clone())),
            None => Ok(()),
        }
    }

    fn check(&self) -> Result<(), Error> {
        filled(&self.name, "name", "the plan")?;
        some(&self.groups, "group", "the plan")?;
        let (mut names, mut machines) = (BTreeSet::new(), BTreeSet::new());
        for group in &self.groups {
            filled(&group.name, "name", "a group")?;
            some(&group.machines, "machines", &group.name)?;
            if !names.insert(&group.name) {
                return Err(Error::Twice(format!("group {}", group.name)));
            }
            for machine in &group.machines {
                filled(machine, "a machine", &group.name)?;
                if !machines.insert(machine) {
                    return Err(Error::Twice(format!("machine {machine}")));
                }
            }
            for action in group.before.iter().chain(&group.after) {
                action.check(&group.name)?;
            }
        }
        if machines.len() > MACHINES_MAX {
            return Err(Error::TooMany(machines.len()));
        }
        Ok(())
    }
}

impl Action {
    fn check(&self, place: &str) -> Result<(), Error> {
        match self {
            Self::Pause { message } => filled(message, "message", place),
            Self::Command { argv, limit_secs } => {
                filled(argv.first().map_or("", String::as_str), "argv", place)?;
                if !(1..=LIMIT_SECS_MAX).contains(limit_secs) {
                    return Err(Error::Limit {
                        limit: *limit_secs,
                        place: place.to_owned(),
                    });
                }
                Ok(())
            }
        }
    }
}

fn filled(text: &str, what: &'static str, place: &str) -> Result<(), Error> {
    if text.trim().is_empty() {
        return Err(Error::Empty {
            what,
            place: place.to_owned(),
        });
    }
    Ok(())
}

fn some<T>(list: &[T], what: &'static str, place: &str) -> Result<(), Error> {
    if list.is_empty() {
        return Err(Error::Empty {
            what,
            place: place.to_owned(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(rest: &str) -> Result<Plan, Error> {
        Plan::parse(&format!("name = 'p'\n[[group]]\nname = 'g'\n{rest}"))
    }

    #[test]
    fn what_is_wrong_is_refused() {
        assert!(matches!(
            group("machines = ['a', 'a']"),
            Err(Error::Twice(_))
        ));
        assert!(matches!(group("machines = []"), Err(Error::Empty { .. })));
        assert!(matches!(
            group("machines = ['a']\nnew = 1"),
            Err(Error::Syntax(_))
        ));
        let pause = group("machines=['a']\nbefore=[{pause={message='m',new=1}}]");
        assert!(matches!(pause, Err(Error::Syntax(_))));
        let command = |argv: &str, limit: u64| {
            group(&format!(
                "machines=['a']\nbefore=[{{command={{argv={argv},limit_secs={limit}}}}}]"
            ))
        };
        assert!(command("['true']", 1).is_ok());
        assert!(matches!(command("[]", 1), Err(Error::Empty { .. })));
        assert!(matches!(
            command("['true']", 0),
            Err(Error::Limit { limit: 0, .. })
        ));
    }

    #[test]
    fn a_machine_must_exist() {
        let plan = group("machines = ['a', 'b']").expect("a plan");
        assert!(plan.validate(["b", "a", "c"]).is_ok());
        assert!(matches!(plan.validate(["a"]), Err(Error::Unknown(machine)) if machine == "b"));
    }
}
