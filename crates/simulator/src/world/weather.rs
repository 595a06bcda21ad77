//! Faults that come by themselves: partitions, clocks, damage, late requests.

use std::time::Duration;

use afterimage_replication::Task;

use super::World;
use crate::coverage::Mark;
use crate::hub::{Link, SITES, THIRD};
use crate::objects::Objects;
use crate::site::{Pending, Side};
use crate::tracking::log_path;

const YEAR: i64 = 365 * 24 * 3600;

impl World {
    /// Time passes up to the next timeout of a machine, or a little.
    pub(super) fn wait(&mut self) {
        let processes = self.sites.iter().filter_map(|site| site.process.as_ref());
        let due = processes
            .filter_map(|process| process.machine.next_timeout())
            .min();
        match due {
            Some(due) => self.set_now(due),
            None => self.pass(Duration::from_secs(30)),
        }
        for number in 0..self.sites.len() {
            self.time_out(number);
        }
    }

    /// Tells the machine of `number` if its time has come.
    pub(super) fn time_out(&mut self, number: usize) {
        let Some(process) = &mut self.sites[number].process else {
            return;
        };
        if process
            .machine
            .next_timeout()
            .is_some_and(|due| due <= self.now)
        {
            let actions = process.machine.handle_timeout(self.now);
            self.carry_out(number, actions);
        }
    }

    pub(super) fn change_weather(&mut self) {
        match self.hub.below(10) {
            0..2 => {
                let site = self.hub.below(self.parties());
                let (link, mark) = if self.hub.chance(500) {
                    (Link::Down, Mark::Partition)
                } else {
                    (Link::OneWay, Mark::OneWayPartition)
                };
                self.hub.set_link(site, link);
                self.hub.mark(mark);
            }
            2..5 => (0..self.parties()).for_each(|site| self.hub.set_link(site, Link::Up)),
            5 => {
                self.hub.mark(Mark::ClockJump);
                let jumps = [-YEAR, YEAR, 3600, 0];
                self.hub.skew(jumps[self.hub.below(jumps.len())]);
                if self.hub.chance(300) {
                    self.pass(Duration::from_hours(24));
                }
            }
            _ => self.deliver_late(),
        }
    }

    /// Who is connected to a store.
    fn parties(&self) -> usize {
        SITES + usize::from(self.third.is_some())
    }

    /// A request that is late arrives.
    pub(super) fn deliver_late(&mut self) {
        if let Some(late) = self.hub.take_late() {
            let inner = match &self.third {
                Some(third) if late.party == THIRD => &third.inner,
                _ => &self.inner,
            };
            let delivered = Objects::deliver(&self.hub, inner, late);
            self.runtime.block_on(delivered);
        }
    }

    /// A sealed log is damaged where it lies, or a disk is changed while nothing tracks it.
    pub(super) fn damage(&mut self, number: usize) {
        let site = &mut self.sites[number];
        if site.saved.side != Side::Primary {
            return;
        }
        let logs: Vec<_> = match &site.process {
            // What is read twice, to be proved and to be put, is not damaged in between.
            Some(process) if !process.pending.iter().any(ships) => {
                process.machine.unshipped().collect()
            }
            _ => return,
        };
        if let Some(sequence) = logs.get(self.hub.below(logs.len())) {
            let disk = self.hub.below(site.folders.len());
            let path = log_path(&site.folders[disk], *sequence);
            if let Ok(mut bytes) = std::fs::read(&path)
                && !bytes.is_empty()
            {
                let at = self.hub.below(bytes.len());
                bytes[at] ^= 1 << self.hub.below(8);
                if std::fs::write(&path, bytes).is_ok() {
                    site.record.damaged.insert(*sequence);
                    self.hub.mark(Mark::LogDamaged);
                }
            }
        }
    }
}

fn ships(pending: &Pending) -> bool {
    matches!(pending, Pending::Transfer(Task::Ship, _))
}
