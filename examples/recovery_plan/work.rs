//! Doing one task of a run.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use afterimage::{
    Clock, Failover, PointSelector, Replica, Store, TestPlace, TestResult, clean_up, fail_over,
    status,
};
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
    /// Whether primaries that may be alive are fenced off.
    #[serde(default)]
    pub(super) force: bool,
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
        Kind::Unplanned if site.force => Failover::Forced,
        Kind::Unplanned => Failover::Unplanned,
        Kind::Reverse => bail!("replication cannot be reversed from here"),
    };
    let replica = store.replica(name.parse()?);
    let out = site.out.join(name);
    if is_complete(&replica, &out).await? {
        return Ok("its images were complete before the run was cut short".into());
    }
    if how == Failover::Test && is_begun(&replica, &out).await? {
        let (result, notes) = (TestResult::Failed, "it was cut short");
        clean_up(&replica, Some(&out), result, notes).await?;
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

/// Whether the test failover to `out` is one that was cut short.
async fn is_begun(replica: &Replica, out: &Path) -> Result<bool> {
    let test = status(replica, Clock::timestamp()).await?.test;
    Ok(test.is_some_and(|test| test.place == TestPlace::Images(out.into())))
}

/// Refuses a test of machine `name` while one is not cleaned up, of this plan or by somebody else.
pub(super) async fn refuse_second_test(name: &str, store: &Store) -> Result<()> {
    let status = status(&store.replica(name.parse()?), Clock::timestamp()).await?;
    if let Some(test) = status.test {
        bail!(
            "machine {name}: its test failover at {} is not cleaned up",
            test.place
        );
    }
    Ok(())
}

/// Removes what the test failover of machine `name` made, if it is this run's and not cleaned up yet, and records
/// what came of it.
pub(super) async fn clean_up_machine(
    name: &str,
    site: &Site,
    store: &Store,
    result: TestResult,
    notes: &str,
) -> Result<()> {
    let (replica, out) = (store.replica(name.parse()?), site.out.join(name));
    if is_begun(&replica, &out).await? {
        clean_up(&replica, Some(&out), result, notes).await?;
    }
    Ok(())
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
