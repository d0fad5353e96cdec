//! The names log: the text behind generic string keys, which only `list` needs.
//!
//! An entry is mark `NL` (2 bytes), length of the text (2), check over all that follows (4), digest (32), text.

use hicache_hashing::{Digest, record_check};

const MARK: [u8; 2] = *b"NL";
const HEAD: usize = 8;
const DIGEST: usize = 32;

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NameEntry {
    pub(crate) digest: Digest,
    pub(crate) text: String,
}

/// Length of the entry of `text`.
pub(crate) fn name_bytes(text: &str) -> u64 {
    (HEAD + DIGEST + text.len()) as u64
}

/// Appends an entry to `out`. Texts are at most [`hicache_core::MAX_TEXT_KEY_BYTES`] long.
pub(crate) fn encode_name(digest: &Digest, text: &str, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&MARK);
    out.extend_from_slice(&(text.len() as u16).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(digest);
    out.extend_from_slice(text.as_bytes());
    let check = record_check(&out[start + HEAD..]);
    out[start + 4..start + HEAD].copy_from_slice(&check.to_le_bytes());
}

/// The entries in `raw`; damaged stretches are skipped up to the next entry that is whole.
pub(crate) fn parse_names(raw: &[u8]) -> Vec<NameEntry> {
    let mut entries = Vec::new();
    let mut at = 0;
    while at + HEAD + DIGEST <= raw.len() {
        match entry_at(&raw[at..]) {
            Some((entry, length)) => {
                entries.push(entry);
                at += length;
            }
            None => at += 1,
        }
    }
    entries
}

fn entry_at(raw: &[u8]) -> Option<(NameEntry, usize)> {
    let (head, rest) = raw.split_first_chunk::<HEAD>()?;
    if head[..2] != MARK {
        return None;
    }
    let length = usize::from(u16::from_le_bytes([head[2], head[3]]));
    if length > hicache_core::MAX_TEXT_KEY_BYTES {
        return None;
    }
    let body = rest.get(..DIGEST + length)?;
    if record_check(body).to_le_bytes() != head[4..] {
        return None;
    }
    let (digest, text) = body.split_first_chunk::<DIGEST>()?;
    let text = std::str::from_utf8(text).ok()?.to_owned();
    Some((NameEntry { digest: *digest, text }, HEAD + DIGEST + length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_damaged_stretch_costs_only_itself() {
        let mut raw = Vec::new();
        for (i, text) in ["a", "NLNLNL", "ü"].iter().enumerate() {
            encode_name(&[i as u8; 32], text, &mut raw);
        }
        let texts = |raw: &[u8]| parse_names(raw).into_iter().map(|entry| entry.text).collect::<Vec<_>>();
        assert_eq!(texts(&raw), ["a", "NLNLNL", "ü"]);
        let mut bad = raw.clone();
        bad[HEAD + 3] ^= 1;
        assert_eq!(texts(&bad), ["NLNLNL", "ü"]);
        assert_eq!(texts(&raw[..raw.len() - 1]), ["a", "NLNLNL"]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(raw in prop::collection::vec(any::<u8>(), 0..2000)) {
            crate::fuzzing::names(&raw);
        }
    }
}
