//! What the parts of a tiered storage share.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hicache_core::{Access, Calls, Error, ErrorKind, Outcome, OwnerId, PageKey, PageMemory, Result, Storage};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::config::TieredConfig;
use crate::counts::{Counters, count};
use crate::link::{Health, Link, Trial};
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
    /// Keys whose stores are under way.
    pub(crate) storing: Storing,
    gate: RwLock<()>,
    /// Raised when pages begin to be taken away or replaced, and when that has ended: odd in between.
    epoch: AtomicU64,
    pub(crate) calls: Calls,
}

impl Shared {
    pub(crate) fn new(
        near: Arc<dyn Storage>,
        far: Arc<dyn Storage>,
        config: TieredConfig,
        calls: Calls,
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
            storing: Storing::default(),
            gate: RwLock::new(()),
            epoch: AtomicU64::new(0),
            calls,
            config,
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

    /// Takes note of what the far tier answered.
    pub(crate) fn heard(&self, health: Option<Health>) {
        if health.is_some_and(|health| self.link.note(health)) {
            count(&self.counters.far_cut_off);
            tracing::warn!(
                far = self.far.name(),
                "the far tier is cut off; pages that only it has are misses until it answers"
            );
        }
    }

    /// Tries the far tier in the background if it is cut off and it is time to.
    pub(crate) fn try_far(self: &Arc<Self>) {
        let Some(trial) = self.link.trial() else { return };
        let mut trial = Trying { shared: Arc::clone(self), trial, health: Health::Bad };
        let running = self.calls.background();
        self.calls.handle().spawn(async move {
            // A key that nobody has and nothing is remembered of: it must be asked for.
            let key = PageKey::kv(rand::random());
            trial.health = match trial.shared.far.exists(&[key]).await {
                Ok(_) => Health::Good,
                Err(error) => Health::of_error(error.kind()),
            };
            drop(trial);
            drop(running);
        });
    }

    /// What the far tier knows of a key without asking anybody.
    pub(crate) fn far_remembers(&self, key: &PageKey) -> Option<bool> {
        self.far.exists_now(std::slice::from_ref(key))?.ok()?.first().copied()
    }

    /// Keeps away what takes pages from a tier or replaces them, for as long as something is brought to one in the
    /// background.
    pub(crate) async fn gate(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read().await
    }

    /// Waits for what brings pages to a tier, and keeps more of it away; what was read or copied before or meanwhile
    /// comes no more.
    pub(crate) async fn shut(&self) -> Shut<'_> {
        let gate = self.gate.write().await;
        self.epoch.fetch_add(1, Ordering::SeqCst);
        Shut { epoch: &self.epoch, _gate: gate }
    }

    /// To be asked for before a tier is, and compared after it has answered.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// Whether nothing has been taken away or replaced since `epoch`, nor is now: what a tier answered still holds.
    pub(crate) fn still_holds(&self, epoch: u64) -> bool {
        epoch.is_multiple_of(2) && self.epoch() == epoch
    }

    /// Counts what a caller is told.
    pub(crate) fn answered(&self, outcome: &Outcome) {
        if let Some(error) = outcome.error() {
            count(match error.kind() {
                ErrorKind::Corrupt => &self.counters.corrupt_pages,
                _ => &self.counters.failed_pages,
            });
        }
    }
}

/// The gate, shut.
#[derive(Debug)]
pub(crate) struct Shut<'a> {
    epoch: &'a AtomicU64,
    _gate: RwLockWriteGuard<'a, ()>,
}

impl Drop for Shut<'_> {
    fn drop(&mut self) {
        // Before the gate opens: a load that began while it was shut has seen what is gone now.
        self.epoch.fetch_add(1, Ordering::SeqCst);
    }
}

/// A trial of the far tier. However it ends, the link hears of it.
struct Trying {
    shared: Arc<Shared>,
    trial: Trial,
    health: Health,
}

impl Drop for Trying {
    fn drop(&mut self) {
        self.shared.link.tried(self.trial, self.health);
        if self.health == Health::Good {
            self.shared.uploads.wake();
        }
    }
}

/// Keys whose stores are under way, with whether two of them were at a time: then nobody knows whose bytes the near
/// tier took.
#[derive(Debug, Default)]
pub(crate) struct Storing(Mutex<HashMap<PageKey, (usize, bool)>>);

impl Storing {
    pub(crate) fn begin(&self, keys: impl IntoIterator<Item = PageKey>) -> StoringKeys<'_> {
        let keys: HashSet<PageKey> = keys.into_iter().collect();
        let mut storing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for key in &keys {
            let (stores, contested) = storing.entry(*key).or_default();
            *stores += 1;
            *contested |= *stores > 1;
        }
        drop(storing);
        StoringKeys { storing: self, keys }
    }

    pub(crate) fn contested(&self, key: &PageKey) -> bool {
        let storing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        storing.get(key).is_some_and(|(_, contested)| *contested)
    }
}

/// Stores of these keys are under way until it is dropped.
#[derive(Debug)]
pub(crate) struct StoringKeys<'a> {
    storing: &'a Storing,
    keys: HashSet<PageKey>,
}

impl Drop for StoringKeys<'_> {
    fn drop(&mut self) {
        let mut storing = self.storing.0.lock().unwrap_or_else(PoisonError::into_inner);
        for key in &self.keys {
            if let Some((stores, _)) = storing.get_mut(key) {
                *stores -= 1;
                if *stores == 0 {
                    storing.remove(key);
                }
            }
        }
    }
}
