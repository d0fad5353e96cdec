//! A prefetch on its way: first how much of it there is, then the pages.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use hicache_core::PageKey;
use hicache_hashing::{Digest, page_hashes};
use tracing::Instrument;

use crate::progress::Progress;
use crate::ranks::{RankGroup, Topic};
use crate::staging::HostMemory;
use crate::storage_link::{BATCH_PAGES, StorageLink};
use crate::storage_tier::{Reporter, StorageEvent, agree};
use crate::tree::TokenId;

/// What both stages of a prefetch need.
#[derive(Clone, Debug)]
pub(crate) struct PrefetchJob {
    pub(crate) id: u64,
    pub(crate) link: Arc<StorageLink>,
    pub(crate) group: Arc<dyn RankGroup>,
    pub(crate) topic: Topic,
    pub(crate) rank_timeout: Duration,
    pub(crate) progress: Arc<Progress>,
    pub(crate) report: Reporter,
}

impl PrefetchJob {
    /// Blocks a thread of its own, not one of those that drive storage.
    async fn agree(&self, value: u64) -> u64 {
        if self.group.ranks() == 1 {
            return value;
        }
        let (group, topic, timeout) = (Arc::clone(&self.group), self.topic, self.rank_timeout);
        let asked = tokio::task::spawn_blocking(move || agree(&*group, topic, value, timeout));
        asked.await.unwrap_or(0)
    }

    /// Asks storage, batch by batch up to the first miss, how many pages it has; then the other ranks.
    pub(crate) async fn query(self, tokens: Vec<TokenId>, page_tokens: NonZeroUsize, prior: Option<Digest>) {
        let span = tracing::debug_span!("storage-hits", id = self.id, tokens = tokens.len());
        let look = self.clone().look(tokens, page_tokens, prior).instrument(span);
        let mut hashes = match tokio::spawn(look).await {
            Ok(hashes) => hashes,
            Err(_) => {
                self.link.metrics.worker_failed();
                Vec::new()
            }
        };
        // Also of nothing: the other ranks wait for it.
        let agreed = self.agree(hashes.len() as u64).await;
        hashes.truncate(usize::try_from(agreed).unwrap_or(usize::MAX));
        self.report.send(StorageEvent::Hits { id: self.id, hashes });
    }

    async fn look(
        self,
        tokens: Vec<TokenId>,
        page_tokens: NonZeroUsize,
        mut prior: Option<Digest>,
    ) -> Vec<Digest> {
        let Ok(_turn) = self.link.prefetch_turns.acquire().await else { return Vec::new() };
        let mut found = Vec::new();
        for batch in tokens.chunks(page_tokens.get() * BATCH_PAGES) {
            if self.progress.is_terminated() {
                break;
            }
            let mut hashes = page_hashes(batch, page_tokens, prior);
            let keys = hashes.iter().copied().map(PageKey::kv).collect();
            let hits = self.link.hits(keys).await.unwrap_or_else(|error| {
                tracing::debug!(%error, "storage could not say what it has");
                0
            });
            prior = hashes.last().copied();
            let all = hits == hashes.len();
            hashes.truncate(hits);
            found.append(&mut hashes);
            if !all {
                break;
            }
        }
        found
    }

    /// Loads the pages, batch by batch, until one is missing or it is terminated.
    pub(crate) async fn transfer(self, pages: Vec<(PageKey, HostMemory)>) {
        let span = tracing::debug_span!("prefetch", id = self.id, pages = pages.len());
        if tokio::spawn(self.clone().load(pages).instrument(span)).await.is_err() {
            self.link.metrics.worker_failed();
        }
        let (complete, first) = self.progress.terminate();
        // Who terminated it has asked the other ranks already.
        let agreed = if first { self.agree(complete).await } else { complete };
        self.report.send(StorageEvent::Prefetched { id: self.id, pages: agreed });
    }

    async fn load(self, pages: Vec<(PageKey, HostMemory)>) {
        let Ok(_turn) = self.link.prefetch_turns.acquire().await else { return };
        let mut pages = pages.into_iter();
        loop {
            let batch: Vec<_> = pages.by_ref().take(BATCH_PAGES).collect();
            if batch.is_empty() || self.progress.is_terminated() {
                return;
            }
            let wanted = batch.len();
            let loaded = self.link.load(batch).await;
            let complete = loaded.iter().take_while(|(_, result, _)| result.is_ok()).count();
            drop(loaded); // The leases, before anybody learns that the pages are there.
            if !self.progress.advance(complete as u64) || complete < wanted {
                return;
            }
        }
    }
}
