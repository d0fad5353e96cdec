//! Host to storage.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hicache_core::{Access, PageKey, Result};
use tracing::Instrument;

use crate::controller::{Controller, Operation};
use crate::staging::HostMemory;
use crate::storage_link::{BATCH_PAGES, StorageLink};
use crate::storage_tier::{Reporter, StorageEvent};
use crate::sync::later;
use crate::tree::{NodeId, Tier};
use crate::workers::{Again, Job, caught};

/// The first pause before a page is tried again; each further one is twice as long, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// A backup as the driving thread knows it. Its node's host copy is locked.
#[derive(Debug)]
pub(crate) struct Backup {
    node: NodeId,
    pages: usize,
    pub(crate) deadline: Instant,
}

impl Controller {
    /// Stores what is not stored yet of the path down to a node that was used: what failed before is tried again.
    pub(crate) fn back_up_used(&mut self, id: NodeId) {
        if self.storage.link.is_none() {
            return;
        }
        for id in self.tree.parts(id, usize::MAX) {
            if !self.tree.node(id).is_root() {
                self.back_up_node(id);
            }
        }
    }

    /// Queues the backup of a node, if it is to be stored.
    pub(crate) fn back_up_node(&mut self, id: NodeId) {
        let Some(link) = &self.storage.link else { return };
        let node = self.tree.node(id);
        if node.stored || node.storing || !self.config.storage_writer {
            return;
        }
        let Some(host) = node.host.clone() else { return };
        let limit = self.config.backup_queue_limit();
        // A node that is larger than the limit is stored when nothing else is.
        if self.storage.backing_up_pages > 0 && self.storage.backing_up_pages + host.len() > limit {
            self.metrics.failed("backup", "backlog", host.len());
            return;
        }
        let link = Arc::clone(link);
        self.tree.hash_path(id);
        let hashes = self.tree.node(id).hashes.clone().unwrap_or_default();
        let memory = host.iter().zip(hashes).map(|(&page, hash)| {
            let memory = match self.host.is_zero_copy() {
                true => HostMemory::Direct(self.host.memory(page, &link.known, Access::Read)?),
                false => HostMemory::Copied(self.host.leases(page, Access::Read)?),
            };
            Ok((PageKey::kv(hash), memory))
        });
        // Being written from the device: it is stored when that is done.
        let Ok(memory) = memory.collect::<Result<Vec<_>>>() else { return };
        let report = self.storage.report.clone();
        let attempts = self.config.backup_attempts;
        let (pages, timeout) = (memory.len(), link.timeout);
        let id_of = self.storage.next_id();
        let span = tracing::debug_span!("backup", id = id_of, pages);
        let job = StoreJob {
            link: Arc::clone(&link),
            id: id_of,
            stored: vec![false; pages],
            waiting: memory.into_iter().enumerate().collect(),
            attempts,
            pause: FIRST_PAUSE,
            span,
            report,
        };
        let queued = self.storage.write(id_of, job.queue());
        if let Err(error) = queued {
            self.metrics.failed("backup", error.kind().as_str(), pages);
            return;
        }
        let queued = self.storage.backing_up_pages.div_ceil(BATCH_PAGES) + pages.div_ceil(BATCH_PAGES) + 4;
        let batches = u32::try_from(queued).unwrap_or(u32::MAX).saturating_mul(attempts.saturating_add(1));
        let pauses = LONGEST_PAUSE.saturating_mul(attempts);
        let deadline = later(Instant::now(), timeout.saturating_mul(batches).saturating_add(pauses));
        self.storage.backups.insert(id_of, Backup { node: id, pages, deadline });
        self.storage.backing_up_pages += pages;
        self.tree.node_mut(id).storing = true;
        self.tree.lock(id, Tier::Host);
    }

    /// Gives up what is late, and what is in one of the calls that are stuck.
    pub(crate) fn poll_backups(&mut self, now: Instant, stuck: &[u64]) -> usize {
        let late =
            |(id, backup): (&u64, &Backup)| (now >= backup.deadline || stuck.contains(id)).then_some(*id);
        let late: Vec<u64> = self.storage.backups.iter().filter_map(late).collect();
        for id in &late {
            self.metrics.failed("backup", "stuck", self.storage.backups[id].pages);
            self.backed_up(*id, &[]);
        }
        late.len()
    }

    /// A backup has ended. What was not stored is offered again when it is used again.
    pub(crate) fn backed_up(&mut self, id: u64, stored: &[bool]) {
        let Some(backup) = self.storage.backups.remove(&id) else { return };
        self.storage.backing_up_pages -= backup.pages;
        let mut rest = stored;
        for part in self.tree.parts(backup.node, backup.pages) {
            let pages = self.tree.node(part).pages(self.config.shape.page_tokens);
            let (own, after) = rest.split_at(pages.min(rest.len()));
            rest = after;
            let node = self.tree.node_mut(part);
            node.storing = false;
            node.stored = own.len() == pages && own.iter().all(|stored| *stored);
        }
        self.unlock(backup.node, &[Tier::Host]);
        let good = stored.iter().filter(|stored| **stored).count();
        self.acknowledge(Operation::Backup, backup.node, (backup.pages, good));
    }
}

/// Stores pages in batches; what fails is tried again after a pause, and never stops what comes behind it.
struct StoreJob {
    link: Arc<StorageLink>,
    id: u64,
    stored: Vec<bool>,
    /// Pages that are not stored, with their places.
    waiting: Vec<(usize, (PageKey, HostMemory))>,
    /// How often they are still tried.
    attempts: u32,
    pause: Duration,
    span: tracing::Span,
    report: Reporter,
}

impl StoreJob {
    fn queue(self) -> Job {
        Box::pin(async move {
            let (link, id, pages, report) =
                (Arc::clone(&self.link), self.id, self.stored.len(), self.report.clone());
            let span = self.span.clone();
            match caught(self.attempt().instrument(span)).await {
                Some(mut job) if job.attempts > 0 && !job.waiting.is_empty() => {
                    let pause = job.pause;
                    job.pause = (pause * 2).min(LONGEST_PAUSE);
                    Some(Again { pause, job: job.queue() })
                }
                Some(job) => {
                    let given_up = job.stored.iter().filter(|stored| !**stored).count();
                    link.metrics.failed("backup", "given-up", given_up);
                    drop(job.waiting); // The leases, before anybody learns of it.
                    report.send(StorageEvent::BackedUp { id, stored: job.stored });
                    None
                }
                None => {
                    link.metrics.worker_failed();
                    report.send(StorageEvent::BackedUp { id, stored: vec![false; pages] });
                    None
                }
            }
        })
    }

    /// Tries all that waits once.
    async fn attempt(mut self) -> Self {
        self.attempts = self.attempts.saturating_sub(1);
        let mut batches = std::mem::take(&mut self.waiting).into_iter().peekable();
        while batches.peek().is_some() {
            let (places, batch): (Vec<_>, Vec<_>) = batches.by_ref().take(BATCH_PAGES).unzip();
            for (place, (key, result, memory)) in
                places.into_iter().zip(self.link.store(self.id, batch).await)
            {
                match (result, memory) {
                    (Ok(()), _) => self.stored[place] = true,
                    (Err(_), Some(memory)) => self.waiting.push((place, (key, memory))),
                    // Its memory is lost, or still in use.
                    (Err(_), None) => {}
                }
            }
        }
        self
    }
}
