//! The second phase: no more faults, everybody does what is right, and all must converge.

use afterimage_replication::{Request, Role, State};

use super::World;
use super::process::waits;
use crate::operator::Operation;
use crate::oracle::{self, difference};
use crate::site::{Side, Site};
use crate::third::Third;
use crate::violation::{Broken, Invariant, ensure};

/// Rounds after which nothing that could converge has not.
const ROUNDS: usize = 4_000;
/// What is done at a site in one round at most.
const WORK_MAX: usize = 5_000;

impl World {
    /// Lets the faults stop, and the world come to rest.
    pub(crate) fn settle(&mut self) -> Result<(), Broken> {
        self.hub.trace(|| "the faults stop".into());
        let moves = if self.hub.chance(250) { 2 } else { 0 };
        self.hub.calm();
        for site in &self.sites {
            site.disks.iter().for_each(|disk| disk.heal());
        }
        self.come_to_rest()?;
        (0..moves).try_for_each(|_| self.move_over())?;
        if self.hub.chance(300) {
            self.take_over()?;
        }
        Ok(())
    }

    pub(super) fn come_to_rest(&mut self) -> Result<(), Broken> {
        for _ in 0..ROUNDS {
            self.deliver_late();
            self.look()?;
            for number in 0..self.sites.len() {
                self.put_right(number)?;
                self.do_all(number)?;
            }
            self.settle_third()?;
            if self.is_at_rest() {
                return self.check_converged();
            }
            self.wait();
            self.look()?;
        }
        Err(Broken::new(Invariant::Converges, self.describe()))
    }

    /// The machine goes over to the other site by a planned failover, and replicates back from there.
    fn move_over(&mut self) -> Result<(), Broken> {
        let (from, to) = (self.oracle.entitled, 1 - self.oracle.entitled);
        for _ in 0..5 {
            self.write()?;
        }
        if !self.stop(from)? {
            // The last writes were more than the logs may hold.
            self.come_to_rest()?;
            let complete = self.stop(from)?;
            ensure(complete, Invariant::Converges, || {
                format!("a stop is not complete: {}", self.describe())
            })?;
        }
        if self.hub.chance(300) {
            self.fail_back_too_soon(to)?;
        }
        if let Side::Standby(_) = self.sites[to].saved.side {
            self.operate(to, Operation::Pull);
            self.do_all(to)?;
        }
        self.operate(
            to,
            match self.sites[to].saved.side {
                Side::Standby(standby) => Operation::FailBack(standby),
                _ => Operation::PlannedFailover,
            },
        );
        self.do_all(to)?;
        let over = matches!(self.sites[to].saved.side, Side::FailedOver(_));
        ensure(over, Invariant::Converges, || {
            format!("no planned failover: {}", self.describe())
        })?;
        self.come_to_rest()?;
        ensure(self.oracle.entitled == to, Invariant::Converges, || {
            format!("the failover is not committed: {}", self.describe())
        })
    }

    /// A pull is cut short, and what it left is failed back to: that is refused.
    fn fail_back_too_soon(&mut self, to: usize) -> Result<(), Broken> {
        if !matches!(self.sites[to].saved.side, Side::Standby(_)) {
            return Ok(());
        }
        self.operate(to, Operation::Pull);
        self.work(to)?;
        self.abandon(to);
        if let Side::Standby(standby) = self.sites[to].saved.side {
            self.operate(to, Operation::FailBack(standby));
            self.do_all(to)?;
        }
        Ok(())
    }

    /// Stops the machine of a site; whether the replica holds all of it.
    fn stop(&mut self, number: usize) -> Result<bool, Broken> {
        self.request(number, Request::Stop);
        for _ in 0..100 {
            self.do_all(number)?;
            if self.sites[number].process.is_none() {
                break;
            }
            self.wait();
        }
        self.check_stopped()?;
        Ok(matches!(
            self.oracle.role(),
            Role::PreparedForFailover { .. }
        ))
    }

    fn do_all(&mut self, number: usize) -> Result<(), Broken> {
        for _ in 0..WORK_MAX {
            let site = &self.sites[number];
            let pending = site
                .process
                .as_ref()
                .map_or(0, |process| process.pending.len());
            if pending == 0 && site.operation.is_none() {
                break;
            }
            self.work(number)?;
            self.look()?;
        }
        Ok(())
    }

