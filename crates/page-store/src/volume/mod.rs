//! One root: the catalog and the files of its set, and everything that changes them.
//!
//! Changes come from the completion worker alone; `exists`, `stat` and `list` read from any thread. One mutex guards
//! the state, and no file is read or written under it but the journal.

mod adopt;
mod capacity;
mod change;
mod durable;
mod look;
mod neighbours;
mod open;
mod presence;
mod reclaim;
mod share;
mod snapshot;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hicache_core::{PoolName, Result, StorageStat};
use hicache_hashing::Fingerprint;
use tokio::sync::Notify;

use crate::catalog::{Catalog, SlotId};
use crate::format::{Place, Put, Record, slot_bytes};
use crate::set::{Journal, Ledger, NamesLog, SegmentFile, Sequence, SetLock, SetPaths};

use neighbours::Neighbours;

pub(crate) use change::{Commit, CommitOutcome};
use durable::Durable;
pub(crate) use look::{ListFrom, cursor, parse_cursor};
pub(crate) use open::VolumeOptions;

/// Counts of what was found when the store was opened, and of what happened since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) hit_pages: u64,
    /// Of those, pages of other sets.
    pub(crate) foreign_hit_pages: u64,
    pub(crate) missed_pages: u64,
    pub(crate) stored_pages: u64,
    pub(crate) present_pages: u64,
    pub(crate) evicted_pages: u64,
    pub(crate) corrupt_pages: u64,
    pub(crate) failed_pages: u64,
    pub(crate) abandoned_pages: u64,
    pub(crate) read_bytes: u64,
    pub(crate) written_bytes: u64,
    pub(crate) bad_records: u64,
    pub(crate) bad_snapshots: u64,
    pub(crate) bad_manifests: u64,
    pub(crate) lost_pages: u64,
}

pub(crate) struct Volume {
    paths: SetPaths,
    fingerprint: Fingerprint,
    options: VolumeOptions,
    ledger: Ledger,
    sequence: Sequence,
    state: Mutex<State>,
    /// The sets of others. Locked before the state, never while it is.
    neighbours: Mutex<Neighbours>,
    /// What was published when there was nothing to see of others.
    alone_at: AtomicU64,
    /// The limit that counted when the root was last summed.
    capacity_now: AtomicU64,
    /// Told whenever a slot becomes empty or evictable.
    released: Notify,
    snapshot_running: AtomicBool,
    snapshot_done: Notify,
    /// The set is ours as long as this holds it.
    lock: Mutex<Option<SetLock>>,
    presence: presence::Presence,
    /// Whether the journal's file was found removed: then the next generation begins.
    journal_lost: AtomicBool,
}

pub(crate) struct State {
    pub(crate) catalog: Catalog,
    pub(crate) counters: Counters,
    segments: BTreeMap<u16, Arc<SegmentFile>>,
    journal: Journal,
    /// Slots of pages whose records could be neither written nor taken back.
    stranded: Vec<SlotId>,
    names: NamesLog,
    /// Bytes that names and forgotten keys may take: the capacity has room for so many, and for them once more.
    extra_room: u64,
    /// Keys that this set makes others forget.
    forgotten: u64,
    next_segment: u32,
    /// Whether what was there at opening was found to be within the capacity, or made so.
    fits: bool,
    /// When the root was last found full: it is not summed again at every batch.
    full_since: Option<Instant>,
    /// For how long it counts as full.
    full_for: Duration,
    /// Pages evicted since other classes were last looked at for a colder segment.
    evicted_since_look: u64,
    /// Names that could not be logged for want of room.
    dropped_names: u64,
    /// Whether the newest snapshot lacks anything, use included.
    changed: bool,
    durable: Durable,
}

/// A page to be read.
#[derive(Debug)]
pub(crate) struct Located {
    pub(crate) source: Source,
    pub(crate) bytes: u32,
    pub(crate) checksum: u64,
    pub(crate) segment: Arc<SegmentFile>,
    pub(crate) offset: u64,
}

/// Whose page it is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source {
    /// Ours: the slot is pinned.
    Own(SlotId),
    /// Another set's, whose writer does as it likes: only the checksum tells whether it was still there.
    Other { set: u32, put: Put },
}

impl Source {
    /// The slot to unpin when the read is done.
    pub(crate) fn pinned(self) -> Option<SlotId> {
        match self {
            Self::Own(slot) => Some(slot),
            Self::Other { .. } => None,
        }
    }
}

impl fmt::Debug for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Volume").field("set", &self.paths.directory()).finish_non_exhaustive()
    }
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

    /// Appends records to the journal and tells those who follow it.
    fn append(&self, state: &mut State, records: impl IntoIterator<Item = Record>) -> Result<()> {
        let appended = state.journal.append(records);
        // After a failure too: what was written of the records may have been read, and is not there any more.
        self.sequence.publish();
        if !state.journal.is_torn() {
            for slot in std::mem::take(&mut state.stranded) {
                state.catalog.give_back(slot);
            }
        }
        appended
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

impl Counters {
    /// Adds counts that were gathered without the lock.
    pub(crate) fn add(&mut self, other: &Self) {
        self.hit_pages += other.hit_pages;
        self.foreign_hit_pages += other.foreign_hit_pages;
        self.missed_pages += other.missed_pages;
        self.stored_pages += other.stored_pages;
        self.present_pages += other.present_pages;
        self.evicted_pages += other.evicted_pages;
        self.corrupt_pages += other.corrupt_pages;
        self.failed_pages += other.failed_pages;
        self.abandoned_pages += other.abandoned_pages;
        self.read_bytes += other.read_bytes;
        self.written_bytes += other.written_bytes;
        self.bad_records += other.bad_records;
        self.bad_snapshots += other.bad_snapshots;
        self.bad_manifests += other.bad_manifests;
        self.lost_pages += other.lost_pages;
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
            stat.foreign_hit_pages += counters.foreign_hit_pages;
            stat.missed_pages += counters.missed_pages;
            stat.stored_pages += counters.stored_pages;
            stat.present_pages += counters.present_pages;
            stat.evicted_pages += counters.evicted_pages;
            stat.corrupt_pages += counters.corrupt_pages;
            stat.failed_pages += counters.failed_pages;
            stat.abandoned_pages += counters.abandoned_pages;
            stat.read_bytes += counters.read_bytes;
            stat.written_bytes += counters.written_bytes;
            stat.bad_records += counters.bad_records;
            stat.bad_snapshots += counters.bad_snapshots;
            stat.bad_manifests += counters.bad_manifests;
            stat.lost_pages += counters.lost_pages;
            // The size that has most of the pages stands for the rest of the room.
            let most =
                state.catalog.classes().iter().max_by_key(|(_, class)| class.slots).map(|(&size, _)| size);
            most.or(self.options.page_bytes.map(|bytes| slot_bytes(bytes as u32)))
        };
        let (pages, bytes) = self.foreign_pages();
        stat.foreign_pages += pages;
        stat.foreign_page_bytes += bytes;
        let own = slot_bytes.and_then(|size| self.slots(size).ok());
        stat.slots = stat.slots.zip(own).map(|(sum, own)| sum + own);
        let capacity = self.capacity_now.load(Ordering::Relaxed);
        stat.capacity_bytes = stat.capacity_bytes.map(|sum| sum.saturating_add(capacity));
    }
}
