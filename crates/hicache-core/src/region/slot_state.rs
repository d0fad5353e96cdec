//! The state of one slot: free, read by some, or written by one.
//!
//! `tests/lease_model.rs` compiles this file against loom's atomics, so it names them through `super::sync` only.

use super::sync::{AtomicU32, Ordering};

const FREE: u32 = 0;
const WRITING: u32 = u32::MAX;
const MOST_READERS: u32 = u32::MAX - 1;

/// Reader count, or the mark of a writer.
#[derive(Debug)]
pub(crate) struct SlotState(AtomicU32);

impl SlotState {
    pub(crate) fn new() -> Self {
        Self(AtomicU32::new(FREE))
    }

    /// Takes shared read. Acquire: sees all that the last writer wrote.
    pub(crate) fn try_read(&self) -> bool {
        let mut seen = self.0.load(Ordering::Relaxed);
        while seen < MOST_READERS {
            match self.0.compare_exchange_weak(seen, seen + 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
        false
    }

    /// Takes exclusive write. Acquire: comes after the last read of every reader.
    pub(crate) fn try_write(&self) -> bool {
        self.0.compare_exchange(FREE, WRITING, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Gives a read back. Release: the reads come before what the next writer does.
    pub(crate) fn end_read(&self) {
        self.0.fetch_sub(1, Ordering::Release);
    }

    /// Gives the write back. Release: the bytes are there for whoever takes the slot next.
    pub(crate) fn end_write(&self) {
        self.0.store(FREE, Ordering::Release);
    }

    /// Turns a write into a read without letting another writer in between.
    pub(crate) fn write_to_read(&self) {
        self.0.store(1, Ordering::Release);
    }
}