    /// What an owner and an operator in their right mind would do.
    fn put_right(&mut self, number: usize) -> Result<(), Broken> {
        let entitled = self.oracle.entitled == number;
        let site = &mut self.sites[number];
        if site.saved.side == Side::Primary && !entitled {
            site.process = None;
        }
        if site.operation.is_none()
            && let Some(operation) = self.right_operation(number)
        {
            self.operate(number, operation);
        }
        if self.sites[number].saved.side == Side::Primary && entitled {
            self.start(number)?;
            self.help(number);
        }
        Ok(())
    }

    fn right_operation(&self, number: usize) -> Option<Operation> {
        let site = &self.sites[number];
        let open = |side: Side| match side {
            Side::FailedOver(failover) => failover.committed.is_none(),
            _ => false,
        };
        let runs = |side: Side| matches!(side, Side::Primary | Side::FailedOver(_));
        match site.saved.side {
            Side::FailedOver(failover) => Some(match failover.committed {
                Some(committed) => Operation::Reverse(committed),
                None => Operation::Commit(failover.fence),
            }),
            Side::Primary if self.oracle.entitled != number => {
                Some(Operation::Follow(site.saved.machine.epoch()))
            }
            Side::Nothing | Side::Standby(_) | Side::Primary => {
                let any = |is: fn(Side) -> bool| self.sites.iter().any(|site| is(site.saved.side));
                match self.oracle.role() {
                    role if waits(role) => (!any(open)).then_some(Operation::Cancel(None)),
                    Role::FailedOver { .. } => None,
                    // Both sides were given up for each other: what is left is the replica.
                    _ => (!any(runs)).then_some(Operation::UnplannedFailover(0)),
                }
            }
        }
    }

    /// Asks a machine for what it waits for.
    fn help(&mut self, number: usize) {
        let Some(process) = &mut self.sites[number].process else {
            return;
        };
        let allowed = process.machine.allowed();
        let waits = process.machine.state() == State::WaitingForStartResynchronize;
        let request = if allowed.contains(&Request::Enable) {
            Request::Enable
        } else if allowed.contains(&Request::Resume) {
            Request::Resume
        } else if waits && allowed.contains(&Request::Resync) {
            Request::Resync
        } else {
            return;
        };
        self.request(number, request);
    }

    fn request(&mut self, number: usize, request: Request) {
        let Some(process) = &mut self.sites[number].process else {
            return;
        };
        process.stopped |= request == Request::Stop;
        if let Ok(actions) = process.machine.request(request, self.now) {
            self.carry_out(number, actions);
        }
    }

    /// Whether the primary thinks that the replica holds everything, and nobody is at anything.
    fn is_at_rest(&self) -> bool {
        let site = &self.sites[self.oracle.entitled];
        let Some(process) = &site.process else {
            return false;
        };
        let machine = &process.machine;
        let manifest = self.oracle.manifest.as_ref();
        let last = manifest.and_then(afterimage_store::Manifest::last);
        site.saved.side == Side::Primary
            && self.sites.iter().all(|site| site.operation.is_none())
            && !waits(self.oracle.role())
            && process.pending.is_empty()
            && !process.stopped
            && !process.still
            && machine.state() == State::Replicating
            && machine.unshipped().next().is_none()
            && process.tracker.is_untouched()
            && last.is_some()
            && self.oracle.newest_point() == last
            && self.third_is_at_rest()
    }

    fn check_converged(&mut self) -> Result<(), Broken> {
        let Some(last) = self.oracle.newest_point() else {
            return Ok(());
        };
        let newest = self.contents(last)?;
        let site = &self.sites[self.oracle.entitled];
        ensure(site.holds(&newest), Invariant::Converges, || {
            let disks = site.images();
            format!("all is shipped, and yet {}", difference(&disks, &newest))
        })?;
        oracle::check_bounded(site, &self.hub)?;
        self.check_third_converged(&newest)
    }

    /// Everything that tells why the world does not come to rest.
    fn describe(&self) -> String {
        let site = |(number, site): (usize, &Site)| {
            let process = site.process.as_ref().map(|process| {
                let machine = &process.machine;
                let (pending, still) = (process.pending.len(), process.still);
                let problem = machine.problem();
                format!(
                    "{} with {pending} pending, still {still}, problem {problem:?}",
                    machine.state()
                )
            });
            format!("site {number} is {:?}, {process:?}", site.saved.side)
        };
        let sites: Vec<_> = self.sites.iter().enumerate().map(site).collect();
        let third = self.third.as_ref().map(Third::newest_point);
        format!(
            "nothing more happens; the replica is {:?} at {:?}; {}; the third site is at {third:?}",
            self.oracle.role(),
            self.oracle.newest_point(),
            sites.join("; ")
        )
    }
}
