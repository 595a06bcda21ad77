//! What a run is like: each seed draws its own, so that some runs see what the average hides.

use std::time::Duration;

use afterimage_block::Length;
use afterimage_replication::{ApplicationConsistent, Policy, Window};
use afterimage_store::Inlining;

use crate::random::Random;

/// How often things happen in a run, in a thousand.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The sizes of the machine's disks, in sectors.
    pub(crate) sectors: Vec<usize>,
    /// The size of the regions that write intents know, in sectors.
    pub(crate) region: u32,
    pub(crate) policy: Policy,
    /// Whether the replica is replicated on to a third site.
    pub(crate) third: bool,
    /// What of the logs manifests hold.
    pub(crate) inlining: Inlining,
    /// The weights of what a step can be.
    pub(crate) weights: Weights,
    pub(crate) rates: Rates,
}

/// The weights of what a step can be.
#[derive(Clone, Debug)]
pub(crate) struct Weights {
    pub(crate) write: usize,
    pub(crate) work: usize,
    pub(crate) wait: usize,
    pub(crate) crash: usize,
    pub(crate) start: usize,
    pub(crate) ask: usize,
    pub(crate) operate: usize,
    pub(crate) weather: usize,
    pub(crate) damage: usize,
    pub(crate) third: usize,
}

/// How many of a thousand meet a fault.
#[derive(Clone, Debug)]
pub(crate) struct Rates {
    /// Requests to the store.
    pub(crate) store: u32,
    /// Writes and flushes of disks.
    pub(crate) disk: u32,
    /// Appends, seals and files of logs.
    pub(crate) log: u32,
    /// Crashes that take write intents with them.
    pub(crate) intents: u32,
    /// Crashes that are losses of power.
    pub(crate) power: u32,
    /// Recoveries that crash.
    pub(crate) recovery: u32,
    /// Writes of the guest that are aimed at few hot sectors.
    pub(crate) hot: u32,
}

impl Options {
    pub(crate) fn draw(random: &mut Random) -> Self {
        let disks = random.between(1, 2);
        let calm = random.chance(150);
        let rate = |random: &mut Random, max: usize| {
            let drawn = u32::try_from(random.below(max)).unwrap_or_default();
            if calm || random.chance(250) { 0 } else { drawn }
        };
        let third = random.chance(400);
        Self {
            sectors: (0..disks).map(|_| random.between(40, 290)).collect(),
            region: [1, 8, 16, 64][random.below(4)],
            policy: policy(random),
            third,
            inlining: inlining(random),
            weights: Weights {
                write: random.between(50, 400),
                work: random.between(300, 700),
                wait: random.between(20, 100),
                crash: random.below(15),
                start: 40,
                ask: random.between(4, 25),
                operate: random.between(5, 40),
                weather: if calm { 0 } else { random.below(20) },
                damage: if calm { 0 } else { random.below(3) },
                // At times it is slow, and lags.
                third: if third { random.between(5, 300) } else { 0 },
            },
            rates: Rates {
                store: rate(random, 60),
                disk: rate(random, 4),
                log: rate(random, 12),
                intents: rate(random, 120),
                power: u32::try_from(random.below(1000)).unwrap_or_default(),
                recovery: rate(random, 200),
                hot: rate(random, 1000),
            },
        }
    }
}

/// All logs in objects of their own, packs now and then, or nearly all in manifests.
fn inlining(random: &mut Random) -> Inlining {
    let packs = Inlining {
        log_max: Length::kib(4),
        total_max: Length::kib(8),
    };
    let few = [packs, Inlining::default()][random.below(2)];
    if random.chance(500) {
        Inlining::NONE
    } else {
        few
    }
}

/// A policy as an owner may choose it.
pub(crate) fn policy(random: &mut Random) -> Policy {
    let application = ApplicationConsistent {
        every: Duration::from_mins(1),
        quiesce_max: Duration::from_secs(10),
    };
    Policy {
        interval: Duration::from_secs([1, 5, 30][random.below(3)]),
        resync_threshold_percent: [40, 70, 100][random.below(3)],
        automatic_resync: random.chance(900),
        resync_window: random.chance(100).then(Window::default),
        recovery_points_max: u32::try_from(random.between(1, 5)).unwrap_or(1),
        application_consistent: random.chance(300).then_some(application),
        rpo_alert: Some(Duration::from_mins(if random.chance(500) { 1 } else { 15 })),
        ..Policy::default()
    }
}
