//! Generations: sealing the journal, and the snapshot that the next one starts from.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use hicache_core::{PoolName, Result};

use super::{State, Volume};
use crate::catalog::Mask;
use crate::format::{RECORD_BYTES, Record};
use crate::set::{Follower, Journal, mask_records, pool_records, remove_older, write_snapshot};

/// Records taken from the catalog while its lock is held once.
const STEP: usize = 2048;

impl Volume {
    /// Begins the next generation if the journal has grown long, and writes its snapshot aside. Waits if the snapshot
    /// before is not done: that bounds what the journals take.
    pub(crate) async fn rotate_if_long(self: &Arc<Self>) {
        loop {
            let done = self.snapshot_done.notified();
            {
                let state = self.lock();
                let slots: u64 = state.catalog.classes().values().map(|class| class.slots).sum();
                // As many records as slots; but beginning a generation costs a dozen calls, so not for a handful.
                let long = slots.max(self.least_journal_bytes() / RECORD_BYTES as u64);
                if state.journal.records() < long && !self.journal_lost.load(Ordering::Relaxed) {
                    return;
                }
            }
            if !self.snapshot_running.load(Ordering::Acquire) {
                break;
            }
            done.await;
        }
        let generation = match self.begin_generation() {
            Ok(generation) => generation,
            Err(error) => {
                // The journal that is there goes on. Retried at the next batch.
                tracing::warn!(set = %self.paths.directory().display(), %error, "no new generation");
                return;
            }
        };
        self.snapshot_running.store(true, Ordering::Release);
        let volume = Arc::clone(self);
        // Not awaited: stores go on meanwhile.
        drop(tokio::task::spawn_blocking(move || {
            if let Err(error) = volume.write_snapshot(generation) {
                tracing::warn!(set = %volume.paths.directory().display(), %error, "no snapshot; the journals stay");
            }
            volume.snapshot_running.store(false, Ordering::Release);
            volume.snapshot_done.notify_waiters();
        }));
    }

    /// Waits until no snapshot is being written.
    pub(crate) async fn snapshot_idle(&self) {
        loop {
            let done = self.snapshot_done.notified();
            if !self.snapshot_running.load(Ordering::Acquire) {
                return;
            }
            done.await;
        }
    }

    /// Seals the journal and begins the next.
    fn begin_generation(&self) -> Result<u64> {
        // The files of a generation are made by their paths.
        self.look_whether_there()?;
        let mut state = self.lock();
        let next = state.journal.generation() + 1;
        // The next file first, the seal second: a seal always leads somewhere, and until it is there the next file
        // has no record that anybody would miss.
        let mut journal = Journal::begin(&self.paths, next, self.fingerprint)?;
        journal.append(pool_records(&state.catalog))?;
        self.append(&mut state, [Record::Seal { next }])?;
        let before = std::mem::replace(&mut state.journal, journal);
        self.journal_lost.store(false, Ordering::Relaxed);
        if let Some(before) = before.file().filter(|_| self.is_group()) {
            state.durable.sealed(before);
        }
        Ok(next)
    }

    /// Writes the snapshot of a generation whose journal has begun. Pages that come or go meanwhile are in that
    /// journal, so it does not matter on which side of them the snapshot falls.
    pub(super) fn write_snapshot(&self, generation: u64) -> Result<()> {
        let hidden = self.hides_still();
        let segments: Vec<u16> = self.lock().catalog.segment_ids().collect();
        let mut uses = Vec::new();
        for segment in segments {
            self.lock().catalog.uses_of_segment(segment, &mut uses);
        }
        uses.sort_unstable();
        let (mut named, mut first) = (0, true);
        let records = std::iter::once(&[][..]).chain(uses.chunks(STEP)).flat_map(|step| {
            let state = self.lock();
            // Pools too may come meanwhile, and a pool stands before the first page of it.
            let mut records = pool_records(&state.catalog).split_off(named);
            named += records.len();
            if std::mem::take(&mut first) {
                records.extend(mask_records(&state.catalog, &hidden));
            }
            records.extend(step.iter().filter_map(|&(_, slot)| state.catalog.live(slot)).map(Record::Put));
            records
        });
        // The snapshot may know of more than what of its journal is on the disk. A journal that ends earlier would be
        // applied to what came later, and take slots back from pages that have them since.
        let journal = || {
            // Not under the lock: the disk may take its time, and everybody waits for that.
            let journal = self.lock().journal.file().filter(|_| self.is_group());
            journal.map_or(Ok(()), |journal| journal.sync_data())
        };
        write_snapshot(&self.paths, generation, self.fingerprint, records, journal)?;
        remove_older(&self.paths, generation);
        self.lock().forgotten = hidden.forgotten_keys() as u64;
        self.compact_long_names();
        Ok(())
    }

    /// What still hides a page in some other set.
    fn hides_still(&self) -> Mask {
        let Some(neighbours) = self.look() else { return Mask::default() };
        neighbours.mask.still_hides(neighbours.followers().map(Follower::catalog))
    }

    fn compact_long_names(&self) {
        const SMALL: u64 = 1 << 20;
        let mut state = self.lock();
        // Text keys average below 128 bytes; a log of twice that for every page there has much that is gone.
        if state.names.bytes() < SMALL.max(state.catalog.pages() * 256) {
            return;
        }
        if let Err(error) = self.compact_names(&mut state) {
            tracing::warn!(set = %self.paths.directory().display(), %error, "the names log was not compacted");
        }
    }

    /// Writes the names log anew without the names of pages that are gone.
    pub(super) fn compact_names(&self, state: &mut State) -> Result<()> {
        let Some(pool) = state.catalog.pool_id(&PoolName::TEXT) else { return Ok(()) };
        let State { names, catalog, .. } = state;
        names.compact(|digest| catalog.peek(pool, digest).is_some())
    }

    /// The last words: everything, use included, in a snapshot. Blocks.
    ///
    /// # Errors
    /// `Io`, `NoSpace`. Nothing is lost then but the order of use: the journal has the rest.
    pub(crate) fn close(&self) -> Result<()> {
        if self.options.is_reader() || !std::mem::take(&mut self.lock().changed) {
            return Ok(());
        }
        let generation = self.begin_generation()?;
        self.write_snapshot(generation)
    }

    /// Lets another store have the set, and closes its segments, although handles of this one may be left. Nothing may
    /// be under way.
    pub(crate) fn release(&self) {
        self.lock().segments.clear();
        self.neighbours().close_segments();
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}
