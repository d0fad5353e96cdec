//! Slots of the kernel's tables of files and buffers. All rings of an engine use the same numbers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The free slots of a table.
#[derive(Debug)]
pub(crate) struct Table {
    free: Mutex<Vec<u32>>,
}

impl Table {
    pub(crate) fn new(slots: u32) -> Arc<Self> {
        Arc::new(Self { free: Mutex::new((0..slots).rev().collect()) })
    }

    /// Takes `count` slots, or none where fewer are free.
    pub(crate) fn take(self: &Arc<Self>, count: usize) -> Vec<Slot> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = free.len().checked_sub(count);
        let indices = kept.map_or_else(Vec::new, |kept| free.split_off(kept));
        indices
            .into_iter()
            .map(|index| Slot { table: Arc::clone(self), index, rings: AtomicU64::new(0) })
            .collect()
    }
}

/// One slot of a table, and which rings have filled theirs. Free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    table: Arc<Table>,
    index: u32,
    rings: AtomicU64,
}

impl Slot {
    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    /// The index, if ring `ring` has filled the slot. Asked by that ring's thread only, which also fills it.
    pub(crate) fn filled(&self, ring: usize) -> Option<u32> {
        (self.rings.load(Ordering::Relaxed) & (1 << ring) != 0).then_some(self.index)
    }

    pub(crate) fn set_filled(&self, ring: usize) {
        self.rings.fetch_or(1 << ring, Ordering::Relaxed);
    }

    /// Whether any ring has filled it.
    pub(crate) fn is_filled(&self) -> bool {
        self.rings.load(Ordering::Relaxed) != 0
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.table.free.lock().unwrap_or_else(PoisonError::into_inner).push(self.index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_come_back() {
        let table = Table::new(2);
        let both = table.take(2);
        assert_eq!(both.len(), 2);
        assert!(table.take(1).is_empty());
        drop(both);
        assert!(table.take(3).is_empty());
        assert_eq!(table.take(2).len(), 2);
    }
}
