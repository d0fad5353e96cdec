//! Sharing a root with other living writers: nobody starves while somebody else has more than a fair share.

use std::sync::{Arc, PoisonError};

use hicache_core::Result;
use tokio::sync::Notify;

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

    /// How many bytes this writer may take more. While somebody claims a share, itself included, nobody goes above the own
    /// one: what was given back is for whoever claims it, however long that takes. What this writer has too much of, it
    /// gives back.
    pub(super) fn may_grow_by(&self, ledger: &OpenLedger<'_>) -> Result<u64> {
        let others = ledger.census.starved().next().is_some();
        if !others && !self.is_starved() {
            return Ok(u64::MAX);
        }
        let Share { fair, own } = self.share(ledger);
        if others && own > fair {
            self.give_back_share(ledger)?;
        }
        Ok(fair.saturating_sub(own))
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

    /// Tells the others whether this writer claims its share: from when it can't have a slot more, until it has what is its
    /// by right. Whoever has more is woken.
    pub(super) fn claim_share(&self, ledger: &OpenLedger<'_>, slot: u64, refused: bool) {
        let Share { fair, own } = self.share(ledger);
        // If nobody has too much, there is nothing to be had: the disk is full of something else.
        let rich = || ledger.census.living().filter(|set| self.taken_by(set) > fair);
        let claims = own + slot <= fair && if refused { rich().next().is_some() } else { self.is_starved() };
        if let Some(lock) = &mut *self.lock.lock().unwrap_or_else(PoisonError::into_inner) {
            lock.set_starved(claims);
        }
        if claims && refused {
            rich().for_each(|set| ring(&set.directory));
        }
    }

    pub(super) fn is_starved(&self) -> bool {
        let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        lock.as_ref().is_some_and(|lock| lock.is_starved())
    }

    /// The bell that others wake this writer with.
    pub(crate) fn hang_bell(&self, heard: Arc<Notify>) -> Option<Bell> {
        if self.options.is_reader() { None } else { Bell::hang(self.paths.directory(), heard) }
    }
}
