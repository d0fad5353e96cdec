//! What the parts of a tiered storage share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hicache_core::{
    Access, Error, ErrorKind, ForkMark, Outcome, OwnerId, PageKey, PageMemory, Result, Storage,
};
use tokio::runtime::Handle;
use tokio::sync::{RwLock, RwLockWriteGuard, watch};

use crate::config::TieredConfig;
use crate::counts::{Counters, count};
use crate::link::{Health, Link};
use crate::recent::Recent;
use crate::staging::Staging;
use crate::uploads::Uploads;

/// How long a page counts as sent: a far tier evicts too.
const SENT_AGE: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) owner: OwnerId,
    pub(crate) near: Arc<dyn Storage>,
    pub(crate) far: Arc<dyn Storage>,
    pub(crate) config: TieredConfig,
    pub(crate) counters: Counters,
    pub(crate) link: Link,
    /// Keys that the far tier did not have a moment ago.
    pub(crate) absent: Recent,
    /// Keys that the far tier has, as far as we know.
    pub(crate) sent: Recent,
    pub(crate) staging: Staging,
    pub(crate) uploads: Uploads,
    /// Held for reading by what brings pages to a tier in the background, for writing by what takes them away or
    /// replaces them.
    pub(crate) gate: RwLock<()>,
    /// How often pages were taken away or replaced.
    pub(crate) epoch: AtomicU64,
    handle: Handle,
    pub(crate) running: Running,
    pub(crate) closed: AtomicBool,
    fork: ForkMark,
}

impl Shared {
    pub(crate) fn new(
        near: Arc<dyn Storage>,
        far: Arc<dyn Storage>,
        config: TieredConfig,
        handle: Handle,
    ) -> Self {
        let owner = OwnerId::new();
        Self {
            owner,
            staging: Staging::new(owner, Arc::clone(&near), Arc::clone(&far), config.staging_bytes),
            near,
            far,
            counters: Counters::default(),
            link: Link::default(),
            absent: Recent::new(config.remembered_keys, Duration::from_millis(config.absent_age_ms)),
            sent: Recent::new(config.remembered_keys, SENT_AGE),
            uploads: Uploads::new(config.queue_pages),
            gate: RwLock::new(()),
            epoch: AtomicU64::new(0),
            handle,
            running: Running::default(),
            closed: AtomicBool::new(false),
            fork: ForkMark::new(),
            config,
        }
    }

    /// Refuses what comes after close, or in a child.
    pub(crate) fn open(&self) -> Result<()> {
        if self.fork.is_child() {
            return Err(ForkMark::refusal("storage"));
        }
        if self.closed.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Closed, "the storage is closed").with_backend("tiered"));
        }
        Ok(())
    }

    pub(crate) fn is_child(&self) -> bool {
        self.fork.is_child()
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

    /// Takes note of what the far tier answered.
    pub(crate) fn heard(&self, health: Option<Health>) {
        if let Some(health) = health
            && self.link.note(health)
        {
            count(&self.counters.far_cut_off);
            tracing::warn!(
                far = self.far.name(),
                "the far tier is cut off; pages that only it has are misses until it answers"
            );
        }
    }

    /// Tries the far tier in the background if it is cut off and it is time to.
    pub(crate) fn try_far(self: &Arc<Self>, key: PageKey) {
        if self.link.trial_is_due() {
            let shared = Arc::clone(self);
            let running = self.running.begin();
            self.handle.spawn(async move {
                let health = match shared.far.exists(&[key]).await {
                    Ok(_) => Health::Good,
                    Err(error) => Health::of_error(error.kind()),
                };
                shared.heard(Some(health));
                if health == Health::Good {
                    shared.uploads.wake();
                }
                drop(running);
            });
        }
    }

    /// As [`try_far`](Self::try_far), for a call that missed something.
    pub(crate) fn try_far_if(self: &Arc<Self>, missed: bool, keys: &[PageKey]) {
        if let Some(key) = keys.first().filter(|_| missed && !self.link.is_up()) {
            self.try_far(*key);
        }
    }

    /// Waits for what brings pages to a tier, and keeps more of it away; what was copied before comes no more.
    pub(crate) async fn shut(&self) -> RwLockWriteGuard<'_, ()> {
        let gate = self.gate.write().await;
        self.epoch.fetch_add(1, Ordering::SeqCst);
        gate
    }

    /// Counts what a caller is told.
    pub(crate) fn answered(&self, outcome: &Outcome) {
        if let Some(error) = outcome.error() {
            count(&self.counters.failed_pages);
            if error.kind() == ErrorKind::Corrupt {
                count(&self.counters.corrupt_pages);
            }
        }
    }
}

/// How much is under way.
#[derive(Debug)]
pub(crate) struct Running(watch::Sender<usize>);

/// Something that is under way, until it is dropped.
#[derive(Debug)]
pub(crate) struct Begun(watch::Sender<usize>);

impl Default for Running {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl Running {
    pub(crate) fn begin(&self) -> Begun {
        self.0.send_modify(|running| *running += 1);
        Begun(self.0.clone())
    }

    /// Waits until nothing is.
    pub(crate) async fn none(&self) {
        // An error would mean that the sender is gone, and it is ours.
        let _ = self.0.subscribe().wait_for(|&running| running == 0).await;
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.0.send_modify(|running| *running -= 1);
    }
}
