//! What a person or a program is told.

use std::time::{Duration, Instant};

use afterimage_block::Length;
use afterimage_resync::Progress;
use afterimage_resync::remote::RemoteProgress;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// How often a program is told of progress.
const INTERVAL: Duration = Duration::from_millis(500);

/// What an end is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It hashes its disk.
    Hashing,
    /// It compares and sends or writes.
    Comparing,
    /// It reads both disks once more.
    Verifying,
}

/// What a resync came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// The disk's size.
    pub total: Length,
    /// What an earlier run saved this one: compared, or hashed, before.
    pub saved: Length,
    /// Not read, being known from the resync before.
    pub skipped: Length,
    /// Equal before, of the disk.
    pub equal: Length,
    /// Different, and data on the source.
    pub sent: Length,
    /// Different, and zeros on the source.
    pub zeroed: Length,
    /// Digests that went over the stream; none between two disks of one machine.
    pub digests: u64,
    /// From the first message or read on.
    pub seconds: f64,
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// Whether the disks were read once more.
    pub verified: bool,
}

impl Report {
    /// Of two disks of one machine.
    pub(super) fn of_local(progress: Progress, begun: Instant) -> Self {
        Self {
            total: progress.total,
            equal: progress.summary.equal,
            sent: progress.summary.sent,
            zeroed: progress.summary.zeroed,
            seconds: begun.elapsed().as_secs_f64(),
            ..Self::default()
        }
    }

    /// Of one end of a stream.
    pub(super) fn of_remote(progress: RemoteProgress, begun: Instant) -> Self {
        let changed = progress.sent.saturating_add(progress.zeroed);
        Self {
            total: progress.total,
            skipped: progress.skipped,
            equal: progress.total.saturating_sub(changed),
            sent: progress.sent,
            zeroed: progress.zeroed,
            digests: progress.digests,
            dry_run: progress.is_dry,
            seconds: begun.elapsed().as_secs_f64(),
            ..Self::default()
        }
    }

    /// The same, if what was not hashed was known of the same resync before a break.
    pub(super) fn resumed(self, is_resumed: bool) -> Self {
        let (saved, skipped) = if is_resumed {
            (self.skipped, Length::ZERO)
        } else {
            (Length::ZERO, self.skipped)
        };
        Self {
            saved,
            skipped,
            ..self
        }
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (sent, zeroed) = if self.dry_run {
            ("to be sent", "to become zeros")
        } else {
            ("sent", "made zeros")
        };
        write!(
            f,
            "{} in {:.1} s: {} equal, {} {sent}, {} {zeroed}",
            self.total, self.seconds, self.equal, self.sent, self.zeroed
        )?;
        if self.digests > 0 {
            write!(f, ", {} digests exchanged", self.digests)?;
        }
        if !self.skipped.is_zero() {
            write!(f, "; {} skipped by the cache", self.skipped)?;
        }
        if !self.saved.is_zero() {
            write!(f, "; gone on with, {} were done before", self.saved)?;
        }
        f.write_str(if self.verified { "; verified" } else { "" })
    }
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'r> {
    Progress {
        phase: Phase,
        done: Length,
        total: Length,
        sent: Length,
        skipped: Length,
    },
    Done(&'r Report),
}

/// Shows progress and outcome: as a bar on standard error and a line, or as lines of JSON.
pub struct Display {
    json: bool,
    bar: ProgressBar,
    shown: Option<(Phase, Instant)>,
}

impl Display {
    /// A display of one kind or the other.
    pub fn new(json: bool) -> Self {
        let bar = if json {
            ProgressBar::hidden()
        } else {
            ProgressBar::new(0)
        };
        let style = "{prefix} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec} {eta} {msg}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        let shown = None;
        Self { json, bar, shown }
    }

    /// How far two disks of one machine are.
    pub(super) fn local(&mut self, phase: Phase, progress: Progress) {
        let (done, sent) = (progress.summary.compared, progress.summary.sent);
        self.show(phase, done, progress.total, (sent, Length::ZERO));
    }

    /// How far one end of a stream is.
    pub(super) fn remote(&mut self, progress: RemoteProgress) {
        let RemoteProgress { total, sent, .. } = progress;
        let moved = (sent, progress.skipped);
        if progress.hashed < total && progress.settled.is_zero() {
            self.show(Phase::Hashing, progress.hashed, total, moved);
        } else {
            self.show(Phase::Comparing, progress.settled, total, moved);
        }
    }

    fn show(&mut self, phase: Phase, done: Length, total: Length, moved: (Length, Length)) {
        let (sent, skipped) = moved;
        let is_new = self.shown.is_none_or(|(shown, _)| shown != phase);
        if is_new {
            self.bar.reset();
            self.bar.set_length(total.get());
            self.bar.set_prefix(format!("{phase:?}"));
        }
        if !self.json {
            self.bar.set_position(done.get());
            self.bar.set_message(if skipped.is_zero() {
                format!("{sent} sent")
            } else {
                format!("{sent} sent, {skipped} skipped")
            });
        } else if is_new || self.shown.is_some_and(|(_, at)| at.elapsed() >= INTERVAL) {
            print(&Event::Progress {
                phase,
                done,
                total,
                sent,
                skipped,
            });
        } else {
            return;
        }
        self.shown = Some((phase, Instant::now()));
    }

    /// What it came to.
    pub fn done(&mut self, report: &Report) {
        self.bar.finish_and_clear();
        if self.json {
            print(&Event::Done(report));
        } else {
            println!("{report}");
        }
    }
}

fn print(event: &Event<'_>) {
    match serde_json::to_string(event) {
        Ok(line) => println!("{line}"),
        Err(error) => eprintln!("an event cannot be shown: {error}"),
    }
}
