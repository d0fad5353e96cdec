//! How far a prefetch has come, and whether it shall go on: one word, so that a termination and a batch that ends at
//! the same moment agree on what was complete. `tests/termination_model.rs` compiles this file against loom's atomics.

use super::sync::{AtomicU64, Ordering};

const TERMINATED: u64 = 1 << 63;

/// Complete pages from the start, and the mark of termination.
#[derive(Debug)]
pub(crate) struct Progress(AtomicU64);

impl Progress {
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// For the worker, when `pages` more pages are complete and their memory is let go. Release: whoever learns of the
    /// count sees the bytes. False if it was terminated before: they don't count then.
    pub(crate) fn advance(&self, pages: u64) -> bool {
        let mut seen = self.0.load(Ordering::Relaxed);
        while seen & TERMINATED == 0 {
            match self.0.compare_exchange_weak(seen, seen + pages, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
        false
    }

    /// Ends it: how many pages are complete, which is the same from then on, whoever asks; and whether this call ended
    /// it, which one only does.
    pub(crate) fn terminate(&self) -> (u64, bool) {
        let seen = self.0.fetch_or(TERMINATED, Ordering::AcqRel);
        (seen & !TERMINATED, seen & TERMINATED == 0)
    }

    pub(crate) fn is_terminated(&self) -> bool {
        self.0.load(Ordering::Relaxed) & TERMINATED != 0
    }
}
