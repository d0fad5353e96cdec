//! A storage that is attached: calls to it with a bound on each wait, behind a breaker, and safe from its panics.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hicache_core::{
    Error, ErrorKind, Outcome, PageBatch, PageKey, PageRequest, Registration, Result, Storage, StoreOptions,
    Transfer,
};
use tokio::sync::Semaphore;

use crate::breaker::Breaker;
use crate::config::ControllerConfig;
use crate::host_pool::HostPool;
use crate::metrics::Metrics;
use crate::staging::{HostMemory, Staging, gather, scatter};

/// Pages of one call to storage, as SGLang has it.
pub(crate) const BATCH_PAGES: usize = 128;
/// Prefetches that are with storage at once, and backups.
const CONCURRENT: usize = 2;

/// What the workers know of a storage.
#[derive(Debug)]
pub(crate) struct StorageLink {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) known: Vec<Registration>,
    staging: Option<Staging>,
    pub(crate) reading: Breaker,
    pub(crate) writing: Breaker,
    pub(crate) prefetch_turns: Semaphore,
    pub(crate) backup_turns: Semaphore,
    pub(crate) timeout: Duration,
    pub(crate) metrics: Arc<Metrics>,
    page_bytes: usize,
}

impl StorageLink {
    pub(crate) fn new(
        storage: Arc<dyn Storage>,
        config: &ControllerConfig,
        pool: &HostPool,
        metrics: Arc<Metrics>,
    ) -> Result<Self> {
        let page_bytes = config.shape.page_bytes();
        let (known, staging) = if pool.is_zero_copy() {
            (pool.register(&*storage)?, None)
        } else {
            (Vec::new(), Some(Staging::new(&*storage, page_bytes)?))
        };
        let backoff = Duration::from_millis(config.breaker_backoff_ms);
        Ok(Self {
            storage,
            known,
            staging,
            reading: Breaker::new("reading", config.breaker_failures, backoff),
            writing: Breaker::new("writing", config.breaker_failures, backoff),
            prefetch_turns: Semaphore::new(CONCURRENT),
            backup_turns: Semaphore::new(CONCURRENT),
            timeout: Duration::from_millis(config.storage_timeout_ms),
            metrics,
            page_bytes,
        })
    }

    fn note(&self, breaker: &Breaker, direction: &'static str, failure: Option<bool>) {
        match failure {
            None => breaker.worked(),
            Some(lost) if breaker.failed(lost) => {
                tracing::warn!(direction, "storage is cut off");
                self.metrics.breaker_opened(direction);
            }
            Some(_) => {}
        }
    }

