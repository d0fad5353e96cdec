//! The bytes that a page must hold.
//!
//! A replay has no model to compute pages, so the bytes are made from the page's digest, and whoever loads a page makes
//! them again and compares every one. This must cost far less than the store: the bytes come from eight counters side
//! by side, each with its own start and step drawn from the digest and the length of the page, which compilers turn
//! into vector instructions. It is no cipher and no random source; what it gives is that any page that is not exactly
//! the right one shows:
//!
//! - another page, or one of another length: all counters start elsewhere;
//! - moved by any multiple of 8 bytes: the counters stand elsewhere, for a step is odd and so never comes to zero;
//!   by other distances: the bytes of a word are all different functions of its counter;
//! - zeroed or torn: no run of words repeats, and a word is zero once in 2^64.

/// Counters side by side.
const LANES: usize = 8;
/// Bytes of a word.
const WORD: usize = 8;
/// Bytes that one step of all counters makes.
const STRIDE: usize = WORD * LANES;
/// Bytes that are compared before a difference is looked at: a branch for each stride would cost more than the bytes.
const BLOCK: usize = 16 * STRIDE;

/// Writes the bytes of the page with `digest` whose length is that of `out`.
pub fn fill_page(digest: &[u8; 32], out: &mut [u8]) {
    let mut counters = Counters::new(digest, out.len());
    let (strides, rest) = out.as_chunks_mut::<STRIDE>();
    for stride in strides {
        *stride = bytes_of(counters.next());
    }
    rest.copy_from_slice(&bytes_of(counters.next())[..rest.len()]);
}

/// Compares `bytes` with the page that [`fill_page`] makes for `digest` and their length: the offset of the first wrong
/// byte, or `None` where all are right. A page of no bytes is right.
pub fn check_page(digest: &[u8; 32], bytes: &[u8]) -> Option<usize> {
    let mut counters = Counters::new(digest, bytes.len());
    let (blocks, rest) = bytes.as_chunks::<BLOCK>();
    for (index, block) in blocks.iter().enumerate() {
        let before = counters;
        let mut differences = [0; LANES];
        for stride in block.as_chunks::<STRIDE>().0 {
            let right = counters.next();
            for (lane, word) in stride.as_chunks::<WORD>().0.iter().enumerate() {
                differences[lane] |= u64::from_le_bytes(*word) ^ right[lane];
            }
        }
        if differences.iter().fold(0, |any, difference| any | difference) != 0 {
            return first_difference(block, before).map(|offset| index * BLOCK + offset);
        }
    }
    first_difference(rest, counters).map(|offset| blocks.len() * BLOCK + offset)
}

/// Index of the first byte of `bytes` that is not what `counters` make.
fn first_difference(bytes: &[u8], mut counters: Counters) -> Option<usize> {
    bytes.chunks(STRIDE).enumerate().find_map(|(index, stride)| {
        let mut pairs = stride.iter().zip(bytes_of(counters.next()));
        pairs.position(|(byte, right)| *byte != right).map(|offset| index * STRIDE + offset)
    })
}

/// The bytes of a stride: its words in little-endian order on every machine.
#[inline(always)]
fn bytes_of(words: [u64; LANES]) -> [u8; STRIDE] {
    let mut bytes = [0; STRIDE];
    for (bytes, word) in bytes.as_chunks_mut::<WORD>().0.iter_mut().zip(words) {
        *bytes = word.to_le_bytes();
    }
    bytes
}

/// The counters of one page.
#[derive(Clone, Copy)]
struct Counters {
    values: [u64; LANES],
    /// What each counter grows by; odd.
    steps: [u64; LANES],
}

