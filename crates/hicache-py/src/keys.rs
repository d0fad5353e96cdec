//! Keys as SGLang writes them.

use hicache::{PageKey, PoolName, Result};
use hicache_hashing::{parse_hex32, text_key_digest};
use pyo3::FromPyObject;

/// The key of a page in `pool`. A page hash is taken as it is; any other text (releases of SGLang may name pages
/// otherwise) stands for its digest. In the pool of text keys every key is a text.
pub(crate) fn page_key(pool: PoolName, text: &str) -> Result<PageKey> {
    if pool == PoolName::TEXT {
        return PageKey::from_text(text);
    }
    if let Ok(digest) = parse_hex32(text) {
        return Ok(PageKey::new(pool, digest));
    }
    PageKey::from_text(text)?; // The same limits hold.
    Ok(PageKey::new(pool, text_key_digest(text)))
}

/// Keys as Python passes them: a list of texts, or one text with a line a key, which is read ten times as fast.
#[derive(FromPyObject)]
pub(crate) enum Keys {
    /// One key a line.
    Lines(String),
    /// One key an entry.
    List(Vec<String>),
}

impl Keys {
    /// The keys of pages in `pool`.
    pub(crate) fn of(&self, pool: PoolName) -> Result<Vec<PageKey>> {
        match self {
            Self::Lines(text) => text.split('\n').map(|line| page_key(pool, line)).collect(),
            Self::List(texts) => texts.iter().map(|text| page_key(pool, text)).collect(),
        }
    }
}
