//! The identity of a log, a GUID.

use std::fmt;

use afterimage_block::SessionId;

/// The identity of an HRL: its 16 bytes in the order of RFC 9562, as they are shown. The file holds
/// them in the order of a GUID, whose first three groups are little-endian.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HrlId([u8; 16]);

impl HrlId {
    /// No identity: the predecessor of a chain's first log.
    pub const NIL: Self = Self([0; 16]);

    /// A new random identity.
    pub fn random() -> Self {
        Self(SessionId::random().to_bytes())
    }

    /// The identity with these 16 bytes, in the order of RFC 9562.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its 16 bytes, in the order of RFC 9562.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    pub(crate) fn from_guid(bytes: [u8; 16]) -> Self {
        Self(swapped(bytes))
    }

    pub(crate) fn to_guid(self) -> [u8; 16] {
        swapped(self.0)
    }
}

/// The one order from the other: the first groups of 4, 2 and 2 bytes turned round.
fn swapped(mut bytes: [u8; 16]) -> [u8; 16] {
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    bytes
}

impl fmt::Display for HrlId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_shown_in_network_order_and_stored_as_a_guid() {
        let id =
            HrlId::from_bytes(*b"\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xAA\xBB\xCC\xDD\xEE\xFF");
        assert_eq!(id.to_string(), "00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!(&id.to_guid()[..9], b"\x33\x22\x11\x00\x55\x44\x77\x66\x88");
        assert_eq!(HrlId::from_guid(id.to_guid()), id);
        assert_ne!(HrlId::random(), HrlId::random());
    }
}
