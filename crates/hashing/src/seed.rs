//! What a chain of page hashes starts from.

use crate::Digest;
use sha2::{Digest as _, Sha256};

/// Keeps seeds apart from all other digests. SGLang's, so it can't change.
const DOMAIN: &[u8] = b"sglang-cache-namespace-v1";

/// The digest that the first page of a prompt is chained to, or `None` where a chain starts from nothing.
///
/// SGLang keeps prompts apart that have the same tokens but must not share KV: by `extra_key` (the LoRA adapter,
/// for one) and by `cache_salt` (a tenant's secret). A prompt with neither is not seeded. An empty string is not
/// the same as `None`.
///
/// The seed is SHA-256 over `"sglang-cache-namespace-v1"`, the extra key and the salt, each of the two encoded
/// as `00` for `None`, else as `01`, its length in bytes as `u64` little-endian, and its UTF-8.
///
/// Source: SGLang 0.5.23, `sglang/srt/mem_cache/utils.py`, `storage_namespace_seed`.
///
/// ```
/// use hicache_hashing::{chain_seed, page_hashes, to_hex};
/// use std::num::NonZeroUsize;
///
/// assert_eq!(chain_seed(None, None), None);
///
/// let keys = page_hashes(&[1u32, 2, 3, 4], NonZeroUsize::new(4).unwrap(), chain_seed(Some("lora-A"), None));
/// assert_eq!(to_hex(&keys[0]), "ca5912b2b40c1105611683a8680b486156fbbcdf3b6ff5d012d0a00740966a0a");
/// ```
pub fn chain_seed(extra_key: Option<&str>, cache_salt: Option<&str>) -> Option<Digest> {
    if extra_key.is_none() && cache_salt.is_none() {
        return None;
    }
    let mut sha256 = Sha256::new_with_prefix(DOMAIN);
    for part in [extra_key, cache_salt] {
        match part {
            None => sha256.update([0x00]),
            Some(text) => {
                sha256.update([0x01]);
                sha256.update((text.len() as u64).to_le_bytes());
                sha256.update(text);
            }
        }
    }
    Some(sha256.finalize().into())
}
