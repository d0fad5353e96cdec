//! What the storage and its thread share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hicache_core::{Error, ErrorKind, ForkMark, Namespace, OwnerId, Result, StorageStat};

use super::NAME;
use super::config::NixlObjConfig;
use super::names::Names;

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) owner: OwnerId,
    pub(crate) config: NixlObjConfig,
    pub(crate) namespace: Namespace,
    pub(crate) names: Names,
    pub(crate) counts: Counts,
    pub(crate) closed: AtomicBool,
    pub(crate) fork: ForkMark,
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
    pub(crate) refused_pages: AtomicU64,
    pub(crate) read_bytes: AtomicU64,
    pub(crate) written_bytes: AtomicU64,
    pub(crate) heads: AtomicU64,
    /// Bytes of memory now, not since it was opened.
    pub(crate) lost_bytes: AtomicU64,
    pub(crate) breaker_opened: AtomicU64,
    pub(crate) breakers_open: AtomicU64,
}

pub(crate) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

impl Shared {
    pub(crate) fn new(config: NixlObjConfig, namespace: &Namespace) -> Self {
        Self {
            owner: OwnerId::new(),
            names: Names::new(&config.prefix, namespace),
            config,
            namespace: namespace.clone(),
            counts: Counts::default(),
            closed: AtomicBool::new(false),
            fork: ForkMark::new(),
        }
    }

    /// Refuses what comes after close, or in a child.
    pub(crate) fn open(&self) -> Result<()> {
        if self.fork.is_child() {
            return Err(ForkMark::refusal("storage"));
        }
        if self.closed.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Closed, "the storage is closed").with_backend(NAME));
        }
        Ok(())
    }

    /// Where the bucket is, for messages.
    pub(crate) fn place(&self) -> String {
        let parameters = &self.config.parameters;
        let bucket = parameters.bucket.as_deref().unwrap_or_default();
        match &parameters.endpoint_override {
            Some(endpoint) => format!("bucket {bucket:?} at {endpoint}"),
            None => format!("bucket {bucket:?} of AWS"),
        }
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
            refused_pages: get(&counts.refused_pages),
            read_bytes: get(&counts.read_bytes),
            written_bytes: get(&counts.written_bytes),
            breaker_opened: get(&counts.breaker_opened),
            breakers_open: get(&counts.breakers_open),
            ..StorageStat::default()
        }
    }
}
