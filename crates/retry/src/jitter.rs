//! Spreading attempts, so that a thousand clients of one server do not come back in step.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How far an attempt may be put off beyond its scheduled time: a share of the pause until the next
/// scheduled one, 0 to 100 %. Attempts are never made earlier than scheduled nor than the other side
/// asked for, and below 100 % never as late as the next scheduled time.
///
/// How far one attempt is put off follows from the seed of its [`Retry`](crate::Retry) and its
/// number alone, so that a simulation or a restart finds the same times again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Jitter(u8);

/// A share above 100 %.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("jitter is {0} %, but must be 0 to 100 %")]
pub struct InvalidJitter(u8);

impl Jitter {
    /// Attempts are made exactly when they are scheduled.
    pub const NONE: Self = Self(0);
    /// Attempts are spread over the whole pause that follows.
    pub const FULL: Self = Self(100);

    /// Spreads attempts over `percent` of the pause that follows.
    ///
    /// # Errors
    /// [`InvalidJitter`] above 100 %.
    pub const fn percent(percent: u8) -> Result<Self, InvalidJitter> {
        if percent > 100 {
            return Err(InvalidJitter(percent));
        }
        Ok(Self(percent))
    }

    /// How far attempt `attempt` of a client with this `seed` is put off, where `pause` follows it: less
    /// than `pause`, and always the same. [`Retry`](crate::Retry) asks by itself; this is for what else a
    /// thousand clients would do in step.
    pub fn of(self, pause: Duration, seed: u64, attempt: u32) -> Duration {
        let most = pause.as_nanos() / 100 * u128::from(self.0);
        // 32 bits of chance leave room for the product: a Duration has fewer than 95 bits.
        let chance = u128::from(mix(seed ^ mix(u64::from(attempt))) >> 32);
        let off = (most * chance) >> 32;
        Duration::from_nanos(u64::try_from(off).unwrap_or(u64::MAX))
    }
}

impl TryFrom<u8> for Jitter {
    type Error = InvalidJitter;

    fn try_from(percent: u8) -> Result<Self, InvalidJitter> {
        Self::percent(percent)
    }
}

impl From<Jitter> for u8 {
    fn from(jitter: Jitter) -> Self {
        jitter.0
    }
}

/// `SplitMix64`'s step: each input bit changes every output bit with even odds.
const fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
