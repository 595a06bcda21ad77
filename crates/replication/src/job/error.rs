//! Why a job failed, and what can be done about it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What went wrong, by its kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ErrorCode {
    /// The replica or the network to it.
    Unreachable,
    /// Space at the primary or the replica.
    NoRoom,
    /// A newer primary or a failover has the replica.
    Fenced,
    /// The replica's role or the machine's state does not admit it.
    Refused,
    /// A disk, a log or an object is not what it was.
    Damaged,
    /// Whoever ran it ended before it did.
    Interrupted,
    /// Something else, or nobody said what.
    #[default]
    Other,
}

impl ErrorCode {
    /// What may have brought it about, the likeliest first.
    pub const fn causes(self) -> &'static [&'static str] {
        match self {
            Self::Unreachable => &[
                "the replica's server or the network to it is down",
                "the folder is not mounted",
                "credentials have expired",
            ],
            Self::NoRoom => &["the replica is full", "the folder of the logs is full"],
            Self::Fenced => &[
                "the replica was failed over",
                "another process protects this machine",
            ],
            Self::Refused => &["a failover waits for completion or is committed"],
            Self::Damaged => &["a file or object was changed or lost outside of replication"],
            Self::Interrupted => &["the process ended, or its host"],
            Self::Other => &[],
        }
    }

    /// What a person should do.
    pub const fn recommended_action(self) -> &'static str {
        match self {
            Self::Unreachable => "see that the replica can be reached; it is tried again by itself",
            Self::NoRoom => "free some space; it is tried again by itself",
            Self::Fenced => "see which side is to run, and cancel the failover or stop this side",
            Self::Refused => "look at the status of the replica, and commit or cancel the failover",
            Self::Damaged => "resynchronize the machine, and look after the medium",
            Self::Interrupted => "ask for it again: it goes on where it was; or cancel it",
            Self::Other => "read the message, mend its cause and resume",
        }
    }
}

/// Why a job failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StoredError")]
pub struct JobError {
    /// What kind of error it is.
    pub code: ErrorCode,
    /// What was being done, to what, and what happened.
    pub message: String,
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The first release stored the message alone.
#[derive(Deserialize)]
#[serde(untagged)]
enum StoredError {
    Message(String),
    Coded { code: ErrorCode, message: String },
}

impl From<StoredError> for JobError {
    fn from(stored: StoredError) -> Self {
        match stored {
            StoredError::Message(message) => Self {
                code: ErrorCode::Other,
                message,
            },
            StoredError::Coded { code, message } => Self { code, message },
        }
    }
}
