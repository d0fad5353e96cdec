//! One root: the catalog and the files of its set, and everything that changes them.
//!
//! Changes come from the completion worker alone; `exists`, `stat` and `list` read from any thread. One mutex guards
//! the state, and no file is read or written under it but the journal.

mod capacity;
mod change;
mod durable;
mod open;
mod snapshot;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use hicache_core::{ListCursor, ListedPage, PageKey, PoolName, Result, StorageStat};
use hicache_hashing::{Fingerprint, to_hex};
use tokio::sync::Notify;

use crate::catalog::{Catalog, SlotId};
use crate::format::Place;
use crate::set::{Journal, Ledger, NamesLog, SegmentFile, Sequence, SetLock, SetPaths};

pub(crate) use change::{Commit, CommitOutcome};
use durable::Durable;
pub(crate) use open::VolumeOptions;

/// Slots are multiples of this, so that direct I/O can use them.
const SLOT_BYTES: u32 = 4096;

/// Counts of what happened, since the store was opened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) hit_pages: u64,
    pub(crate) missed_pages: u64,
    pub(crate) stored_pages: u64,
    pub(crate) present_pages: u64,
    pub(crate) evicted_pages: u64,
    pub(crate) corrupt_pages: u64,
    pub(crate) failed_pages: u64,
    pub(crate) abandoned_pages: u64,
    pub(crate) read_bytes: u64,
    pub(crate) written_bytes: u64,
}

pub(crate) struct Volume {
    paths: SetPaths,
    fingerprint: Fingerprint,
    options: VolumeOptions,
    ledger: Ledger,
    sequence: Sequence,
    state: Mutex<State>,
    /// Told whenever a slot becomes empty or evictable.
    released: Notify,
    snapshot_running: AtomicBool,
    snapshot_done: Notify,
    /// The set is ours as long as this holds it.
    lock: Mutex<Option<SetLock>>,
}

pub(crate) struct State {
    pub(crate) catalog: Catalog,
    pub(crate) counters: Counters,
    segments: BTreeMap<u16, Arc<SegmentFile>>,
    journal: Journal,
    names: NamesLog,
    /// Bytes that the names log may have: the capacity has room for so many, and for them once more.
    names_room: u64,
    next_segment: u32,
    /// Whether what was there at opening was found to be within the capacity, or made so.
    fits: bool,
    /// When the root was last found full: it is not summed again at every batch.
    full_since: Option<Instant>,
    /// Pages evicted since other classes were last looked at for a colder segment.
    evicted_since_look: u64,
    /// Names that could not be logged for want of room.
    dropped_names: u64,
    /// Whether the newest snapshot lacks anything, use included.
    changed: bool,
    durable: Durable,
}

/// A page to be read, pinned.
#[derive(Debug)]
pub(crate) struct Pinned {
    pub(crate) slot: SlotId,
    pub(crate) bytes: u32,
    pub(crate) checksum: u64,
    pub(crate) segment: Arc<SegmentFile>,
    pub(crate) offset: u64,
}

impl fmt::Debug for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Volume").field("set", &self.paths.directory()).finish_non_exhaustive()
    }
}

/// Length of the slot that a page of `bytes` bytes is kept in.
pub(crate) fn slot_bytes(bytes: u32) -> u32 {
    bytes.next_multiple_of(SLOT_BYTES)
}

impl Volume {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock would be a defect; going on is better than failing every page from then on, and the
        // checksums stand between any confusion and a wrong byte.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn root(&self) -> &Path {
        self.ledger.root()
    }

    /// Which keys are there; counted as a use, from the end of the list to its front.
    pub(crate) fn exists(&self, keys: &[&PageKey]) -> Vec<bool> {
        let mut state = self.lock();
        state.changed = true;
        let mut pool = PoolCache::default();
        let mut there: Vec<bool> = keys
            .iter()
            .rev()
            .map(|key| {
                pool.id(&state.catalog, &key.pool)
                    .is_some_and(|id| state.catalog.touch(id, &key.digest).is_some())
            })
            .collect();
        there.reverse();
        there
    }

    /// Finds and pins pages to be read; a use, from the end of the list to its front.
    pub(crate) fn pin(&self, keys: &[PageKey]) -> Vec<Option<Pinned>> {
        let mut state = self.lock();
        state.changed = true;
        let mut pool = PoolCache::default();
        let mut pinned: Vec<Option<Pinned>> = keys
            .iter()
            .rev()
            .map(|key| {
                let id = pool.id(&state.catalog, &key.pool)?;
                let found = state.catalog.touch(id, &key.digest)?;
                let (segment, offset) = state.at(found.slot)?;
                let taken = state.catalog.pin(found.slot);
                taken.then_some(Pinned {
                    slot: found.slot,
                    bytes: found.bytes,
                    checksum: found.checksum,
                    segment,
                    offset,
                })
            })
            .collect();
        pinned.reverse();
        pinned
    }

    /// Ends reads, and counts.
    pub(crate) fn unpin(&self, slots: impl Iterator<Item = SlotId>, count: impl FnOnce(&mut Counters)) {
        let mut state = self.lock();
        for slot in slots {
            state.catalog.unpin(slot);
        }
        count(&mut state.counters);
        drop(state);
        self.released.notify_waiters();
    }

    pub(crate) fn count(&self, count: impl FnOnce(&mut Counters)) {
        count(&mut self.lock().counters);
    }

    /// Waits until a slot may have become free. `make` the future before looking, so that no wake-up is missed.
    pub(crate) fn released(&self) -> tokio::sync::futures::Notified<'_> {
        self.released.notified()
    }

    /// A part of the listing.
    ///
    /// # Errors
    /// `Io` if the names can't be read; `Config` for a cursor that is not one.
    pub(crate) fn list(
        &self,
        prefix: &str,
        from: u32,
        limit: usize,
    ) -> Result<(Vec<ListedPage>, Option<u32>)> {
        let names = self.lock().names.read()?;
        let mut pages = Vec::new();
        let mut from = from;
        loop {
            // In steps, so that loads and stores get their turn.
            let state = self.lock();
            for _ in 0..4096 {
                let Some(put) = state.catalog.next_live(from) else { return Ok((pages, None)) };
                let id = put.place.id();
                let pool = state.catalog.pools().get(usize::from(put.pool)).copied().unwrap_or(PoolName::KV);
                let text = names.get(&put.digest).filter(|_| pool == PoolName::TEXT);
                let name = text.cloned().unwrap_or_else(|| to_hex(&put.digest));
                if name.starts_with(prefix) {
                    if pages.len() == limit {
                        return Ok((pages, Some(id)));
                    }
                    pages.push(ListedPage { pool: pool.to_string(), name, bytes: u64::from(put.bytes) });
                }
                match id.checked_add(1) {
                    Some(next) => from = next,
                    None => return Ok((pages, None)),
                }
            }
        }
    }
}

