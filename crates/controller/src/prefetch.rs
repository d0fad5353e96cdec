//! Storage to host, ahead of need.
//!
//! A prefetch first asks storage how much of a prompt it has. Only then host memory is taken, for just that much; below
//! the threshold it is revoked. The pages arrive in batches; whoever wants to go on earlier terminates it, and gets
//! what is complete. What is not used goes back to the pool.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::mpsc::TryRecvError;
use std::time::{Duration, Instant};

use hicache_core::{Access, PageKey, Result};
use hicache_hashing::Digest;

use crate::config::PrefetchPolicy;
use crate::controller::Controller;
use crate::host_pool::HostPage;
use crate::page_state::HostState;
use crate::prefetch_worker::PrefetchJob;
use crate::progress::Progress;
use crate::request::Request;
use crate::staging::HostMemory;
use crate::storage_link::BATCH_PAGES;
use crate::storage_tier::{StorageEvent, agree, topic};
use crate::sync::later;
use crate::tree::{NodeId, PromptSpace, Tier, TokenId};

/// A prefetch of this controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PrefetchId(u64);

impl PrefetchId {
    pub(crate) fn new(id: u64) -> Self {
        Self(id)
    }
}

/// How a prefetch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrefetchStatus {
    /// The policy says to wait.
    Pending,
    /// It is over: so many pages are in host memory now that were not before.
    Ended {
        /// How many.
        pages: usize,
        /// How many storage had.
        found: usize,
    },
}

/// A prefetch as the driving thread knows it.
#[derive(Debug)]
pub(crate) struct Prefetch {
    request: String,
    space: PromptSpace,
    tokens: Vec<TokenId>,
    /// Pages of `tokens` that were there when it began, down to `base`, which is locked.
    skip: usize,
    base: NodeId,
    wanted: usize,
    /// Pages that storage has, once that is known.
    found: usize,
    begun: Instant,
    pub(crate) deadline: Instant,
    progress: Arc<Progress>,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Asking,
    Loading { pages: Vec<HostPage>, hashes: Vec<Digest> },
    Ended { pages: usize },
}

impl Prefetch {
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended { .. })
    }

    pub(crate) fn held_pages(&self) -> usize {
        match &self.phase {
            Phase::Loading { pages, .. } => pages.len(),
            _ => 0,
        }
    }
}

impl Controller {
    /// Begins to bring the rest of a prompt from storage to host memory. `name` is the request's, the same on all ranks
    /// and used once. `None` where there is nothing to win: no storage, too few tokens, or as much under way as is
    /// allowed. It ends by [`Controller::check_prefetch`] or [`Controller::terminate_prefetch`].
    pub fn prefetch(&mut self, name: &str, request: &Request) -> Option<PrefetchId> {
        self.check_own(request).ok()?;
        let link = Arc::clone(self.storage.link.as_ref()?);
        let page_tokens = NonZeroUsize::new(self.config.shape.page_tokens)?;
        let matched = request.matched();
        let skip = matched.device_pages.len() + matched.host_pages;
        let whole = request.tokens().len() / page_tokens;
        let wanted = whole.checked_sub(skip)?;
        if wanted < self.config.threshold_pages() {
            self.metrics.missed("too-few", wanted);
            return None;
        }
        if self.storage.prefetching_pages + wanted > self.config.prefetch_capacity_pages() {
            self.metrics.prefetch("rate-limited");
            self.metrics.missed("rate-limited", wanted);
            return None;
        }
        let prior = self.tree.last_hash(matched.node);
        self.tree.lock(matched.node, Tier::Host);
        let id = self.storage.next_id();
        let tokens = request.tokens()[..whole * page_tokens.get()].to_vec();
        let begun = Instant::now();
        // What a worker that is bound at each step can take at most, so that one that is stuck is noticed.
        let batches = u32::try_from(wanted.div_ceil(BATCH_PAGES) * 2 + 4).unwrap_or(u32::MAX);
        let ranks = Duration::from_millis(self.config.rank_timeout_ms.saturating_mul(4));
        let longest = link.timeout.saturating_mul(batches).saturating_add(ranks);
        let prefetch = Prefetch {
            request: name.to_owned(),
            space: request.space().clone(),
            skip,
            base: matched.node,
            wanted,
            found: 0,
            begun,
            deadline: later(begun, longest),
            progress: Arc::new(Progress::new()),
            phase: Phase::Asking,
            tokens,
        };
        let rest = prefetch.tokens[skip * page_tokens.get()..].to_vec();
        let job = self.prefetch_job(id, &prefetch, "hits");
        let queued = job.map(|job| self.storage.read(id, job.query(rest, page_tokens, prior)));
        if let None | Some(Err(_)) = queued {
            self.metrics.prefetch("unavailable");
            self.metrics.missed("unavailable", wanted);
            self.unlock(prefetch.base, &[Tier::Host]);
            return None;
        }
        self.storage.prefetching_pages += wanted;
        self.storage.prefetches.insert(id, prefetch);
        Some(PrefetchId(id))
    }

