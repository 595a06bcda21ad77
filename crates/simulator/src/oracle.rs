//! An observer who sees the whole world, and checks what must hold.

use std::collections::BTreeMap;
use std::rc::Rc;

use afterimage_block::{BlockRead, Extent, ExtentSet, Sequence};
use afterimage_changelog::SealedLog;
use afterimage_replication::{FailoverKind, Machine, Role, Scope};
use afterimage_retry::Time;
use afterimage_store::{Consistency, Manifest};

use crate::coverage::Mark;
use crate::disk::{SECTOR, differing};
use crate::hub::Hub;
use crate::plant::Plant;
use crate::site::{Process, Record, Side, Site};
use crate::tracking::{Images, extent, log_path};
use crate::transfer::parse_state;
use crate::violation::{Broken, Invariant, ensure};

/// What the observer remembers.
#[derive(Default)]
pub(crate) struct Oracle {
    pub(crate) manifest: Option<Manifest>,
    /// What the recovery points hold.
    pub(crate) points: BTreeMap<Sequence, Rc<Images>>,
    /// The site whose disks are the truth.
    pub(crate) entitled: usize,
    /// Whether a primary was ever stopped, and all was shipped.
    pub(crate) stopped: bool,
}

impl Oracle {
    /// What the replica is at present.
    pub(crate) fn role(&self) -> Role {
        self.manifest.as_ref().map(role_of).unwrap_or_default()
    }

    pub(crate) fn newest_point(&self) -> Option<Sequence> {
        Some(self.manifest.as_ref()?.points.last()?.sequence)
    }

    /// Site `by` replaced the manifest by `next`; the points that are new, to be read.
    pub(crate) fn replaced(
        &mut self,
        next: Manifest,
        by: usize,
        sites: &[Site],
    ) -> Result<Vec<Sequence>, Broken> {
        let before = self.manifest.replace(next);
        let Some(next) = &self.manifest else {
            return Ok(Vec::new());
        };
        let last_before = before.as_ref().and_then(Manifest::last);
        if let Some(before) = &before {
            check_monotone(before, next)?;
            check_kept(before, next)?;
            let grew = next.last() != before.last();
            let held = fails_over(before);
            ensure(!(grew && held), Invariant::OnePrimary, || {
                let (role, last) = (role_of(before), next.last());
                format!("site {by} published {last:?} while the replica is {role:?}")
            })?;
        }
        if let (false, Some(point)) = (before.as_ref().is_some_and(fails_over), planned(next)) {
            self.check_planned(point, &sites[self.entitled])?;
        }
        let grew = next.last() > last_before;
        ensure(!grew || by == self.entitled, Invariant::OnePrimary, || {
            format!(
                "site {by} published {:?}, and site {} is the primary",
                next.last(),
                self.entitled
            )
        })?;
        let kept: Vec<_> = next.points.iter().map(|point| point.sequence).collect();
        self.points.retain(|sequence, _| kept.contains(sequence));
        for point in &next.points {
            let new = !self.points.contains_key(&point.sequence);
            let still = sites[by].record.still.contains(&point.sequence);
            let application = point.consistency == Consistency::Application;
            ensure(
                !(new && application && !still),
                Invariant::PointsAreBarriers,
                || {
                    format!(
                        "the guest wrote at application-consistent point {}",
                        point.sequence
                    )
                },
            )?;
        }
        let new = kept.into_iter();
        Ok(new
            .filter(|sequence| !self.points.contains_key(sequence))
            .collect())
    }

    /// A planned failover to `point` loses nothing of what site `primary` has acknowledged.
    fn check_planned(&self, point: Sequence, primary: &Site) -> Result<(), Broken> {
        let machine = match &primary.process {
            Some(process) => &process.machine,
            None => &primary.saved.machine,
        };
        // What somebody else changed on a disk was not acknowledged to the guest.
        let untouched = !primary.saved.changed && machine.doubt().iter().all(Scope::is_nothing);
        let (Some(images), true) = (self.points.get(&point), untouched) else {
            return Ok(());
        };
        ensure(
            primary.holds(images),
            Invariant::PlannedLosesNothing,
            || {
                let lost = difference(&primary.images(), images);
                format!("a planned failover to point {point}, and yet {lost}")
            },
        )
    }

