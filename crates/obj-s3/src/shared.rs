//! What the parts of the storage share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use hicache_core::{
    Access, Calls, Error, ErrorKind, Namespace, OwnerId, PageKey, PageMemory, Result, StorageStat,
};
use tokio::time::Instant;

use crate::attempts::Endpoints;
use crate::config::S3Config;
use crate::known::KnownKeys;
use crate::layout::Layout;

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) owner: OwnerId,
    pub(crate) config: S3Config,
    pub(crate) namespace: Namespace,
    pub(crate) layout: Layout,
    pub(crate) endpoints: Endpoints,
    pub(crate) known: KnownKeys,
    pub(crate) counts: Counts,
    pub(crate) calls: Calls,
    /// Keys that are being put.
    puts: Mutex<Puts>,
}

/// A lock a key. Those that nobody has are removed when there are twice as many as the last time.
#[derive(Debug, Default)]
struct Puts {
    locks: HashMap<PageKey, Weak<tokio::sync::Mutex<()>>>,
    sweep_at: usize,
}

/// Counts since it was opened.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) hit_pages: AtomicU64,
    pub(crate) missed_pages: AtomicU64,
    pub(crate) stored_pages: AtomicU64,
    pub(crate) present_pages: AtomicU64,
    pub(crate) corrupt_pages: AtomicU64,
    pub(crate) failed_pages: AtomicU64,
    pub(crate) abandoned_pages: AtomicU64,
    pub(crate) refused_pages: AtomicU64,
    pub(crate) read_bytes: AtomicU64,
    pub(crate) written_bytes: AtomicU64,
    pub(crate) bad_bodies: AtomicU64,
    pub(crate) heads: AtomicU64,
}

/// One more.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Shared {
    pub(crate) fn new(config: S3Config, namespace: Namespace, endpoints: Endpoints, calls: Calls) -> Self {
        Self {
            owner: OwnerId::new(),
            layout: Layout::new(&config.prefix, &namespace),
            known: KnownKeys::new(config.known_keys, config.present_age_ms, config.absent_age_ms),
            namespace,
            endpoints,
            config,
            counts: Counts::default(),
            calls,
            puts: Mutex::default(),
        }
    }

    /// Refuses to change anything where it was opened for reading.
    pub(crate) fn writable(&self) -> Result<()> {
        match self.config.read_only {
            true => Err(Error::new(
                ErrorKind::Unsupported,
                "the storage was opened for reading; set role = writer",
            )
            .with_backend(crate::NAME)),
            false => Ok(()),
        }
    }

    /// Refuses memory that is registered elsewhere, or leased for another use.
    pub(crate) fn check(&self, memory: &PageMemory, access: Option<Access>) -> Result<()> {
        if memory.owner() != self.owner {
            return Err(Error::config("the memory is registered with another storage"));
        }
        if access.is_some_and(|access| memory.access() != access) {
            return Err(Error::config("a load needs memory leased for writing"));
        }
        Ok(())
    }

    pub(crate) fn load_deadline(&self) -> Instant {
        Instant::now() + Duration::from_millis(self.config.load_timeout_ms)
    }

    pub(crate) fn store_deadline(&self) -> Instant {
        Instant::now() + Duration::from_millis(self.config.store_timeout_ms)
    }

    /// How many pages of a batch are worked on at a time: as many as the endpoints take requests.
    pub(crate) fn at_a_time(&self) -> usize {
        self.config.concurrency.saturating_mul(self.endpoints.iter().count())
    }

    /// How long a store may say nothing.
    pub(crate) fn stall(&self) -> Duration {
        self.config.stall()
    }

    /// The same for what is sent, and for what takes a store more time than a page.
    pub(crate) fn store_stall(&self) -> Duration {
        Duration::from_millis(self.config.store_timeout_ms.div_ceil(3)).max(self.stall())
    }

    /// The lock under which a key is put: one at a time.
    pub(crate) fn put_lock(&self, key: &PageKey) -> Arc<tokio::sync::Mutex<()>> {
        let mut puts = self.puts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = puts.locks.get(key).and_then(Weak::upgrade) {
            return lock;
        }
        if puts.locks.len() >= puts.sweep_at {
            puts.locks.retain(|_, lock| lock.strong_count() > 0);
            puts.sweep_at = (2 * puts.locks.len()).max(1024);
        }
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        puts.locks.insert(*key, Arc::downgrade(&lock));
        lock
    }

    pub(crate) fn stat(&self) -> StorageStat {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counts = &self.counts;
        StorageStat {
            hit_pages: get(&counts.hit_pages),
            missed_pages: get(&counts.missed_pages),
            stored_pages: get(&counts.stored_pages),
            present_pages: get(&counts.present_pages),
            corrupt_pages: get(&counts.corrupt_pages),
            failed_pages: get(&counts.failed_pages),
            abandoned_pages: get(&counts.abandoned_pages),
            refused_pages: get(&counts.refused_pages),
            read_bytes: get(&counts.read_bytes),
            written_bytes: get(&counts.written_bytes),
            breaker_opened: self.endpoints.iter().map(|endpoint| endpoint.breaker.opened()).sum(),
            breakers_open: self.endpoints.iter().filter(|endpoint| endpoint.breaker.is_open()).count() as u64,
            ..StorageStat::default()
        }
    }
}
