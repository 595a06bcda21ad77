//! How far a run is, in a file beside its plan.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use afterimage_plan::{Outcome, Run, Task};
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::work::Site;

#[derive(Serialize, Deserialize)]
struct Content {
    site: Site,
    run: Run,
}

/// A run, and the file in which each change is durable before it has consequences. One process at a
/// time has it.
pub(super) struct Journal {
    path: PathBuf,
    content: Content,
    /// Held for as long as the run is this process's.
    _lock: File,
}

fn path_of(plan: &Path) -> PathBuf {
    plan.with_added_extension("run")
}

fn locked(plan: &Path) -> Result<File> {
    let path = plan.with_added_extension("lock");
    let file = File::create(&path).with_context(|| path.display().to_string())?;
    ensure!(file.try_lock().is_ok(), "another process is at this plan");
    Ok(file)
}

/// The run of `plan`, to be looked at.
pub(super) fn read(plan: &Path) -> Result<(Site, Run)> {
    let path = path_of(plan);
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => bail!("this plan was not run"),
        text => text.with_context(|| path.display().to_string())?,
    };
    let content: Content =
        serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    Ok((content.site, content.run))
}

impl Journal {
    /// Begins a file for `run`. One of a run that is not over stays as it is.
    pub(super) fn create(plan: &Path, site: Site, run: Run) -> Result<Self> {
        let lock = locked(plan)?;
        let path = path_of(plan);
        if path.exists() {
            let (_, before) = read(plan)?;
            ensure!(
                before.is_over(),
                "a run of this plan is not over: `resume` it"
            );
        }
        let journal = Self {
            path,
            content: Content { site, run },
            _lock: lock,
        };
        journal.save()?;
        Ok(journal)
    }

    /// The run of `plan`, to go on with.
    pub(super) fn open(plan: &Path) -> Result<Self> {
        let lock = locked(plan)?;
        let (site, run) = read(plan)?;
        Ok(Self {
            path: path_of(plan),
            content: Content { site, run },
            _lock: lock,
        })
    }

    pub(super) fn site(&self) -> &Site {
        &self.content.site
    }

    pub(super) fn run(&self) -> &Run {
        &self.content.run
    }

    /// Records what may begin as begun, and returns it.
    pub(super) fn begin(&mut self) -> Result<Vec<Task>> {
        self.change(|run| Ok(run.begin(now())))
    }

    pub(super) fn finish(&mut self, id: usize, outcome: Outcome) -> Result<()> {
        self.change(|run| Ok(run.finish(id, now(), outcome)?))
    }

    /// Changes the run; the change is durable when this returns.
    pub(super) fn change<T>(&mut self, change: impl FnOnce(&mut Run) -> Result<T>) -> Result<T> {
        let value = change(&mut self.content.run)?;
        self.save()?;
        Ok(value)
    }

    fn save(&self) -> Result<()> {
        let written = || -> Result<()> {
            let new = self.path.with_added_extension("new");
            let mut file = File::create(&new)?;
            file.write_all(&serde_json::to_vec(&self.content)?)?;
            file.sync_all()?;
            fs::rename(&new, &self.path)?;
            let folder = self.path.parent().filter(|path| *path != Path::new(""));
            Ok(File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?)
        };
        written().with_context(|| self.path.display().to_string())
    }
}

/// Milliseconds since 1970.
fn now() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0)
}
