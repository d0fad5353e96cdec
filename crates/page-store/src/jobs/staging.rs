//! Bounce memory for pages that an engine can't take as they lie: too many pieces, wrong alignment, or memory of
//! somebody else with an engine that can't prove that it has let go of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    slots: Mutex<Slots>,
}

#[derive(Debug)]
struct Slots {
    free: Vec<usize>,
    lost: usize,
}

impl Staging {
    pub(crate) fn new(bytes: u64) -> Self {
        Self { bytes, pools: Mutex::default() }
    }

    /// The pool for pages of one slot size and one engine.
    pub(crate) fn pool(&self, number: usize, engine: &dyn Engine, slot_bytes: u32) -> Result<Arc<Pool>> {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pools.get(&(number, slot_bytes)).filter(|pool| !pool.permits.is_closed()) {
            return Ok(Arc::clone(pool));
        }
        let slots = (self.bytes / u64::from(slot_bytes)).clamp(1, 256) as usize;
        let region = Region::allocate(slots, slot_bytes as usize)?;
        let pool = Arc::new(Pool {
            registration: engine.register(&region)?,
            permits: Semaphore::new(slots),
            slots: Mutex::new(Slots { free: (0..slots).collect(), lost: 0 }),
        });
        pools.insert((number, slot_bytes), Arc::clone(&pool));
        Ok(pool)
    }
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a slot and takes up to `most` that are free then. Never waits for more while it has some: jobs that
    /// did could wait for each other, or for slots that are lost. None at all means that every slot was lost.
    pub(crate) async fn take(&self, most: usize, bytes: usize) -> Vec<(usize, PageMemory)> {
        let Ok(permit) = self.permits.acquire().await else { return Vec::new() };
        permit.forget();
        let mut taken = 1;
        while taken < most
            && let Ok(permit) = self.permits.try_acquire()
        {
            permit.forget();
            taken += 1;
        }
        let mut slots = self.lock();
        let at = slots.free.len().saturating_sub(taken);
        let taken = slots.free.split_off(at);
        drop(slots);
        let lease = |slot| Some((slot, self.registration.page(slot, bytes, Access::Write).ok()?));
        taken.into_iter().filter_map(lease).collect()
    }

    /// Gives a slot back whose memory came back.
    pub(crate) fn give_back(&self, slot: usize, memory: PageMemory) {
        drop(memory);
        self.lock().free.push(slot);
        self.permits.add_permits(1);
    }

    /// The memory of a slot did not come back: it is never used again. With the last one the pool ends, and the next
    /// page makes another.
    pub(crate) fn lose(&self) {
        let mut slots = self.lock();
        slots.lost += 1;
        if slots.lost == self.registration.region().slots() {
            self.permits.close();
        }
    }
}
