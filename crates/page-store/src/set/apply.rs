//! What records mean, one after the other: for the writer that continues a set and for those who follow one.

use std::collections::HashMap;
use std::hint::black_box;
use std::path::Path;

use hicache_hashing::{Digest, Fingerprint};

use super::paths::SegmentName;
use crate::catalog::{Catalog, EvictionPolicy, Mask};
use crate::format::{Put, Record, SnapshotError, read_snapshot};

/// Records of a snapshot that are applied together.
const WINDOW: usize = 32;
/// A follower keeps so many pages whose segments it does not see; more than that is not a segment on its way.
pub(super) const MOST_UNPLACED: usize = 1 << 16;

/// A set, as its records so far say.
#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) catalog: Catalog,
    /// What its records hide, here and in other sets.
    pub(crate) mask: Mask,
    /// Pages that were put where no slot is. A segment that was given back has had its pages retired: what is left in
    /// the end was lost, or its segment is about to come.
    pub(crate) unplaced: HashMap<(u8, Digest), Put>,
    /// Records of no meaning.
    pub(crate) bad_records: u64,
    /// Highest number seen.
    pub(crate) sequence: u64,
    /// Highest segment that a page was put into. No new one may get a number that a record still names.
    pub(crate) highest_segment: Option<u16>,
}

impl Applied {
    pub(crate) fn new(segments: &[(SegmentName, u64)], policy: fn() -> Box<dyn EvictionPolicy>) -> Self {
        let mut applied = Self {
            catalog: Catalog::new(policy),
            mask: Mask::default(),
            unplaced: HashMap::new(),
            bad_records: 0,
            sequence: 0,
            highest_segment: None,
        };
        for (name, bytes) in segments {
            applied.add_segment(*name, *bytes);
        }
        applied
    }

    /// A segment of so many bytes is there.
    pub(crate) fn add_segment(&mut self, name: SegmentName, bytes: u64) {
        let slots = (bytes / u64::from(name.slot_bytes.max(1))).min(1 << 16) as u32;
        if slots > 0 {
            self.catalog.add_segment(name.segment, name.slot_bytes, slots);
        }
    }

    /// Segments have come: pages that waited for them find their places.
    pub(crate) fn place_waiting(&mut self) {
        for put in std::mem::take(&mut self.unplaced).values() {
            self.put(put);
        }
    }

    fn put(&mut self, put: &Put) {
        let pool = self.catalog.pools().get(usize::from(put.pool)).copied();
        if pool.is_some_and(|pool| !self.mask.shows(&(pool, put.digest), put.sequence)) {
            // A snapshot may have a page of which its mask says that it is gone: its retirement was still to come.
            return;
        }
        let fits =
            self.catalog.slot_bytes(put.place.segment).is_some_and(|slot_bytes| put.bytes <= slot_bytes);
        if pool.is_none() || put.bytes == 0 {
            self.bad_records += 1;
        } else if !fits || !self.catalog.has_slot(put.place.id()) {
            // The segment is gone, or its number has gone to one of smaller slots. The key's older page is
            // superseded all the same.
            self.catalog.unpublish(put.pool, &put.digest);
            if self.unplaced.len() < MOST_UNPLACED {
                self.unplaced.insert((put.pool, put.digest), *put);
            }
        } else {
            if !self.unplaced.is_empty() {
                self.unplaced.remove(&(put.pool, put.digest));
            }
            self.catalog.publish(put);
        }
    }

    /// Applies a snapshot, as far as it is whole.
    ///
    /// # Errors
    /// As [`read_snapshot`]; what was applied then is worth nothing.
    pub(super) fn apply_snapshot(
        &mut self,
        path: &Path,
        generation: u64,
        fingerprint: Fingerprint,
    ) -> Result<u64, SnapshotError> {
        let mut window = Vec::with_capacity(WINDOW);
        let read = read_snapshot(path, generation, fingerprint, |record| {
            window.push(record);
            if window.len() == WINDOW {
                self.apply_all(&mut window);
            }
        });
        self.apply_all(&mut window);
        read
    }

    /// Applies records and empties the list. The index is asked for all pages first: it waits for memory at each, and
    /// while nothing is changed these waits overlap.
    fn apply_all(&mut self, records: &mut Vec<Record>) {
        for record in records.iter() {
            if let Record::Put(put) = record {
                black_box(self.catalog.find(put.pool, &put.digest));
            }
        }
        for record in records.iter() {
            self.apply(record);
        }
        records.clear();
    }

    /// Applies a record. Answers what it says about the journal itself: the generation that a seal leads to.
    pub(crate) fn apply(&mut self, record: &Record) -> Option<u64> {
        match *record {
            Record::Header { .. } | Record::SnapshotEnd { .. } => {}
            // A put, of which there are many, stays where it is: each copy of it waits for the writes before it.
            Record::Put(ref put) => {
                self.sequence = self.sequence.max(put.sequence);
                self.highest_segment = self.highest_segment.max(Some(put.place.segment));
                self.put(put);
            }
            Record::Pool { id, name } => {
                if !self.catalog.replay_pool(id, name) {
                    self.bad_records += 1;
                }
            }
            Record::Retire { pool, place, sequence, digest } => {
                self.sequence = self.sequence.max(sequence);
                // Only if the page is still where the record says: it may have been put elsewhere since.
                if self.catalog.peek(pool, &digest).is_some_and(|put| put.place == place) {
                    self.catalog.unpublish(pool, &digest);
                }
                if self.unplaced.get(&(pool, digest)).is_some_and(|put| put.place == place) {
                    self.unplaced.remove(&(pool, digest));
                }
            }
            Record::Clear { sequence } => {
                self.sequence = self.sequence.max(sequence);
                self.mask.clear(sequence);
                self.catalog.clear(sequence);
                self.unplaced.retain(|_, put| put.sequence >= sequence);
            }
            Record::Forget { pool, sequence, digest } => {
                self.sequence = self.sequence.max(sequence);
                let Some(&name) = self.catalog.pools().get(usize::from(pool)) else {
                    self.bad_records += 1;
                    return None;
                };
                self.mask.forget((name, digest), sequence);
                if self.catalog.peek(pool, &digest).is_some_and(|put| put.sequence < sequence) {
                    self.catalog.unpublish(pool, &digest);
                }
                if self.unplaced.get(&(pool, digest)).is_some_and(|put| put.sequence < sequence) {
                    self.unplaced.remove(&(pool, digest));
                }
            }
            Record::Seal { next } => return Some(next),
        }
        None
    }
}
