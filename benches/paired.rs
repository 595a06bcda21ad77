//! Cases measured in turn, for ratios that a noisy neighbour does not decide.

use std::time::Duration;

/// What the command line asks for: the first argument that is no option. Everything without one.
pub fn filter() -> String {
    let mut arguments = std::env::args().skip(1);
    arguments
        .find(|argument| !argument.starts_with('-'))
        .unwrap_or_default()
}

/// One run of a case, which tells how long the measured part of it took.
type Run<'a> = Box<dyn FnMut() -> Duration + 'a>;

/// How fast a case was.
#[derive(Clone, Debug)]
pub struct Rate {
    /// Of the case.
    pub name: String,
    /// Millions of bytes a second, the median.
    pub megabytes: f64,
}

/// Cases that do the same work in different ways, measured A B A B: whatever disturbs the machine
/// strikes them alike. The first is what the others are compared with.
pub struct Paired<'a> {
    title: String,
    bytes: u64,
    cases: Vec<(String, Run<'a>)>,
}

impl<'a> Paired<'a> {
    /// No cases yet; each is to move `bytes` in one run.
    pub fn new(title: impl Into<String>, bytes: u64) -> Self {
        Self {
            title: title.into(),
            bytes,
            cases: Vec::new(),
        }
    }

    /// Adds a case.
    pub fn case(mut self, name: &str, run: impl FnMut() -> Duration + 'a) -> Self {
        self.cases.push((name.into(), Box::new(run)));
        self
    }

    /// Runs every case once to warm up and then `rounds` times in turn. Prints the medians, the
    /// rates and the median of the ratios of each round: how fast a case is, as a multiple of the
    /// first. Gives the rates.
    pub fn run(mut self, rounds: usize) -> Vec<Rate> {
        for (_, run) in &mut self.cases {
            run();
        }
        let mut taken = vec![Vec::new(); self.cases.len()];
        for _ in 0..rounds {
            for ((_, run), taken) in self.cases.iter_mut().zip(&mut taken) {
                taken.push(run().as_secs_f64());
            }
        }
        println!("\n{} ({rounds} rounds)", self.title);
        println!(
            "{:<44} {:>10} {:>10} {:>16} {:>16}",
            "", "median", "MB/s", "of the first", "range"
        );
        let mut rates = Vec::new();
        for ((name, _), times) in self.cases.iter().zip(&taken) {
            let mut ratios: Vec<f64> = taken[0].iter().zip(times).map(|(a, b)| a / b).collect();
            let ratio = median(&mut ratios);
            let seconds = median(&mut times.clone());
            #[expect(
                clippy::cast_precision_loss,
                reason = "a rate is shown, not reckoned with"
            )]
            let rate = self.bytes as f64 / seconds / 1e6;
            let range = format!("{:.2}-{:.2}", ratios[0], ratios[ratios.len() - 1]);
            println!(
                "{name:<44} {:>8.1}ms {rate:>10.0} {ratio:>15.2}x {range:>16}",
                seconds * 1e3
            );
            rates.push(Rate {
                name: name.clone(),
                megabytes: rate,
            });
        }
        rates
    }
}

/// The median; sorts.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