    /// Point `sequence`, published by site `by`, reads back as `images`.
    pub(crate) fn check_point(
        &mut self,
        sequence: Sequence,
        images: &Images,
        record: &mut Record,
    ) -> Result<(), Broken> {
        let barrier = record.barriers.get(&sequence).cloned();
        let barrier = barrier.ok_or_else(|| {
            let message = format!("recovery point {sequence} is of no barrier");
            Broken::new(Invariant::PointsAreBarriers, message)
        })?;
        ensure(*barrier == *images, Invariant::PointsAreBarriers, || {
            format!(
                "recovery point {sequence} is not its barrier: {}",
                difference(&barrier, images)
            )
        })?;
        self.points.insert(sequence, barrier);
        record.barriers.retain(|other, _| *other >= sequence);
        Ok(())
    }

    /// No two sites are primaries that the replica would admit.
    pub(crate) fn check_one_primary(&self, sites: &[Site]) -> Result<(), Broken> {
        let Some(manifest) = &self.manifest else {
            return Ok(());
        };
        let state = parse_state(&manifest.state).unwrap_or_default();
        let admitted = |site: &&Site| {
            site.saved.side == Side::Primary && state.admits(site.saved.machine.epoch()).is_ok()
        };
        let count = sites.iter().filter(admitted).count();
        ensure(count < 2, Invariant::OnePrimary, || {
            format!("both sites are primaries that can ship: {state:?}")
        })
    }
}

fn role_of(manifest: &Manifest) -> Role {
    parse_state(&manifest.state).unwrap_or_default().role
}

pub(crate) fn fails_over(manifest: &Manifest) -> bool {
    matches!(
        role_of(manifest),
        Role::FailedOverWaitingCompletion { .. } | Role::FailedOver { .. }
    )
}

/// The point of the planned failover that the replica is in.
fn planned(manifest: &Manifest) -> Option<Sequence> {
    match role_of(manifest) {
        Role::FailedOverWaitingCompletion {
            kind: FailoverKind::Planned,
            point,
        } => Some(point),
        _ => None,
    }
}

pub(crate) fn check_monotone(before: &Manifest, next: &Manifest) -> Result<(), Broken> {
    ensure(
        next.fence.epoch >= before.fence.epoch,
        Invariant::Monotone,
        || format!("from {:?} to {:?}", before.fence, next.fence),
    )?;
    ensure(next.last() >= before.last(), Invariant::Monotone, || {
        format!("from {:?} back to {:?}", before.last(), next.last())
    })
}

/// Points are dropped from the oldest end only, and never the last one.
pub(crate) fn check_kept(before: &Manifest, next: &Manifest) -> Result<(), Broken> {
    let kept = next
        .points
        .iter()
        .filter(|point| before.points.contains(point));
    let kept: Vec<_> = kept.collect();
    let newest: Vec<_> = before.points.iter().rev().take(kept.len()).rev().collect();
    ensure(kept == newest, Invariant::PointsAreImmutable, || {
        format!("the points {:?} became {:?}", before.points, next.points)
    })?;
    let emptied = next.points.is_empty() && !before.points.is_empty();
    ensure(!emptied, Invariant::PointsAreImmutable, || {
        "the last point was dropped".into()
    })
}

/// Where two states of the disks differ first.
pub(crate) fn difference(one: &Images, other: &Images) -> String {
    for (disk, (one, other)) in one.iter().zip(other).enumerate() {
        let differing = differing(one, other);
        if let Some(first) = differing.first() {
            let count = differing.len();
            return format!("{count} sectors of disk {disk} differ, the first is {first}");
        }
    }
    "they are equal".into()
}

