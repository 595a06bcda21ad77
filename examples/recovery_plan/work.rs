//! Doing one task of a run.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use afterimage::{Clock, Failover, PointSelector, Replica, Store, fail_over};
use afterimage_plan::{Action, Kind, Outcome, Task, Work};
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::shown_time;

/// Where the machines come from and go to.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Site {
    /// The store's URL.
    pub(super) replica: String,
    /// The folder for the images.
    pub(super) out: PathBuf,
}

/// Whether only the operator can do it.
pub(super) fn is_pause(task: &Task) -> bool {
    matches!(task.work, Work::Action(Action::Pause { .. }))
}

/// Does `task`, and says what came of it.
pub(super) async fn outcome(task: &Task, kind: Kind, site: &Site, store: &Store) -> Outcome {
    let done = match &task.work {
        Work::Machine(name) => machine(name, kind, site, store).await,
        Work::Action(Action::Command { argv, limit_secs }) => {
            command(argv, Duration::from_secs(*limit_secs)).await
        }
        Work::Action(Action::Pause { .. }) => Err(anyhow::anyhow!("a pause is the operator's")),
    };
    match done {
        Ok(result) => Outcome::Done(result),
        Err(error) => Outcome::Failed(format!("{error:#}")),
    }
}

async fn machine(name: &str, kind: Kind, site: &Site, store: &Store) -> Result<String> {
    let how = match kind {
        Kind::Test => Failover::Test,
        Kind::Planned => Failover::Planned,
        Kind::Unplanned => Failover::Unplanned,
        Kind::Reverse => bail!("replication cannot be reversed from here"),
    };
    let replica = store.replica(name.parse()?);
    let out = site.out.join(name);
    if is_complete(&replica, &out).await? {
        return Ok("its images were complete before the run was cut short".into());
    }
    let done = fail_over(&replica, how, PointSelector::Latest, &out, |_, _| ()).await?;
    let (point, time) = (done.sequence, shown_time(done.time));
    let lost = match kind {
        // The last delta was there.
        Kind::Planned => Duration::ZERO,
        _ => Clock::timestamp().since(done.time),
    };
    let rpo = humantime::format_duration(Duration::from_secs(lost.as_secs()));
    Ok(format!("recovery point {point} of {time}, RPO {rpo}"))
}

/// Whether all images are there, which have their names when they are complete. If only some are, no
/// machine can have been started from them: they are removed, to be made of one recovery point.
async fn is_complete(replica: &Replica, out: &Path) -> Result<bool> {
    let manifest = replica.existing().await?;
    let images = manifest.disks.iter();
    let images: Vec<_> = images
        .map(|disk| out.join(format!("{}.raw", disk.name)))
        .collect();
    let there: Vec<_> = images.iter().filter(|image| image.exists()).collect();
    if there.len() == images.len() {
        return Ok(true);
    }
    for image in there {
        fs::remove_file(image).with_context(|| image.display().to_string())?;
    }
    Ok(false)
}

async fn command(argv: &[String], limit: Duration) -> Result<String> {
    let (program, arguments) = argv.split_first().context("a command of nothing")?;
    let mut command = tokio::process::Command::new(program);
    let child = command.args(arguments).kill_on_drop(true).status();
    let status = match tokio::time::timeout(limit, child).await {
        Ok(status) => status.with_context(|| program.clone())?,
        Err(_) => bail!(
            "{program} took more than {} s and was ended",
            limit.as_secs()
        ),
    };
    ensure!(status.success(), "{program}: {status}");
    Ok(status.to_string())
}
