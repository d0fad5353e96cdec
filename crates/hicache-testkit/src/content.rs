//! Bytes of a page as a pure function of its key, a version and its length, so that any test can say what a page must
//! hold without keeping a copy.

use std::fmt;

use hicache_core::{PageKey, PageMemory, Result};

/// What one page must hold.
///
/// ```
/// use hicache_core::PageKey;
/// use hicache_testkit::Content;
/// let content = Content::new(&PageKey::kv([1; 32]), 7, 100);
/// let mut bytes = content.bytes();
/// assert_eq!(content.check(&bytes), Ok(()));
/// bytes[31] ^= 1;
/// assert_eq!(content.check(&bytes).unwrap_err().offset, 31);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    seed: u64,
    len: usize,
}

/// The first byte that is not what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongByte {
    /// Where, from the start of the page. Beyond the page's end if the page is longer than it must be.
    pub offset: usize,
    /// What must be there; `None` beyond the end.
    pub expected: Option<u8>,
    /// What is there; `None` where the page is too short.
    pub actual: Option<u8>,
}

impl fmt::Display for WrongByte {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {} is {:02x?} and must be {:02x?}", self.offset, self.actual, self.expected)
    }
}

impl Content {
    /// The content of `len` bytes that `key` has in `version`.
    pub fn new(key: &PageKey, version: u64, len: usize) -> Self {
        let pool = key.pool.as_str().bytes().fold(0, |sum, byte| mix(sum ^ u64::from(byte)));
        let words =
            key.digest.chunks_exact(8).map(|word| word.iter().fold(0, |sum, &b| sum << 8 | u64::from(b)));
        let seed = words.fold(mix(version) ^ pool, |sum, word| mix(sum ^ word));
        Self { seed: mix(seed ^ len as u64), len }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All of it.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len];
        self.fill_part(0, &mut bytes);
        bytes
    }

    /// Writes it over the page, whose pieces together have its length.
    ///
    /// # Errors
    /// `Config` for a read lease, device memory and another length.
    pub fn fill(&self, page: &mut PageMemory) -> Result<()> {
        if page.bytes() != self.len {
            return page.copy_from(&self.bytes());
        }
        let mut offset = 0;
        for part in page.bytes_mut() {
            let part = part?;
            self.fill_part(offset, part);
            offset += part.len();
        }
        Ok(())
    }

    /// Compares every byte of `bytes`.
    ///
    /// # Errors
    /// The first wrong byte.
    pub fn check(&self, bytes: &[u8]) -> Result<(), WrongByte> {
        self.check_part(0, bytes)?;
        self.check_length(bytes.len())
    }

    /// Compares every byte of the page.
    ///
    /// # Errors
    /// `Config` for device memory; inside, the first wrong byte.
    pub fn check_page(&self, page: &PageMemory) -> Result<Result<(), WrongByte>> {
        let mut offset = 0;
        for piece in page.pieces() {
            let part = piece.lease().bytes()?;
            if let Err(wrong) = self.check_part(offset, part) {
                return Ok(Err(wrong));
            }
            offset += part.len();
        }
        Ok(self.check_length(offset))
    }

    fn check_length(&self, len: usize) -> Result<(), WrongByte> {
        if len < self.len {
            return Err(WrongByte { offset: len, expected: Some(self.byte(len)), actual: None });
        }
        Ok(())
    }

    fn check_part(&self, offset: usize, part: &[u8]) -> Result<(), WrongByte> {
        // Short, so that a page of another version is told after a few bytes.
        let mut block = [0; 512];
        for (i, actual) in part.chunks(block.len()).enumerate() {
            let start = offset + i * block.len();
            let expected = &mut block[..actual.len().min(self.len.saturating_sub(start))];
            self.fill_part(start, expected);
            if expected == actual {
                continue;
            }
            let same = expected.iter().zip(actual).take_while(|(a, b)| a == b).count();
            let (expected, actual) = (expected.get(same).copied(), actual.get(same).copied());
            return Err(WrongByte { offset: start + same, expected, actual });
        }
        Ok(())
    }

    fn fill_part(&self, offset: usize, part: &mut [u8]) {
        let head = (offset.next_multiple_of(8) - offset).min(part.len());
        let (head, rest) = part.split_at_mut(head);
        for (i, byte) in head.iter_mut().enumerate() {
            *byte = self.byte(offset + i);
        }
        let first = ((offset + head.len()) / 8) as u64;
        let mut words = rest.chunks_exact_mut(8);
        let mut index = first;
        for word in &mut words {
            word.copy_from_slice(&self.word(index).to_le_bytes());
            index += 1;
        }
        let tail = words.into_remainder();
        tail.copy_from_slice(&self.word(index).to_le_bytes()[..tail.len()]);
    }

    fn byte(&self, offset: usize) -> u8 {
        self.word((offset / 8) as u64).to_le_bytes()[offset % 8]
    }

    fn word(&self, index: u64) -> u64 {
        mix(self.seed.wrapping_add(index))
    }
}

/// A bijection of 64-bit numbers that leaves no pattern (the last steps of splitmix64).
pub(crate) fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A key of the KV pool that differs for every number.
pub fn numbered_key(number: u64) -> PageKey {
    let mut digest = [0; 32];
    for (i, word) in digest.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&mix(number ^ (i as u64) << 56).to_le_bytes());
    }
    PageKey::kv(digest)
}

#[cfg(test)]
mod tests {
    use hicache_core::PoolName;

    use super::*;

    #[test]
    fn everything_that_names_a_page_changes_its_bytes() {
        let key = numbered_key(1);
        let base = Content::new(&key, 1, 64).bytes();
        let swa = PageKey::new(PoolName::new("swa").unwrap(), key.digest);
        let others = [(&numbered_key(2), 1, 64), (&key, 2, 64), (&swa, 1, 64), (&key, 1, 65)];
        for (key, version, len) in others {
            assert_ne!(Content::new(key, version, len).bytes()[..64], base);
        }
    }

    #[test]
    fn parts_at_any_offset_are_parts_of_the_whole() {
        let content = Content::new(&numbered_key(3), 0, 10_000);
        let whole = content.bytes();
        for (from, to) in [(0, 1), (1, 2), (3, 8), (7, 9), (8, 16), (5, 9_999), (4095, 4097), (9_999, 10_000)]
        {
            let mut part = vec![0; to - from];
            content.fill_part(from, &mut part);
            assert_eq!(part, whole[from..to], "{from}..{to}");
            assert_eq!(content.check_part(from, &part), Ok(()));
        }
    }

    #[test]
    fn the_first_wrong_byte_is_named() {
        let content = Content::new(&numbered_key(4), 0, 9_000);
        for at in [0, 7, 4095, 4096, 8_999] {
            let mut bytes = content.bytes();
            bytes[at] ^= 0x80;
            bytes[8_999] ^= 1;
            let wrong = content.check(&bytes).unwrap_err();
            assert_eq!((wrong.offset, wrong.actual), (at, Some(bytes[at])));
        }
        let short = content.check(&content.bytes()[..8_999]).unwrap_err();
        assert_eq!((short.offset, short.actual), (8_999, None));
        let long = content.check(&[content.bytes(), vec![0]].concat()).unwrap_err();
        assert_eq!((long.offset, long.expected), (9_000, None));
    }
}
