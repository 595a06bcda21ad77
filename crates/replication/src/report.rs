//! What a primary tells its replica of itself, and what that tells of it once it is lost.

use std::time::Duration;

use afterimage_block::{Length, Sequence, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{Health, Positions, State, Statistics};

/// How the primary saw itself when it last wrote to the replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrimaryReport {
    /// Its state.
    pub state: State,
    /// Its health.
    pub health: Health,
    /// Bytes of logs that were still to be shipped.
    pub pending: Length,
    /// The barrier interval, in seconds.
    pub interval_secs: u64,
    /// When it wrote this.
    pub time: Timestamp,
    /// What came of its cycles; `None` where an earlier release wrote it.
    #[serde(default)]
    pub statistics: Option<Statistics>,
    /// How far its writes had come.
    #[serde(default)]
    pub positions: Option<Positions>,
    /// Where it publishes nothing, since nothing is written or sent: the seconds after which it reports again at the latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_secs: Option<u64>,
    /// How old the newest state was then that the replica could be failed over to: every write before that is
    /// in a recovery point. `None` before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpo: Option<Duration>,
}

impl PrimaryReport {
    /// For how long its primary may be silent and still be taken to be alive: two intervals, and before them
    /// for as long as it said to be idle.
    pub fn silence_max(&self) -> Duration {
        let intervals = self.interval_secs.saturating_mul(2);
        Duration::from_secs(intervals.saturating_add(self.idle_secs.unwrap_or_default()))
    }

    /// Whether its primary is alive at `now`, as far as that can be told from here.
    pub(crate) fn liveness(&self, now: Timestamp) -> Liveness {
        let since = self.time;
        if now.since(since) > self.silence_max() {
            return Liveness::Silent { since };
        }
        let nanos = u64::try_from(self.silence_max().as_nanos()).unwrap_or(u64::MAX);
        let until = Timestamp::from_nanos(since.as_nanos().saturating_add(nanos));
        match self.idle_secs {
            Some(_) => Liveness::Idle { until },
            None => Liveness::Alive { until },
        }
    }
    /// What of the primary a failover to the recovery point `point` loses, whose barrier was at `time`.
    pub(crate) fn rpo(&self, point: Sequence, time: Timestamp) -> Rpo {
        let since_barrier = self.time.since(time);
        let recoverable = self.positions.and_then(|positions| positions.recoverable);
        // Of an older point than the newest it only tells that it is older.
        let told = self.rpo.filter(|_| Some(point) >= recoverable);
        Rpo::AtLeast {
            known: told.map_or(since_barrier, |told| told.min(since_barrier)),
            reported: self.time,
        }
    }
}

/// Whether a primary is alive, as far as its replica can tell, which knows only when it last reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Liveness {
    /// It has reported just now.
    Alive {
        /// If it has not reported again by then, it will be taken for lost.
        until: Timestamp,
    },
    /// It said that it publishes nothing now, since nothing is written or sent, so that it reports seldom.
    Idle {
        /// As for one that is alive.
        until: Timestamp,
    },
    /// It should have reported again: it is lost, or cut off, or takes long over a copy. Which of them nobody knows
    /// here.
    Silent {
        /// When it last reported, by its clock.
        since: Timestamp,
    },
    /// It was stopped in order, or is fenced off.
    Stopped,
    /// It never reported.
    Unknown,
}

/// What a failover loses: the time from its recovery point to the newest state that the primary is known to
/// have had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Rpo {
    /// Nothing: the primary was stopped, and its last delta is there.
    Nothing,
    /// What the primary wrote in the time `known` before it last reported, and whatever it wrote after that,
    /// which nobody knows here.
    AtLeast {
        /// From the recovery point to the state that the primary reported.
        known: Duration,
        /// When it last reported, by its clock.
        reported: Timestamp,
    },
    /// Nobody knows: the primary never reported.
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_nanos(secs * 1_000_000_000)
    }

    fn report() -> PrimaryReport {
        PrimaryReport {
            state: State::Replicating,
            health: Health::Normal,
            pending: Length::ZERO,
            interval_secs: 30,
            time: at(1000),
            statistics: None,
            positions: None,
            idle_secs: None,
            rpo: None,
        }
    }

    fn known(report: &PrimaryReport, point: u64, time: u64) -> u64 {
        match report.rpo(Sequence::new(point), at(time)) {
            Rpo::AtLeast { known, reported } => {
                assert_eq!(reported, report.time);
                known.as_secs()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_idle_primary_is_silent_for_longer() {
        let mut report = PrimaryReport {
            idle_secs: Some(600),
            ..report()
        };
        let idle = Liveness::Idle { until: at(1660) };
        assert_eq!(report.liveness(at(1660)), idle);
        assert_eq!(report.liveness(at(999)), idle, "its clock is ahead");
        let silent = Liveness::Silent { since: at(1000) };
        assert_eq!(report.liveness(at(1661)), silent);
        report.idle_secs = None;
        assert_eq!(
            report.liveness(at(1060)),
            Liveness::Alive { until: at(1060) }
        );
        assert_eq!(report.liveness(at(1061)), silent);
    }

    #[test]
    fn what_is_lost_is_counted_up_to_what_was_reported() {
        let mut report = report();
        assert_eq!(known(&report, 7, 970), 30, "an earlier release reported it");
        report.positions = Some(Positions {
            recoverable: Some(Sequence::new(7)),
            ..Positions::default()
        });
        // Nothing was written for long after the newest point's barrier.
        report.rpo = Some(Duration::from_secs(5));
        assert_eq!(known(&report, 7, 400), 5);
        assert_eq!(known(&report, 6, 400), 600, "the newer point had more");
        // The report came with a point that it did not count yet.
        report.rpo = Some(Duration::from_secs(40));
        assert_eq!(known(&report, 8, 999), 1);
        assert_eq!(known(&report, 8, 1001), 0, "a clock that went back");
    }
}
