//! The table of what was tried and whether it held.

use std::fmt;
use std::time::Duration;

use afterimage::block::Length;

/// What came of one step.
pub struct Row {
    /// The step.
    pub step: &'static str,
    /// Bytes that the disk occupies.
    pub stored: Length,
    /// Bytes that were sent to the replica.
    pub sent: Length,
    /// How long it took.
    pub took: Duration,
    /// Whether the digests of what should be and of what is are the same.
    pub same: bool,
}

/// The steps so far.
#[derive(Default)]
pub struct Table(Vec<Row>);

impl Table {
    /// Adds a step.
    pub fn add(&mut self, row: Row) {
        self.0.push(row);
    }

    /// Whether every step held.
    pub fn all_same(&self) -> bool {
        self.0.iter().all(|row| row.same)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads = ["step", "on the disk", "sent", "time", "digest"];
        let [step, stored, sent, took, same] = heads;
        writeln!(f, "{step:<28} {stored:>12} {sent:>12} {took:>8}  {same}")?;
        for row in &self.0 {
            let (step, stored, sent) = (row.step, mib(row.stored), mib(row.sent));
            let took = format!("{:.2} s", row.took.as_secs_f64());
            let same = if row.same { "ok" } else { "DIFFERS" };
            writeln!(f, "{step:<28} {stored:>12} {sent:>12} {took:>8}  {same}")?;
        }
        Ok(())
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
fn mib(length: Length) -> String {
    format!("{:.1} MiB", length.get() as f64 / f64::from(1 << 20))
}
