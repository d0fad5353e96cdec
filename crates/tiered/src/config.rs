//! The bounds of what happens in the background.

use hicache_core::{Error, Result};

/// The bounds of what happens in the background.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TieredConfig {
    /// Most memory for copies of pages on their way to a tier, in bytes.
    pub staging_bytes: u64,
    /// Most pages that wait for the far tier.
    pub queue_pages: usize,
    /// Most pages that are sent to the far tier in one batch.
    pub batch_pages: usize,
    /// Batches on their way to the far tier at a time.
    pub batches: usize,
    /// How long a page that the far tier did not have counts as missing there, in milliseconds; 0 for not at all.
    pub absent_age_ms: u64,
    /// Most keys that are remembered, of missing pages and of sent ones.
    pub remembered_keys: usize,
    /// How long `close` waits for pages on their way to the far tier, in milliseconds.
    pub drain_timeout_ms: u64,
}

impl Default for TieredConfig {
    fn default() -> Self {
        Self {
            staging_bytes: 128 << 20,
            queue_pages: 65_536,
            batch_pages: 32,
            batches: 4,
            absent_age_ms: 1000,
            remembered_keys: 262_144,
            drain_timeout_ms: 30_000,
        }
    }
}

impl TieredConfig {
    /// Refuses bounds with which nothing would ever reach the far tier.
    ///
    /// # Errors
    /// `Config`, naming the field.
    pub fn validate(&self) -> Result<()> {
        let least = [
            ("staging_bytes", self.staging_bytes),
            ("queue_pages", self.queue_pages as u64),
            ("batch_pages", self.batch_pages as u64),
            ("batches", self.batches as u64),
            ("remembered_keys", self.remembered_keys as u64),
        ];
        match least.iter().find(|(_, value)| *value == 0) {
            Some((name, _)) => Err(Error::config(format!("tiered.{name} = 0; it must be at least 1"))),
            None => Ok(()),
        }
    }
}
