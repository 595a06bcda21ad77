//! What one machine takes.

use std::time::Duration;

use afterimage_block::Length;

use crate::budget::{Requests, fold_every};
use crate::cut::Cut;
use crate::recording::total;
use crate::shipments::Shipments;
use crate::{MONTH, Recording, real};

/// How a machine is to be replicated.
#[derive(Clone, Debug)]
pub struct Assumptions {
    /// The time between two barriers. Default 30 s. Not zero.
    pub interval: Duration,
    /// The time after which an idle machine tells its replica again that it is alive; never shorter than
    /// the interval. Default 10 min. Not zero.
    pub heartbeat: Duration,
    /// Whether logs are merged before they are shipped, so that each byte is sent once an interval.
    /// Default true.
    pub merged: bool,
    /// How many recovery points are kept. Default 24.
    pub points: u32,
    /// How many bytes a second the machine can send; `None` is as many as it likes. Default `None`.
    pub bandwidth: Option<u64>,
    /// The time from a request to the store to its answer, the body's own time aside. Default 30 ms.
    pub round_trip: Duration,
    /// How much of the disks the first copy stores; `None` is all of them. Default `None`.
    pub stored: Option<Length>,
    /// How long the store may be out of reach while the logs are kept. Default 4 h.
    pub outage: Duration,
    /// The share of a disk's size that its logs may reach before they are given up and the machine is
    /// resynchronized, in percent. Default 50.
    pub resync_threshold_percent: u8,
}

impl Default for Assumptions {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(30),
            heartbeat: Duration::from_mins(10),
            merged: true,
            points: 24,
            bandwidth: None,
            round_trip: Duration::from_millis(30),
            stored: None,
            outage: Duration::from_hours(4),
            resync_threshold_percent: 50,
        }
    }
}

/// A figure over all intervals of a recording.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spread {
    /// In the middle.
    pub mean: f64,
    /// At its highest.
    pub max: f64,
}

impl Spread {
    /// Of `values`, of which there are `count` with those that are zero.
    pub(crate) fn of(values: impl Iterator<Item = f64>, count: f64) -> Self {
        let (sum, max) = values.fold((0.0, 0.0_f64), |(sum, max), value| {
            (sum + value, max.max(value))
        });
        let mean = sum / count.max(1.0);
        Self { mean, max }
    }
}

/// What replicating one machine takes, if its time is like the recording over and over.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Plan {
    /// The intervals of the recording.
    pub intervals: u64,
    /// Those with changes. The others cost a heartbeat now and then.
    pub changed_intervals: u64,
    /// Bytes logged in an interval.
    pub logged: Spread,
    /// Bytes shipped in an interval.
    pub shipped: Spread,
    /// Bytes a second that ship an interval within an interval.
    pub rate: Spread,
    /// How old the newest recovery point is when the next one appears, in seconds.
    pub rpo_secs: Spread,
    /// Whether all is shipped as fast as it is written: otherwise the age at the recording's end only
    /// shows how long that was.
    pub keeps_up: bool,
    /// The most bytes of logs on the primary's disks when nothing fails.
    pub log_bytes_max: f64,
    /// The most bytes of logs after an outage of the store.
    pub log_bytes_after_outage: f64,
    /// The outage after which a disk's logs are given up and it is resynchronized, in seconds at the
    /// mean rate; infinite for disks that are never written to.
    pub outage_max_secs: f64,
    /// What the store is asked for in a month.
    pub requests_month: Requests,
    /// Of that, by folding the logs of dropped recovery points into the checkpoint.
    pub folding_requests_month: Requests,
    /// Bytes sent to the store in a month.
    pub sent_month: f64,
    /// Of that, by folding: whole chunks of 1 MiB, for whatever was changed in them.
    pub folding_sent_month: f64,
    /// Bytes that the store holds: the base, the logs of the points that are kept, and what the last
    /// fold replaced.
    pub held: f64,
    /// Bytes that a failover reads: the base, and the logs behind it.
    pub restored: f64,
}

