//! The third tier as the driving thread sees it: what is attached, what is under way, and what has ended.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use hicache_core::{Error, Result};
use hicache_hashing::{Digest, text_key_digest};

use crate::backup::Backup;
use crate::bell::Bell;
use crate::prefetch::Prefetch;
use crate::ranks::{RankGroup, SingleRank, Topic};
use crate::storage_link::StorageLink;
use crate::workers::{Job, Workers, once};

/// Prefetches that are with storage at once, and backups.
const CONCURRENT: usize = 2;

/// What workers report.
#[derive(Debug)]
pub(crate) enum StorageEvent {
    /// So many pages of a prefetch are there, on all ranks; their hashes.
    Hits { id: u64, hashes: Vec<Digest> },
    /// A prefetch has ended: so many pages are complete, on all ranks.
    Prefetched { id: u64, pages: u64 },
    /// A backup has ended: of each page whether it is stored.
    BackedUp { id: u64, stored: Vec<bool> },
}

/// Everything that has to do with storage.
#[derive(Debug)]
pub(crate) struct StorageTier {
    pub(crate) link: Option<Arc<StorageLink>>,
    pub(crate) group: Arc<dyn RankGroup>,
    /// Threads that read, and threads that write.
    pub(crate) workers: Option<(Workers, Workers)>,
    pub(crate) events: Receiver<StorageEvent>,
    pub(crate) report: Reporter,
    pub(crate) prefetches: HashMap<u64, Prefetch>,
    /// Pages of prefetches that have not ended.
    pub(crate) prefetching_pages: usize,
    pub(crate) backups: HashMap<u64, Backup>,
    pub(crate) backing_up_pages: usize,
    next_id: u64,
}

/// How workers report.
#[derive(Clone, Debug)]
pub(crate) struct Reporter {
    events: Sender<StorageEvent>,
    bell: Arc<Bell>,
}

impl Reporter {
    pub(crate) fn send(&self, event: StorageEvent) {
        // The controller is gone: nobody needs to know.
        let _ = self.events.send(event);
        self.bell.ring();
    }
}

impl StorageTier {
    pub(crate) fn new(bell: Arc<Bell>) -> Self {
        let (sender, events) = channel();
        Self {
            link: None,
            group: Arc::new(SingleRank),
            workers: None,
            events,
            report: Reporter { events: sender, bell },
            prefetches: HashMap::new(),
            prefetching_pages: 0,
            backups: HashMap::new(),
            backing_up_pages: 0,
            next_id: 1,
        }
    }

    pub(crate) fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Starts the threads, once.
    pub(crate) fn start(&mut self) -> Result<()> {
        if self.workers.is_none() {
            let reading = Workers::start("hicache-prefetch", CONCURRENT)?;
            self.workers = Some((reading, Workers::start("hicache-backup", CONCURRENT)?));
        }
        Ok(())
    }

    /// Queues a job of a prefetch.
    ///
    /// # Errors
    /// `Unavailable` while too many calls don't return; the job is dropped then.
    pub(crate) fn read(&self, id: u64, job: impl Future<Output = ()> + Send + 'static) -> Result<()> {
        self.workers.as_ref().map_or_else(|| Err(none()), |(reading, _)| reading.run(id, once(job)))
    }

    /// As [`StorageTier::read`], of a backup.
    pub(crate) fn write(&self, id: u64, job: Job) -> Result<()> {
        self.workers.as_ref().map_or_else(|| Err(none()), |(_, writing)| writing.run(id, job))
    }

    /// Replaces the threads of calls that have blocked for too long; answers their operations.
    pub(crate) fn take_stuck(&self, now: Instant) -> Vec<u64> {
        let stuck = self.link.as_ref().map(|link| link.take_stuck(now)).unwrap_or_default();
        if let Some((reading, writing)) = &self.workers {
            for (id, load) in &stuck {
                if *load { reading } else { writing }.give_up(*id);
            }
        }
        stuck.into_iter().map(|(id, _)| id).collect()
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let open = self.prefetches.values().filter(|prefetch| !prefetch.has_ended());
        let prefetches = open.map(|prefetch| prefetch.deadline);
        let stuck = self.link.as_ref().and_then(|link| link.next_stuck());
        prefetches.chain(self.backups.values().map(|backup| backup.deadline)).chain(stuck).min()
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.prefetches.values().all(Prefetch::has_ended) && self.backups.is_empty()
    }
}

fn none() -> Error {
    Error::config("no storage is attached")
}

/// What an agreement of a request's prefetch is about.
pub(crate) fn topic(request: &str, stage: &str) -> Topic {
    text_key_digest(&format!("{stage}\n{request}"))
}

/// The least over all ranks, or 0 where they don't agree.
pub(crate) fn agree(group: &dyn RankGroup, topic: Topic, value: u64, timeout: Duration) -> u64 {
    group.minimum(topic, value, timeout).unwrap_or_else(|error| {
        tracing::warn!(%error, "ranks did not agree");
        0
    })
}
