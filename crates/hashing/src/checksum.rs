//! Checksums that tell a page or a journal record from damaged bytes. They protect against accidents, not
//! against somebody who wants to be believed.

use crc_fast::{CrcAlgorithm::Crc64Nvme, crc32_iscsi, crc64_nvme};
use std::fmt;

/// The CRC-64/NVMe of bytes that come piece by piece.
///
/// How the bytes are cut into pieces makes no difference. One value is about 0.3 KiB and allocates nothing.
///
/// CRC-64/NVMe is `width=64 poly=0xad93d23594c93659 init=0xffffffffffffffff refin=true refout=true
/// xorout=0xffffffffffffffff`, check value `0xae8b14860a799888`. Source: NVM Express NVM Command Set
/// Specification, 64b CRC; computed by the crate `crc-fast`.
///
/// ```
/// use hicache_hashing::{Checksum, checksum};
///
/// let mut running = Checksum::new();
/// running.update(b"1234");
/// running.update(b"56789");
/// assert_eq!(running.finish(), 0xae8b_1486_0a79_9888);
/// assert_eq!(running.finish(), checksum(b"123456789"));
/// ```
#[derive(Clone)]
pub struct Checksum(crc_fast::Digest);

impl Checksum {
    /// The checksum of no bytes so far.
    pub fn new() -> Self {
        Self(crc_fast::Digest::new(Crc64Nvme))
    }

    /// Appends `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum of all bytes so far; more can follow. Of no bytes it is 0.
    pub fn finish(&self) -> u64 {
        self.0.finalize()
    }
}

impl Default for Checksum {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checksum({:#018x})", self.finish())
    }
}

/// The CRC-64/NVMe of one run of bytes; see [`Checksum`].
///
/// ```
/// assert_eq!(hicache_hashing::checksum(b"123456789"), 0xae8b_1486_0a79_9888);
/// ```
pub fn checksum(bytes: &[u8]) -> u64 {
    crc64_nvme(bytes)
}

/// The CRC-64/NVMe of pieces as if they lay one behind the other: a page whose K and V, or whose layers, are
/// not contiguous in memory.
///
/// ```
/// use hicache_hashing::{checksum, checksum_pieces};
///
/// let pieces: [&[u8]; 3] = [b"12", b"", b"3456789"];
/// assert_eq!(checksum_pieces(pieces), checksum(b"123456789"));
/// ```
pub fn checksum_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let mut running = Checksum::new();
    for piece in pieces {
        running.update(piece);
    }
    running.finish()
}

/// The check field of a journal record over the record's other bytes (60 of 64).
///
/// It is CRC-32C (`width=32 poly=0x1edc6f41 init=0xffffffff refin=true refout=true xorout=0xffffffff`, check
/// value `0xe3069283`; source: RFC 3720, section 12.1, polynomial of Castagnoli et al., 1993). For 60 bytes it
/// is faster here than CRC-64/NVMe folded to 32 bits (21 ns against 34 from input to result), and the folded one
/// would promise less: CRC-32C finds every damage of up to 5 bits in a record and every burst of up to 32.
///
/// A zeroed record is invalid: for 1 byte to 2³¹−2 bytes of zeros the check is not 0. (The register starts
/// with ones and is complemented at the end, so it would be 0 only if shifting by that many zero bits gave the
/// register back, and x has the order 2³¹−1 modulo the polynomial's large factor.) For 60 bytes it is
/// `0x5a0b0531`. Nor are 64 bytes of `0xff` a valid record. The check of no bytes is 0.
///
/// ```
/// use hicache_hashing::record_check;
///
/// assert_eq!(record_check(b"123456789"), 0xe306_9283);
/// assert_eq!(record_check(&[0; 60]), 0x5a0b_0531);
/// ```
pub fn record_check(bytes: &[u8]) -> u32 {
    crc32_iscsi(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(length: usize) -> Vec<u8> {
        (0..length).map(|i| (i * 7 % 251) as u8).collect()
    }

    /// Computed bit by bit in Python. On disk for ever.
    #[test]
    fn checksum_vectors() {
        assert_eq!(checksum(b"123456789"), 0xae8b_1486_0a79_9888);
        assert_eq!(checksum(&[0; 4096]), 0x6482_d367_eb22_b64e);
        assert_eq!(checksum(&pattern(10_000)), 0x62b8_7012_aed7_5bb0);
        assert_eq!(checksum(b""), 0);
    }

    /// Computed bit by bit in Python. On disk for ever.
    #[test]
    fn record_check_vectors() {
        let counting: Vec<u8> = (0..60).collect();
        assert_eq!(record_check(b"123456789"), 0xe306_9283);
        assert_eq!(record_check(&counting), 0x3f69_148b);
        assert_eq!(record_check(&[0; 60]), 0x5a0b_0531);
        assert_eq!(record_check(&[0xff; 60]), 0x8a39_b4a8);
    }

    #[test]
    fn zeros_never_check_as_zero() {
        let zeros = [0; 4096];
        for length in 1..=zeros.len() {
            assert_ne!(record_check(&zeros[..length]), 0, "{length} bytes");
        }
    }

    /// The bitwise definition, for every length up to some blocks of the vector code.
    #[test]
    fn equal_the_bitwise_definitions() {
        let bytes = pattern(700);
        let (mut crc64, mut crc32) = (u64::MAX, u32::MAX);
        for (length, byte) in bytes.iter().enumerate() {
            assert_eq!(checksum(&bytes[..length]), !crc64, "{length} bytes");
            assert_eq!(record_check(&bytes[..length]), !crc32, "{length} bytes");
            crc64 ^= u64::from(*byte);
            crc32 ^= u32::from(*byte);
            for _ in 0..8 {
                crc64 =
                    crc64 >> 1 ^ if crc64 & 1 == 1 { 0xad93_d235_94c9_3659_u64.reverse_bits() } else { 0 };
                crc32 = crc32 >> 1 ^ if crc32 & 1 == 1 { 0x1edc_6f41_u32.reverse_bits() } else { 0 };
            }
        }
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            bytes in proptest::collection::vec(any::<u8>(), 0..5000),
            cuts in proptest::collection::vec(0usize..5000, 0..6),
        ) {
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|ends| &bytes[ends[0]..ends[1]]);
            prop_assert_eq!(checksum_pieces(pieces), checksum(&bytes));
        }

        #[test]
        fn a_flipped_bit_is_found(mut bytes in proptest::collection::vec(any::<u8>(), 1..300), bit: usize) {
            let (whole, record) = (checksum(&bytes), record_check(&bytes));
            let bit = bit % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_ne!(checksum(&bytes), whole);
            prop_assert_ne!(record_check(&bytes), record);
        }
    }
}
