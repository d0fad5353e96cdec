//! What deletions, overwrites and clears of any set of a namespace have made invisible.

use std::collections::HashMap;

use hicache_core::PoolName;
use hicache_hashing::Digest;

use super::Catalog;

/// A key as all sets know it: pool ids are a set's own.
pub(crate) type NamedKey = (PoolName, Digest);

/// Numbers below which pages are gone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mask {
    /// For every page.
    pub(crate) floor: u64,
    /// For single keys.
    forgotten: HashMap<NamedKey, u64>,
    /// How many there were after it was last pruned.
    kept: usize,
}

/// So many are kept without looking whether they still matter.
const FEW: usize = 1024;

impl Mask {
    pub(crate) fn clear(&mut self, sequence: u64) {
        self.floor = self.floor.max(sequence);
    }

    pub(crate) fn forget(&mut self, key: NamedKey, sequence: u64) {
        let known = self.forgotten.entry(key).or_default();
        *known = sequence.max(*known);
    }

    /// Whether a page of this key that was put under this number is still there.
    pub(crate) fn shows(&self, key: &NamedKey, sequence: u64) -> bool {
        sequence >= self.floor
            && (self.forgotten.is_empty() || self.forgotten.get(key).is_none_or(|&number| sequence >= number))
    }

    pub(crate) fn forgotten(&self) -> impl Iterator<Item = (&NamedKey, u64)> {
        self.forgotten.iter().map(|(key, &sequence)| (key, sequence))
    }

    pub(crate) fn forgotten_keys(&self) -> usize {
        self.forgotten.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.floor == 0 && self.forgotten.is_empty()
    }

    /// The part that hides a page of some catalog.
    pub(crate) fn still_hides<'a>(&self, catalogs: impl Iterator<Item = &'a Catalog> + Clone) -> Self {
        let floor_matters = || {
            let oldest = catalogs.clone().filter_map(Catalog::oldest_sequence).min();
            oldest.is_some_and(|oldest| oldest < self.floor)
        };
        let floor = if self.floor > 0 && floor_matters() { self.floor } else { 0 };
        let matters = |(key, sequence): (&NamedKey, u64)| {
            catalogs.clone().any(|catalog| catalog.peek_named(key).is_some_and(|put| put.sequence < sequence))
        };
        let forgotten: HashMap<NamedKey, u64> = self
            .forgotten()
            .filter(|&entry| matters(entry))
            .map(|(key, sequence)| (*key, sequence))
            .collect();
        Self { floor, kept: forgotten.len(), forgotten }
    }

    /// Drops keys of which nobody has an older page any more, now and then.
    pub(crate) fn prune<'a>(&mut self, catalogs: impl Iterator<Item = &'a Catalog> + Clone) {
        if self.forgotten.len() >= FEW.max(2 * self.kept) {
            let floor = self.floor;
            *self = Self { floor, ..self.still_hides(catalogs) };
        }
    }

    /// Removes from a catalog what can't be seen.
    pub(crate) fn apply_to(&self, catalog: &mut Catalog) {
        catalog.clear(self.floor);
        for (key, sequence) in self.forgotten() {
            let Some(pool) = catalog.pool_id(&key.0) else { continue };
            if catalog.peek(pool, &key.1).is_some_and(|put| put.sequence < sequence) {
                catalog.unpublish(pool, &key.1);
            }
        }
    }

    /// Takes over what another mask hides.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.clear(other.floor);
        for (key, sequence) in other.forgotten() {
            self.forget(*key, sequence);
        }
    }
}
