//! Two sites, a replica and an operator. The rules are the crate's own.

use std::hash::{Hash, Hasher};

use afterimage_block::{Epoch, Sequence};
use afterimage_replication::{
    DivergenceToken, FailoverKind, Grant, ReplicaRequest, ReplicaState, Role, Standby,
};

const WRITES_MAX: u8 = 2;
const EPOCHS_MAX: u64 = 7;
/// What a disk shows while it is being pulled.
const NO_STATE: u8 = u8::MAX;

/// Rules that are left out, to see that it is found.
#[derive(Clone, Copy, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each rule is left out by itself"
)]
pub(crate) struct Rules {
    pub(crate) ignore_lineage: bool,
    pub(crate) reverse_uncommitted: bool,
    pub(crate) fail_back_half_pulled: bool,
    pub(crate) serve_unclaimed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Side {
    Nothing,
    Primary,
    /// It has the disks of a failover that is not reversed yet, and had this before.
    FailedOver(Option<Standby>),
    Standby(Standby),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Site {
    side: Side,
    /// Whether its process runs, and its guest where nothing is prepared.
    runs: bool,
    /// It was stopped for a failover, and has not claimed since: durable.
    prepared: bool,
    /// The writes that its disks hold, in their order.
    disk: Vec<u8>,
    /// The epoch of its last claim, which is durable.
    known: Epoch,
    /// The epoch in which it ships, until it crashes.
    claimed: Option<Epoch>,
}

#[derive(Clone, Debug)]
pub(crate) struct World {
    sites: [Site; 2],
    epoch: Epoch,
    replica: ReplicaState,
    /// What each generation of the replica holds.
    history: Vec<Vec<u8>>,
    /// What the last committed failover made the truth.
    committed: Vec<u8>,
    /// The first generation that can only be published after that.
    truth_from: usize,
    /// Where the last failover was to.
    failed_over_at: Option<usize>,
    /// A planned failover has lost writes.
    lost_by_plan: bool,
    writes: u8,
}

impl World {
    pub(crate) fn new() -> Self {
        let site = |side| Site {
            side,
            runs: side == Side::Primary,
            prepared: false,
            disk: Vec::new(),
            known: Epoch::ZERO,
            claimed: None,
        };
        Self {
            sites: [site(Side::Primary), site(Side::Nothing)],
            epoch: Epoch::ZERO,
            replica: ReplicaState::default(),
            history: vec![Vec::new()],
            committed: Vec::new(),
            truth_from: 0,
            failed_over_at: None,
            lost_by_plan: false,
            writes: 0,
        }
    }

    fn identity(&self) -> impl Hash + Eq {
        let role = format!("{:?}", self.replica.role);
        let replica = (role, self.replica.lineage, self.epoch, self.writes);
        let truth = (
            self.history.clone(),
            self.committed.clone(),
            self.truth_from,
        );
        let truth = (truth, self.failed_over_at);
        (self.sites.clone(), replica, truth)
    }

    pub(crate) fn violation(&self, rules: Rules) -> Option<&'static str> {
        let admitted = |site: &&Site| site.side == Side::Primary && self.admits(site, rules);
        if self.sites.iter().filter(admitted).count() > 1 {
            return Some("two primaries can ship");
        }
        if self.lost_by_plan {
            return Some("a planned failover loses writes");
        }
        let mut since = self.history.iter().skip(self.truth_from);
        if !since.all(|content| content.starts_with(&self.committed)) {
            return Some("a committed failover is lost");
        }
        let no_state = |site: &Site| {
            let used = matches!(site.side, Side::FailedOver(_) | Side::Primary);
            used && site.disk.contains(&NO_STATE)
        };
        if self.sites.iter().any(no_state) {
            return Some("a disk of no state is used");
        }
        None
    }

    fn admits(&self, site: &Site, rules: Rules) -> bool {
        if rules.ignore_lineage {
            return self.replica.role.admits_primary().is_ok();
        }
        self.replica.admits(site.known).is_ok()
    }

    fn last(&self) -> Sequence {
        Sequence::new(self.history.len() as u64 - 1)
    }

    fn at(&self, point: Sequence) -> Vec<u8> {
        let index = usize::try_from(point.get()).expect("small");
        self.history[index].clone()
    }

    /// Everything that can happen next.
    pub(crate) fn steps(&self, rules: Rules) -> Vec<(&'static str, Self)> {
        let mut steps = Vec::new();
        for site in 0..2 {
            self.site_steps(site, rules, &mut steps);
            self.standby_steps(site, rules, &mut steps);
        }
        self.operator_steps(rules, &mut steps);
        steps
    }

    fn with(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut next = self.clone();
        change(&mut next);
        next
    }

    fn site_steps(&self, at: usize, rules: Rules, steps: &mut Vec<(&'static str, Self)>) {
        let site = &self.sites[at];
        let mut add = |step, next| steps.push((step, next));
        let served = site.runs && (rules.serve_unclaimed || !site.prepared);
        if served && self.writes < WRITES_MAX {
            add(
                "write",
                self.with(|w| {
                    w.writes += 1;
                    w.sites[at].disk.push(w.writes);
                }),
            );
        }
        if site.claimed.is_some() {
            add("crash", self.with(|w| w.sites[at].claimed = None));
        }
        if site.side != Side::Primary {
            return;
        }
        if !site.runs {
            add(
                "start",
                self.with(|w| {
                    w.sites[at].runs = true;
                    w.sites[at].claimed = None;
                }),
            );
        }
        if !self.admits(site, rules) {
            if site.runs && self.replica.role.admits_primary().is_ok() {
                add("refused: another history", self.clone());
            }
        } else if site.runs && site.claimed.is_none() && self.epoch.get() < EPOCHS_MAX {
            let claimed = |w: &mut Self| {
                w.epoch = w.epoch.next();
                w.replica.role = Role::Replica;
            };
            add("claim, answer lost", self.with(claimed));
            add(
                "claim",
                self.with(|w| {
                    claimed(w);
                    w.sites[at].known = w.epoch;
                    w.sites[at].claimed = Some(w.epoch);
                    w.sites[at].prepared = false;
                }),
            );
        }
        // What compare-and-swap lets through.
        if site.claimed == Some(self.epoch) {
            if self.history.last() != Some(&site.disk) {
                add(
                    "ship",
                    self.with(|w| {
                        w.history.push(site.disk.clone());
                        w.replica.lineage = w.epoch;
                    }),
                );
            } else if site.runs {
                add(
                    "stop",
                    self.with(|w| {
                        w.sites[at].runs = false;
                        w.sites[at].prepared = true;
                        w.sites[at].claimed = None;
                        w.replica.lineage = w.epoch;
                        w.replica.role = Role::PreparedForFailover { through: w.last() };
                    }),
                );
            }
        }
    }

    fn standby_steps(&self, at: usize, rules: Rules, steps: &mut Vec<(&'static str, Self)>) {
        let site = &self.sites[at];
        if site.side == Side::Primary {
            let token = DivergenceToken { losing: site.known };
            assert!(Standby::follow(&self.replica, site.known, None).is_err());
            if let Ok(standby) = Standby::follow(&self.replica, site.known, Some(token)) {
                let next = self.with(|w| {
                    w.sites[at].side = Side::Standby(standby);
                    w.sites[at].runs = false;
                    w.sites[at].claimed = None;
                });
                steps.push(("follow", next));
            }
        }
        let Side::Standby(standby) = site.side else {
            return;
        };
        if site.disk.contains(&NO_STATE) {
            let next = self.with(|w| {
                let mut standby = standby;
                standby.pulled(w.last());
                w.sites[at].disk = w.at(w.last());
                w.sites[at].side = Side::Standby(standby);
            });
            steps.push(("pulled", next));
        } else {
            let next = self.with(|w| {
                let mut standby = standby;
                standby.pulling();
                w.sites[at].disk = vec![NO_STATE];
                w.sites[at].side = Side::Standby(standby);
            });
            steps.push(("pull", next));
        }
        let ready = standby.fail_back(&self.replica).ok();
        let ready = ready.or(match self.replica.role {
            Role::PreparedForFailover { through } if rules.fail_back_half_pulled => Some(through),
            _ => None,
        });
        if let Some(point) = ready {
            let request = ReplicaRequest::PlannedFailover { point };
            if let Some(next) = self.failed_over(at, request, false) {
                let right = next.sites[at].disk == next.at(point);
                assert!(right || rules.fail_back_half_pulled, "{next:?}");
                steps.push(("failback", next));
            }
        }
    }

    fn failed_over(&self, at: usize, request: ReplicaRequest, images: bool) -> Option<Self> {
        let role = self.replica.role.request(request).ok()?;
        if self.epoch.get() >= EPOCHS_MAX || role == self.replica.role {
            return None;
        }
        let Role::FailedOverWaitingCompletion { kind, point } = role else {
            return None;
        };
        let primary =
            |site: &&Site| site.side == Side::Primary && self.replica.admits(site.known).is_ok();
        let planned = kind == FailoverKind::Planned;
        let primary = self.sites.iter().find(primary).filter(|_| planned);
        let loses = primary.is_some_and(|site| site.disk != self.at(point));
        Some(self.with(|w| {
            w.lost_by_plan |= loses;
            w.epoch = w.epoch.next();
            w.replica.role = role;
            let before = match w.sites[at].side {
                Side::Standby(standby) => Some(standby),
                _ => None,
            };
            if images {
                w.sites[at].disk = w.at(point);
            }
            w.sites[at].side = Side::FailedOver(before);
            w.sites[at].prepared = false;
            w.failed_over_at = Some(at);
        }))
    }

    fn operator_steps(&self, rules: Rules, steps: &mut Vec<(&'static str, Self)>) {
        let last = self.last();
        let older = Sequence::new(last.get().saturating_sub(1));
        for at in 0..2 {
            if !matches!(self.sites[at].side, Side::Nothing | Side::Standby(_)) {
                continue;
            }
            let planned = ReplicaRequest::PlannedFailover { point: last };
            let next = self.failed_over(at, planned, true);
            steps.extend(next.map(|next| ("planned failover", next)));
            for point in [last, older] {
                let unplanned = ReplicaRequest::UnplannedFailover { point };
                let next = self.failed_over(at, unplanned, true);
                steps.extend(next.map(|next| ("unplanned failover", next)));
            }
        }
        if self.epoch.get() < EPOCHS_MAX {
            steps.extend(self.committed().map(|next| ("commit", next)));
            steps.extend(self.cancelled().map(|next| ("cancel", next)));
        }
        self.reversals(rules, steps);
    }

    fn committed(&self) -> Option<Self> {
        let role = self.replica.role.request(ReplicaRequest::Commit).ok()?;
        let Role::FailedOver { point } = role else {
            return None;
        };
        Some(self.with(|w| {
            w.epoch = w.epoch.next();
            w.replica.role = role;
            w.committed = w.at(point);
            w.truth_from = w.history.len();
            if let Some(at) = w.failed_over_at {
                w.sites[at].runs = true;
                w.sites[at].known = w.epoch;
            }
        }))
    }

    fn cancelled(&self) -> Option<Self> {
        let role = self.replica.role.request(ReplicaRequest::Cancel).ok()?;
        Some(self.with(|w| {
            w.epoch = w.epoch.next();
            w.replica.role = role;
            if let Some(at) = w.failed_over_at.take() {
                let site = &mut w.sites[at];
                if let Side::FailedOver(before) = site.side {
                    site.runs = false;
                    site.side = before.map_or(Side::Nothing, |mut standby| {
                        standby.pulling();
                        site.disk = vec![NO_STATE];
                        Side::Standby(standby)
                    });
                }
            }
        }))
    }

    /// The operator asks for it at the site that was failed over, and at any other time at one that
    /// is not the primary.
    fn reversals(&self, rules: Rules, steps: &mut Vec<(&'static str, Self)>) {
        for at in 0..2 {
            let committed = matches!(
                self.replica.role,
                Role::FailedOver { .. } | Role::Reversed { .. }
            );
            match self.sites[at].side {
                Side::FailedOver(_) => {}
                Side::Nothing if !committed => {}
                _ => continue,
            }
            let mut replica = self.replica.clone();
            let known = self.sites[at].known;
            let grant = match replica.reverse(known, self.epoch, self.last()) {
                Err(_) if rules.reverse_uncommitted => Ok(Grant {
                    lineage: self.epoch,
                    last: self.last(),
                }),
                granted => granted,
            };
            let Ok(grant) = grant else { continue };
            let recorded = self.with(|w| w.replica = replica.clone());
            let next = recorded.with(|w| {
                w.sites[at].side = Side::Primary;
                w.sites[at].runs = true;
                w.sites[at].known = grant.lineage;
            });
            steps.push(("reverse", next));
            // The answer is lost, and it is asked for again.
            let mut asked = recorded.replica.clone();
            let again = asked.reverse(known, recorded.epoch, recorded.last());
            if again == Ok(grant) {
                steps.push(("reverse again", recorded));
            }
        }
    }
}

impl PartialEq for World {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for World {}

impl Hash for World {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}