    fn prefetch_job(&self, id: u64, prefetch: &Prefetch, stage: &str) -> Option<PrefetchJob> {
        Some(PrefetchJob {
            id,
            link: Arc::clone(self.storage.link.as_ref()?),
            group: Arc::clone(&self.storage.group),
            topic: topic(&prefetch.request, stage),
            rank_timeout: Duration::from_millis(self.config.rank_timeout_ms),
            progress: Arc::clone(&prefetch.progress),
            report: self.storage.report.clone(),
        })
    }

    /// How a prefetch stands by the policy; ends it if it is time. Once it has ended it is forgotten, and asking again
    /// answers that it ended with no pages.
    pub fn check_prefetch(&mut self, id: PrefetchId) -> PrefetchStatus {
        self.poll();
        let Some(prefetch) = self.storage.prefetches.get(&id.0) else {
            return PrefetchStatus::Ended { pages: 0, found: 0 };
        };
        let may_end = match self.config.prefetch_policy {
            _ if prefetch.has_ended() => true,
            PrefetchPolicy::BestEffort => true,
            PrefetchPolicy::WaitComplete => false,
            PrefetchPolicy::Timeout => prefetch.begun.elapsed() >= self.prefetch_time(prefetch.wanted),
        };
        if !may_end {
            return PrefetchStatus::Pending;
        }
        let found = prefetch.found;
        PrefetchStatus::Ended { pages: self.terminate_prefetch(id), found }
    }

    /// How long policy `timeout` waits for so many pages.
    fn prefetch_time(&self, pages: usize) -> Duration {
        let tokens = (pages * self.config.shape.page_tokens) as u64;
        let more = self.config.prefetch_timeout_per_ki_token_ms.saturating_mul(tokens) / 1024;
        let time = self.config.prefetch_timeout_base_ms.saturating_add(more);
        Duration::from_millis(time.min(self.config.prefetch_timeout_cap_ms))
    }

