//! The name of a namespace.

use crate::hex::{self, HexError};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::str::FromStr;

/// Keeps fingerprints apart from all other digests.
const DOMAIN: &[u8] = b"hicache-namespace-v1";

/// 16 bytes that stand for a list of named values: the namespace that a page's key is looked up in, and the
/// name of its directory.
///
/// Two lists that differ anywhere have different fingerprints, up to a collision of SHA-256 cut to 128 bits
/// (2⁶⁴ namespaces would have to meet for one by accident).
///
/// Written and read as 32 lowercase hex digits:
///
/// ```
/// use hicache_hashing::{Fingerprint, FingerprintBuilder};
///
/// let fingerprint = FingerprintBuilder::new().field("model", "Qwen3-0.6B").field("dtype", "bf16").finish();
/// assert_eq!(fingerprint.to_string(), "92267dfb6583323f2bf222705520d5d0");
/// assert_eq!("92267dfb6583323f2bf222705520d5d0".parse(), Ok(fingerprint));
/// assert!("92267DFB6583323F2BF222705520D5D0".parse::<Fingerprint>().is_err());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 16]);

impl Fingerprint {
    /// The fingerprint with these bytes, for one that was kept in binary form.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes, in the order in which they are written as hex.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&hex::to_hex(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl FromStr for Fingerprint {
    type Err = HexError;

    /// Reads 32 lowercase hex digits and nothing else: a directory name stands for a namespace only if it is
    /// spelled as [`Display`](fmt::Display) spells it.
    ///
    /// # Errors
    ///
    /// [`HexError`] for another length, or for a byte that is not a lowercase hex digit.
    fn from_str(text: &str) -> Result<Self, HexError> {
        hex::parse(text).map(Self)
    }
}

/// Collects the named values of a [`Fingerprint`].
///
/// The fingerprint is the first 16 bytes of SHA-256 over `"hicache-namespace-v1"` and, for each field, the
/// length of its name as `u64` little-endian, the name, the length of its value as `u64` little-endian, and the
/// value, both UTF-8. The lengths make it unambiguous: no other list of fields gives the same bytes.
///
/// Fields count in the order in which they are given, and a name given twice counts twice. A caller keeps to
/// one order, and leaves out or puts in a field for a reason: both give another namespace.
#[derive(Clone, Debug)]
pub struct FingerprintBuilder {
    sha256: Sha256,
}

impl FingerprintBuilder {
    /// A list without fields.
    pub fn new() -> Self {
        Self { sha256: Sha256::new_with_prefix(DOMAIN) }
    }

    /// Appends a field.
    #[must_use]
    pub fn field(mut self, name: &str, value: &str) -> Self {
        for text in [name, value] {
            self.sha256.update((text.len() as u64).to_le_bytes());
            self.sha256.update(text);
        }
        self
    }

    /// The fingerprint of the fields so far.
    pub fn finish(self) -> Fingerprint {
        let digest: [u8; 32] = self.sha256.finalize().into();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        Fingerprint(bytes)
    }
}

impl Default for FingerprintBuilder {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(fields: &[(String, String)]) -> Fingerprint {
        fields.iter().fold(FingerprintBuilder::new(), |list, (name, value)| list.field(name, value)).finish()
    }

    /// Computed with Python's hashlib. Names of directories for ever.
    #[test]
    fn vectors() {
        let vectors: [(&[(&str, &str)], &str); 4] = [
            (&[], "3b018bf037eddb40a911efd2e00f5e17"),
            (&[("model", "Qwen3-0.6B"), ("dtype", "bf16")], "92267dfb6583323f2bf222705520d5d0"),
            (&[("ab", "c")], "1156ac803ef764b3728c68bb6136679a"),
            (&[("a", "bc")], "e8ea24bc871e319474ef0de50315b147"),
        ];
        for (fields, text) in vectors {
            let fields: Vec<_> =
                fields.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
            assert_eq!(of(&fields).to_string(), text);
        }
    }

    proptest! {
        /// Few letters and short texts, so that lists with the same letters in the same order are frequent.
        #[test]
        fn different_lists_differ(
            left in proptest::collection::vec(("a{0,2}", "a{0,2}"), 0..4),
            right in proptest::collection::vec(("a{0,2}", "a{0,2}"), 0..4),
        ) {
            prop_assert_eq!(left == right, of(&left) == of(&right));
        }

        #[test]
        fn text_round_trip(bytes: [u8; 16]) {
            let fingerprint = Fingerprint::from_bytes(bytes);
            prop_assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
            prop_assert_eq!(fingerprint.to_bytes(), bytes);
        }
    }
}