impl State {
    /// The segment of a slot, and where the slot begins in it.
    pub(crate) fn at(&self, slot: SlotId) -> Option<(Arc<SegmentFile>, u64)> {
        let place = Place::from_id(slot);
        let segment = Arc::clone(self.segments.get(&place.segment)?);
        let slot_bytes = self.catalog.slot_bytes(place.segment)?;
        Some((segment, u64::from(place.slot) * u64::from(slot_bytes)))
    }
}

/// The id of the pool asked for last: batches are mostly of one pool.
#[derive(Default)]
pub(crate) struct PoolCache(Option<(PoolName, Option<u8>)>);

impl PoolCache {
    pub(crate) fn id(&mut self, catalog: &Catalog, name: &PoolName) -> Option<u8> {
        match &self.0 {
            Some((known, id)) if known == name => *id,
            _ => {
                let id = catalog.pool_id(name);
                self.0 = Some((*name, id));
                id
            }
        }
    }
}

/// `<root>:<slot>`, as listings hand it out.
pub(crate) fn cursor(volume: usize, slot: u32) -> ListCursor {
    ListCursor(format!("{volume}:{slot}"))
}

pub(crate) fn parse_cursor(cursor: &ListCursor) -> Option<(usize, u32)> {
    let (volume, slot) = cursor.0.split_once(':')?;
    Some((volume.parse().ok()?, slot.parse().ok()?))
}

impl Counters {
    /// Adds counts that were gathered without the lock.
    pub(crate) fn add(&mut self, other: &Self) {
        self.hit_pages += other.hit_pages;
        self.missed_pages += other.missed_pages;
        self.stored_pages += other.stored_pages;
        self.present_pages += other.present_pages;
        self.evicted_pages += other.evicted_pages;
        self.corrupt_pages += other.corrupt_pages;
        self.failed_pages += other.failed_pages;
        self.abandoned_pages += other.abandoned_pages;
        self.read_bytes += other.read_bytes;
        self.written_bytes += other.written_bytes;
    }
}

impl Volume {
    /// Adds this volume's sizes and counts; not its physical bytes, which are the root's.
    pub(crate) fn add_stat(&self, stat: &mut StorageStat) {
        let slot_bytes = {
            let state = self.lock();
            let counters = state.counters;
            stat.pages += state.catalog.pages();
            stat.page_bytes += state.catalog.page_bytes();
            stat.hit_pages += counters.hit_pages;
            stat.missed_pages += counters.missed_pages;
            stat.stored_pages += counters.stored_pages;
            stat.present_pages += counters.present_pages;
            stat.evicted_pages += counters.evicted_pages;
            stat.corrupt_pages += counters.corrupt_pages;
            stat.failed_pages += counters.failed_pages;
            stat.abandoned_pages += counters.abandoned_pages;
            stat.read_bytes += counters.read_bytes;
            stat.written_bytes += counters.written_bytes;
            // The size that has most of the pages stands for the rest of the room.
            let most =
                state.catalog.classes().iter().max_by_key(|(_, class)| class.slots).map(|(&size, _)| size);
            most.or(self.options.page_bytes.map(|bytes| slot_bytes(bytes as u32)))
        };
        stat.capacity_bytes = stat.capacity_bytes.map(|sum| sum.saturating_add(self.ledger.capacity_bytes()));
        let own = slot_bytes.and_then(|size| self.slots(size).ok());
        stat.slots = stat.slots.zip(own).map(|(sum, own)| sum + own);
    }
}