    /// Ends a prefetch now: how many pages it brought. With several ranks this waits for the others, for at most
    /// `rank_timeout_ms`.
    pub fn terminate_prefetch(&mut self, id: PrefetchId) -> usize {
        if let Some(prefetch) = self.storage.prefetches.get(&id.0)
            && !prefetch.has_ended()
        {
            let timeout = Duration::from_millis(self.config.rank_timeout_ms);
            let until = later(Instant::now(), timeout);
            let (progress, request) = (Arc::clone(&prefetch.progress), prefetch.request.clone());
            let (complete, first) = progress.terminate();
            let alone = self.storage.group.ranks() == 1;
            if alone || first {
                let group = Arc::clone(&self.storage.group);
                let agreed = if alone {
                    complete
                } else {
                    agree(&*group, topic(&request, "pages"), complete, timeout)
                };
                self.prefetch_ended(id.0, agreed, "terminated");
            }
            // The worker ended it at the same moment, and is asking the other ranks.
            while self.storage.prefetches.get(&id.0).is_some_and(|prefetch| !prefetch.has_ended()) {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    self.prefetch_ended(id.0, 0, "terminated");
                }
                self.wait(left);
            }
        }
        match self.storage.prefetches.remove(&id.0) {
            Some(Prefetch { phase: Phase::Ended { pages }, .. }) => pages,
            _ => 0,
        }
    }

    pub(crate) fn poll_storage(&mut self, now: Instant) -> usize {
        let mut ended = 0;
        loop {
            match self.storage.events.try_recv() {
                Ok(StorageEvent::Hits { id, hashes }) => self.prefetch_hits(id, hashes),
                Ok(StorageEvent::Prefetched { id, pages }) => self.prefetch_ended(id, pages, "complete"),
                Ok(StorageEvent::BackedUp { id, stored }) => self.backed_up(id, &stored),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
            ended += 1;
        }
        let stuck = self.storage.take_stuck(now);
        let late = |(id, prefetch): (&u64, &Prefetch)| {
            let over = now >= prefetch.deadline || stuck.contains(id);
            (!prefetch.has_ended() && over).then_some(*id)
        };
        for id in self.storage.prefetches.iter().filter_map(late).collect::<Vec<_>>() {
            let complete = self.storage.prefetches.get(&id).map_or(0, |it| it.progress.terminate().0);
            let agreed = if self.storage.group.ranks() == 1 { complete } else { 0 };
            self.prefetch_ended(id, agreed, "stuck");
        }
        ended + self.poll_backups(now, &stuck)
    }

    /// It is known how much there is: memory is taken for it, or it is revoked.
    fn prefetch_hits(&mut self, id: u64, mut hashes: Vec<Digest>) {
        let Some(prefetch) = self.storage.prefetches.get_mut(&id) else { return };
        if prefetch.has_ended() {
            return;
        }
        prefetch.found = hashes.len();
        let Some(prefetch) = self.storage.prefetches.get(&id) else { return };
        let job = self.prefetch_job(id, prefetch, "pages");
        self.metrics.missed("not-stored", prefetch.wanted - hashes.len());
        if hashes.len() < self.config.threshold_pages() {
            self.metrics.missed("below-threshold", hashes.len());
            return self.prefetch_ended(id, 0, "revoked");
        }
        if prefetch.progress.is_terminated() {
            return self.prefetch_ended(id, 0, "terminated");
        }
        // As much as there is room for, if that is worth it.
        let most = hashes.len();
        let room =
            (self.host.free_pages() + self.evict_host(most.saturating_sub(self.host.free_pages()))).min(most);
        hashes.truncate(room);
        self.metrics.missed("no-space", most - room);
        let pages = match self.allocate_host(hashes.len()) {
            Some(pages) if hashes.len() >= self.config.threshold_pages() => pages,
            pages => {
                let result = self.host.free(&pages.unwrap_or_default());
                self.must(result);
                // The others learn of it by the agreement on pages.
                return self.prefetch_without_pages(id, job);
            }
        };
        let memory = pages.iter().zip(&hashes).map(|(&page, &hash)| {
            let memory = match &self.storage.link {
                Some(link) if self.host.is_zero_copy() => {
                    HostMemory::Direct(self.host.memory(page, &link.known, Access::Write)?)
                }
                _ => HostMemory::Copied(self.host.leases(page, Access::Write)?),
            };
            Ok((PageKey::kv(hash), memory))
        });
        let memory: Result<Vec<_>> = memory.collect();
        let queued = match (memory, &job) {
            (Ok(memory), Some(job)) => self.storage.read(id, job.clone().transfer(memory)).is_ok(),
            _ => false,
        };
        match self.storage.prefetches.get_mut(&id) {
            Some(prefetch) if queued => prefetch.phase = Phase::Loading { pages, hashes },
            _ => {
                let result = self.host.free(&pages);
                self.must(result);
                self.prefetch_without_pages(id, job);
            }
        }
    }

    /// There is no memory for it. With other ranks, these must not wait: the worker tells them.
    fn prefetch_without_pages(&mut self, id: u64, job: Option<PrefetchJob>) {
        self.metrics.prefetch("no-space");
        let told = job
            .filter(|job| job.group.ranks() > 1)
            .is_some_and(|job| self.storage.read(id, job.transfer(Vec::new())).is_ok());
        if !told {
            self.prefetch_ended(id, 0, "revoked");
        }
    }

    /// Puts the complete pages into the tree, and gives the others back.
    fn prefetch_ended(&mut self, id: u64, pages: u64, outcome: &'static str) {
        let Some(prefetch) = self.storage.prefetches.get_mut(&id) else { return };
        if prefetch.has_ended() {
            return;
        }
        prefetch.progress.terminate();
        let tokens = std::mem::take(&mut prefetch.tokens);
        self.storage.prefetching_pages -= prefetch.wanted;
        let (held, hashes) = match std::mem::replace(&mut prefetch.phase, Phase::Ended { pages: 0 }) {
            Phase::Loading { pages, hashes } => (pages, hashes),
            _ => (Vec::new(), Vec::new()),
        };
        let complete = usize::try_from(pages).unwrap_or(usize::MAX).min(held.len());
        let (whole, rest) = held.split_at(complete);
        self.metrics.hits("storage", whole.len());
        self.metrics.missed("incomplete", rest.len());
        let base = prefetch.base;
        let inserted =
            self.tree.insert_host(&prefetch.space, &tokens, prefetch.skip, whole, &hashes[..complete]);
        prefetch.phase = Phase::Ended { pages: inserted.taken.len() + inserted.synced.len() };
        let taken: Vec<_> = inserted.taken.iter().chain(&inserted.synced).copied().collect();
        let result = self.host.change(&taken, HostState::Backup);
        self.must(result);
        let result = self.host.change(&inserted.synced, HostState::Synced);
        self.must(result);
        let result = self.host.free(&inserted.left);
        self.must(result);
        let result = self.host.free(rest);
        self.must(result);
        self.metrics.prefetch(outcome);
        self.unlock(base, &[Tier::Host]);
    }

    /// Host pages that prefetches hold.
    pub(crate) fn prefetching_pages(&self) -> usize {
        self.storage.prefetches.values().map(Prefetch::held_pages).sum()
    }
}
