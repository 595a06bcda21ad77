//! The commands of the example `recovery_plan`.

mod journal;
mod report;
mod work;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use afterimage::{MachineName, Store, TestResult};
use afterimage_plan::{Kind, Outcome, Plan, Run, Task, Work};
use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use tokio::task::JoinSet;

use self::journal::Journal;
use self::work::{End, Site};
use crate::{KeyArguments, shown_missing};

/// Fail the machines of a recovery plan over. Exit codes: 0 done, 1 something failed, 2 usage,
/// 3 the operator is waited for.
#[derive(Parser)]
#[command(name = "recovery_plan")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check a plan against the machines of a store: each must be there, open, and have a recovery point.
    Validate {
        /// The plan, TOML.
        plan: PathBuf,
        /// Where the replicas are.
        #[arg(long)]
        replica: String,
        #[command(flatten)]
        key: KeyArguments,
    },
    /// Fail the machines over, or replicate in reverse those that were.
    Run {
        #[command(flatten)]
        start: Start,
        /// Planned needs stopped primaries; unplanned fences them off; reverse, after a failover to --out that
        /// is committed, makes the images there the disks of the primaries.
        #[arg(long, value_enum, default_value_t = RunKind::Unplanned)]
        kind: RunKind,
        /// Fail over unplanned also the machines whose primaries have just reported, and may be alive.
        #[arg(long)]
        force: bool,
    },
    /// Fail the machines over as a test, which changes nothing.
    Test {
        #[command(flatten)]
        start: Start,
    },
    /// Make the failovers of a run that is over final.
    Commit {
        /// The plan.
        plan: PathBuf,
    },
    /// Take the failovers of a run that is over back: the primaries may go on. What is in the images is of no
    /// use any more.
    Cancel {
        /// The plan.
        plan: PathBuf,
    },
    /// Clean up the test failovers of a test that is over: remove their images, and record what came of it.
    CleanUp {
        /// The plan.
        plan: PathBuf,
        /// Record that the test failed.
        #[arg(long)]
        failed: bool,
        /// What else is to be remembered of it.
        #[arg(long, default_value = "")]
        notes: String,
    },
    /// Go on with a run that waits for the operator, or was cut short.
    Resume {
        /// The plan.
        plan: PathBuf,
        /// This task, a pause or a command that was cut short, is done.
        #[arg(long, conflicts_with = "again")]
        done: Option<usize>,
        /// This command, which was cut short, is to be run again.
        #[arg(long)]
        again: Option<usize>,
    },
    /// Show what became of each task.
    Report {
        /// The plan.
        plan: PathBuf,
        /// Print the run as JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(clap::Args)]
struct Start {
    /// The plan, TOML. How far the run is stands beside it, in PLAN.run.
    plan: PathBuf,
    /// Where the replicas are.
    #[arg(long)]
    replica: String,
    /// What opens all of them; the other commands remember where it is.
    #[command(flatten)]
    key: KeyArguments,
    /// The folder for the images, MACHINE/NAME.raw each.
    #[arg(long)]
    out: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum RunKind {
    Planned,
    Unplanned,
    Reverse,
}

/// Runs the program with these arguments, the first of which is its name.
pub async fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no errors; nowhere to write to is not ours to mend.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    match obey(arguments.command).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("recovery_plan: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn obey(command: Command) -> Result<ExitCode> {
    match command {
        Command::Validate { plan, replica, key } => validate(&plan, &replica, &key).await,
        Command::Run { start, kind, force } => {
            let kind = match kind {
                RunKind::Planned => Kind::Planned,
                RunKind::Unplanned => Kind::Unplanned,
                RunKind::Reverse => Kind::Reverse,
            };
            begin(start, kind, force).await
        }
        Command::Test { start } => begin(start, Kind::Test, false).await,
        Command::Commit { plan } => end(&plan, End::Commit).await,
        Command::Cancel { plan } => end(&plan, End::Cancel).await,
        Command::CleanUp {
            plan,
            failed,
            notes,
        } => clean_up(&plan, failed, &notes).await,
        Command::Resume { plan, done, again } => resume(&plan, done, again).await,
        Command::Report { plan, json } => {
            let (site, run) = journal::read(&plan)?;
            report::print(&site, &run, json)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn validate(path: &Path, replica: &str, key: &KeyArguments) -> Result<ExitCode> {
    let store = Store::open_existing(replica).await?;
    let store = store.with_key(key.read()?);
    let plan = validated(path, &store).await?;
    for name in machines(&plan) {
        let status = work::present(name, &store).await?;
        let age = status.lag_secs.unwrap_or_default();
        let (state, health) = (status.state, status.health);
        println!("machine {name}: {state}, health {health}, newest recovery point {age} s old");
        for disk in &status.excluded {
            println!("  {}", shown_missing(disk));
        }
    }
    println!("the plan is good, and all of its machines are in the store");
    Ok(ExitCode::SUCCESS)
}

fn machines(plan: &Plan) -> impl Iterator<Item = &String> {
    plan.groups.iter().flat_map(|group| &group.machines)
}

async fn validated(path: &Path, store: &Store) -> Result<Plan> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let plan = Plan::parse(&text).with_context(|| path.display().to_string())?;
    let machines = store.machines().await?;
    plan.validate(machines.iter().map(MachineName::as_str))?;
    Ok(plan)
}

async fn begin(start: Start, kind: Kind, force: bool) -> Result<ExitCode> {
    let site = Site {
        replica: start.replica,
        key: start.key.absolute()?,
        out: real(&start.out)?,
        force,
    };
    let store = site.store().await?;
    let plan = validated(&start.plan, &store).await?;
    for machine in machines(&plan) {
        work::check_machine(machine, kind, &site, &store).await?;
    }
    let mut journal = Journal::create(&start.plan, site, Run::new(&plan, kind))?;
    proceed(&mut journal, &store).await
}

/// The path of a folder, made if it is not there, as failovers record it.
fn real(out: &Path) -> Result<PathBuf> {
    fs::create_dir_all(out)
        .and_then(|()| out.canonicalize())
        .with_context(|| out.display().to_string())
}

async fn resume(plan: &Path, done: Option<usize>, again: Option<usize>) -> Result<ExitCode> {
    let mut journal = Journal::open(plan)?;
    let store = journal.site().store().await?;
    if let Some(id) = done.or(again) {
        let machine = |task: &&Task| task.id == id && matches!(task.work, Work::Machine(_));
        ensure!(
            journal.run().begun().find(machine).is_none(),
            "task {id} is a machine's: whether it is done is seen from its images"
        );
    }
    if let Some(id) = done {
        journal.finish(id, Outcome::Done("ended by the operator".into()))?;
    }
    if let Some(id) = again {
        journal.change(|run| Ok(run.again(id)?))?;
    }
    // A failover can be asked for again: it goes on where it was.
    let machines: Vec<usize> = journal.run().begun().filter_map(machine_id).collect();
    for id in machines {
        journal.change(|run| Ok(run.again(id)?))?;
    }
    proceed(&mut journal, &store).await
}

async fn end(plan: &Path, end: End) -> Result<ExitCode> {
    let journal = Journal::open(plan)?;
    let (site, run) = (journal.site(), journal.run());
    ensure!(
        matches!(run.kind(), Kind::Planned | Kind::Unplanned),
        "the last run of this plan was no failover, but {}",
        run.kind()
    );
    ensure!(run.is_over(), "the run is not over: `resume` it");
    let store = site.store().await?;
    for task in run.tasks().iter().filter(|task| task.succeeded()) {
        if let Work::Machine(name) = &task.work {
            work::end_machine(name, end, site, &store).await?;
        }
    }
    println!(
        "{}",
        match end {
            End::Commit => "the failovers are final; `run --kind reverse` goes on",
            End::Cancel => "the failovers are taken back; the primaries may go on",
        }
    );
    Ok(ExitCode::SUCCESS)
}

async fn clean_up(plan: &Path, failed: bool, notes: &str) -> Result<ExitCode> {
    let journal = Journal::open(plan)?;
    let (site, run) = (journal.site(), journal.run());
    ensure!(
        run.kind() == Kind::Test,
        "the last run of this plan was no test"
    );
    ensure!(run.is_over(), "the test is not over: `resume` it");
    let result = if failed {
        TestResult::Failed
    } else {
        TestResult::Succeeded
    };
    let store = site.store().await?;
    for task in run.tasks() {
        if let Work::Machine(name) = &task.work {
            work::clean_up_machine(name, site, &store, result, notes).await?;
        }
    }
    // Others may have files there.
    let _ = fs::remove_dir(&site.out);
    println!("the test is cleaned up");
    Ok(ExitCode::SUCCESS)
}

fn machine_id(task: &Task) -> Option<usize> {
    matches!(task.work, Work::Machine(_)).then_some(task.id)
}

/// Does what may begin, until the run is over or waits for the operator.
async fn proceed(journal: &mut Journal, store: &Store) -> Result<ExitCode> {
    loop {
        let waiting: Vec<Task> = journal.run().begun().cloned().collect();
        if !waiting.is_empty() {
            waiting.iter().for_each(report::waits);
            return Ok(ExitCode::from(3));
        }
        let tasks = journal.begin()?;
        if tasks.is_empty() {
            break;
        }
        let mut under_way = JoinSet::new();
        for task in tasks.iter().filter(|task| !work::is_pause(task)) {
            let (kind, site, store) = (journal.run().kind(), journal.site().clone(), store.clone());
            let task = task.clone();
            under_way
                .spawn(async move { (task.id, work::outcome(&task, kind, &site, &store).await) });
        }
        while let Some(ended) = under_way.join_next().await {
            let (id, outcome) = ended?;
            journal.finish(id, outcome)?;
            report::ended(&journal.run().tasks()[id]);
        }
    }
    if journal.run().tasks().iter().any(Task::failed) {
        bail!("not all tasks succeeded; `report` shows them");
    }
    println!("the plan is done");
    Ok(ExitCode::SUCCESS)
}