impl Plan {
    /// What `recording`'s machine takes.
    ///
    /// # Panics
    /// If the interval or the heartbeat is zero.
    pub fn of(recording: &Recording, assumptions: &Assumptions) -> Self {
        let interval = assumptions.interval.as_secs_f64();
        assert!(interval > 0.0, "an interval takes time");
        assert!(!assumptions.heartbeat.is_zero(), "a heartbeat takes time");
        let cut = Cut::of(recording, assumptions);
        let changed_intervals = cut.generations.len() as u64;
        let shipments = Shipments::of(&cut, assumptions);
        let per_interval = |sizes: &[f64]| Spread::of(sizes.iter().copied(), cut.length);
        let (logged, shipped) = (
            per_interval(&shipments.logged),
            per_interval(&shipments.shipped),
        );
        let log_bytes_max = shipments.log_bytes_max();
        let outage = assumptions.outage.as_secs_f64();

        let rewriting = Rewriting::of(&cut, recording.disks.len(), fold_every(assumptions.points));
        let month = MONTH.as_secs_f64() / (interval * cut.length.max(1.0));
        let sent: f64 = shipments.shipped.iter().sum();
        let log = sent / real(changed_intervals.max(1));
        let base = assumptions.stored.unwrap_or_else(|| recording.size());
        let base = real(base.get());
        // Between two folds there are from none to all of the logs that the next one takes.
        let retired = rewriting.generations_of_a_fold;
        let readable = f64::from(assumptions.points) + retired / 2.0;
        Self {
            intervals: cut.intervals,
            changed_intervals,
            logged,
            shipped,
            rate: Spread {
                mean: shipped.mean / interval,
                max: shipped.max / interval,
            },
            rpo_secs: shipments.ages(),
            keeps_up: shipments.keeps_up(),
            log_bytes_max,
            log_bytes_after_outage: log_bytes_max + shipments.logged_within(outage, cut.length),
            outage_max_secs: outage_max(recording, &cut, assumptions),
            requests_month: (shipments.requests + rewriting.requests) * month,
            folding_requests_month: rewriting.requests * month,
            sent_month: (sent + rewriting.bytes) * month,
            folding_sent_month: rewriting.bytes * month,
            held: base + log * (readable + retired) + rewriting.bytes_of_a_fold,
            restored: base + log * readable,
        }
    }
}

/// What folding the generations of a recording takes.
struct Rewriting {
    requests: Requests,
    bytes: f64,
    bytes_of_a_fold: f64,
    generations_of_a_fold: f64,
}

impl Rewriting {
    fn of(cut: &Cut, disks: usize, fold_every: usize) -> Self {
        let (mut requests, mut bytes, mut folds) = (Requests::default(), 0.0, 0.0);
        for fold in &cut.folds {
            // Of generations that are too few for a fold their share of one.
            let share = if fold.is_whole {
                1.0
            } else {
                real(fold.generations as u64) / real(fold_every as u64)
            };
            requests += fold.requests_for_logs() + fold.requests_for_checkpoint(disks) * share;
            bytes += fold.bytes() * share;
            folds += share;
        }
        let of_a_fold = |sum: f64| if folds > 0.0 { sum / folds } else { 0.0 };
        Self {
            requests,
            bytes,
            bytes_of_a_fold: of_a_fold(bytes),
            generations_of_a_fold: of_a_fold(real(cut.generations.len() as u64)),
        }
    }
}

/// The outage after which the first disk's logs reach their limit.
fn outage_max(recording: &Recording, cut: &Cut, assumptions: &Assumptions) -> f64 {
    let recorded = assumptions.interval.as_secs_f64() * cut.length;
    let limit = f64::from(assumptions.resync_threshold_percent) / 100.0;
    let seconds = recording.disks.iter().enumerate().map(|(disk, size)| {
        let logs = cut
            .generations
            .iter()
            .flat_map(|generation| &generation.logs);
        let logged = total(logs.filter(|log| log.disk == disk).map(|log| log.logged));
        if logged.is_zero() {
            return f64::INFINITY;
        }
        real(size.get()) * limit / real(logged.get()) * recorded
    });
    seconds.fold(f64::INFINITY, f64::min)
}
