//! Hashes of the pages of a prompt, and the bare hash over the same bytes.

use hicache_hashing::page_hashes;
use sha2::{Digest, Sha256};

use super::Competitor;
use crate::bench::Problem;
use crate::bench::measure::{Measure, Stopwatch};
use crate::bench::spec::{Kind, Spec};

/// Tokens of a page.
const PAGE_TOKENS: usize = 64;

/// A long prompt.
pub(super) struct Computing {
    kind: Kind,
    tokens: Vec<u32>,
}

impl Computing {
    pub(super) fn prepare(spec: &Spec) -> Self {
        let tokens = spec.round_pages as usize * PAGE_TOKENS;
        let tokens = (0..tokens as u32).map(|token| token.wrapping_mul(2_654_435_761) % 150_000).collect();
        Self { kind: spec.kind, tokens }
    }
}

impl Competitor for Computing {
    fn round(&mut self) -> Result<Measure, Problem> {
        let pages = self.tokens.len() / PAGE_TOKENS;
        let watch = Stopwatch::start();
        if self.kind == Kind::PageHash {
            let page_tokens = std::num::NonZeroUsize::new(PAGE_TOKENS).ok_or("no tokens")?;
            std::hint::black_box(page_hashes(&self.tokens, page_tokens, None));
        } else {
            // As long as what is hashed of a page: the hash before it, and its tokens of four bytes.
            let mut bytes = [0; 32 + 4 * PAGE_TOKENS];
            for page in self.tokens.chunks_exact(PAGE_TOKENS) {
                for (bytes, token) in bytes[32..].chunks_exact_mut(4).zip(page) {
                    bytes.copy_from_slice(&token.to_le_bytes());
                }
                let digest = Sha256::digest(bytes);
                bytes[..32].copy_from_slice(&digest);
            }
            std::hint::black_box(bytes);
        }
        let mut measure = watch.stop((pages * (32 + 4 * PAGE_TOKENS)) as u64, pages as u64);
        let pages_per_s = pages as f64 / measure.seconds;
        measure.figures.insert("million_pages_per_s".to_owned(), pages_per_s / 1e6);
        Ok(measure)
    }
}
