//! Seconds since 2000.

use afterimage_block::Timestamp;

/// Wall-clock time in whole seconds since 2000-01-01 00:00:00 UTC, up to 2136.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HrlTime(u32);

/// 2000-01-01 00:00:00 UTC, in seconds since 1970.
const BEGIN: u64 = 946_684_800;
const SECOND: u64 = 1_000_000_000;

impl HrlTime {
    /// The time `seconds` after 2000 began.
    pub const fn from_secs(seconds: u32) -> Self {
        Self(seconds)
    }

    /// Seconds since 2000 began.
    pub const fn as_secs(self) -> u32 {
        self.0
    }
}

impl From<Timestamp> for HrlTime {
    /// Cut to the second. Times before 2000 become 2000, times after 2136 the last that fits.
    fn from(time: Timestamp) -> Self {
        let seconds = (time.as_nanos() / SECOND).saturating_sub(BEGIN);
        Self(u32::try_from(seconds).unwrap_or(u32::MAX))
    }
}

impl From<HrlTime> for Timestamp {
    fn from(time: HrlTime) -> Self {
        Self::from_nanos((BEGIN + u64::from(time.0)) * SECOND)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn converts_within_its_range_and_saturates_outside() {
        // 2017-02-08 04:13:01 UTC, from the worked example of [MS-HRL].
        let time = HrlTime::from_secs(539_842_381);
        assert_eq!(Timestamp::from(time).as_nanos(), 1_486_527_181 * SECOND);
        assert_eq!(HrlTime::from(Timestamp::from(time)), time);
        assert_eq!(HrlTime::from(Timestamp::default()).as_secs(), 0);
        let last = Timestamp::from_nanos(u64::MAX);
        assert_eq!(HrlTime::from(last).as_secs(), u32::MAX);
        let last = HrlTime::from_secs(u32::MAX);
        assert_eq!(HrlTime::from(Timestamp::from(last)), last);
    }
}
