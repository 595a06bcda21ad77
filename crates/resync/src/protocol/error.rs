//! Bytes that are no message.

/// Bytes of the other end that are no message. `at` is where the message starts in the stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// It says that it is longer than a message of its kind can be.
    #[error(
        "the message at byte {at} of the stream claims {length} bytes where {most} are allowed"
    )]
    TooLong {
        /// Where it starts.
        at: u64,
        /// The length that it claims.
        length: u32,
        /// The most that is allowed.
        most: u32,
    },
    /// Its bytes changed on the way.
    #[error(
        "the message at byte {at} of the stream is damaged: checksum {found:08x} instead of {expected:08x}"
    )]
    Checksum {
        /// Where it starts.
        at: u64,
        /// The checksum that it has.
        expected: u32,
        /// The checksum of its bytes.
        found: u32,
    },
    /// Nothing is known of its kind.
    #[error("the message at byte {at} of the stream is of the unknown kind {kind}")]
    UnknownKind {
        /// Where it starts.
        at: u64,
        /// The kind.
        kind: u8,
    },
    /// It is whole and makes no sense.
    #[error("the message of kind {kind} at byte {at} of the stream makes no sense: {reason}")]
    Malformed {
        /// Where it starts.
        at: u64,
        /// Its kind.
        kind: u8,
        /// What is wrong.
        reason: &'static str,
    },
}
