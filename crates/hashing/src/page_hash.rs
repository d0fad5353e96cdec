//! Names of pages: SGLang's chained page hashes.
//!
//! Source: SGLang 0.5.23, `sglang/srt/mem_cache/utils.py` (`get_hash_str`) and
//! `mem_cache/cpp_utils/hash_binding.cpp`; written from their description and checked against vectors that the
//! compiled original printed.
//!
//! The digest of a page is SHA-256 over the digest of the page before it (32 bytes; for the first page the
//! seed, or nothing) and the page's token ids. A digest so names the whole prefix up to the end of its page,
//! which is why one 32-byte key is enough to find a page.
//!
//! | page | bytes behind the prior digest |
//! |---|---|
//! | all ids up to `u32::MAX` | each id as `u32` little-endian |
//! | any id above | `0xff`, then each id as `u64` little-endian |
//!
//! The tag makes the length of a wide page odd, so the two encodings never meet. The choice is made for each
//! page by itself: one wide id changes its own page's encoding and, through the chain, the digests after it.

use crate::message::Message;
use crate::token::{Token, sealed::Raw};
use sha2::{Digest as _, Sha256};
use std::num::NonZeroUsize;

/// A SHA-256 digest: the name of one page, of its whole prefix, or of a text key. SGLang writes it as 64
/// lowercase hex digits; see [`to_hex`](crate::to_hex) and [`parse_hex32`](crate::parse_hex32).
pub type Digest = [u8; 32];

/// The byte in front of a page with wide ids.
const WIDE_TAG: [u8; 1] = [0xff];
/// Wide ids that are encoded at a time; bounds the stack buffer, means nothing to the digest.
const WIDE_RUN: usize = 64;

/// The digest of one page of token ids that follows the page with the digest `prior`.
///
/// Without `prior` the page is the first of an unseeded chain. Any number of tokens is one page, also none.
/// The encoding is described at [`page_hashes`].
///
/// # Errors
///
/// For `u32` and `u64` the answer is the [`Digest`] itself. For `i64` it is a `Result` that refuses a negative
/// id with [`NegativeToken`](crate::NegativeToken).
///
/// ```
/// use hicache_hashing::{page_hash, to_hex};
///
/// let first = page_hash(None, &[1u64, 2, 3, 4]);
/// assert_eq!(to_hex(&first), "cf97adeedb59e05bfd73a2b4c2a8885708c4f4f70c84c64b27120e72ab733b72");
///
/// assert_eq!(page_hash(None, &[1i64, 2, 3, 4]), Ok(first));
/// assert_eq!(page_hash(None, &[1i64, -2]).unwrap_err().at, 1);
/// ```
pub fn page_hash<T: Token>(prior: Option<&Digest>, tokens: &[T]) -> T::Hashed<Digest> {
    let (digest, high) = one_page(&mut Message::new(), prior, tokens);
    T::admit(tokens, high, digest)
}

/// [`page_hash`] of `u32` ids: the fast one, with nothing to check, widen or allocate.
///
/// ```
/// use hicache_hashing::{page_hash, page_hash_u32};
///
/// assert_eq!(page_hash_u32(None, &[1, 2, 3]), page_hash(None, &[1u64, 2, 3]));
/// ```
pub fn page_hash_u32(prior: Option<&Digest>, tokens: &[u32]) -> Digest {
    page_hash(prior, tokens)
}

/// The digests of all pages of a prompt: one for each `page_tokens` tokens, in order.
///
/// The last page may be partial and has a digest of its own; storage holds whole pages only, so a caller that
/// wants storage keys passes a multiple of `page_tokens`. No tokens give no digests.
///
/// `seed` is what the first page is chained to: [`chain_seed`](crate::chain_seed) for the start of a prompt,
/// or the digest of the page before `tokens[0]` to continue a chain.
///
/// A page is hashed as SHA-256 over the prior digest, if any, and its ids as `u32` little-endian. A page that
/// holds any id above `u32::MAX` is hashed as `0xff` and its ids as `u64` little-endian instead.
///
/// # Errors
///
/// For `u32` and `u64` the answer is the `Vec` itself. For `i64` it is a `Result` that refuses a negative id
/// anywhere in `tokens` with [`NegativeToken`](crate::NegativeToken).
///
/// ```
/// use hicache_hashing::{page_hash, page_hashes};
/// use std::num::NonZeroUsize;
///
/// let four = NonZeroUsize::new(4).unwrap();
/// let tokens: Vec<u32> = (1..=10).collect();
/// let keys = page_hashes(&tokens, four, None);
/// assert_eq!(keys.len(), 3);
/// assert_eq!(keys[2], page_hash(Some(&keys[1]), &tokens[8..]));
///
/// // A chain can be continued where it was left.
/// assert_eq!(page_hashes(&tokens[4..], four, Some(keys[0])), keys[1..]);
/// ```
pub fn page_hashes<T: Token>(
    tokens: &[T],
    page_tokens: NonZeroUsize,
    seed: Option<Digest>,
) -> T::Hashed<Vec<Digest>> {
    let (digests, high) = chain(tokens.chunks(page_tokens.get()), seed, one_page);
    T::admit(tokens, high, digests)
}

