//! The tables of `README.md` are what is reckoned of the machines that it describes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write;
use std::time::Duration;

use afterimage_block::{Change, Length, Offset, Timestamp};
use afterimage_capacity::{Assumptions, MONTH, Plan, Prices, Recording};

const README: &str = include_str!("../README.md");
const SIZE: Length = Length::gib(20);
const INTERVALS: [Duration; 3] = [
    Duration::from_secs(30),
    Duration::from_mins(1),
    Duration::from_mins(5),
];

/// A recording of one disk.
struct Recorder {
    recording: Recording,
    disk: usize,
    zeros: Vec<u8>,
}

impl Recorder {
    fn new() -> Self {
        let mut recording = Recording::new();
        let disk = recording.add_disk(SIZE);
        let zeros = vec![0; 1 << 20];
        Self {
            recording,
            disk,
            zeros,
        }
    }

    fn write(&mut self, second: f64, at: u64, length: usize) {
        let time = Duration::from_secs_f64(second).as_nanos();
        let change = Change::Write {
            offset: Offset::new(at),
            data: &self.zeros[..length],
        };
        let time = Timestamp::from_nanos(u64::try_from(time).unwrap());
        self.recording.record(self.disk, time, &change);
    }

    /// Write number `number` to a journal of `length` bytes, which begins anew where it ends.
    fn journal(&mut self, second: f64, number: u64, written: usize, length: u64) {
        let places = length / written as u64;
        let at = (4 << 30) + number % places * written as u64;
        self.write(second, at, written);
    }
}

/// Random numbers, the same each time (SplitMix64).
struct Random(u64);

impl Random {
    /// From 0 to 1.
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        f64::from(u32::try_from((mixed ^ (mixed >> 31)) >> 32).unwrap()) / f64::from(u32::MAX)
    }
}

/// Places of which the first is taken most often: how often falls with the power `by` of its number.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(places: u32, by: f64) -> Self {
        let mut sum = 0.0;
        let sums = (1..=places).map(|place| {
            sum += f64::from(place).powf(-by);
            sum
        });
        Self(sums.collect())
    }

    fn place(&self, random: &mut Random) -> u64 {
        let wanted = random.unit() * self.0.last().unwrap();
        let place = self.0.partition_point(|sum| *sum < wanted);
        place.min(self.0.len() - 1) as u64
    }
}

fn database() -> Recording {
    let mut recorder = Recorder::new();
    let (mut random, zipf) = (Random(1), Zipf::new(3 << 17, 1.1));
    for write in 0..60 * 60 * 25_u32 {
        let second = f64::from(write) / 25.0;
        // Places that are taken often do not lie together.
        let at = zipf.place(&mut random) * 100_003 % (3 << 17);
        recorder.write(second, at * 8192, 8192);
        recorder.journal(second, write.into(), 8192, 64 << 20);
    }
    recorder.recording
}

fn web_server() -> Recording {
    let mut recorder = Recorder::new();
    for second in 0..=60 * 60_u32 {
        recorder.journal(second.into(), second.into(), 20 << 10, 16 << 20);
    }
    recorder.recording
}

fn quiet() -> Recording {
    let mut recorder = Recorder::new();
    for second in (0..=2 * 60 * 60_u32).step_by(30) {
        recorder.journal(second.into(), 0, 4096, 1 << 20);
    }
    recorder.recording
}

fn idle() -> Recording {
    let mut recorder = Recorder::new();
    for second in [0, 24 * 60 * 60_u32] {
        recorder.journal(second.into(), 0, 4096, 1 << 20);
    }
    recorder.recording
}

/// With the unit that leaves few digits.
fn scaled(amount: f64, units: [&str; 4]) -> String {
    let (mut amount, mut units) = (amount, units.into_iter());
    let mut unit = units.next().unwrap();
    for larger in units {
        if amount >= 1000.0 {
            (amount, unit) = (amount / 1000.0, larger);
        }
    }
    let digits = usize::from(amount < 10.0 && amount.fract() > 0.0);
    format!("{amount:.digits$} {unit}").trim_end().to_owned()
}

fn bytes(amount: f64) -> String {
    scaled(amount, ["B", "kB", "MB", "GB"])
}

fn count(amount: f64) -> String {
    scaled(amount, ["", "k", "M", "G"])
}

fn money(amount: f64) -> String {
    let digits = if amount < 10.0 { 2 } else { 0 };
    format!("{amount:.digits$}")
}

type Row = (&'static str, fn(&Plan) -> String);

/// The table of a machine, as the README has it.
fn table(recording: &Recording) -> String {
    let plans = INTERVALS.map(|interval| {
        let assumptions = Assumptions {
            interval,
            stored: Some(Length::gib(1)),
            ..Assumptions::default()
        };
        Plan::of(recording, &assumptions)
    });
    let rows: [Row; 9] = [
        ("newest point's age, at worst", |plan| {
            format!("{:.1} s", plan.rpo_secs.max)
        }),
        ("logged, sent in an interval, mean", |plan| {
            format!("{}, {}", bytes(plan.logged.mean), bytes(plan.shipped.mean))
        }),
        ("log space, after 4 h without the store", |plan| {
            bytes(plan.log_bytes_after_outage)
        }),
        ("puts, gets a month", |plan| {
            let asked = plan.requests_month;
            format!("{}, {}", count(asked.puts), count(asked.gets))
        }),
        ("held by the store", |plan| bytes(plan.held)),
        ("sent a second by one machine, folds included", |plan| {
            bytes(plan.sent_month / MONTH.as_secs_f64())
        }),
        ("**1 machine**", |plan| bill(plan, 1)),
        ("**100 machines**", |plan| bill(plan, 100)),
        ("**10 000 machines**", |plan| bill(plan, 10_000)),
    ];
    let mut table = String::new();
    for (name, of) in rows {
        let [one, two, three] = &plans;
        let cells = [one, two, three].map(of).join(" | ");
        writeln!(table, "| {name} | {cells} |").unwrap();
    }
    table
}

fn bill(plan: &Plan, machines: u32) -> String {
    money(Prices::default().bill(plan, machines).total())
}

#[test]
fn the_readme_has_the_tables_of_both_servers() {
    for (name, recording) in [("database", database()), ("web", web_server())] {
        let table = table(&recording);
        assert!(README.contains(&table), "{name}:\n{table}");
    }
}

#[test]
fn the_readme_says_what_quiet_and_idle_machines_cost() {
    for (name, recording) in [("quiet", quiet()), ("idle", idle())] {
        let plan = Plan::of(&recording, &Assumptions::default());
        let asked = plan.requests_month;
        let requests = Prices::default().bill(&plan, 1).requests;
        let row = format!(
            "| {name} | {}, {} | {requests:.2} | {} |",
            count(asked.puts),
            count(asked.gets),
            money(requests * 10_000.0)
        );
        assert!(README.contains(&row), "{row}");
    }
}
