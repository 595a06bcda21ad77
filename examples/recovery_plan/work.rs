//! Doing one task of a run.

use std::path::PathBuf;
use std::time::Duration;

use afterimage::{
    Clock, Failover, PointSelector, Replica, Role, SideStatus, Standing, Status, Store, TestPlace,
    TestResult, cancel, clean_up, commit, fail_over, reverse, side_status, status,
};
use afterimage_plan::{Action, Kind, Outcome, Task, Work};
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::{KeyArguments, shown_missing, shown_rpo, shown_time};

/// Where the machines come from and go to.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Site {
    /// The store's URL.
    pub(super) replica: String,
    /// The files of what opens encrypted replicas.
    #[serde(default)]
    pub(super) key: KeyArguments,
    /// The folder for the images.
    pub(super) out: PathBuf,
    /// Whether primaries that may be alive are fenced off.
    #[serde(default)]
    pub(super) force: bool,
}

impl Site {
    pub(super) async fn store(&self) -> Result<Store> {
        let store = Store::open_existing(&self.replica).await?;
        Ok(store.with_key(self.key.read()?))
    }

    /// The folder for the images of machine `name`.
    fn folder(&self, name: &str) -> PathBuf {
        self.out.join(name)
    }

    /// What the failover of machine `name` recorded in its folder.
    fn side(&self, name: &str) -> Result<SideStatus> {
        let folder = self.folder(name);
        let side = side_status(&folder.join(format!(".afterimage-{name}")));
        side.with_context(|| {
            let folder = folder.display();
            format!("machine {name}: nothing was failed over to {folder}")
        })
    }
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
            command(argv, Duration::from_secs(*limit_secs), kind, task).await
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
        Kind::Reverse => return reverse_machine(name, site, store).await,
    };
    let (replica, out) = (store.replica(name.parse()?), site.folder(name));
    if how == Failover::Test && test_is_begun(&replica, site).await? {
        let (result, notes) = (TestResult::Failed, "it was cut short");
        clean_up(&replica, Some(&out), result, notes).await?;
    }
    // One that was cut short goes on where it was, to the same point.
    let done = fail_over(&replica, how, PointSelector::Latest, &out, |_, _| ()).await?;
    let (point, time) = (done.sequence, shown_time(done.time));
    let rpo = shown_rpo(done.rpo);
    let mut result = format!("recovery point {point} of {time}, RPO {rpo}");
    for disk in &done.missing {
        result.push_str("; ");
        result.push_str(&shown_missing(disk));
    }
    Ok(result)
}

async fn reverse_machine(name: &str, site: &Site, store: &Store) -> Result<String> {
    let disks = reverse(&store.replica(name.parse()?), &site.folder(name)).await?;
    let disks: Vec<_> = disks
        .iter()
        .map(|disk| disk.display().to_string())
        .collect();
    let disks = disks.join(" ");
    Ok(format!(
        "the primary's disks are {disks}: `protect --reverse` serves and replicates them"
    ))
}

/// Whether the test failover of `replica` that is not cleaned up is this run's.
async fn test_is_begun(replica: &Replica, site: &Site) -> Result<bool> {
    let test = status(replica, Clock::timestamp()).await?.test;
    let out = site.folder(replica.name().as_str());
    Ok(test.is_some_and(|test| test.place == TestPlace::Images(out)))
}

/// Refuses what is known to fail for machine `name` before anything begins.
pub(super) async fn check_machine(
    name: &str,
    kind: Kind,
    site: &Site,
    store: &Store,
) -> Result<()> {
    let status = present(name, store).await?;
    let folder = site.folder(name);
    if kind == Kind::Reverse {
        return check_reverse(name, status.role, site);
    }
    if let (Kind::Test, Some(test)) = (kind, status.test) {
        bail!(
            "machine {name}: its test failover at {} is not cleaned up",
            test.place
        );
    }
    ensure!(!folder.exists(), "{} is there already", folder.display());
    Ok(())
}

/// How machine `name` stands, which must have a recovery point.
pub(super) async fn present(name: &str, store: &Store) -> Result<Status> {
    let replica = store.replica(name.parse()?);
    let status = status(&replica, Clock::timestamp()).await;
    let status = status.with_context(|| format!("machine {name}"))?;
    ensure!(
        !status.recovery_points.is_empty(),
        "machine {name} has no recovery point yet"
    );
    Ok(status)
}

fn check_reverse(name: &str, role: Role, site: &Site) -> Result<()> {
    if let Standing::FailedOver { complete, .. } = site.side(name)?.standing {
        ensure!(
            complete,
            "machine {name}: the images of its failover are not complete: `resume` it first"
        );
        ensure!(
            matches!(role, Role::FailedOver { .. } | Role::Reversed { .. }),
            "machine {name}: its failover is not committed: `commit` it first"
        );
    }
    Ok(())
}

/// How the failovers of a run end.
#[derive(Clone, Copy)]
pub(super) enum End {
    Commit,
    Cancel,
}

/// Ends the failover of machine `name` that this run made, if the replica is in it; again is no error.
pub(super) async fn end_machine(name: &str, end: End, site: &Site, store: &Store) -> Result<()> {
    let (replica, epoch) = (store.replica(name.parse()?), site.side(name)?.epoch);
    let ended = match end {
        End::Commit => commit(&replica, epoch).await,
        End::Cancel => match present(name, store).await?.role {
            Role::Replica | Role::PreparedForFailover { .. } => Ok(()),
            _ => cancel(&replica, epoch).await,
        },
    };
    ended.with_context(|| format!("machine {name}"))
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
    let replica = store.replica(name.parse()?);
    if test_is_begun(&replica, site).await? {
        clean_up(&replica, Some(&site.folder(name)), result, notes).await?;
    }
    Ok(())
}

/// Runs a program. The environment tells it what for.
async fn command(argv: &[String], limit: Duration, kind: Kind, task: &Task) -> Result<String> {
    let (program, arguments) = argv.split_first().context("a command of nothing")?;
    let mut command = tokio::process::Command::new(program);
    command
        .args(arguments)
        .env("AFTERIMAGE_PLAN_KIND", kind.to_string())
        .env("AFTERIMAGE_PLAN_GROUP", &task.group);
    let child = command.kill_on_drop(true).status();
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
