//! Names of pages whose keys are strings.

use crate::Digest;
use sha2::{Digest as _, Sha256};

/// Keeps text keys apart from all other digests. 19 bytes long: with the inner digest 51, which is 3 modulo 4,
/// while what a page hash runs over is 0 (ids of 4 bytes, a prior digest of 32) or 1 (the same with the tag of
/// wide ids) modulo 4. So no prompt, whatever its token ids, has the digest of a text key.
const DOMAIN: &[u8; 19] = b"hicache-text-key-v1";

/// The digest under which a page with a string key is stored.
///
/// It is SHA-256 over `"hicache-text-key-v1"` and the SHA-256 of the text's UTF-8. The text is taken as it is:
/// no trimming, case folding or Unicode normalisation. Text keys share the 32-byte key space with page hashes,
/// and by construction the two hash different bytes.
///
/// A text of 64 hex digits is a text like any other here; whoever takes such a string for a page hash decodes
/// it with [`parse_hex32`](crate::parse_hex32) instead.
///
/// ```
/// use hicache_hashing::{text_key_digest, to_hex};
///
/// let digest = text_key_digest("key");
/// assert_eq!(to_hex(&digest), "f365bbe2e9d7b4107ac4fdfc93241e068cbbc780105d1b9bc3920f34f5d00db9");
/// ```
pub fn text_key_digest(text: &str) -> Digest {
    let mut sha256 = Sha256::new_with_prefix(DOMAIN);
    sha256.update(Sha256::digest(text));
    sha256.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::to_hex;

    /// Computed with Python's hashlib. On disk for ever.
    #[test]
    fn vectors() {
        for (text, digest) in [
            ("", "4bdb5258599268761bc9be257b9a6d54ef492d6c4c639f6a5ef5113a8a91249f"),
            ("key", "f365bbe2e9d7b4107ac4fdfc93241e068cbbc780105d1b9bc3920f34f5d00db9"),
            ("ключ", "3f59ed9539721c1fbcdb1c196db313b1a98a1b98dc680d5af1f4ffee68d5cabd"),
        ] {
            assert_eq!(to_hex(&text_key_digest(text)), digest, "{text:?}");
        }
    }
}
