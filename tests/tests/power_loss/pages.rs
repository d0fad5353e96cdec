//! The pages of the workload: keys by number, and what each version of one holds.

use hicache_core::{PageKey, PageMemory, PageRequest};

/// How many keys there are.
pub(crate) const KEYS: u64 = 120;
/// Longest page.
pub(crate) const LONGEST: usize = 5000;
/// Lengths of pages: in slots of one block and of two, some whole and most not.
const LENGTHS: [usize; 5] = [600, 4096, 3000, LONGEST, 24];

/// The text behind a key, for one in five.
pub(crate) fn text(number: u64) -> Option<String> {
    number.is_multiple_of(5).then(|| format!("conversation {number}"))
}

pub(crate) fn key(number: u64) -> PageKey {
    match text(number) {
        Some(text) => PageKey::from_text(&text).unwrap(),
        None => {
            let mut digest = [0; 32];
            for (word, chunk) in digest.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                *chunk = mix(number * 4 + word as u64).to_le_bytes();
            }
            PageKey::kv(digest)
        }
    }
}

pub(crate) fn request(number: u64, memory: PageMemory) -> PageRequest {
    match text(number) {
        Some(text) => PageRequest::named(&text, memory).unwrap(),
        None => PageRequest::new(key(number), memory),
    }
}

/// The lengths that versions of a page have.
pub(crate) fn lengths(number: u64) -> [usize; 2] {
    let at = number as usize;
    [LENGTHS[at % 5], LENGTHS[(at / 5 + 1) % 5]]
}

pub(crate) fn length(number: u64, version: u64) -> usize {
    lengths(number)[usize::from(version.is_multiple_of(3))]
}

/// The bytes of a version. No two versions of any keys are equal.
pub(crate) fn content(number: u64, version: u64) -> Vec<u8> {
    let length = length(number, version);
    let seed = mix(number << 32 | version);
    let words = (0..length.div_ceil(8) as u64).map(|at| mix(seed.wrapping_add(at)));
    let mut bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    bytes.truncate(length);
    bytes
}

/// A bijection that spreads (SplitMix64's).
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ value >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ value >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ value >> 31
}