impl Counters {
    fn new(digest: &[u8; 32], page_bytes: usize) -> Self {
        let (words, _) = digest.as_chunks::<WORD>();
        let mut state = mix(page_bytes as u64);
        for word in words {
            state = mix(state ^ u64::from_le_bytes(*word));
        }
        let mut draw = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            mix(state)
        };
        // With the words themselves in it, so that two digests whose states meet still differ.
        let values = std::array::from_fn(|lane| draw() ^ u64::from_le_bytes(words[lane % words.len()]));
        Self { values, steps: std::array::from_fn(|_| draw() | 1) }
    }

    /// The next words.
    #[inline(always)]
    fn next(&mut self) -> [u64; LANES] {
        let mut words = [0; LANES];
        for (lane, word) in words.iter_mut().enumerate() {
            let value = self.values[lane].wrapping_add(self.steps[lane]);
            self.values[lane] = value;
            // Brings the upper half, which changes with every bit below it, into the lower.
            *word = value ^ (value >> 32);
        }
        words
    }
}

/// A bijection of 64 bits that spreads every bit of its input (the finaliser of SplitMix64).
fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: u8) -> [u8; 32] {
        std::array::from_fn(|index| number.wrapping_mul(37).wrapping_add(index as u8))
    }

    fn page(digest: &[u8; 32], page_bytes: usize) -> Vec<u8> {
        let mut bytes = vec![0xaa; page_bytes];
        fill_page(digest, &mut bytes);
        bytes
    }

    #[test]
    fn a_right_page_of_any_length_passes() {
        for page_bytes in (0..300).chain([1023, 1024, 1025, 4096, 65_536, 65_537]) {
            assert_eq!(check_page(&digest(1), &page(&digest(1), page_bytes)), None, "{page_bytes} bytes");
        }
    }

    #[test]
    fn the_first_wrong_byte_is_found_wherever_it_is() {
        let right = page(&digest(2), 2100);
        for offset in 0..right.len() {
            for bit in [0, 7] {
                let mut wrong = right.clone();
                wrong[offset] ^= 1 << bit;
                if let Some(last) = wrong.last_mut().filter(|_| offset < 2099) {
                    *last ^= 1;
                }
                assert_eq!(check_page(&digest(2), &wrong), Some(offset));
            }
        }
    }

    #[test]
    fn pages_that_are_not_the_right_one_fail() {
        let right = page(&digest(3), 4096);
        let fails = |bytes: &[u8]| check_page(&digest(3), bytes).is_some_and(|offset| offset < 16);
        assert!(fails(&page(&digest(4), 4096)), "another page");
        assert!(fails(&vec![0; 4096]), "zeroed");
        assert!(fails(&vec![0xff; 4096]), "erased");
        assert!(fails(&right[..2048]), "truncated");
        assert!(fails(&page(&digest(3), 8192)[..4096]), "half of a longer page");
        for distance in (1..64).chain((64..4096).step_by(64)) {
            let mut shifted = right.clone();
            shifted.rotate_left(distance);
            assert!(fails(&shifted), "shifted by {distance}");
        }
        let mut zeroed_end = right.clone();
        zeroed_end[3584..].fill(0);
        assert!(check_page(&digest(3), &zeroed_end).is_some_and(|offset| (3584..3600).contains(&offset)));
        let mut swapped = right.clone();
        swapped.copy_within(512..1024, 0);
        assert!(fails(&swapped), "a sector in the place of another");
    }

    #[test]
    fn every_bit_of_the_digest_counts() {
        let right = page(&digest(5), 256);
        for bit in 0..256 {
            let mut other = digest(5);
            other[bit / 8] ^= 1 << (bit % 8);
            let other = page(&other, 256);
            let mut words = right.as_chunks::<8>().0.iter().zip(other.as_chunks::<8>().0);
            assert!(words.all(|(right, other)| right != other), "bit {bit}");
        }
    }

    #[test]
    fn no_word_of_a_page_repeats() {
        let bytes = page(&digest(6), 1 << 20);
        let mut words = bytes.as_chunks::<8>().0.to_vec();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), (1 << 20) / 8);
    }

    #[test]
    fn the_bytes_are_the_same_for_ever() {
        // Pages on a disk are checked by later versions too.
        let bytes = page(&[7; 32], 96);
        let words: Vec<u64> = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
        assert_eq!(
            [words[0], words[7], words[8], words[11]],
            [0xefe1_1333_2566_4e58, 0x53af_e668_dbcc_7835, 0x53a7_2b9b_e333_cf1b, 0xc712_8308_d17b_dcd0]
        );
    }
}
