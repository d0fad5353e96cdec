//! What changes the pages of a volume: commit, delete, clear, corruption.

use std::collections::HashSet;
use std::sync::Arc;

use hicache_core::{Error, ErrorKind, Outcome, PageKey, PoolName, Result};

use super::capacity::forgotten_bytes;
use super::look::shows;
use super::{PoolCache, Volume};
use crate::catalog::SlotId;
use crate::format::{Place, Put, Record, name_bytes};
use crate::set::{SegmentFile, ring};

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
        self.append(&mut state, [Record::Pool { id, name }])?;
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
        let names_fit = if named == 0 { Ok(()) } else { self.make_extra_room(named) };
        if overwrite {
            let keys: Vec<PageKey> = pages.iter().map(|page| page.key).collect();
            let elsewhere = self.held_elsewhere(&keys).len() as u64;
            let room = if elsewhere == 0 { Ok(()) } else { self.make_extra_room(forgotten_bytes(elsewhere)) };
            if let Err(error) = room {
                self.give_back(pages.iter().map(|page| page.slot));
                return Err(error);
            }
        }
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
        if let Err(error) = self.known_there() {
            self.give_back(pages.iter().map(|page| page.slot));
            return Err(error);
        }
        let mut neighbours = self.look();
        let mut state = self.lock();
        let mut outcomes = vec![CommitOutcome::Published; pages.len()];
        let mut records = Vec::with_capacity(pages.len());
        let mut next = self.sequence.take(2 * pages.len() as u64);
        let mut forgotten = Vec::new();
        for (i, page) in pages.iter().enumerate().rev() {
            let own = state.catalog.peek(page.pool, &page.key.digest);
            let own_seen = own.is_some_and(|put| shows(neighbours.as_deref(), &page.key, put.sequence));
            let elsewhere = || neighbours.as_deref().is_some_and(|others| others.find(&page.key).is_some());
            if !overwrite && (own_seen || elsewhere()) {
                outcomes[i] = CommitOutcome::Present;
                state.catalog.give_back(page.slot);
                continue;
            }
            if elsewhere() {
                let named = (page.key.pool, page.key.digest);
                records.push(Record::Forget { pool: page.pool, sequence: next, digest: page.key.digest });
                forgotten.push((named, next));
                next += 1;
            }
            records.push(Record::Put(Put {
                pool: page.pool,
                place: Place::from_id(page.slot),
                bytes: page.bytes,
                checksum: page.checksum,
                sequence: next,
                digest: page.key.digest,
            }));
            next += 1;
        }
        let puts = |records: &[Record]| {
            let put = |record: &Record| if let Record::Put(put) = record { Some(*put) } else { None };
            records.iter().filter_map(put).collect::<Vec<Put>>()
        };
        let puts = puts(&records);
        if let Err(error) = self.append(&mut state, records) {
            let slots = puts.iter().map(|put| put.place.id());
            if state.journal.is_torn() {
                state.stranded.extend(slots);
            } else {
                slots.for_each(|slot| state.catalog.give_back(slot));
            }
            drop(state);
            self.released.notify_waiters();
            return Err(error);
        }
        state.forgotten += forgotten.len() as u64;
        if let Some(neighbours) = &mut neighbours {
            forgotten.into_iter().for_each(|(key, sequence)| neighbours.mask.forget(key, sequence));
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

    /// Deletes pages, in whatever set they are.
    ///
    /// # Errors
    /// `Io`, `NoSpace`: none of them is deleted then. `Unsupported` for a reader.
    pub(crate) fn delete(&self, keys: &[PageKey]) -> Result<Vec<Outcome>> {
        let elsewhere = self.held_elsewhere(keys);
        if !elsewhere.is_empty() {
            self.make_extra_room(forgotten_bytes(elsewhere.len() as u64))?;
            for key in &elsewhere {
                self.pool(key.pool)?;
            }
        }
        let mut neighbours = self.look();
        let mut state = self.lock();
        let mut pool = PoolCache::default();
        let mut seen = HashSet::new();
        let (mut own, mut forgotten) = (Vec::new(), Vec::new());
        let mut outcomes = Vec::with_capacity(keys.len());
        for key in keys {
            let named = (key.pool, key.digest);
            let first = seen.insert(*key);
            let id = pool.id(&state.catalog, &key.pool);
            let put = id.and_then(|id| state.catalog.peek(id, &key.digest)).filter(|_| first);
            own.extend(put);
            let elsewhere = first && neighbours.as_deref().is_some_and(|others| others.find(key).is_some());
            if let Some(id) = id.filter(|_| elsewhere) {
                forgotten.push((id, named));
            }
            let own_seen = put.is_some_and(|put| shows(neighbours.as_deref(), key, put.sequence));
            let there = own_seen || elsewhere;
            outcomes.push(if there { Outcome::Done } else { Outcome::Absent });
        }
        let first = self.sequence.take(forgotten.len() as u64);
        let numbered = (first..).zip(&forgotten);
        let forget = |(sequence, &(pool, (_, digest)))| Record::Forget { pool, sequence, digest };
        self.retire_with(&mut state, &own, numbered.clone().map(forget))?;
        state.forgotten += forgotten.len() as u64;
        if let Some(neighbours) = &mut neighbours {
            numbered.for_each(|(sequence, (_, named))| neighbours.mask.forget(*named, sequence));
        }
        drop(state);
        self.released.notify_waiters();
        Ok(outcomes)
    }

    /// Which of these keys another set has a page of.
    pub(super) fn held_elsewhere(&self, keys: &[PageKey]) -> Vec<PageKey> {
        let Some(neighbours) = self.look() else { return Vec::new() };
        let held = |key: &&PageKey| neighbours.find(key).is_some();
        keys.iter().filter(held).copied().collect()
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

    /// Deletes every page of the namespace, and gives the own space back; the other writers are woken to do the same.
    ///
    /// # Errors
    /// `Io`, `NoSpace`: nothing is deleted then. `Unsupported` for a reader.
    pub(crate) fn clear(&self) -> Result<u64> {
        let foreign = self.foreign_pages().0;
        let mut neighbours = self.look();
        let mut state = self.lock();
        let sequence = self.sequence.take(1);
        self.append(&mut state, [Record::Clear { sequence }])?;
        let pages = state.catalog.clear(sequence);
        for segment in state.catalog.segment_ids().collect::<Vec<_>>() {
            self.drop_segment(&mut state, segment);
        }
        state.full_since = None;
        state.changed = true;
        if let Err(error) = state.names.compact(|_| false) {
            tracing::warn!(%error, "the names log was not emptied");
        }
        drop(state);
        if let Some(neighbours) = &mut neighbours {
            neighbours.mask.clear(sequence);
            neighbours.followers().for_each(|follower| ring(follower.paths().directory()));
        }
        self.released.notify_waiters();
        Ok(pages + foreign)
    }
}