/// What of each disk `machine` knows may differ from the replica.
fn known(machine: &Machine, site: &Site) -> Vec<ExtentSet> {
    let saved = serde_json::to_value(machine).unwrap_or_default();
    let scopes = saved.pointer("/phase/Resyncing/scopes").cloned();
    let scopes: Vec<Scope> = scopes
        .and_then(|scopes| serde_json::from_value(scopes).ok())
        .unwrap_or_default();
    let mut known = Vec::new();
    for (number, disk) in site.disks.iter().enumerate() {
        let size = disk.size();
        let mut of_disk = ExtentSet::new();
        for scope in machine
            .doubt()
            .get(number)
            .into_iter()
            .chain(scopes.get(number))
        {
            of_disk.union_with(&scope.extents(size));
        }
        for sequence in machine.unshipped() {
            let log = SealedLog::open(&log_path(&site.folders[number], sequence));
            match log.and_then(|log| log.extents()) {
                Ok(extents) => extents
                    .into_iter()
                    .for_each(|extent| of_disk.insert(extent)),
                // It is unreadable, which puts everything in doubt when it is to be shipped.
                Err(_) => of_disk.extend(Extent::whole(size)),
            }
        }
        known.push(of_disk);
    }
    known
}

/// Where the disks of `site` differ from the newest state of the replica, `machine` knows it.
pub(crate) fn check_tracked(
    site: &Site,
    machine: &Machine,
    newest: &Images,
    hub: &Hub,
) -> Result<(), Broken> {
    let disks = site.disks.iter().zip(newest);
    let differing: Vec<_> = disks
        .map(|(disk, replica)| disk.differing(replica))
        .collect();
    if differing.iter().all(Vec::is_empty) {
        return Ok(());
    }
    let known = known(machine, site);
    for (number, sectors) in differing.into_iter().enumerate() {
        for sector in sectors {
            let found = extent(sector * SECTOR, SECTOR);
            let is_known = found.is_some_and(|extent| known[number].contains(extent));
            hub.trace(|| format!("sector {sector} of disk {number} differs, known: {is_known}"));
            ensure(is_known, Invariant::ChangesAreTracked, || {
                format!(
                    "sector {sector} of disk {number} differs from the replica, and nothing knows it"
                )
            })?;
        }
    }
    Ok(())
}

/// What the machine says of its recovery point objective covers no write that the replica lacks.
pub(crate) fn check_rpo(
    oracle: &Oracle,
    process: &Process,
    record: &Record,
    now: Time,
) -> Result<(), Broken> {
    let Some(rpo) = process.machine.rpo(now) else {
        return Ok(());
    };
    let count = oracle
        .newest_point()
        .and_then(|point| record.counts.get(&point));
    let Some(lacking) = count.and_then(|count| record.acknowledged.get(*count)) else {
        return Ok(());
    };
    let covered = Time::new(now.since_origin().saturating_sub(rpo));
    ensure(covered <= *lacking, Invariant::RpoIsHonest, || {
        format!("it says {rpo:?} at {now}, and the write of {lacking} is at no point")
    })
}

/// The logs that a converged site still keeps are few.
pub(crate) fn check_bounded(site: &Site, hub: &Hub) -> Result<(), Broken> {
    for folder in &site.folders {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let count = entries.count();
        ensure(count <= 8, Invariant::Bounded, || {
            format!("{count} files are left in {}", folder.display())
        })?;
    }
    hub.trace(|| "the folders are tidy".into());
    Ok(())
}

/// What a task's failure to read a log says.
pub(crate) fn check_unreadable(record: &Record, sequence: Option<Sequence>) -> Result<(), Broken> {
    let damaged = sequence.is_some_and(|sequence| record.damaged.contains(&sequence));
    ensure(damaged, Invariant::NothingIsLost, || {
        format!("log {sequence:?} cannot be read, and nothing damaged it")
    })
}

/// Marks that point `sequence` was published.
pub(crate) fn mark_point(hub: &Hub, manifest: &Manifest, sequence: Sequence) {
    let mut points = manifest.points.iter();
    let found = points.find(|point| point.sequence == sequence);
    hub.mark(match found.map(|point| point.consistency) {
        Some(Consistency::Application) => Mark::ApplicationPoint,
        _ => Mark::Point,
    });
}

/// Whether a log of the replica is to be deleted before its time.
pub(crate) fn swept_too_much(hub: &Hub) -> bool {
    hub.is_planted(Plant::SweptTooMuch) && hub.chance(50)
}
