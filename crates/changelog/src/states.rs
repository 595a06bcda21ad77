//! What a log follows, and which states of the disk it leads from and to.

use std::fmt;

use afterimage_block::ContentDigest;

/// A digest of all bytes of a disk, shown as 64 hexadecimal digits. Which one is agreed between those
/// who write and check it; `FORMAT.md`, section Disk states, recommends one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct StateDigest([u8; 32]);

impl StateDigest {
    /// Its length in a footer.
    pub(crate) const LEN: usize = 32;

    /// The digest with these bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for StateDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        ContentDigest::new(self.0).fmt(f)
    }
}

impl fmt::Debug for StateDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StateDigest({self})")
    }
}

/// The states of the disk before and after the changes of a log, where they are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskStates {
    /// Before its first change: what it applies to.
    pub before: Option<StateDigest>,
    /// After its last change: what it produces.
    pub after: Option<StateDigest>,
}

impl DiskStates {
    /// Those of taking the log back.
    pub(crate) fn reversed(self) -> Self {
        Self {
            before: self.after,
            after: self.before,
        }
    }

    /// Those of this log and, after it, `later`.
    pub(crate) fn until(self, later: Self) -> Self {
        Self {
            before: self.before,
            after: later.after,
        }
    }

    /// Whether `later` can go on where this ends, as far as is known.
    pub(crate) fn lead_to(self, later: Self) -> bool {
        self.after.is_none() || later.before.is_none() || self.after == later.before
    }
}

/// What is said of a log when it is sealed. A [`ContentDigest`] alone is the predecessor's, with no
/// state known.
///
/// ```
/// use afterimage_block::*;
/// use afterimage_changelog::*;
///
/// let states = DiskStates { before: Some(StateDigest::new([1; 32])), after: None };
/// let provenance = Provenance::from(ContentDigest::NONE).with_states(states);
/// assert_eq!(provenance.states, states);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Provenance {
    /// The content digest of the disk's log before this one; [`ContentDigest::NONE`] if there is none.
    pub predecessor: ContentDigest,
    /// The states of the disk before and after.
    pub states: DiskStates,
}

impl Provenance {
    /// With these states of the disk.
    pub fn with_states(mut self, states: DiskStates) -> Self {
        self.states = states;
        self
    }
}

impl From<ContentDigest> for Provenance {
    fn from(predecessor: ContentDigest) -> Self {
        Self {
            predecessor,
            states: DiskStates::default(),
        }
    }
}
