//! What changes the pages of a volume: commit, delete, clear, corruption.

use std::sync::Arc;

use hicache_core::{Error, ErrorKind, Outcome, PageKey, PoolName, Result};

use super::{PoolCache, Volume};
use crate::catalog::SlotId;
use crate::format::{Place, Put, Record, name_bytes};
use crate::set::SegmentFile;

/// A page whose bytes are in its slot.
#[derive(Debug)]
pub(crate) struct Commit {
    pub(crate) key: PageKey,
    pub(crate) pool: u8,
    pub(crate) slot: SlotId,
    pub(crate) bytes: u32,
    pub(crate) checksum: u64,
    pub(crate) name: Option<Box<str>>,
    pub(crate) segment: Arc<SegmentFile>,
}

/// What a commit came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CommitOutcome {
    /// The page is found from now on.
    Published,
    /// Another got there first, and was not to be replaced.
    Present,
}

impl Volume {
    /// The id of a pool, made if it has none.
    ///
    /// # Errors
    /// `NoSpace` at the 257th pool; `Io`.
    pub(crate) fn pool(&self, name: PoolName) -> Result<u8> {
        let mut state = self.lock();
        if let Some(id) = state.catalog.pool_id(&name) {
            return Ok(id);
        }
        let Ok(id) = u8::try_from(state.catalog.pools().len()) else {
            return Err(Error::new(
                ErrorKind::NoSpace,
                format!("pool {name} is one too many; a store has 256"),
            ));
        };
        state.journal.append([Record::Pool { id, name }])?;
        state.catalog.add_pool(name);
        Ok(id)
    }

    /// Takes up to `wanted` empty slots, with where they are.
    pub(crate) fn take(&self, slot_bytes: u32, wanted: usize) -> Vec<(SlotId, Arc<SegmentFile>, u64)> {
        let mut state = self.lock();
        let mut taken = Vec::with_capacity(wanted);
        while taken.len() < wanted {
            let Some(slot) = state.catalog.take(slot_bytes) else { break };
            match state.at(slot) {
                Some((segment, offset)) => taken.push((slot, segment, offset)),
                None => break,
            }
        }
        taken
    }

    /// Gives slots back whose bytes nobody shall find.
    pub(crate) fn give_back(&self, slots: impl Iterator<Item = SlotId>) {
        let mut state = self.lock();
        for slot in slots {
            state.catalog.give_back(slot);
        }
        drop(state);
        self.released.notify_waiters();
    }

    /// Writes down that pages are there, then publishes them: from the end of the list to its front, so that the head
    /// of a chain is the most recent. With `durability = group`, data are on the disk before that, and the journal before
    /// the answer.
    ///
    /// # Errors
    /// `Io`, `NoSpace`: none of them is there then, and their slots are empty again. Only where the last sync, that of
    /// the journal, failed they are there, whole, and may be gone after a power failure.
    pub(crate) async fn commit(&self, pages: Vec<Commit>, overwrite: bool) -> Result<Vec<CommitOutcome>> {
        let group = self.is_group();
        if group && let Err(error) = self.sync_segments(&pages).await {
            self.give_back(pages.iter().map(|page| page.slot));
            return Err(error);
        }
        let named: u64 = pages.iter().filter_map(|page| page.name.as_deref()).map(name_bytes).sum();
        let names_fit = if named == 0 { Ok(()) } else { self.make_names_room(named) };
        let (outcomes, replaced) = self.publish(&pages, overwrite, names_fit)?;
        // Published before it is on the disk: a load may already find it, and is right to. The answer waits, and so
        // does whoever wants the slot of a page that was replaced: until then that page is all that a power failure
        // would leave.
        if group {
            let settled = self.settle().await;
            self.let_go(&replaced);
            settled?;
        }
        Ok(outcomes)
    }

