//! Names of pages.

use std::fmt;

use hicache_hashing::{Digest, text_key_digest, to_hex};

use crate::error::{Error, Result};

/// Longest generic string key, in bytes of UTF-8.
pub const MAX_TEXT_KEY_BYTES: usize = 512;

/// Name of a pool of pages: `kv`, or one of the side pools (`swa`, `mamba`, `indexer`, …) that share hashes with it.
///
/// 1 to [`PoolName::MAX_BYTES`] bytes of printable ASCII without spaces, kept inline so that keys are `Copy`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolName {
    bytes: [u8; Self::MAX_BYTES],
    len: u8,
}

impl PoolName {
    /// Longest name in bytes.
    pub const MAX_BYTES: usize = 31;
    /// The pool of keys and values.
    pub const KV: Self = Self::literal("kv");
    /// The pool of generic string keys.
    pub const TEXT: Self = Self::literal("text");

    const fn literal(name: &str) -> Self {
        let source = name.as_bytes();
        let mut bytes = [0; Self::MAX_BYTES];
        let mut i = 0;
        while i < source.len() {
            bytes[i] = source[i];
            i += 1;
        }
        Self { bytes, len: source.len() as u8 }
    }

    /// Checks and copies a name.
    ///
    /// # Errors
    /// `Config` if it is empty, too long, or has a byte outside printable ASCII.
    pub fn new(name: &str) -> Result<Self> {
        let fits = (1..=Self::MAX_BYTES).contains(&name.len());
        if !fits || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Error::config(format!(
                "pool name {name:?} must be 1 to {} printable ASCII characters without spaces",
                Self::MAX_BYTES
            )));
        }
        Ok(Self::literal(name))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        // Only ASCII gets in, so the fallback is never taken; it keeps a panic out of the path of every error text.
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or("?")
    }
}

impl fmt::Debug for PoolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PoolName({})", self.as_str())
    }
}

impl fmt::Display for PoolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a page is looked up by, inside a namespace: pool and digest.
///
/// ```
/// use hicache_core::{PageKey, PoolName};
/// let key = PageKey::kv([7; 32]);
/// assert_eq!(key.pool, PoolName::KV);
/// assert!(PageKey::from_text("").is_err());
/// assert!(PageKey::from_text(&"x".repeat(513)).is_err());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PageKey {
    /// The pool, since side pools share hashes with the KV pool.
    pub pool: PoolName,
    /// The page hash, which chains over all tokens before the page.
    pub digest: Digest,
}

impl PageKey {
    /// A page of the KV pool.
    pub const fn kv(digest: Digest) -> Self {
        Self { pool: PoolName::KV, digest }
    }

    /// A page of `pool`.
    pub const fn new(pool: PoolName, digest: Digest) -> Self {
        Self { pool, digest }
    }

    /// The key that a generic string stands for.
    ///
    /// # Errors
    /// `Config` for an empty string and for one over [`MAX_TEXT_KEY_BYTES`].
    pub fn from_text(text: &str) -> Result<Self> {
        if text.is_empty() || text.len() > MAX_TEXT_KEY_BYTES {
            let shown: String = text.chars().take(40).collect();
            return Err(Error::config(format!(
                "key {shown:?} has {} bytes; a key has 1 to {MAX_TEXT_KEY_BYTES}",
                text.len()
            )));
        }
        Ok(Self { pool: PoolName::TEXT, digest: text_key_digest(text) })
    }
}

impl fmt::Display for PageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.pool, to_hex(&self.digest))
    }
}

impl fmt::Debug for PageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageKey({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_keep_equal_hashes_apart() {
        let swa = PoolName::new("swa").unwrap();
        assert_ne!(PageKey::kv([1; 32]), PageKey::new(swa, [1; 32]));
    }

    #[test]
    fn bad_pool_names_are_refused() {
        for bad in ["", "a b", "ü", "x\n", &"x".repeat(32)] {
            assert!(PoolName::new(bad).is_err(), "{bad:?}");
        }
        assert_eq!(PoolName::new(&"x".repeat(31)).unwrap().as_str().len(), 31);
    }
}
