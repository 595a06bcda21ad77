//! What it costs.

use crate::Plan;

/// What a store's provider asks, in any one currency.
///
/// The default is the public list of Amazon S3 Standard in US East (N. Virginia) in US dollars, as known in
/// January 2025, first tier, without requests and traffic that are free of charge: an assumption to be
/// replaced by the list that holds.
#[derive(Clone, Debug)]
pub struct Prices {
    /// A million puts, parts of uploads among them.
    pub puts_million: f64,
    /// A million gets.
    pub gets_million: f64,
    /// A million deletions.
    pub deletes_million: f64,
    /// 10^12 bytes held for a month.
    pub held_tb_month: f64,
    /// 10^12 bytes sent to the store.
    pub in_tb: f64,
    /// 10^12 bytes read from the store over the internet: for a failover, not for replication.
    pub out_tb: f64,
}

impl Default for Prices {
    fn default() -> Self {
        Self {
            puts_million: 5.0,
            gets_million: 0.4,
            deletes_million: 0.0,
            held_tb_month: 23.0,
            in_tb: 0.0,
            out_tb: 90.0,
        }
    }
}

/// What some machines cost a month.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Bill {
    /// Machines that are like the one that was planned.
    pub machines: u32,
    /// For what the store is asked.
    pub requests: f64,
    /// For what it holds.
    pub held: f64,
    /// For what is sent to it.
    pub sent: f64,
    /// For a failover of all of them elsewhere than at the store, each time; not a part of the total.
    pub failover: f64,
}

impl Bill {
    /// What replication costs a month.
    pub fn total(&self) -> f64 {
        self.requests + self.held + self.sent
    }
}

const MILLION: f64 = 1e6;
const TB: f64 = 1e12;

impl Prices {
    /// What `machines` machines like that of `plan` cost.
    pub fn bill(&self, plan: &Plan, machines: u32) -> Bill {
        let of_all = |amount: f64| amount * f64::from(machines);
        let asked = &plan.requests_month;
        let requests = asked.puts * self.puts_million
            + asked.gets * self.gets_million
            + asked.deletes * self.deletes_million;
        Bill {
            machines,
            requests: of_all(requests / MILLION),
            held: of_all(plan.held / TB * self.held_tb_month),
            sent: of_all(plan.sent_month / TB * self.in_tb),
            failover: of_all(plan.restored / TB * self.out_tb),
        }
    }
}
