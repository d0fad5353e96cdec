//! Finding pages: in the own set first, then in those of others.

use std::borrow::Borrow;
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};
use std::time::Instant;

use hicache_core::{ListCursor, ListedPage, PageKey, PoolName, Result};
use hicache_hashing::{Digest, to_hex};

use super::neighbours::{Elsewhere, Neighbours, SEGMENTS_STAY_OPEN};
use super::{Located, PoolCache, Source, State, Volume};
use crate::catalog::{Catalog, Found, Mask};
use crate::format::Put;
use crate::set::NamesLog;

/// Where a listing goes on: in the own set or in that of a number, from a slot on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ListFrom {
    pub(crate) set: Option<u32>,
    pub(crate) slot: u32,
}

impl ListFrom {
    pub(crate) const START: Self = Self { set: None, slot: 0 };
}

/// Keys that are looked up before the first of them is touched: each waits for memory several times, and these waits
/// overlap while nothing is changed.
const WINDOW: usize = 32;

impl State {
    /// Touches every key that the own set has, from the end of the list to its front, so that the head of a chain of
    /// pages is more recent than its tail; hands out what was found of each.
    fn touch_each(&mut self, keys: &[impl Borrow<PageKey>], mut then: impl FnMut(&mut Self, usize, Found)) {
        self.changed = true;
        let mut pool = PoolCache::default();
        let mut end = keys.len();
        for window in keys.rchunks(WINDOW) {
            let mut slots = [None; WINDOW];
            for (slot, key) in slots.iter_mut().zip(window) {
                let key = key.borrow();
                let id = pool.id(&self.catalog, &key.pool);
                *slot = id.and_then(|id| self.catalog.find(id, &key.digest));
            }
            let first = end - window.len();
            for (i, slot) in (first..end).zip(slots).rev() {
                if let Some(found) = slot.and_then(|slot| self.catalog.touch(slot)) {
                    then(self, i, found);
                }
            }
            end = first;
        }
    }
}

