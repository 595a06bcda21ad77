//! Names of disks and machines, and the numbers that order their history.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A new random (version 4) identity.
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }

            /// The identity with these 16 bytes, in the order of RFC 9562.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            /// Its 16 bytes, in the order of RFC 9562.
            pub const fn to_bytes(self) -> [u8; 16] {
                self.0.into_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::try_parse(text).map(Self).map_err(|_| InvalidId(text.into()))
            }
        }
    };
}

/// A text that is not a UUID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a UUID")]
pub struct InvalidId(String);

uuid_id! {
    /// The identity of one protected disk, for as long as it is protected.
    DiskId
}
uuid_id! {
    /// The identity of one protected machine: the set of disks that fail over together.
    MachineId
}
uuid_id! {
    /// The identity of one run of one writer, so that a copy of its state is told apart from it.
    SessionId
}

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone,
            Copy,
            Debug,
            Default,
            PartialEq,
            Eq,
            PartialOrd,
            Ord,
            Hash,
            Serialize,
            Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(u64);

        impl $name {
            /// The first value, 0.
            pub const ZERO: Self = Self(0);

            /// The value `n`.
            pub const fn new(n: u64) -> Self {
                Self(n)
            }

            /// The number.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The value after this one; `None` at `u64::MAX`, which only a forged history reaches.
            pub const fn checked_next(self) -> Option<Self> {
                match self.0.checked_add(1) {
                    Some(next) => Some(Self(next)),
                    None => None,
                }
            }

            /// The value after this one.
            ///
            /// # Panics
            /// At `u64::MAX`, which no history reaches.
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter! {
    /// Which writer a history belongs to: each change of direction or owner starts a new epoch, and
    /// a writer of an older one is fenced off.
    Epoch
}
counter! {
    /// A barrier in a machine's history: log `n` holds the writes between barrier `n - 1` and
    /// barrier `n`, of every disk, and recovery point `n` is the machine at barrier `n`.
    Sequence
}
counter! {
    /// The position of a record in its change log, from 0.
    Lsn
}

/// Wall-clock time in nanoseconds since 1970-01-01 00:00:00 UTC. Shown to people; never used to
/// decide an order.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The time `nanos` after the Unix epoch.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the Unix epoch.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How much later this is than `earlier`; zero if it is not.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl From<SystemTime> for Timestamp {
    /// Times before 1970 become 1970, times after 2554 the last that fits.
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> Self {
        UNIX_EPOCH + Duration::from_nanos(time.0)
    }
}
