//! How fast a resync is, and how long it will take.

use std::time::Duration;

use afterimage_block::Length;

/// How long what was measured counts, in seconds: after this its weight is a third.
const MEMORY: f64 = 10.0;

/// How fast it is and what is left, as measured of late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// Bytes a second; `None` before two moments were seen.
    pub rate: Option<u64>,
    /// How long the rest takes at that rate; `None` too where nothing moves.
    pub left: Option<Duration>,
}

/// Measures the pace of one thing that is done, a phase of a resync for instance. It knows no clock: the
/// caller says when.
///
/// ```
/// use std::time::Duration;
/// use afterimage_block::Length;
/// use afterimage_resync::Pacer;
///
/// let total = Length::mib(100);
/// let mut pacer = Pacer::default();
/// pacer.measure(Duration::ZERO, Length::mib(40), total); // done by an earlier run
/// let pace = pacer.measure(Duration::from_secs(2), Length::mib(60), total);
/// assert_eq!(pace.rate, Some(10 << 20));
/// assert_eq!(pace.left, Some(Duration::from_secs(4)));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Pacer {
    last: Option<(Duration, Length)>,
    /// Bytes a second, weighted, and the sum of the weights.
    weighted: f64,
    weight: f64,
}

impl Pacer {
    /// The pace at the moment `now`, counted from any beginning, at which so much of the total is done. A
    /// moment before the last one, or less that is done, is the last one once more.
    #[expect(
        clippy::cast_precision_loss,
        reason = "an estimate need not be exact to a byte"
    )]
    pub fn measure(&mut self, now: Duration, done: Length, total: Length) -> Pace {
        let (then, before) = *self.last.get_or_insert((now, done));
        let seconds = now.saturating_sub(then).as_secs_f64();
        if seconds > 0.0 {
            let kept = (-seconds / MEMORY).exp();
            let rate = done.saturating_sub(before).get() as f64 / seconds;
            self.weighted = self.weighted * kept + rate * (1.0 - kept);
            self.weight = self.weight * kept + (1.0 - kept);
            self.last = Some((now, done.max(before)));
        }
        if self.weight <= 0.0 {
            return Pace::default();
        }
        let rate = self.weighted / self.weight;
        let rest = total.saturating_sub(done).get() as f64;
        Pace {
            rate: Some(whole(rate)),
            left: Duration::try_from_secs_f64(rest / rate).ok(),
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate is not negative, and one that is larger than any is the largest"
)]
fn whole(rate: f64) -> u64 {
    rate.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TOTAL: Length = Length::gib(1);

    fn at(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn nothing_is_told_of_one_moment_and_nothing_ends_that_does_not_move() {
        let mut pacer = Pacer::default();
        assert_eq!(pacer.measure(at(5.0), Length::ZERO, TOTAL), Pace::default());
        assert_eq!(
            pacer.measure(at(5.0), Length::mib(1), TOTAL),
            Pace::default()
        );
        let pace = pacer.measure(at(6.0), Length::ZERO, TOTAL);
        assert_eq!((pace.rate, pace.left), (Some(0), None));
    }

    #[test]
    fn it_follows_a_change_and_comes_back_from_a_pause() {
        let mut pacer = Pacer::default();
        let mut done = Length::ZERO;
        for second in 0..60_u64 {
            let step = if second < 30 { 1 } else { 4 };
            done = done.saturating_add(Length::mib(step));
            pacer.measure(Duration::from_secs(second), done, TOTAL);
        }
        let pace = pacer.measure(
            Duration::from_mins(1),
            done.saturating_add(Length::mib(4)),
            TOTAL,
        );
        let rate = pace.rate.unwrap() >> 10;
        assert!((3700..4097).contains(&rate), "{rate} KiB/s");
    }

    proptest! {
        #[test]
        fn what_is_even_is_told_however_it_is_looked_at(
            rate in 1_u32..1 << 30, steps in prop::collection::vec(1_u32..5000, 1..50)
        ) {
            let total = Length::new(u64::MAX);
            let mut pacer = Pacer::default();
            pacer.measure(Duration::ZERO, Length::ZERO, total);
            let mut millis = 0;
            for step in steps {
                millis += u64::from(step);
                let done = Length::new(u64::from(rate) * millis);
                let pace = pacer.measure(Duration::from_millis(millis), done, total);
                let told = pace.rate.unwrap();
                prop_assert!(told.abs_diff(u64::from(rate) * 1000) <= 1 + told / 1_000_000);
            }
        }

        #[test]
        fn nothing_that_is_said_breaks_it(moments: Vec<(Duration, u64, u64)>) {
            let mut pacer = Pacer::default();
            for (now, done, total) in moments {
                pacer.measure(now, Length::new(done), Length::new(total));
            }
        }
    }
}
