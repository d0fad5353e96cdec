//! What became of pages, tier by tier.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// What became of pages, tier by tier, since the storage was opened.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
        pub struct TierCounts { $($(#[$doc])* pub $name: u64,)+ }

        #[derive(Debug, Default)]
        pub(crate) struct Counters { $(pub(crate) $name: AtomicU64,)+ }

        impl Counters {
            pub(crate) fn read(&self) -> TierCounts {
                TierCounts { $($name: self.$name.load(Ordering::Relaxed),)+ }
            }
        }
    };
}

counts! {
    /// Pages loaded from the near tier.
    near_hit_pages,
    /// Pages loaded from the far tier.
    far_hit_pages,
    /// Pages that neither had.
    missed_pages,
    /// Bytes loaded.
    read_bytes,
    /// Pages stored in the near tier on a caller's behalf, or there already.
    near_stored_pages,
    /// Pages that the far tier has answered to have, of those sent to it.
    far_stored_pages,
    /// Pages that came from the far tier and were kept near.
    filled_pages,
    /// Pages that came from the far tier and were not kept near: no memory for a copy, or the near tier refused.
    unfilled_pages,
    /// Pages that were to be sent to the far tier and were not: the queue was full, the near tier had lost them, or the
    /// far tier refused them.
    unsent_pages,
    /// Loads of pages that the far tier failed; misses to the caller.
    far_failed_pages,
    /// Loads of pages for which the far tier was not asked: it was cut off, or had not had them a moment ago.
    far_skipped_pages,
    /// Pages that failed in a caller's call for another reason than that they are corrupt.
    failed_pages,
    /// Corrupt pages, in either tier.
    corrupt_pages,
    /// How often the far tier was cut off.
    far_cut_off,
    /// Pages that wait for the far tier now.
    waiting_pages,
}

/// One more.
pub(crate) fn count(counter: &AtomicU64) {
    add(counter, 1);
}

pub(crate) fn add(counter: &AtomicU64, number: u64) {
    counter.fetch_add(number, Ordering::Relaxed);
}
