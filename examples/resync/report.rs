//! What a person or a program is told.

use std::time::{Duration, Instant};

use afterimage_block::{Length, Offset};
use afterimage_resync::remote::RemoteProgress;
use afterimage_resync::{Pacer, Progress, Summary};
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
    /// It puts in its place what was staged.
    Placing,
    /// It reads once more what should be right.
    Verifying,
}

/// What a resync came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// The disk's size.
    pub total: Length,
    /// Where an earlier run was, if this one went on with it.
    pub resumed_at: Option<Offset>,
    /// What that saved this one: compared, or hashed, before.
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
    /// Whether a part of the target was read again, or all.
    pub reread: bool,
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

    /// The same, if what was not hashed was known of the same resync before a break, which was there.
    pub(super) fn resumed(self, resumed_at: Option<Offset>) -> Self {
        let (saved, skipped) = if resumed_at.is_some() {
            (self.skipped, Length::ZERO)
        } else {
            (Length::ZERO, self.skipped)
        };
        Self {
            resumed_at,
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
            let plural = if self.digests == 1 { "" } else { "s" };
            write!(f, ", {} digest{plural} exchanged", self.digests)?;
        }
        if !self.skipped.is_zero() {
            write!(f, "; {} skipped by the cache", self.skipped)?;
        }
        if let Some(at) = self.resumed_at {
            write!(
                f,
                "; resumed at {}, saved {}",
                Length::new(at.get()),
                self.saved
            )?;
        }
        f.write_str(match (self.verified, self.reread) {
            (true, _) => "; verified",
            (_, true) => "; read again",
            _ => "",
        })
    }
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'r> {
    Progress(Moment),
    Done(&'r Report),
}

/// How far a phase is.
#[derive(Clone, Copy, Serialize)]
struct Moment {
    phase: Phase,
    done: Length,
    total: Length,
    /// At least; at the end of a stream it is known for sure only when all is done.
    equal: Length,
    sent: Length,
    zeroed: Length,
    /// Not read, being known from before.
    skipped: Length,
    /// Bytes a second, of late.
    rate: Option<u64>,
    /// Until the end of the phase, at that rate.
    eta_seconds: Option<f64>,
}

impl Moment {
    fn of(phase: Phase, done: Length, total: Length) -> Self {
        Self {
            phase,
            done,
            total,
            equal: Length::ZERO,
            sent: Length::ZERO,
            zeroed: Length::ZERO,
            skipped: Length::ZERO,
            rate: None,
            eta_seconds: None,
        }
    }
}

/// Shows progress and outcome: as a bar on standard error and a line, or as lines of JSON.
pub struct Display {
    kind: Kind,
    bar: ProgressBar,
    begun: Instant,
    shown: Option<Shown>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Person,
    Program,
    Nobody,
}

/// What was shown last.
struct Shown {
    phase: Phase,
    at: Instant,
    pacer: Pacer,
    equal: Length,
}

impl Display {
    /// For a program or for a person.
    pub fn new(json: bool) -> Self {
        Self::of(if json { Kind::Program } else { Kind::Person })
    }

    /// One that shows nothing.
    pub(super) fn silent() -> Self {
        Self::of(Kind::Nobody)
    }

    fn of(kind: Kind) -> Self {
        let bar = if kind == Kind::Person {
            ProgressBar::new(0)
        } else {
            ProgressBar::hidden()
        };
        let style = "{prefix} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec} {eta} {msg}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        Self {
            kind,
            bar,
            begun: Instant::now(),
            shown: None,
        }
    }

    /// How far two disks of one machine are.
    pub(super) fn local(&mut self, phase: Phase, progress: Progress) {
        let Summary {
            compared,
            equal,
            sent,
            zeroed,
            ..
        } = progress.summary;
        self.show(Moment {
            equal,
            sent,
            zeroed,
            ..Moment::of(phase, compared, progress.total)
        });
    }

    /// How far one end of a stream is.
    pub(super) fn remote(&mut self, progress: RemoteProgress) {
        let RemoteProgress { total, settled, .. } = progress;
        let RemoteProgress { sent, zeroed, .. } = progress;
        let moment = if !progress.to_reread.is_zero() {
            Moment::of(Phase::Verifying, progress.reread, progress.to_reread)
        } else if progress.hashed < total && settled.is_zero() {
            Moment::of(Phase::Hashing, progress.hashed, total)
        } else {
            Moment::of(Phase::Comparing, settled, total)
        };
        self.show(Moment {
            // What is on its way is sent and not yet settled.
            equal: settled.saturating_sub(sent.saturating_add(zeroed)),
            sent,
            zeroed,
            skipped: progress.skipped,
            ..moment
        });
    }

    /// How much of what was staged is in its place.
    pub(super) fn placing(&mut self, made: Length, total: Length) {
        self.show(Moment::of(Phase::Placing, made, total));
    }

    fn show(&mut self, moment: Moment) {
        if self.kind == Kind::Nobody {
            return;
        }
        let Moment { phase, .. } = moment;
        let is_new = self.shown.as_ref().is_none_or(|shown| shown.phase != phase);
        if is_new {
            let equal = self.shown.take().map_or(Length::ZERO, |shown| shown.equal);
            self.begin(&moment);
            self.shown = Some(Shown {
                phase,
                at: Instant::now(),
                pacer: Pacer::default(),
                equal,
            });
        }
        match self.kind {
            Kind::Program => self.tell(moment, is_new),
            _ => self.draw(&moment),
        }
    }

    /// What was done before this run does not count as fast.
    fn begin(&self, moment: &Moment) {
        self.bar.reset();
        self.bar.set_length(moment.total.get());
        self.bar.set_prefix(format!("{:?}", moment.phase));
        self.bar.set_position(moment.done.get());
        self.bar.reset_eta();
    }

    fn draw(&self, moment: &Moment) {
        let Moment { sent, skipped, .. } = *moment;
        self.bar.set_position(moment.done.get());
        self.bar.set_message(if skipped.is_zero() {
            format!("{sent} sent")
        } else {
            format!("{sent} sent, {skipped} skipped")
        });
    }

    fn tell(&mut self, moment: Moment, is_new: bool) {
        let Some(shown) = &mut self.shown else {
            return;
        };
        if !is_new && shown.at.elapsed() < INTERVAL {
            return;
        }
        shown.at = Instant::now();
        // Progress does not go back.
        shown.equal = shown.equal.max(moment.equal);
        let now = self.begun.elapsed();
        let pace = shown.pacer.measure(now, moment.done, moment.total);
        print(&Event::Progress(Moment {
            equal: shown.equal,
            rate: pace.rate,
            eta_seconds: pace.left.map(|left| left.as_secs_f64()),
            ..moment
        }));
    }

    /// What it came to.
    pub fn done(&mut self, report: &Report) {
        self.bar.finish_and_clear();
        if self.kind == Kind::Program {
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
