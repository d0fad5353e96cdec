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
use crate::workers::caught;

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

/// Reports what was agreed on when it is dropped.
struct End<F: FnOnce(&PrefetchJob, u64)> {
    job: PrefetchJob,
    report: Option<F>,
    agreed: u64,
}

impl<F: FnOnce(&PrefetchJob, u64)> End<F> {
    fn with(mut self, agreed: u64) {
        self.agreed = agreed;
    }
}

impl<F: FnOnce(&PrefetchJob, u64)> Drop for End<F> {
    fn drop(&mut self) {
        if let Some(report) = self.report.take() {
            report(&self.job, self.agreed);
        }
    }
}

impl PrefetchJob {
    /// Agrees with the other ranks on `value`, and reports. These are waited for on a thread of its own, not on one of
    /// those that drive storage: ranks may be at different prefetches, and must not wait for each other's threads.
    fn agree_and(self, value: u64, report: impl FnOnce(&Self, u64) + Send + 'static) {
        if self.group.ranks() == 1 {
            return report(&self, value);
        }
        let (group, topic, timeout) = (Arc::clone(&self.group), self.topic, self.rank_timeout);
        // Also where there is no such thread, or it panics: the others then take 0 as well.
        let end = End { job: self, report: Some(report), agreed: 0 };
        let ask = move || end.with(agree(&*group, topic, value, timeout));
        if let Err(error) = std::thread::Builder::new().name("hicache-agree".to_owned()).spawn(ask) {
            tracing::warn!(%error, "there is no thread to ask the other ranks");
        }
    }

    /// Asks storage, batch by batch up to the first miss, how many pages it has; then the other ranks.
    pub(crate) async fn query(self, tokens: Vec<TokenId>, page_tokens: NonZeroUsize, prior: Option<Digest>) {
        let span = tracing::debug_span!("storage-hits", id = self.id, tokens = tokens.len());
        let look = self.clone().look(tokens, page_tokens, prior).instrument(span);
        let mut hashes = caught(look).await.unwrap_or_else(|| {
            self.link.metrics.worker_failed();
            Vec::new()
        });
        // Also of nothing: the other ranks wait for it.
        self.agree_and(hashes.len() as u64, move |job, agreed| {
            hashes.truncate(usize::try_from(agreed).unwrap_or(usize::MAX));
            job.report.send(StorageEvent::Hits { id: job.id, hashes });
        });
    }

    async fn look(
        self,
        tokens: Vec<TokenId>,
        page_tokens: NonZeroUsize,
        mut prior: Option<Digest>,
    ) -> Vec<Digest> {
        let mut found = Vec::new();
        for batch in tokens.chunks(page_tokens.get() * BATCH_PAGES) {
            if self.progress.is_terminated() {
                break;
            }
            let mut hashes = page_hashes(batch, page_tokens, prior);
            let keys = hashes.iter().copied().map(PageKey::kv).collect();
            let hits = self.link.hits(self.id, keys).await.unwrap_or_else(|error| {
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
        if caught(self.clone().load(pages).instrument(span)).await.is_none() {
            self.link.metrics.worker_failed();
        }
        let (complete, first) = self.progress.terminate();
        let report = |job: &Self, pages| job.report.send(StorageEvent::Prefetched { id: job.id, pages });
        match first {
            true => self.agree_and(complete, report),
            // Who terminated it has asked the other ranks already.
            false => report(&self, complete),
        }
    }

    async fn load(self, pages: Vec<(PageKey, HostMemory)>) {
        let mut pages = pages.into_iter();
        loop {
            let batch: Vec<_> = pages.by_ref().take(BATCH_PAGES).collect();
            if batch.is_empty() || self.progress.is_terminated() {
                return;
            }
            let wanted = batch.len();
            let loaded = self.link.load(self.id, batch).await;
            let complete = loaded.iter().take_while(|(_, result, _)| result.is_ok()).count();
            drop(loaded); // The leases, before anybody learns that the pages are there.
            if !self.progress.advance(complete as u64) || complete < wanted {
                return;
            }
        }
    }
}