    fn publish(
        &self,
        pages: &[Commit],
        overwrite: bool,
        names_fit: Result<()>,
    ) -> Result<(Vec<CommitOutcome>, Vec<SlotId>)> {
        let mut state = self.lock();
        let mut outcomes = vec![CommitOutcome::Published; pages.len()];
        let mut puts = Vec::with_capacity(pages.len());
        let first = self.sequence.take(pages.len() as u64);
        for (i, page) in pages.iter().enumerate().rev() {
            if !overwrite && state.catalog.peek(page.pool, &page.key.digest).is_some() {
                outcomes[i] = CommitOutcome::Present;
                state.catalog.give_back(page.slot);
                continue;
            }
            puts.push(Put {
                pool: page.pool,
                place: Place::from_id(page.slot),
                bytes: page.bytes,
                checksum: page.checksum,
                sequence: first + puts.len() as u64,
                digest: page.key.digest,
            });
        }
        if let Err(error) = state.journal.append(puts.iter().copied().map(Record::Put)) {
            for put in &puts {
                state.catalog.give_back(put.place.id());
            }
            drop(state);
            self.released.notify_waiters();
            return Err(error);
        }
        let mut replaced = Vec::new();
        for put in &puts {
            if self.is_group()
                && let Some(old) = state.catalog.peek(put.pool, &put.digest)
                && state.catalog.pin(old.place.id())
            {
                replaced.push(old.place.id());
            }
            state.catalog.publish(put);
            state.counters.written_bytes += u64::from(put.bytes);
        }
        state.durable.put(puts.len());
        state.counters.stored_pages += puts.len() as u64;
        state.counters.present_pages += (pages.len() - puts.len()) as u64;
        state.changed = true;
        let names = pages.iter().filter_map(|page| Some((&page.key.digest, page.name.as_deref()?)));
        if let Err(error) = names_fit.and_then(|()| state.names.append(names)) {
            // The page is there all the same; `list` shows its hash.
            if state.dropped_names == 0 {
                tracing::warn!(set = %self.paths.directory().display(), %error, "names of pages are not logged");
            }
            state.dropped_names += 1;
        }
        drop(state);
        self.released.notify_waiters();
        Ok((outcomes, replaced))
    }

    /// Deletes pages.
    ///
    /// # Errors
    /// `Io`, `NoSpace`: none of them is deleted then.
    pub(crate) fn delete(&self, keys: &[PageKey]) -> Result<Vec<Outcome>> {
        let mut state = self.lock();
        let mut pool = PoolCache::default();
        let mut seen = std::collections::HashSet::new();
        let found: Vec<Option<Put>> = keys
            .iter()
            .map(|key| {
                let id = pool.id(&state.catalog, &key.pool)?;
                state.catalog.peek(id, &key.digest).filter(|_| seen.insert(*key))
            })
            .collect();
        let pages: Vec<Put> = found.iter().flatten().copied().collect();
        self.retire(&mut state, &pages)?;
        drop(state);
        self.released.notify_waiters();
        Ok(found.iter().map(|put| if put.is_some() { Outcome::Done } else { Outcome::Absent }).collect())
    }

    /// Removes the page of a slot whose bytes are not those of its checksum, if it is still that page.
    pub(crate) fn drop_corrupt(&self, key: &PageKey, slot: SlotId) {
        let mut state = self.lock();
        let Some(pool) = state.catalog.pool_id(&key.pool) else { return };
        let Some(put) = state.catalog.peek(pool, &key.digest).filter(|put| put.place.id() == slot) else {
            return;
        };
        if let Err(error) = self.retire(&mut state, &[put]) {
            // Its slot must not be written before its retirement is, so it stays, and every load of it says `Corrupt`.
            tracing::warn!(%key, %error, "a corrupt page could not be retired; its next load tries again");
        }
    }

    /// Deletes every page of this set, and gives the space back.
    ///
    /// # Errors
    /// `Io`, `NoSpace`: nothing is deleted then.
    pub(crate) fn clear(&self) -> Result<u64> {
        let mut state = self.lock();
        let sequence = self.sequence.take(1);
        state.journal.append([Record::Clear { sequence }])?;
        let pages = state.catalog.clear();
        for segment in state.catalog.segment_ids().collect::<Vec<_>>() {
            self.drop_segment(&mut state, segment);
        }
        state.full_since = None;
        state.changed = true;
        if let Err(error) = state.names.compact(|_| false) {
            tracing::warn!(%error, "the names log was not emptied");
        }
        drop(state);
        self.released.notify_waiters();
        Ok(pages)
    }
}