    /// How many keys from the start are there.
    pub(crate) async fn hits(&self, keys: Vec<PageKey>) -> Result<usize> {
        self.reading.admit()?;
        let begun = Instant::now();
        let wanted = keys.len();
        let storage = Arc::clone(&self.storage);
        // A task of its own: it may panic, and it may never end.
        let task = tokio::spawn(async move { storage.exists_prefix(&keys).await });
        let abort = task.abort_handle();
        let result = match tokio::time::timeout(self.timeout, task).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => {
                self.metrics.worker_failed();
                Err(Error::new(ErrorKind::Unexpected, "the storage panicked").with_operation("exists"))
            }
            Err(_) => {
                abort.abort();
                Err(Error::new(ErrorKind::Timeout, "the storage did not answer").with_operation("exists"))
            }
        };
        let lost = |error: &Error| error.kind() == ErrorKind::Timeout;
        self.note(&self.reading, "reading", result.as_ref().err().map(lost));
        if let Ok(hits) = result {
            self.metrics.moved("exists", hits, 0, begun.elapsed());
        }
        result.map(|hits| hits.min(wanted))
    }

    /// Stores a batch: what became of each page, and the memory of those that came back.
    pub(crate) async fn store(
        &self,
        pages: Vec<(PageKey, HostMemory)>,
    ) -> Vec<(PageKey, Result<()>, Option<HostMemory>)> {
        self.batch(pages, false).await
    }

    /// Loads a batch, as [`StorageLink::store`] stores one.
    pub(crate) async fn load(
        &self,
        pages: Vec<(PageKey, HostMemory)>,
    ) -> Vec<(PageKey, Result<()>, Option<HostMemory>)> {
        self.batch(pages, true).await
    }

    async fn batch(
        &self,
        pages: Vec<(PageKey, HostMemory)>,
        load: bool,
    ) -> Vec<(PageKey, Result<()>, Option<HostMemory>)> {
        let (breaker, direction, operation) = match load {
            true => (&self.reading, "reading", "prefetch"),
            false => (&self.writing, "writing", "backup"),
        };
        if let Err(error) = breaker.admit() {
            self.metrics.failed(operation, error.kind().as_str(), pages.len());
            return pages.into_iter().map(|(key, page)| (key, Err(error.clone()), Some(page))).collect();
        }
        let begun = Instant::now();
        let _room = match &self.staging {
            Some(staging) => staging.room(pages.len()).await,
            None => None,
        };
        let mut parts = Vec::with_capacity(pages.len());
        let mut requests = Vec::with_capacity(pages.len());
        let mut done: Vec<(PageKey, Result<()>, Option<HostMemory>)> = Vec::with_capacity(pages.len());
        for (key, page) in pages {
            let place = done.len();
            match self.stage(page, load) {
                Ok((memory, copy)) => {
                    requests.push(PageRequest::new(key, memory));
                    parts.push((place, copy));
                    done.push((key, Ok(()), None));
                }
                Err((error, page)) => done.push((key, Err(error), Some(page))),
            }
        }
        let answer = self.call(requests, load).await;
        let mut lost = answer.is_err();
        let answer = answer.unwrap_or_else(|error| PageBatch {
            outcomes: parts.iter().map(|_| Outcome::Failed(error.clone())).collect(),
            memory: parts.iter().map(|_| None).collect(),
        });
        // An answer that is too short is one of pages that were lost.
        let mut outcomes = answer.outcomes.into_iter();
        let mut memory = answer.memory.into_iter();
        for (place, copy) in parts {
            let outcome = outcomes.next().unwrap_or_else(|| {
                Outcome::Failed(Error::new(ErrorKind::Abandoned, "the storage did not answer for the page"))
            });
            let (result, page) = self.unstage(outcome, memory.next().flatten(), copy, load);
            done[place].1 = result;
            done[place].2 = page;
        }
        let mut good = 0;
        for (_, result, _) in &done {
            match result {
                Ok(()) => good += 1,
                Err(error) => {
                    lost |= error.kind() == ErrorKind::Abandoned;
                    self.metrics.failed(operation, error.kind().as_str(), 1);
                }
            }
        }
        // Pages that are not there, are damaged or don't fit say nothing about the medium.
        let medium = |error: &Error| {
            !matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Config | ErrorKind::NoSpace)
        };
        let broken = good == 0 && done.iter().any(|(_, result, _)| result.as_ref().is_err_and(medium));
        self.note(breaker, direction, (broken || lost && good == 0).then_some(lost));
        self.metrics.moved(operation, good, self.page_bytes, begun.elapsed());
        done
    }

    /// The memory to hand to storage; of a copied page also where it belongs, and its slot.
    #[expect(clippy::type_complexity, clippy::result_large_err, reason = "the page must come back")]
    fn stage(
        &self,
        page: HostMemory,
        load: bool,
    ) -> Result<(hicache_core::PageMemory, Option<(usize, HostMemory)>), (Error, HostMemory)> {
        let (leases, staging) = match (page, &self.staging) {
            (HostMemory::Direct(memory), _) => return Ok((memory, None)),
            (HostMemory::Copied(leases), Some(staging)) => (leases, staging),
            (page, None) => return Err((Error::config("the page can't be copied without staging"), page)),
        };
        let Some((slot, mut memory)) = staging.take() else {
            let error = Error::new(ErrorKind::Busy, "lost operations hold all memory for copies");
            return Err((error, HostMemory::Copied(leases)));
        };
        if !load && let Err(error) = gather(&leases, &mut memory) {
            staging.give_back(slot);
            return Err((error, HostMemory::Copied(leases)));
        }
        Ok((memory, Some((slot, HostMemory::Copied(leases)))))
    }

    fn unstage(
        &self,
        outcome: Outcome,
        memory: Option<hicache_core::PageMemory>,
        copy: Option<(usize, HostMemory)>,
        load: bool,
    ) -> (Result<()>, Option<HostMemory>) {
        let mut result = match outcome {
            Outcome::Done => Ok(()),
            // A page that was there when it was asked for, and is gone.
            Outcome::Absent => Err(Error::new(ErrorKind::Corrupt, "the page is not there any more")),
            Outcome::Failed(error) => Err(error),
        };
        let Some((slot, page)) = copy else { return (result, memory.map(HostMemory::Direct)) };
        let HostMemory::Copied(mut leases) = page else { return (result, None) };
        if let (true, Some(memory), true) = (load, &memory, result.is_ok()) {
            result = scatter(memory, &mut leases);
        }
        drop(memory); // Before the slot is anybody's again.
        if let Some(staging) = &self.staging {
            staging.give_back(slot);
        }
        (result, Some(HostMemory::Copied(leases)))
    }

    /// Calls storage, and waits for the answer as long as is allowed.
    async fn call(&self, requests: Vec<PageRequest>, load: bool) -> Result<PageBatch> {
        let submit = || -> Transfer<PageBatch> {
            match load {
                true => self.storage.load(requests),
                false => self.storage.store(requests, StoreOptions::default()),
            }
        };
        let transfer = catch_unwind(AssertUnwindSafe(submit)).map_err(|_| {
            self.metrics.worker_failed();
            Error::new(ErrorKind::Abandoned, "the storage panicked")
        })?;
        tokio::time::timeout(self.timeout, transfer).await.map_err(|_| {
            Error::new(
                ErrorKind::Abandoned,
                format!("the storage did not answer within {} ms", self.timeout.as_millis()),
            )
        })
    }
}
