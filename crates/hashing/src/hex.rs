//! Digests as text.

use std::fmt;

/// The value of each byte as a lowercase hex digit, or [`NOT_A_DIGIT`].
const VALUES: [u8; 256] = {
    let mut values = [NOT_A_DIGIT; 256];
    let mut value = 0;
    while value < 16 {
        values[DIGITS[value] as usize] = value as u8;
        value += 1;
    }
    values
};
const DIGITS: &[u8; 16] = b"0123456789abcdef";
/// Above every value of a digit, so that one comparison over all digits finds it.
const NOT_A_DIGIT: u8 = 0x10;

/// `bytes` as lowercase hex digits, two a byte, most significant first.
///
/// ```
/// assert_eq!(hicache_hashing::to_hex(&[0x0f, 0xa0]), "0fa0");
/// ```
pub fn to_hex(bytes: &[u8]) -> String {
    let mut text = vec![0; bytes.len() * 2];
    for (pair, byte) in text.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
        *pair = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 0x0f)]];
    }
    String::from_utf8(text).expect("hex digits are ASCII")
}

/// As [`to_hex`], of a digest, without an allocation: for whoever makes texts of another kind of them by the thousand.
///
/// ```
/// let digest = [0xab; 32];
/// assert_eq!(hicache_hashing::hex_digits(&digest), *hicache_hashing::to_hex(&digest).as_bytes());
/// ```
pub fn hex_digits(digest: &[u8; 32]) -> [u8; 64] {
    let mut text = [0; 64];
    // Sums instead of a table: the compiler then makes vector code of the loop.
    let digit = |value: u8| value + b'0' + u8::from(value > 9) * (b'a' - b'0' - 10);
    for (pair, byte) in text.as_chunks_mut::<2>().0.iter_mut().zip(digest) {
        *pair = [digit(byte >> 4), digit(byte & 0x0f)];
    }
    text
}

/// The 32 bytes that 64 lowercase hex digits stand for: a page hash as SGLang writes it.
///
/// Uppercase digits are refused, so that two different texts never stand for one key.
///
/// # Errors
///
/// [`HexError`] for another length, or for a byte that is not a lowercase hex digit.
///
/// ```
/// use hicache_hashing::{HexError, parse_hex32, to_hex};
///
/// let digest = [0xab; 32];
/// assert_eq!(parse_hex32(&to_hex(&digest)), Ok(digest));
/// assert_eq!(parse_hex32("ab"), Err(HexError::Length { expected: 64, found: 2 }));
/// assert_eq!(parse_hex32(&"AB".repeat(32)), Err(HexError::Digit { at: 0 }));
/// ```
pub fn parse_hex32(text: &str) -> Result<[u8; 32], HexError> {
    parse(text)
}

/// The `N` bytes that `2 * N` lowercase hex digits stand for.
pub(crate) fn parse<const N: usize>(text: &str) -> Result<[u8; N], HexError> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return Err(HexError::Length { expected: 2 * N, found: text.len() });
    }
    let mut bytes = [0; N];
    let mut seen = 0;
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        let (high, low) = (VALUES[usize::from(*high)], VALUES[usize::from(*low)]);
        seen |= high | low;
        *byte = high << 4 | low;
    }
    if seen < NOT_A_DIGIT {
        return Ok(bytes);
    }
    let at = text.bytes().position(|digit| VALUES[usize::from(digit)] == NOT_A_DIGIT);
    Err(HexError::Digit { at: at.unwrap_or_default() })
}

/// Why a text is not a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HexError {
    /// The text has another length.
    Length {
        /// Digits that were expected.
        expected: usize,
        /// Bytes of the text.
        found: usize,
    },
    /// A byte is not one of `0` to `9` or `a` to `f`.
    Digit {
        /// Index of the first such byte.
        at: usize,
    },
}

impl fmt::Display for HexError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { expected, found } => {
                write!(f, "expected {expected} lowercase hex digits, found {found} bytes")
            }
            Self::Digit { at } => write!(f, "byte {at} is not a lowercase hex digit"),
        }
    }
}

impl std::error::Error for HexError {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip(bytes: [u8; 32]) {
            let text = to_hex(&bytes);
            prop_assert_eq!(text.len(), 64);
            prop_assert_eq!(parse_hex32(&text), Ok(bytes));
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in ".*") {
            if let Ok(bytes) = parse_hex32(&text) {
                prop_assert_eq!(to_hex(&bytes), text);
            }
        }

        /// 64 bytes with one strange character, wide ones included.
        #[test]
        fn one_bad_character_is_found(at in 0usize..60, bad in "[^0-9a-f]") {
            let text = format!("{}{bad}{}", "0".repeat(at), "0".repeat(64 - at - bad.len()));
            prop_assert_eq!(parse_hex32(&text), Err(HexError::Digit { at }));
        }
    }
}
