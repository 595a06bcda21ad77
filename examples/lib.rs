//! What the example programs share: presentation, and a guest to try things with.
#![allow(
    clippy::missing_errors_doc,
    reason = "errors go to the person at the terminal"
)]

/// The commands of the example of this name.
#[path = "changelog/mod.rs"]
pub mod changelog;
mod guest;
mod key;
mod machine;
mod operation;
#[path = "plan/mod.rs"]
pub mod plan;
#[path = "recovery_plan/mod.rs"]
pub mod recovery_plan;
mod requests;
#[path = "resync/mod.rs"]
pub mod resync;
mod table;
mod walk;
mod watch;

pub use guest::{Guest, make_image, sha256};
pub use key::KeyArguments;
pub use machine::MachineArguments;
pub use operation::{print_operation, shown_progress};
pub use requests::{Requests, ask, jobs, serve};
pub use table::{Row, Table};
pub use walk::{Outage, Walk};
pub use watch::Watch;

use std::collections::HashMap;
use std::io::IsTerminal;
use std::time::Duration;

use afterimage::block::Timestamp;
use afterimage::{ExcludedDisk, Job, JobState, Notice, Rpo};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Sends warnings and errors of the libraries to standard error; `RUST_LOG` asks for more.
pub fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|_| "warn".into()))
        .with_writer(std::io::stderr)
        .init();
}

/// A time as people read it, in RFC 3339.
pub fn shown_time(time: Timestamp) -> String {
    let nanos = i128::from(time.as_nanos());
    jiff::Timestamp::from_nanosecond(nanos).map_or_else(|_| "?".into(), |time| time.to_string())
}

/// What is said of a disk that a failover does not bring.
pub fn shown_missing(disk: &ExcludedDisk) -> String {
    let (name, size) = (&disk.name, disk.size);
    format!("MISSING: disk {name} of {size}, which is not replicated")
}

/// What a failover loses, as people read it: never less than what may be.
pub fn shown_rpo(rpo: Rpo) -> String {
    match rpo {
        Rpo::Nothing => "0s: nothing is lost".into(),
        Rpo::AtLeast { known, reported } => format!(
            "{} to what the primary had when it last reported, at {}; what it wrote after that is not known",
            humantime::format_duration(Duration::from_millis(whole_millis(known))),
            shown_time(reported)
        ),
        _ => "not known: the primary never reported".into(),
    }
}

fn whole_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
}

/// Shows notices: as lines of JSON, or as text with a progress bar for each job that takes long.
pub struct Display {
    json: bool,
    bars: MultiProgress,
    jobs: HashMap<u64, ProgressBar>,
}

impl Display {
    /// A display of one kind or the other.
    pub fn new(json: bool) -> Self {
        Self {
            json,
            bars: MultiProgress::new(),
            jobs: HashMap::new(),
        }
    }

    /// Shows a notice.
    pub fn show(&mut self, notice: &Notice) {
        if self.json {
            match serde_json::to_string(notice) {
                Ok(line) => println!("{line}"),
                Err(error) => eprintln!("a notice cannot be shown: {error}"),
            }
            return;
        }
        match notice {
            Notice::Job(job) => self.show_job(job),
            other => self.line(&text(other)),
        }
    }

    fn line(&self, line: &str) {
        if !std::io::stdout().is_terminal() || self.bars.println(line).is_err() {
            println!("{line}");
        }
    }

    fn show_job(&mut self, job: &Job) {
        if let (JobState::Failed, Some(error)) = (job.state, &job.error) {
            self.line(&format!("{:?} {} failed: {error}", job.kind, job.subject));
        }
        if job.state != JobState::InProgress {
            if let Some(bar) = self.jobs.remove(&job.id) {
                bar.finish_and_clear();
            }
            return;
        }
        if job.progress.total.is_zero() {
            return;
        }
        let style = "{prefix} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        let bar = self.jobs.entry(job.id).or_insert_with(|| {
            let bar = self.bars.add(ProgressBar::new(job.progress.total.get()));
            if let Ok(style) = ProgressStyle::with_template(style) {
                bar.set_style(style);
            }
            bar.set_prefix(format!("{:?} {}", job.kind, job.subject));
            bar
        });
        bar.set_position(job.progress.done.get());
    }
}

/// A notice as a line of text.
fn text(notice: &Notice) -> String {
    match notice {
        Notice::Ready { exports } if exports.is_empty() => "ready".into(),
        Notice::Ready { exports } => format!("ready: {}", exports.join(" ")),
        Notice::Recovered { bytes } => format!("recovered from an unclean end: {bytes} read again"),
        Notice::Grown { disk, size } => format!("disk {disk} has {size} now"),
        Notice::State {
            state,
            health,
            problem,
        } => {
            let why = problem
                .as_ref()
                .map(|why| format!(": {why}"))
                .unwrap_or_default();
            format!("state {state}, health {health}{why}")
        }
        Notice::RecoveryPoint {
            sequence,
            time,
            sent,
        } => {
            let time = shown_time(*time);
            format!("recovery point {sequence} of {time}, {sent} sent")
        }
        Notice::ResyncRequired { reason } => format!("resynchronization required: {reason}"),
        Notice::Resync {
            reason,
            compared,
            sent,
        } => format!("resynchronized ({reason}): {compared} compared, {sent} sent"),
        Notice::Retry {
            task,
            attempt,
            in_secs,
            error,
        } => format!("cannot {task}: {error}; attempt {attempt} in {in_secs} s"),
        Notice::GaveUp { task, error } => format!("cannot {task}: {error}; somebody must act"),
        Notice::CrashConsistentOnly { error } => {
            format!("the next recovery point is crash-consistent only: {error}")
        }
        Notice::RecoveryPointsLate { rpo_secs } => {
            format!("recovery points are late: the newest is {rpo_secs} s old")
        }
        Notice::RecoveryPointsOnTime => "recovery points are on time again".into(),
        Notice::Stalled { task, idle_secs } => {
            format!("cannot {task}: it has not moved for {idle_secs} s")
        }
        Notice::Stopped { complete: true } => "stopped; the replica holds every write".into(),
        Notice::Stopped { complete: false } => {
            "stopped; what is not shipped yet is kept and goes on at the next start".into()
        }
        other => format!("{other:?}"),
    }
}
