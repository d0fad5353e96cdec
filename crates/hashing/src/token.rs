//! Which integers are token ids.

use std::fmt;

/// A token id, as it comes from a tokenizer or a NumPy array: `u32`, `u64` or `i64`. Sealed.
///
/// The same ids give the same hashes whatever their type. An id above `u32::MAX` is *wide* and changes how its
/// page is encoded (see [`page_hashes`](crate::page_hashes)). `u64` ids above `i64::MAX`, which SGLang refuses
/// to hash, are hashed here as wide ids; no page of SGLang's can be meant by them.
pub trait Token: sealed::Raw {
    /// What hashing ids of this type returns in place of `D`: `D` itself for the unsigned types,
    /// [`Result<D, NegativeToken>`] for `i64`.
    type Hashed<D>;

    /// `hashed`, or a refusal where ids have no hash. `high` is what [`sealed::Raw::high`] says of all ids together.
    #[doc(hidden)]
    fn admit<D>(tokens: &[Self], high: u64, hashed: D) -> Self::Hashed<D>;
}

impl Token for u32 {
    type Hashed<D> = D;

    fn admit<D>(_: &[Self], _: u64, hashed: D) -> D {
        hashed
    }
}

impl Token for u64 {
    type Hashed<D> = D;

    fn admit<D>(_: &[Self], _: u64, hashed: D) -> D {
        hashed
    }
}

impl Token for i64 {
    type Hashed<D> = Result<D, NegativeToken>;

    fn admit<D>(tokens: &[Self], high: u64, hashed: D) -> Result<D, NegativeToken> {
        // The sign was noted while the ids were encoded, as all high bits are; its place is looked up only on failure.
        if high.cast_signed() >= 0 {
            return Ok(hashed);
        }
        let (at, id) =
            tokens.iter().enumerate().find(|(_, id)| **id < 0).expect("the sign bit came from one id");
        Err(NegativeToken { at, id: *id })
    }
}

/// A token id below zero, which has no page hash; SGLang refuses it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NegativeToken {
    /// Index of the first such id in the slice.
    pub at: usize,
    /// The id.
    pub id: i64,
}

impl fmt::Display for NegativeToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "token {} has the id {}: ids must not be negative", self.at, self.id)
    }
}

impl std::error::Error for NegativeToken {}

pub(crate) mod sealed {
    /// How one id becomes bytes.
    pub trait Raw: Copy {
        /// The low 32 bits, little-endian.
        fn low(self) -> [u8; 4];
        /// All bits, little-endian.
        fn full(self) -> [u8; 8];
        /// The bits above the low 32, in their places; 0 unless the id is wide (or negative).
        fn high(self) -> u64;
    }

    const HIGH: u64 = !(u32::MAX as u64);

    impl Raw for u32 {
        fn low(self) -> [u8; 4] {
            self.to_le_bytes()
        }

        fn full(self) -> [u8; 8] {
            u64::from(self).to_le_bytes()
        }

        fn high(self) -> u64 {
            0
        }
    }

    impl Raw for u64 {
        fn low(self) -> [u8; 4] {
            (self as u32).to_le_bytes()
        }

        fn full(self) -> [u8; 8] {
            self.to_le_bytes()
        }

        fn high(self) -> u64 {
            self & HIGH
        }
    }

    impl Raw for i64 {
        fn low(self) -> [u8; 4] {
            (self as u32).to_le_bytes()
        }

        fn full(self) -> [u8; 8] {
            self.to_le_bytes()
        }

        fn high(self) -> u64 {
            self.cast_unsigned() & HIGH
        }
    }
}
