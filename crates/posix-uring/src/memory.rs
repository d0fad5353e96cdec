//! What the engines know of a region and of a file, and what happens when the last user of one is gone.

use std::sync::Arc;

use hicache_core::Region;

use crate::file::OpenFile;
use crate::inbox::{Command, Inbox};
use crate::table::{Slot, Table};

/// Bytes registered at a time: the kernel takes at most 1 GiB, and the ring thread does nothing else meanwhile.
pub(crate) const PART_BYTES: usize = 256 << 20;

/// A region with its slots in the kernel's table of buffers, one for each [`PART_BYTES`].
#[derive(Debug)]
pub(crate) struct Memory {
    region: Arc<Region>,
    slots: Vec<Slot>,
}

impl Memory {
    /// Takes the slots for `region`; `None` where too few are free, and nothing of it will be registered.
    pub(crate) fn new(region: &Arc<Region>, table: &Arc<Table>) -> Option<Arc<Self>> {
        let slots = table.take(region.bytes().div_ceil(PART_BYTES));
        (!slots.is_empty()).then(|| Arc::new(Self { region: Arc::clone(region), slots }))
    }

    /// The slots, one a part.
    pub(crate) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Address and length of part `part`.
    pub(crate) fn part(&self, part: usize) -> (*mut u8, usize) {
        let start = part * PART_BYTES;
        let bytes = self.region.bytes().saturating_sub(start).min(PART_BYTES);
        (self.region.base().as_ptr().wrapping_add(start), bytes)
    }

    /// The table index under which `ring` may use these bytes, if they are in one part that it has registered.
    pub(crate) fn index_of(&self, address: *mut u8, bytes: usize, ring: usize) -> Option<u32> {
        let first = (address as usize).checked_sub(self.region.base().as_ptr() as usize)?;
        let last = first + bytes.checked_sub(1)?;
        if first / PART_BYTES != last / PART_BYTES {
            return None;
        }
        self.slots.get(first / PART_BYTES)?.filled(ring)
    }

    /// Bytes that at least one ring has registered.
    pub(crate) fn registered_bytes(&self) -> u64 {
        let filled = self.slots.iter().enumerate().filter(|(_, slot)| slot.is_filled());
        filled.map(|(part, _)| self.part(part).1 as u64).sum()
    }
}

/// In a registration: dropped when neither a handle nor a lease of the region is left.
pub(crate) struct MemoryToken {
    pub(crate) memory: Option<Arc<Memory>>,
    pub(crate) inboxes: Arc<[Arc<Inbox>]>,
}

impl Drop for MemoryToken {
    fn drop(&mut self) {
        let Some(memory) = self.memory.take() else { return };
        for inbox in self.inboxes.iter() {
            // A ring that takes no more commands unregisters everything when it goes, and holds the memory till then.
            drop(inbox.push(Command::ForgetMemory(Arc::clone(&memory))));
        }
    }
}

/// In an attached file: dropped when neither a handle nor an operation of it is left.
pub(crate) struct FileToken {
    pub(crate) file: Arc<OpenFile>,
    pub(crate) inboxes: Arc<[Arc<Inbox>]>,
}

impl Drop for FileToken {
    fn drop(&mut self) {
        if self.file.slots().next().is_none() {
            return;
        }
        for inbox in self.inboxes.iter() {
            drop(inbox.push(Command::ForgetFile(Arc::clone(&self.file))));
        }
    }
}
