//! Bounce memory for pages that an engine can't take as they lie: too many pieces, wrong alignment, or memory of
//! somebody else with an engine that can't prove that it has let go of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use hicache_core::{Access, Engine, PageMemory, Region, Registration, Result};
use tokio::sync::Semaphore;

/// Pools of staging slots, made when they are first needed.
#[derive(Debug)]
pub(crate) struct Staging {
    bytes: u64,
    pools: Mutex<HashMap<(usize, u32), Arc<Pool>>>,
}

/// Slots of one size, registered with one engine.
#[derive(Debug)]
pub(crate) struct Pool {
    registration: Registration,
    permits: Semaphore,
    free: Mutex<Vec<usize>>,
}

impl Staging {
    pub(crate) fn new(bytes: u64) -> Self {
        Self { bytes, pools: Mutex::default() }
    }

    /// The pool for pages of one slot size and one engine.
    pub(crate) fn pool(&self, number: usize, engine: &dyn Engine, slot_bytes: u32) -> Result<Arc<Pool>> {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pools.get(&(number, slot_bytes)) {
            return Ok(Arc::clone(pool));
        }
        let slots = (self.bytes / u64::from(slot_bytes)).clamp(1, 256) as usize;
        let region = Region::allocate(slots, slot_bytes as usize)?;
        let pool = Arc::new(Pool {
            registration: engine.register(&region)?,
            permits: Semaphore::new(slots),
            free: Mutex::new((0..slots).collect()),
        });
        pools.insert((number, slot_bytes), Arc::clone(&pool));
        Ok(pool)
    }
}

impl Pool {
    pub(crate) fn slots(&self) -> usize {
        self.registration.region().slots()
    }

    /// Waits for `pages` slots at once: jobs that held some and waited for more could wait for each other.
    pub(crate) async fn take(&self, pages: usize, bytes: usize) -> Vec<(usize, PageMemory)> {
        if let Ok(permit) = self.permits.acquire_many(pages as u32).await {
            permit.forget();
        }
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let at = free.len().saturating_sub(pages);
        let slots = free.split_off(at);
        drop(free);
        let lease = |slot| Some((slot, self.registration.page(slot, bytes, Access::Write).ok()?));
        slots.into_iter().filter_map(lease).collect()
    }

    /// Gives a slot back whose memory came back. One whose memory did not is never used again.
    pub(crate) fn give_back(&self, slot: usize, memory: PageMemory) {
        drop(memory);
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(slot);
        self.permits.add_permits(1);
    }
}