impl Volume {
    pub(super) fn neighbours(&self) -> MutexGuard<'_, Neighbours> {
        self.neighbours.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What others have and hide, read up to now; `None` where there is nothing of the kind.
    pub(super) fn look(&self) -> Option<MutexGuard<'_, Neighbours>> {
        let published = self.sequence.published();
        if self.alone_at.load(Ordering::Acquire) == published {
            return None;
        }
        let mut neighbours = self.neighbours();
        neighbours.look(&self.sequence);
        if neighbours.is_empty() && neighbours.pending.is_empty() {
            self.alone_at.store(published, Ordering::Release);
            return None;
        }
        Some(neighbours)
    }

    /// Which keys are there; counted as a use, from the end of the list to its front.
    pub(crate) fn exists(&self, keys: &[&PageKey]) -> Vec<bool> {
        let neighbours = self.look();
        let mut there = vec![false; keys.len()];
        self.lock().touch_each(keys, |_, i, found| {
            there[i] = shows(neighbours.as_deref(), keys[i], found.sequence);
        });
        if let Some(neighbours) = neighbours {
            for (there, key) in there.iter_mut().zip(keys).filter(|(there, _)| !**there) {
                *there = neighbours.find(key).is_some();
            }
        }
        there
    }

    /// Finds pages to be read, and pins those of the own set; a use, from the end of the list to its front.
    pub(crate) fn locate(&self, keys: &[PageKey]) -> Vec<Result<Option<Located>>> {
        let mut neighbours = self.look();
        let mut located: Vec<Result<Option<Located>>> = keys.iter().map(|_| Ok(None)).collect();
        self.lock().touch_each(keys, |state, i, found| {
            if !shows(neighbours.as_deref(), &keys[i], found.sequence) {
                return;
            }
            if let Some((segment, offset)) = state.at(found.slot)
                && state.catalog.pin(found.slot)
            {
                located[i] = Ok(Some(Located {
                    source: Source::Own(found.slot),
                    bytes: found.bytes,
                    checksum: found.checksum,
                    segment,
                    offset,
                }));
            }
        });
        if let Some(neighbours) = &mut neighbours {
            for (located, key) in located.iter_mut().zip(keys) {
                if matches!(located, Ok(None)) {
                    *located = neighbours.open(key, &self.sequence).map(|found| found.map(Located::from));
                }
            }
        }
        located
    }

    /// A page of another set did not fit its checksum. Answers whether it is still said to be there; otherwise it was
    /// replaced while it was read.
    pub(crate) fn is_corrupt_elsewhere(&self, key: &PageKey, set: u32, put: &Put) -> bool {
        let mut neighbours = self.neighbours();
        neighbours.look_anew(&self.sequence);
        neighbours.is_corrupt(key, set, put)
    }

    /// Does what others ask for in their journals: retires what they deleted, replaced or cleared. By the worker alone.
    pub(crate) fn catch_up(&self) {
        let Some(mut neighbours) = self.look() else { return };
        if neighbours.pending.is_empty() || self.options.is_reader() {
            return;
        }
        let pending = std::mem::take(&mut neighbours.pending);
        if let Err(error) = self.retire_hidden(&pending) {
            // They stay hidden; their slots come free at the next try.
            tracing::warn!(set = %self.paths.directory().display(), %error, "pages that others deleted are not retired");
            neighbours.pending.merge(&pending);
        }
    }

    /// Closes what has been open of others for some time. Answers when to come again, if anything is open then.
    pub(crate) fn close_old_segments(&self) -> Option<Instant> {
        self.neighbours().close_old_segments().then(|| Instant::now() + SEGMENTS_STAY_OPEN)
    }

    fn retire_hidden(&self, hidden: &Mask) -> Result<()> {
        let mut state = self.lock();
        let older = |catalog: &Catalog| catalog.oldest_sequence().is_some_and(|oldest| oldest < hidden.floor);
        if hidden.floor > 0 && older(&state.catalog) {
            self.append(&mut state, [crate::format::Record::Clear { sequence: hidden.floor }])?;
            state.catalog.clear(hidden.floor);
            for segment in state.catalog.segment_ids().collect::<Vec<_>>() {
                self.drop_segment(&mut state, segment);
            }
            state.full_since = None;
            state.changed = true;
        }
        let gone: Vec<Put> = hidden
            .forgotten()
            .filter_map(|(key, sequence)| state.catalog.peek_named(key).filter(|put| put.sequence < sequence))
            .collect();
        self.retire(&mut state, &gone)?;
        drop(state);
        self.released.notify_waiters();
        Ok(())
    }

    /// Pages of others that can be seen and that the own set has not, and their bytes.
    pub(super) fn foreign_pages(&self) -> (u64, u64) {
        let Some(neighbours) = self.look() else { return (0, 0) };
        let state = self.lock();
        let mut sum = (0, 0);
        for follower in neighbours.followers() {
            each_visible(follower.catalog(), &neighbours.mask, |pool, put| {
                if state.catalog.peek_named(&(pool, put.digest)).is_none() {
                    sum = (sum.0 + 1, sum.1 + u64::from(put.bytes));
                }
            });
        }
        sum
    }

    /// A part of the listing: first the own set, then the others by number. A page that several have is listed once.
    ///
    /// # Errors
    /// `Io` if the names can't be read.
    pub(crate) fn list(
        &self,
        prefix: &str,
        from: ListFrom,
        limit: usize,
    ) -> Result<(Vec<ListedPage>, Option<ListFrom>)> {
        let mut pages = Vec::new();
        let mut from = from;
        let others = self.look().map(|neighbours| neighbours.numbers()).unwrap_or_default();
        loop {
            if let Some(next) = self.list_set(prefix, from, limit, &mut pages)? {
                return Ok((pages, Some(next)));
            }
            match others.iter().find(|&&number| from.set.is_none_or(|done| number > done)) {
                Some(&number) => from = ListFrom { set: Some(number), slot: 0 },
                None => return Ok((pages, None)),
            }
        }
    }

    fn list_set(
        &self,
        prefix: &str,
        mut from: ListFrom,
        limit: usize,
        pages: &mut Vec<ListedPage>,
    ) -> Result<Option<ListFrom>> {
        let names = match from.set {
            None => self.lock().names.read()?,
            Some(number) => {
                let neighbours = self.neighbours();
                let Some(follower) = neighbours.follower(number) else { return Ok(None) };
                NamesLog::open(follower.paths().clone()).read()?
            }
        };
        loop {
            // In steps, so that loads and stores get their turn.
            let neighbours = self.neighbours();
            let state = self.lock();
            let catalog = match from.set {
                None => &state.catalog,
                Some(number) => match neighbours.follower(number) {
                    Some(follower) => follower.catalog(),
                    None => return Ok(None),
                },
            };
            for _ in 0..4096 {
                let Some(put) = catalog.next_live(from.slot) else { return Ok(None) };
                let id = put.place.id();
                let pool = pool_of(catalog, &put);
                let text = names.get(&put.digest).filter(|_| pool == PoolName::TEXT);
                let name = text.cloned().unwrap_or_else(|| to_hex(&put.digest));
                let earlier = |digest: &Digest| {
                    let key = (pool, *digest);
                    let before = |number: &u32| from.set.is_some_and(|set| *number < set);
                    let catalogs = neighbours.numbers().into_iter().filter(before).collect::<Vec<_>>();
                    from.set.is_some() && state.catalog.peek_named(&key).is_some()
                        || catalogs.iter().any(|&number| {
                            let follower = neighbours.follower(number);
                            follower.is_some_and(|one| one.catalog().peek_named(&key).is_some())
                        })
                };
                let seen = neighbours.mask.shows(&(pool, put.digest), put.sequence);
                if seen && name.starts_with(prefix) && !earlier(&put.digest) {
                    if pages.len() == limit {
                        return Ok(Some(ListFrom { slot: id, ..from }));
                    }
                    pages.push(ListedPage { pool: pool.to_string(), name, bytes: u64::from(put.bytes) });
                }
                match id.checked_add(1) {
                    Some(next) => from.slot = next,
                    None => return Ok(None),
                }
            }
        }
    }
}

