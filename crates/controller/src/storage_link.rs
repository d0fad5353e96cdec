//! A storage that is attached: calls to it with a bound on each wait, behind a breaker, and safe from its panics.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hicache_core::{
    Error, ErrorKind, Outcome, PageBatch, PageKey, PageRequest, Registration, Result, Storage, StoreOptions,
    Transfer,
};

use crate::breaker::{Admitted, Breaker};
use crate::config::ControllerConfig;
use crate::host_pool::HostPool;
use crate::metrics::Metrics;
use crate::staging::{HostMemory, Staging, gather, scatter};
use crate::sync::{later, lock};
use crate::workers::caught;

/// Pages of one call to storage, as SGLang has it.
pub(crate) const BATCH_PAGES: usize = 128;

/// What the workers know of a storage.
#[derive(Debug)]
pub(crate) struct StorageLink {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) known: Vec<Registration>,
    staging: Option<Staging>,
    /// Apart from reading: an index in memory answers also when the medium does not.
    asking: Breaker,
    reading: Breaker,
    writing: Breaker,
    /// Calls that have not returned: since when, and whether they read. By operation, which makes one at a time.
    calls: Mutex<HashMap<u64, (Instant, bool)>>,
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
            asking: Breaker::new("asking", config.breaker_failures, backoff),
            reading: Breaker::new("reading", config.breaker_failures, backoff),
            writing: Breaker::new("writing", config.breaker_failures, backoff),
            calls: Mutex::default(),
            timeout: Duration::from_millis(config.storage_timeout_ms),
            metrics,
            page_bytes,
        })
    }

    fn note(&self, admitted: Admitted<'_>, direction: &'static str, failure: Option<bool>) {
        match failure {
            None => admitted.worked(),
            Some(lost) if admitted.failed(lost) => {
                tracing::warn!(direction, "storage is cut off");
                self.metrics.breaker_opened(direction);
            }
            Some(_) => {}
        }
    }

    /// Whether storage is cut off now: for reading, for writing.
    pub(crate) fn is_cut_off(&self) -> (bool, bool) {
        (self.asking.is_open() || self.reading.is_open(), self.writing.is_open())
    }

    /// A call that blocks its thread is not ended by a timeout: after twice that time it is given up from outside.
    fn patience(&self) -> Duration {
        self.timeout.saturating_mul(2)
    }

    fn enter(&self, operation: u64, load: bool) -> InCall<'_> {
        lock(&self.calls).insert(operation, (Instant::now(), load));
        InCall(self, operation)
    }

    /// Takes the calls that have blocked for too long: the operation, and whether it reads. Their direction is cut off.
    pub(crate) fn take_stuck(&self, now: Instant) -> Vec<(u64, bool)> {
        let mut calls = lock(&self.calls);
        let stuck = calls.extract_if(|_, (since, _)| later(*since, self.patience()) <= now);
        let stuck: Vec<_> = stuck.map(|(operation, (_, load))| (operation, load)).collect();
        drop(calls);
        for (_, load) in &stuck {
            let (breaker, direction) = match load {
                true => (&self.reading, "reading"),
                false => (&self.writing, "writing"),
            };
            if let Ok(admitted) = breaker.admit() {
                self.note(admitted, direction, Some(true));
            }
        }
        stuck
    }

    /// When a call that is under way has blocked for too long.
    pub(crate) fn next_stuck(&self) -> Option<Instant> {
        lock(&self.calls).values().map(|(since, _)| later(*since, self.patience())).min()
    }

    /// How many keys from the start are there.
    pub(crate) async fn hits(&self, operation: u64, keys: Vec<PageKey>) -> Result<usize> {
        self.reading.check(false)?;
        let admitted = self.asking.admit()?;
        let begun = Instant::now();
        let wanted = keys.len();
        let storage = Arc::clone(&self.storage);
        let asked = caught(async move { storage.exists_prefix(&keys).await });
        let call = self.enter(operation, true);
        let result = match tokio::time::timeout(self.timeout, asked).await {
            Ok(Some(result)) => result,
            Ok(None) => {
                self.metrics.worker_failed();
                Err(Error::new(ErrorKind::Unexpected, "the storage panicked").with_operation("exists"))
            }
            Err(_) => {
                Err(Error::new(ErrorKind::Timeout, "the storage did not answer").with_operation("exists"))
            }
        };
        drop(call);
        let lost = |error: &Error| error.kind() == ErrorKind::Timeout;
        self.note(admitted, "asking", result.as_ref().err().map(lost));
        if let Ok(hits) = result {
            self.metrics.moved("exists", hits, 0, begun.elapsed());
        }
        result.map(|hits| hits.min(wanted))
    }

    /// Stores a batch: what became of each page, and the memory of those that came back.
    pub(crate) async fn store(
        &self,
        operation: u64,
        pages: Vec<(PageKey, HostMemory)>,
    ) -> Vec<(PageKey, Result<()>, Option<HostMemory>)> {
        self.batch(operation, pages, false).await
    }

    /// Loads a batch, as [`StorageLink::store`] stores one.
    pub(crate) async fn load(
        &self,
        operation: u64,
        pages: Vec<(PageKey, HostMemory)>,
    ) -> Vec<(PageKey, Result<()>, Option<HostMemory>)> {
        self.batch(operation, pages, true).await
    }

    async fn batch(
        &self,
        id: u64,
        pages: Vec<(PageKey, HostMemory)>,
        load: bool,
    ) -> Vec<(PageKey, Result<()>, Option<HostMemory>)> {
        let (breaker, direction, operation) = match load {
            true => (&self.reading, "reading", "prefetch"),
            false => (&self.writing, "writing", "backup"),
        };
        let refuse = |error: Error, pages: Vec<(PageKey, HostMemory)>| {
            self.metrics.failed(operation, error.kind().as_str(), pages.len());
            pages.into_iter().map(|(key, page)| (key, Err(error.clone()), Some(page))).collect()
        };
        let admitted = match breaker.admit() {
            Ok(admitted) => admitted,
            Err(error) => return refuse(error, pages),
        };
        let begun = Instant::now();
        let _room = match &self.staging {
            None => None,
            Some(staging) => match tokio::time::timeout(self.timeout, staging.room(pages.len())).await {
                Ok(room) => room,
                // Calls that don't return have all of it.
                Err(_) => {
                    self.note(admitted, direction, Some(false));
                    return refuse(Error::new(ErrorKind::Busy, "there is no memory for copies"), pages);
                }
            },
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
        let call = self.enter(id, load);
        let answer = self.call(requests, load).await;
        drop(call);
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
        self.note(admitted, direction, (broken || lost && good == 0).then_some(lost));
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
        if load && result.is_ok() && memory.is_none() {
            // Storage may still write into it.
            result =
                Err(Error::new(ErrorKind::Abandoned, "the storage kept the memory of a page that it loaded"));
        }
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

/// A call that has not returned.
struct InCall<'a>(&'a StorageLink, u64);

impl Drop for InCall<'_> {
    fn drop(&mut self) {
        lock(&self.0.calls).remove(&self.1);
    }
}