/// The digests of all pages of a prompt under EAGLE, where the unit is not a token but a bigram: the pairs
/// (t0,t1), (t1,t2), …
///
/// `n` tokens make `n - 1` bigrams, and a page is `page_tokens` **bigrams**: neighbouring pages share the token
/// at their boundary. Page `k` covers `tokens[k * page_tokens ..= (k + 1) * page_tokens]`. The last page may be
/// partial. Fewer than two tokens give no digests. To continue a chain behind page `k` its last token is passed
/// again: `tokens[(k + 1) * page_tokens..]`.
///
/// A page is hashed as SHA-256 over the prior digest, if any, and both ids of each pair as `u32` little-endian.
/// If any id of its pairs is above `u32::MAX` the page is hashed as `0xff` and both ids of each pair as `u64`
/// little-endian instead; a wide id at a boundary so widens the pages on both sides.
///
/// `seed` is what the first page is chained to, as in [`page_hashes`].
///
/// # Errors
///
/// As [`page_hashes`]: only `i64` ids can be refused.
///
/// ```
/// use hicache_hashing::{bigram_page_hashes, page_hash};
/// use std::num::NonZeroUsize;
///
/// let keys = bigram_page_hashes(&[1u32, 2, 3, 4, 5], NonZeroUsize::new(2).unwrap(), None);
/// assert_eq!(keys[0], page_hash(None, &[1u32, 2, 2, 3]));
/// assert_eq!(keys[1], page_hash(Some(&keys[0]), &[3u32, 4, 4, 5]));
/// ```
pub fn bigram_page_hashes<T: Token>(
    tokens: &[T],
    page_tokens: NonZeroUsize,
    seed: Option<Digest>,
) -> T::Hashed<Vec<Digest>> {
    let bigrams = tokens.len().saturating_sub(1);
    let pages = (0..bigrams).step_by(page_tokens.get()).map(|start| {
        let end = start.saturating_add(page_tokens.get()).saturating_add(1);
        &tokens[start..end.min(tokens.len())]
    });
    let (digests, high) = chain(pages, seed, one_bigram_page);
    T::admit(tokens, high, digests)
}

/// Hashes each page with the digest of the one before it. Answers the high bits of all ids too, taken together.
fn chain<'a, T: Raw + 'a>(
    pages: impl ExactSizeIterator<Item = &'a [T]>,
    seed: Option<Digest>,
    hash: impl Fn(&mut Message, Option<&Digest>, &[T]) -> (Digest, u64),
) -> (Vec<Digest>, u64) {
    let mut message = Message::new();
    let (mut prior, mut all_high) = (seed, 0);
    let digests = pages.map(|page| {
        let (digest, high) = hash(&mut message, prior.as_ref(), page);
        all_high |= high;
        *prior.insert(digest)
    });
    (digests.collect(), all_high)
}

/// The digest of a page, and the high bits of its ids. The ids are read once: whether one is wide is known when all are
/// encoded as if none were.
fn one_page<T: Raw>(message: &mut Message, prior: Option<&Digest>, tokens: &[T]) -> (Digest, u64) {
    let mut high = 0;
    message.begin(prior);
    message.append::<4>(tokens.len(), |first, slots| {
        for (slot, id) in slots.iter_mut().zip(&tokens[first..]) {
            *slot = id.low();
            high |= id.high();
        }
    });
    if high != 0 {
        return (wide_page(prior, tokens.iter().copied()), high);
    }
    (message.finish(), 0)
}

/// `tokens` holds one more token than the page has bigrams.
fn one_bigram_page<T: Raw>(message: &mut Message, prior: Option<&Digest>, tokens: &[T]) -> (Digest, u64) {
    let high = tokens.iter().fold(0, |high, id| high | id.high());
    if high != 0 {
        return (wide_page(prior, tokens.windows(2).flatten().copied()), high);
    }
    message.begin(prior);
    message.append::<8>(tokens.len() - 1, |first, slots| {
        for (slot, pair) in slots.iter_mut().zip(tokens[first..].windows(2)) {
            let (left, right) = slot.split_at_mut(4);
            left.copy_from_slice(&pair[0].low());
            right.copy_from_slice(&pair[1].low());
        }
    });
    (message.finish(), 0)
}

/// The placeholders that SGLang puts in for images and sound are wide, so whole pages of them are usual. Behind
/// the tag nothing is aligned any more: `Sha256` does its own buffering, fed in runs.
fn wide_page<T: Raw>(prior: Option<&Digest>, mut ids: impl Iterator<Item = T>) -> Digest {
    let mut sha256 = Sha256::new();
    if let Some(prior) = prior {
        sha256.update(prior);
    }
    sha256.update(WIDE_TAG);
    let mut run = [[0; size_of::<u64>()]; WIDE_RUN];
    loop {
        let mut filled = 0;
        // The slots come first in the zip: it must not take an id for which there is no slot.
        for (slot, id) in run.iter_mut().zip(&mut ids) {
            *slot = id.full();
            filled += 1;
        }
        sha256.update(run[..filled].as_flattened());
        if filled < run.len() {
            return sha256.finalize().into();
        }
    }
}
