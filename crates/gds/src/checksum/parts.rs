//! How a page is cut for the kernel, and the same sum on the CPU: the kernel's reference.

/// CRC-64/NVMe, bit-reflected.
const POLYNOMIAL: u64 = 0x9a6c_9329_ac4b_c9b5;
/// The coefficient of x^0 in a reflected word.
const ONE: u64 = 1 << 63;

/// A part of a page, as the kernel reads it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where its bytes are.
    pub address: u64,
    /// How many bytes of the page come after it.
    pub after: u64,
    /// What its sum begins with.
    pub seed: u64,
    /// How many bytes it has.
    pub bytes: u32,
    /// Which page it is of.
    pub page: u32,
}

/// Cuts the pieces of a page, each an address and a length, into parts of at most `most` bytes.
pub fn cut(page: u32, pieces: &[(u64, usize)], most: u32, parts: &mut Vec<Part>) {
    let most = most.max(1);
    let total: u64 = pieces.iter().map(|&(_, bytes)| bytes as u64).sum();
    let mut done = 0;
    for &(address, bytes) in pieces {
        let mut at = 0;
        while at < bytes as u64 {
            let length = (bytes as u64 - at).min(u64::from(most));
            let seed = if done == 0 { u64::MAX } else { 0 };
            done += length;
            parts.push(Part { address: address + at, after: total - done, seed, bytes: length as u32, page });
            at += length;
        }
    }
}

/// The remainder of each byte.
pub fn table() -> [u64; 256] {
    std::array::from_fn(|byte| (0..8).fold(byte as u64, |rest, _| times_x(rest)))
}

/// x^(8 * 2^k) for each k.
pub fn powers() -> [u64; 64] {
    // x, seven squarings and multiplications away from x^8: x^2, x^4, x^8.
    let mut power = (0..3).fold(times_x(ONE), |power, _| multiply(power, power));
    std::array::from_fn(|_| {
        let this = power;
        power = multiply(power, power);
        this
    })
}

fn times_x(value: u64) -> u64 {
    (value >> 1) ^ if value & 1 == 1 { POLYNOMIAL } else { 0 }
}

/// `a` times `b` modulo the polynomial.
pub fn multiply(a: u64, b: u64) -> u64 {
    let (mut product, mut b) = (0, b);
    for bit in (0..64).rev() {
        if (a >> bit) & 1 == 1 {
            product ^= b;
        }
        b = times_x(b);
    }
    product
}

/// What a thread of the kernel adds to the sum of its page.
pub fn sum_part(part: &Part, bytes: &[u8], table: &[u64; 256], powers: &[u64; 64]) -> u64 {
    let sum = bytes.iter().fold(part.seed, |sum, &byte| (sum >> 8) ^ table[usize::from(sum as u8 ^ byte)]);
    let shifted = powers.iter().enumerate().filter(|(k, _)| (part.after >> k) & 1 == 1);
    shifted.fold(sum, |sum, (_, power)| multiply(sum, *power))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(len: usize) -> Vec<u8> {
        (0..len as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
    }

    /// The page at address 0 in pieces of these lengths.
    fn sum(content: &[u8], lengths: &[usize], most: u32) -> u64 {
        let mut pieces = Vec::new();
        let mut at = 0;
        for &length in lengths {
            pieces.push((at as u64, length));
            at += length;
        }
        assert_eq!(at, content.len());
        let mut parts = Vec::new();
        cut(0, &pieces, most, &mut parts);
        let (table, powers) = (table(), powers());
        let of = |part: &Part| &content[part.address as usize..part.address as usize + part.bytes as usize];
        !parts.iter().fold(0, |sum, part| sum ^ sum_part(part, of(part), &table, &powers))
    }

    #[test]
    fn parts_together_are_the_checksum_bit_for_bit() {
        for length in [1, 2, 7, 8, 9, 255, 256, 257, 4096, 65_536, 70_001, 2 << 20] {
            let content = bytes(length);
            let expected = hicache_core::hashing::checksum(&content);
            for most in [1, 3, 512, 1024, 4096, u32::MAX] {
                if (most as usize) * 100_000 < length {
                    continue; // A part a byte of two million takes a while and shows nothing more.
                }
                assert_eq!(sum(&content, &[length], most), expected, "{length} bytes in parts of {most}");
            }
            let third = length / 3;
            assert_eq!(
                sum(&content, &[third, length - third], 512),
                expected,
                "{length} bytes in two pieces"
            );
        }
    }

    #[test]
    fn every_byte_counts() {
        let content = bytes(5000);
        let right = sum(&content, &[5000], 1000);
        for at in [0, 999, 1000, 4999] {
            let mut wrong = content.clone();
            wrong[at] ^= 1;
            assert_ne!(sum(&wrong, &[5000], 1000), right, "byte {at}");
        }
    }

    #[test]
    fn one_is_neutral_and_factors_can_be_swapped() {
        let (a, b) = (0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3211);
        assert_eq!(multiply(a, ONE), a);
        assert_eq!(multiply(ONE, b), b);
        assert_eq!(multiply(a, b), multiply(b, a));
    }
}
