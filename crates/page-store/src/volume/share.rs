//! Sharing a root with other living writers: nobody starves while somebody else has more than a fair share.

use std::sync::PoisonError;

use hicache_core::Result;

use super::Volume;
use crate::set::{Bell, OpenLedger, ring};

/// What a writer may count on, and what this one has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    /// The capacity without what belongs to no set, divided by the living writers.
    pub(super) fair: u64,
    pub(super) own: u64,
}

impl Volume {
    pub(super) fn share(&self, ledger: &OpenLedger<'_>) -> Share {
        let writers = ledger.census.living().count() as u64 + 1;
        let own = self.own(&self.lock());
        let all = ledger.capacity_bytes().saturating_sub(ledger.census.other_bytes);
        Share { fair: all / writers, own: own.segments + own.metadata }
    }

    /// Whether this writer may take more: not while somebody starves and it has its share. What it has too much of, it
    /// gives back.
    pub(super) fn may_grow(&self, ledger: &OpenLedger<'_>) -> Result<bool> {
        if ledger.census.starved().next().is_none() {
            return Ok(true);
        }
        let share = self.share(ledger);
        if share.own < share.fair {
            return Ok(true);
        }
        self.give_back_share(ledger)?;
        Ok(false)
    }

    /// Somebody rang: another writer has nothing to grow into, or cleared the namespace.
    pub(crate) fn woken(&self) {
        self.catch_up();
        let given = self.open_ledger().and_then(|ledger| self.give_back_share(&ledger));
        if let Err(error) = given {
            tracing::debug!(root = %self.root().display(), %error, "nothing was given back to those who starve");
        }
    }

    /// Gives the coldest segments back, as far as this writer is above its share and others miss something.
    fn give_back_share(&self, ledger: &OpenLedger<'_>) -> Result<()> {
        let Share { fair, own } = self.share(ledger);
        let missing: u64 = ledger.census.starved().map(|set| fair.saturating_sub(self.taken_by(set))).sum();
        let least = fair.max(own.saturating_sub(missing));
        let mut state = self.lock();
        loop {
            let own = self.own(&state);
            if own.segments + own.metadata <= least {
                return Ok(());
            }
            // Those that are left are in use; there is a next time.
            let Some((segment, _)) = state.catalog.coldest_segment(None) else { return Ok(()) };
            self.give_up(&mut state, segment)?;
        }
    }

    /// Tells the others whether this writer has less than its share and can't have `missing` bytes more.
    pub(super) fn tell_hunger(&self, ledger: &OpenLedger<'_>, missing: u64) {
        let starved = missing > 0 && {
            let share = self.share(ledger);
            share.own + missing <= share.fair && ledger.census.living().next().is_some()
        };
        if let Some(lock) = &mut *self.lock.lock().unwrap_or_else(PoisonError::into_inner) {
            lock.set_starved(starved);
        }
        if starved {
            let share = self.share(ledger);
            let rich = ledger.census.living().filter(|set| self.taken_by(set) > share.fair);
            rich.for_each(|set| ring(&set.directory));
        }
    }

    pub(super) fn is_starved(&self) -> bool {
        let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        lock.as_ref().is_some_and(|lock| lock.is_starved())
    }

    /// The bell that others wake this writer with.
    pub(crate) fn hang_bell(&self) -> Option<Bell> {
        if self.options.is_reader() { None } else { Bell::hang(self.paths.directory()) }
    }
}