impl From<Elsewhere> for Located {
    fn from(found: Elsewhere) -> Self {
        let Elsewhere { set, put, segment, offset } = found;
        Self { source: Source::Other { set, put }, bytes: put.bytes, checksum: put.checksum, segment, offset }
    }
}

/// Whether an own page of this number can be seen.
pub(super) fn shows(neighbours: Option<&Neighbours>, key: &PageKey, sequence: u64) -> bool {
    neighbours.is_none_or(|neighbours| neighbours.mask.shows(&(key.pool, key.digest), sequence))
}

fn pool_of(catalog: &Catalog, put: &Put) -> PoolName {
    catalog.pools().get(usize::from(put.pool)).copied().unwrap_or(PoolName::KV)
}

/// Calls with every page of a catalog that can be seen.
pub(super) fn each_visible(catalog: &Catalog, mask: &Mask, mut call: impl FnMut(PoolName, Put)) {
    let next = |put: &Put| catalog.next_live(put.place.id().checked_add(1)?);
    for put in std::iter::successors(catalog.next_live(0), next) {
        let pool = pool_of(catalog, &put);
        if mask.shows(&(pool, put.digest), put.sequence) {
            call(pool, put);
        }
    }
}

/// `<root>:<set>:<slot>`, as listings hand it out; the own set has no number.
pub(crate) fn cursor(volume: usize, from: ListFrom) -> ListCursor {
    let set = from.set.map(|number| number.to_string()).unwrap_or_default();
    ListCursor(format!("{volume}:{set}:{}", from.slot))
}

pub(crate) fn parse_cursor(cursor: &ListCursor) -> Option<(usize, ListFrom)> {
    let mut parts = cursor.0.split(':');
    let (volume, set, slot) = (parts.next()?, parts.next()?, parts.next()?);
    let set = if set.is_empty() { None } else { Some(set.parse().ok()?) };
    parts.next().is_none().then_some(())?;
    Some((volume.parse().ok()?, ListFrom { set, slot: slot.parse().ok()? }))
}
