//! Positions and sizes in bytes, as types that cannot be mixed up.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A position on a disk, in bytes from its start.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Offset(u64);

impl Offset {
    /// The first byte of a disk.
    pub const ZERO: Self = Self(0);

    /// The position `bytes` from the start of the disk.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The position in bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The position `length` further on, or `None` past `u64::MAX`.
    pub const fn checked_add(self, length: Length) -> Option<Self> {
        match self.0.checked_add(length.0) {
            Some(bytes) => Some(Self(bytes)),
            None => None,
        }
    }

    /// The distance from `earlier` to this position, or `None` if `earlier` lies behind it.
    pub const fn checked_since(self, earlier: Self) -> Option<Length> {
        match self.0.checked_sub(earlier.0) {
            Some(bytes) => Some(Length(bytes)),
            None => None,
        }
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A size in bytes: of a disk, an extent, a transfer.
///
/// Displayed in binary units when it is a whole number of them, to two decimals otherwise, and
/// parsed from the same forms:
///
/// ```
/// use afterimage_block::Length;
/// let block: Length = "64KiB".parse()?;
/// assert_eq!(block, Length::new(65_536));
/// assert_eq!(block.to_string(), "64 KiB");
/// assert_eq!("1.5 GiB".parse::<Length>()?.get(), 1_610_612_736);
/// # Ok::<(), afterimage_block::ParseLengthError>(())
/// ```
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Length(u64);

const UNITS: [(&str, u64); 6] = [
    ("EiB", 1 << 60),
    ("PiB", 1 << 50),
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
];

impl Length {
    /// No bytes.
    pub const ZERO: Self = Self(0);

    /// A size of `bytes`.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// A size of `n` KiB.
    pub const fn kib(n: u32) -> Self {
        Self((n as u64) << 10)
    }

    /// A size of `n` MiB.
    pub const fn mib(n: u32) -> Self {
        Self((n as u64) << 20)
    }

    /// A size of `n` GiB.
    pub const fn gib(n: u32) -> Self {
        Self((n as u64) << 30)
    }

    /// The size of a slice.
    pub const fn of(bytes: &[u8]) -> Self {
        Self(bytes.len() as u64)
    }

    /// The size in bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Whether it is no bytes at all.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The size as a slice length, or `None` if this machine cannot address it.
    pub fn to_usize(self) -> Option<usize> {
        usize::try_from(self.0).ok()
    }

    /// The sum, held at `u64::MAX`.
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference, held at zero.
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl fmt::Display for Length {
    #[expect(clippy::cast_precision_loss, reason = "shown to two decimals")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().find(|(_, unit)| self.0 >= *unit) {
            Some((name, unit)) if self.0.is_multiple_of(*unit) => {
                write!(f, "{} {name}", self.0 / unit)
            }
            Some((name, unit)) => write!(f, "{:.2} {name}", self.0 as f64 / *unit as f64),
            None => write!(f, "{} B", self.0),
        }
    }
}

/// A text that is not a size in binary units.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a size: write a number and a unit of B, KiB, MiB, GiB, TiB, PiB or EiB")]
pub struct ParseLengthError(String);

impl FromStr for Length {
    type Err = ParseLengthError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let trimmed = text.trim();
        let digits = trimmed
            .find(|c: char| !(c.is_ascii_digit() || c == '.'))
            .unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(digits);
        let factor = unit_factor(unit.trim()).ok_or_else(|| ParseLengthError(text.into()))?;
        scaled(number, factor)
            .map(Self)
            .ok_or_else(|| ParseLengthError(text.into()))
    }
}

fn unit_factor(unit: &str) -> Option<u64> {
    if unit.is_empty() || unit.eq_ignore_ascii_case("B") {
        return Some(1);
    }
    UNITS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit))
        .map(|(_, factor)| *factor)
}

/// `number` (digits with at most one point) times `factor`, if that is a whole number of bytes.
fn scaled(number: &str, factor: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let whole: u64 = whole.parse().ok()?;
    let digits = u32::try_from(fraction.len()).ok().filter(|n| *n <= 18)?;
    let scale = 10_u128.pow(digits);
    let parts = u128::from(fraction.parse::<u64>().ok()?) * u128::from(factor);
    if !parts.is_multiple_of(scale) {
        return None;
    }
    whole
        .checked_mul(factor)?
        .checked_add(u64::try_from(parts / scale).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refuses_what_is_no_size() {
        for text in [
            "",
            "KiB",
            "1.2.3 MiB",
            "5 parsecs",
            "99999999 EiB",
            "0.3 B",
            "-1",
        ] {
            assert!(text.parse::<Length>().is_err(), "{text}");
        }
    }

    #[test]
    fn shows_binary_units() {
        assert_eq!(Length::new(512).to_string(), "512 B");
        assert_eq!(Length::gib(8).to_string(), "8 GiB");
        assert_eq!(Length::new(1_500_000).to_string(), "1.43 MiB");
    }

    proptest! {
        #[test]
        fn whole_bytes_and_units_round_trip(n in 0_u32..1024) {
            for length in [Length::new(n.into()), Length::kib(n), Length::mib(n), Length::gib(n)] {
                prop_assert_eq!(length.to_string().parse::<Length>(), Ok(length));
            }
        }
    }
}
