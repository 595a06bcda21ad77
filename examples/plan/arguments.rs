//! What can be asked for.

use std::path::PathBuf;
use std::time::Duration;

use afterimage_block::Length;
use afterimage_capacity::{Assumptions, Prices};
use clap::{Args, Parser};
use humantime::parse_duration;

/// Reckon from recorded change logs what replicating their machine will take, and cost a month.
///
/// All logs are of one machine. A native log says which disk it is of; Hyper-V's do not, and those in
/// one folder are taken to be of one disk.
#[derive(Parser)]
#[command(name = "plan")]
pub(super) struct Arguments {
    /// Change logs, sealed or closed, in any order.
    #[arg(required = true)]
    pub(super) logs: Vec<PathBuf>,
    /// A file with the key of an encrypted log, as for `changelog`; once for each key.
    #[arg(long = "key-file", value_name = "FILE")]
    pub(super) keys: Vec<PathBuf>,
    /// The size of the disks of Hyper-V's logs; as far as their changes go by default.
    #[arg(long)]
    pub(super) disk_size: Option<Length>,
    /// The times between two recovery points to compare, 1s to 15m.
    #[arg(long, value_delimiter = ',', default_value = "30s,1m,5m,15m", value_parser = interval)]
    pub(super) interval: Vec<Duration>,
    /// The time after which an idle machine tells its replica again that it is alive.
    #[arg(long, default_value = "10m", value_parser = heartbeat)]
    heartbeat: Duration,
    /// The numbers of machines to reckon for, each like the recorded one.
    #[arg(long, value_delimiter = ',', default_value = "1,100,10000")]
    pub(super) machines: Vec<u32>,
    /// Logs are shipped with every record, also of what is written over within an interval.
    #[arg(long)]
    no_merge: bool,
    /// How many recovery points are kept.
    #[arg(long, default_value_t = Assumptions::default().points)]
    points: u32,
    /// How many bytes a second the machine can send; without limit by default.
    #[arg(long)]
    bandwidth: Option<Length>,
    /// The time from a request to the store to its answer.
    #[arg(long, default_value = "30ms", value_parser = parse_duration)]
    round_trip: Duration,
    /// How much of the disks is stored by the first copy; all of it by default.
    #[arg(long)]
    stored: Option<Length>,
    /// For how long the store may be out of reach while the logs are kept.
    #[arg(long, default_value = "4h", value_parser = parse_duration)]
    outage: Duration,
    #[command(flatten)]
    pub(super) prices: PriceArguments,
    /// Print all figures as JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// The prices, in any one currency. By default those of Amazon S3 Standard, US East (N. Virginia), in US
/// dollars, as known in January 2025: an assumption, to be replaced by the list that holds.
#[derive(Args)]
pub(super) struct PriceArguments {
    /// A million puts.
    #[arg(long = "price-puts", value_name = "PRICE", default_value_t = Prices::default().puts_million)]
    puts: f64,
    /// A million gets.
    #[arg(long = "price-gets", value_name = "PRICE", default_value_t = Prices::default().gets_million)]
    gets: f64,
    /// A million deletions.
    #[arg(long = "price-deletes", value_name = "PRICE", default_value_t = Prices::default().deletes_million)]
    deletes: f64,
    /// A TB held for a month.
    #[arg(long = "price-held", value_name = "PRICE", default_value_t = Prices::default().held_tb_month)]
    held: f64,
    /// A TB sent to the store.
    #[arg(long = "price-in", value_name = "PRICE", default_value_t = Prices::default().in_tb)]
    into: f64,
    /// A TB read from the store over the internet, by a failover elsewhere.
    #[arg(long = "price-out", value_name = "PRICE", default_value_t = Prices::default().out_tb)]
    out: f64,
}

impl PriceArguments {
    pub(super) fn prices(&self) -> Prices {
        Prices {
            puts_million: self.puts,
            gets_million: self.gets,
            deletes_million: self.deletes,
            held_tb_month: self.held,
            in_tb: self.into,
            out_tb: self.out,
        }
    }
}

impl Arguments {
    pub(super) fn assumptions(&self, interval: Duration) -> Assumptions {
        Assumptions {
            interval,
            heartbeat: self.heartbeat,
            merged: !self.no_merge,
            points: self.points,
            bandwidth: self.bandwidth.map(Length::get),
            round_trip: self.round_trip,
            stored: self.stored,
            outage: self.outage,
            ..Assumptions::default()
        }
    }
}

fn heartbeat(text: &str) -> Result<Duration, String> {
    let heartbeat = parse_duration(text).map_err(|error| error.to_string())?;
    let range = Duration::from_secs(1)..=Duration::from_hours(24);
    if range.contains(&heartbeat) {
        return Ok(heartbeat);
    }
    Err("a heartbeat is 1s to 24h".into())
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = parse_duration(text).map_err(|error| error.to_string())?;
    let range = afterimage::Policy::INTERVAL_MIN..=afterimage::Policy::INTERVAL_MAX;
    if range.contains(&interval) {
        return Ok(interval);
    }
    Err("an interval is 1s to 15m".into())
}
