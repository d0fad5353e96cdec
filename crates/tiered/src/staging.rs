//! Memory for copies of pages on their way to a tier.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use hicache_core::{Access, OwnerId, PageMemory, Region, Registration, Result, SLOT_ALIGNMENT, Storage};

use crate::part::Both;

/// Bytes of one allocation, where pages are small.
const CHUNK_BYTES: usize = 4 << 20;

/// Registers a region with both tiers.
pub(crate) fn register(
    owner: OwnerId,
    near: &dyn Storage,
    far: &dyn Storage,
    region: &Arc<Region>,
) -> Result<Registration> {
    let both = Both { near: near.register(region)?, far: far.register(region)? };
    Ok(Registration::new(owner, Arc::clone(region), Box::new(both)))
}

/// Memory with a bound, cut by page length as pages come.
#[derive(Debug)]
pub(crate) struct Staging {
    owner: OwnerId,
    near: Arc<dyn Storage>,
    far: Arc<dyn Storage>,
    limit_bytes: usize,
    chunks: Mutex<Vec<Arc<Chunk>>>,
}

#[derive(Debug)]
struct Chunk {
    registration: Registration,
    /// Slots that nobody has. The lease of one may still be out, where a tier lost an operation on it.
    free: Mutex<VecDeque<usize>>,
}

impl Chunk {
    fn slot_bytes(&self) -> usize {
        self.registration.region().slot_bytes()
    }

    fn bytes(&self) -> usize {
        self.slot_bytes() * self.registration.region().slots()
    }

    fn take(self: &Arc<Self>, bytes: usize) -> Option<Staged> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..free.len() {
            let slot = free.pop_back()?;
            if let Ok(memory) = self.registration.page(slot, bytes, Access::Write) {
                return Some(Staged { memory: Some(memory), slot: Slot { chunk: Arc::clone(self), slot } });
            }
            // A tier still has it. Perhaps not when its turn comes again.
            free.push_front(slot);
        }
        None
    }

    fn is_idle(&self) -> bool {
        let region = self.registration.region();
        self.free.lock().unwrap_or_else(PoisonError::into_inner).len() == region.slots()
            && region.leases() == 0
    }
}

/// A copy of a page.
#[derive(Debug)]
pub(crate) struct Staged {
    // Before `slot`, since fields drop in order: the lease ends before the slot is free.
    memory: Option<PageMemory>,
    slot: Slot,
}

#[derive(Debug)]
pub(crate) struct Slot {
    chunk: Arc<Chunk>,
    slot: usize,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.chunk.free.lock().unwrap_or_else(PoisonError::into_inner).push_back(self.slot);
    }
}

impl Staged {
    pub(crate) fn of(memory: PageMemory, slot: Slot) -> Self {
        Self { memory: Some(memory), slot }
    }

    /// Its memory, and what keeps the slot: to be dropped when the memory has come back and is dropped.
    pub(crate) fn into_parts(self) -> (Option<PageMemory>, Slot) {
        (self.memory, self.slot)
    }
}

impl Staging {
    pub(crate) fn new(owner: OwnerId, near: Arc<dyn Storage>, far: Arc<dyn Storage>, limit: u64) -> Self {
        let limit_bytes = usize::try_from(limit).unwrap_or(usize::MAX);
        Self { owner, near, far, limit_bytes, chunks: Mutex::default() }
    }

    /// Memory for a page, if there is some now. One page is always let in, however long.
    pub(crate) fn take(&self, bytes: usize) -> Option<Staged> {
        let slot_bytes = bytes.checked_next_multiple_of(SLOT_ALIGNMENT)?;
        let mut chunks = self.chunks.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = |chunk: &&Arc<Chunk>| chunk.slot_bytes() == slot_bytes;
        if let Some(staged) = chunks.iter().filter(fitting).find_map(|chunk| chunk.take(bytes)) {
            return Some(staged);
        }
        let used = |chunks: &[Arc<Chunk>]| chunks.iter().map(|chunk| chunk.bytes()).sum::<usize>();
        if used(&chunks) + slot_bytes > self.limit_bytes {
            // Another length had its time.
            chunks.retain(|chunk| !chunk.is_idle());
        }
        let room = self.limit_bytes.saturating_sub(used(&chunks));
        if room < slot_bytes && !chunks.is_empty() {
            return None;
        }
        let slots = (room.min(CHUNK_BYTES) / slot_bytes).max(1);
        let region = Region::allocate(slots, slot_bytes).ok()?;
        let registration = register(self.owner, &*self.near, &*self.far, &region).ok()?;
        let chunk = Arc::new(Chunk { registration, free: Mutex::new((0..slots).rev().collect()) });
        chunks.push(Arc::clone(&chunk));
        drop(chunks);
        chunk.take(bytes)
    }

    /// A copy of `page`, if there is memory for one now.
    pub(crate) fn copy(&self, page: &PageMemory) -> Option<Staged> {
        let mut staged = self.take(page.bytes())?;
        let target = staged.memory.as_mut()?.bytes_mut().next()?.ok()?;
        page.copy_to(target).ok()?;
        Some(staged)
    }
}

#[cfg(test)]
mod tests {
    use hicache_core::MemoryStorage;

    use super::*;

    fn staging(limit: u64) -> Staging {
        Staging::new(OwnerId::new(), Arc::new(MemoryStorage::new()), Arc::new(MemoryStorage::new()), limit)
    }

    #[test]
    fn the_bound_holds_and_memory_comes_back() {
        let staging = staging(64 << 10);
        let taken: Vec<_> = (0..).map_while(|_| staging.take(5000)).collect();
        assert_eq!(taken.len(), 8);
        // Another length has no room while the first is in use, and has it afterwards.
        assert!(staging.take(64 << 10).is_none());
        drop(taken);
        assert!(staging.take(64 << 10).is_some());
    }

    /// A tier that lost an operation has its memory for a while: the slot is skipped until then, and not lost.
    #[test]
    fn memory_that_a_tier_keeps_comes_back_when_it_ends() {
        let staging = staging(64 << 10);
        let lost = (0..).map_while(|_| staging.take(5000)).map(|staged| staged.into_parts().0.unwrap());
        let mut stuck: Vec<PageMemory> = lost.collect();
        assert_eq!(stuck.len(), 8, "a slot that is still in use keeps no other one back");
        for free in 1..=8 {
            stuck.pop();
            let taken: Vec<_> = (0..).map_while(|_| staging.take(5000)).collect();
            assert_eq!(taken.len(), free);
        }
    }

    #[test]
    fn one_page_over_the_bound_is_let_in() {
        let staging = staging(4096);
        let page = staging.take(1 << 20).unwrap();
        assert!(staging.take(1 << 20).is_none());
        drop(page);
        assert!(staging.take(1 << 20).is_some());
    }
}
