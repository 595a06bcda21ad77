//! What stands for a block's content on the wire and in an index.

use std::fmt;

use afterimage_block::ContentDigest;
use digest::{Digest, Output};
use sha2::Sha256;

use crate::is_zero;

/// What stands for a block's content: nothing but the word "zero", or a digest of its bytes.
///
/// Two blocks of one length are taken for equal if their signatures are. `D` must therefore be
/// collision-resistant, since a guest chooses what its disk holds; SHA-256 is the default. The
/// digest is that of the bytes alone, so that any tool can check it.
pub enum Signature<D: Digest = Sha256> {
    /// Every byte of the block is zero. Costs no hashing, and no reading where the disk has a hole.
    Zero,
    /// The digest of a block that is not all zeros.
    Digest(Output<D>),
}

/// The signature of one block's bytes.
pub fn sign<D: Digest>(block: &[u8]) -> Signature<D> {
    if is_zero(block) {
        Signature::Zero
    } else {
        Signature::Digest(D::digest(block))
    }
}

impl<D: Digest> Signature<D> {
    /// The signature kept as these bytes: all zero for [`Zero`](Self::Zero), else the digest. No
    /// content whose digest is all zero is known.
    pub fn from_bytes(bytes: Output<D>) -> Self {
        if is_zero(&bytes) {
            Self::Zero
        } else {
            Self::Digest(bytes)
        }
    }

    /// The digest, or as many zero bytes for [`Zero`](Self::Zero).
    pub fn to_bytes(&self) -> Output<D> {
        match self {
            Self::Zero => Output::<D>::default(),
            Self::Digest(bytes) => bytes.clone(),
        }
    }

    /// Whether it stands for zeros.
    pub const fn is_zero(&self) -> bool {
        matches!(self, Self::Zero)
    }
}

impl<D: Digest> Clone for Signature<D> {
    fn clone(&self) -> Self {
        match self {
            Self::Zero => Self::Zero,
            Self::Digest(bytes) => Self::Digest(bytes.clone()),
        }
    }
}

impl<D: Digest> PartialEq for Signature<D> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Zero, Self::Zero) => true,
            (Self::Digest(mine), Self::Digest(theirs)) => mine == theirs,
            _ => false,
        }
    }
}

impl<D: Digest> Eq for Signature<D> {}

impl<D: Digest> fmt::Debug for Signature<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zero => f.write_str("Zero"),
            Self::Digest(bytes) => bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
        }
    }
}

impl From<[u8; 32]> for Signature<Sha256> {
    fn from(bytes: [u8; 32]) -> Self {
        Self::from_bytes(bytes.into())
    }
}

impl From<Signature<Sha256>> for [u8; 32] {
    fn from(signature: Signature<Sha256>) -> Self {
        signature.to_bytes().into()
    }
}

impl From<ContentDigest> for Signature<Sha256> {
    fn from(digest: ContentDigest) -> Self {
        Self::from(*digest.as_bytes())
    }
}

impl From<Signature<Sha256>> for ContentDigest {
    fn from(signature: Signature<Sha256>) -> Self {
        Self::new(signature.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_not_hashed_and_digests_are_plain_sha_256() {
        assert_eq!(sign::<Sha256>(&[0; 512]), Signature::Zero);
        let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let signature = sign::<Sha256>(b"abc");
        assert_eq!(ContentDigest::from(signature.clone()).to_string(), known);
        assert_eq!(format!("{signature:?}"), known);
        assert_ne!(signature, sign(b"abd"));
    }

    #[test]
    fn every_byte_of_a_digest_counts() {
        let digest = [7; 32];
        for at in 0..32 {
            let mut other = digest;
            other[at] ^= 1;
            assert_ne!(Signature::from(digest), Signature::from(other), "byte {at}");
        }
        assert_ne!(Signature::from(digest), Signature::Zero);
    }

    #[test]
    fn stored_bytes_round_trip_with_zeros_for_zero() {
        for block in [&[0; 64][..], &[1; 64], b"abc"] {
            let signature = sign::<Sha256>(block);
            let stored: [u8; 32] = signature.clone().into();
            assert_eq!(signature.is_zero(), stored == [0; 32]);
            assert_eq!(Signature::from(stored), signature);
        }
    }
}
