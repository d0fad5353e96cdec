//! The reference backend: pages in a map.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use hicache_hashing::to_hex;

use crate::error::{Error, ErrorKind, Result};
use crate::key::{PageKey, PoolName};
use crate::memory::{OwnerId, PageMemory, Registration};
use crate::region::{Access, Region};
use crate::storage::{
    ListCursor, ListedPage, Listing, Outcome, PageBatch, PageRequest, Storage, StorageStat, StoreOptions,
};
use crate::transfer::Transfer;

/// Pages in the memory of this process: what every other storage is compared with, and what is there when nothing
/// else is. It copies, under one lock, and forgets everything when it is dropped.
///
/// With a limit on bytes it evicts the page used longest ago.
#[derive(Debug)]
pub struct MemoryStorage {
    owner: OwnerId,
    capacity_bytes: Option<u64>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    pages: HashMap<PageKey, Page>,
    /// Keys by last use, the oldest first.
    by_use: BTreeMap<u64, PageKey>,
    clock: u64,
    stat: StorageStat,
    closed: bool,
}

#[derive(Debug)]
struct Page {
    bytes: Box<[u8]>,
    name: Option<Box<str>>,
    used: u64,
}

impl State {
    fn touch(&mut self, key: &PageKey) -> bool {
        let Some(page) = self.pages.get_mut(key) else { return false };
        self.by_use.remove(&page.used);
        self.clock += 1;
        page.used = self.clock;
        self.by_use.insert(page.used, *key);
        true
    }

    fn remove(&mut self, key: &PageKey) -> bool {
        let Some(page) = self.pages.remove(key) else { return false };
        self.by_use.remove(&page.used);
        self.stat.pages -= 1;
        self.stat.page_bytes -= page.bytes.len() as u64;
        true
    }

    fn insert(
        &mut self,
        key: PageKey,
        bytes: Box<[u8]>,
        name: Option<Box<str>>,
        capacity: Option<u64>,
    ) -> Result<()> {
        let len = bytes.len() as u64;
        if let Some(limit) = capacity.filter(|&limit| len > limit) {
            return Err(Error::new(
                ErrorKind::NoSpace,
                format!("a page of {len} bytes is over the limit of {limit}"),
            ));
        }
        self.remove(&key);
        while capacity.is_some_and(|limit| self.stat.page_bytes + len > limit) {
            let Some((_, oldest)) = self.by_use.pop_first() else { break };
            self.remove(&oldest);
            self.stat.evicted_pages += 1;
        }
        self.clock += 1;
        self.by_use.insert(self.clock, key);
        self.pages.insert(key, Page { bytes, name, used: self.clock });
        self.stat.pages += 1;
        self.stat.page_bytes += len;
        self.stat.stored_pages += 1;
        self.stat.written_bytes += len;
        Ok(())
    }

    fn load(&mut self, key: &PageKey, memory: &mut PageMemory) -> Result<Outcome> {
        if !self.touch(key) {
            self.stat.missed_pages += 1;
            return Ok(Outcome::Absent);
        }
        let page = &self.pages[key];
        if page.bytes.len() != memory.bytes() {
            return Err(Error::config("the page was stored with another length")
                .with_key(*key)
                .with_bytes(memory.bytes() as u64, page.bytes.len() as u64));
        }
        memory.copy_from(&page.bytes)?;
        self.stat.hit_pages += 1;
        self.stat.read_bytes += page.bytes.len() as u64;
        Ok(Outcome::Done)
    }
}

/// Whether a text is a key as it prints itself, which is what a listing goes on from.
fn is_cursor(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(pool, digest)| {
        PoolName::new(pool).is_ok()
            && digest.len() == 64
            && digest.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

impl MemoryStorage {
    /// A storage without a limit.
    pub fn new() -> Self {
        Self { owner: OwnerId::new(), capacity_bytes: None, state: Mutex::default() }
    }

    /// A storage that keeps at most `capacity_bytes` bytes of pages.
    pub fn with_capacity(capacity_bytes: u64) -> Self {
        Self { capacity_bytes: Some(capacity_bytes), ..Self::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing here panics between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.lock();
        if state.closed {
            return Err(Error::new(ErrorKind::Closed, "the storage is closed").with_backend("memory"));
        }
        Ok(state)
    }

    fn run(
        &self,
        requests: Vec<PageRequest>,
        access: Option<Access>,
        mut each: impl FnMut(&mut State, usize, &mut PageRequest) -> Result<Outcome>,
    ) -> Transfer<PageBatch> {
        let mut state = match self.open() {
            Ok(state) => state,
            Err(error) => return Transfer::ready(PageBatch::failed(requests, &error)),
        };
        let mut outcomes = Vec::with_capacity(requests.len());
        let mut memory = Vec::with_capacity(requests.len());
        // From the end to the front, so that heads of a chain outlive their tails; answered in order all the same.
        for (i, mut request) in requests.into_iter().enumerate().rev() {
            let outcome = if request.memory.owner() != self.owner {
                Err(Error::config("the memory is registered with another storage"))
            } else if access.is_some_and(|access| request.memory.access() != access) {
                Err(Error::config("a load needs memory leased for writing"))
            } else {
                each(&mut state, i, &mut request)
            };
            if outcome.is_err() {
                state.stat.failed_pages += 1;
            }
            outcomes.push(outcome.unwrap_or_else(Outcome::Failed));
            memory.push(Some(request.memory));
        }
        outcomes.reverse();
        memory.reverse();
        Transfer::ready(PageBatch { outcomes, memory })
    }
}

impl Default for MemoryStorage {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Storage for MemoryStorage {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn register(&self, region: &Arc<Region>) -> Result<Registration> {
        let _open = self.open()?;
        if !region.kind().is_host() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("memory of {:?} can't be read", region.kind()),
            ));
        }
        Ok(Registration::new(self.owner, Arc::clone(region), Box::new(())))
    }

    fn load(&self, requests: Vec<PageRequest>) -> Transfer<PageBatch> {
        self.run(requests, Some(Access::Write), |state, _, request| {
            state.load(&request.key, &mut request.memory)
        })
    }

    fn store(&self, requests: Vec<PageRequest>, options: StoreOptions) -> Transfer<PageBatch> {
        let capacity = self.capacity_bytes;
        // The pages are taken from the end, so of equal keys the one to keep is found beforehand, among those that
        // can be stored: a refused page must not stand for one that was good.
        let storable = |request: &PageRequest| {
            request.memory.owner() == self.owner
                && capacity.is_none_or(|limit| request.memory.bytes() as u64 <= limit)
        };
        let mut keep: HashMap<PageKey, usize> = HashMap::new();
        let mut superseded = vec![false; requests.len()];
        for (i, request) in requests.iter().enumerate().filter(|(_, request)| storable(request)) {
            match keep.entry(request.key) {
                Entry::Vacant(entry) => _ = entry.insert(i),
                Entry::Occupied(mut entry) if options.overwrite => superseded[entry.insert(i)] = true,
                Entry::Occupied(_) => superseded[i] = true,
            }
        }
        self.run(requests, None, move |state, i, request| {
            if superseded[i] || (!options.overwrite && state.touch(&request.key)) {
                state.stat.present_pages += 1;
                return Ok(Outcome::Done);
            }
            let mut bytes = vec![0; request.memory.bytes()].into_boxed_slice();
            request.memory.copy_to(&mut bytes)?;
            state.insert(request.key, bytes, request.name.take(), capacity)?;
            Ok(Outcome::Done)
        })
    }

    fn exists_now(&self, keys: &[PageKey]) -> Option<Result<Vec<bool>>> {
        let mut state = match self.open() {
            Ok(state) => state,
            Err(error) => return Some(Err(error)),
        };
        let mut there: Vec<bool> = keys.iter().rev().map(|key| state.touch(key)).collect();
        there.reverse();
        Some(Ok(there))
    }

    async fn delete(&self, keys: &[PageKey]) -> Result<Vec<Outcome>> {
        let mut state = self.open()?;
        Ok(keys.iter().map(|key| if state.remove(key) { Outcome::Done } else { Outcome::Absent }).collect())
    }

    async fn clear(&self) -> Result<u64> {
        let mut state = self.open()?;
        let pages = state.stat.pages;
        state.pages.clear();
        state.by_use.clear();
        state.stat.pages = 0;
        state.stat.page_bytes = 0;
        Ok(pages)
    }

    async fn list(&self, prefix: &str, cursor: Option<&ListCursor>, limit: usize) -> Result<Listing> {
        let state = self.open()?;
        if let Some(cursor) = cursor.filter(|cursor| !is_cursor(&cursor.0)) {
            return Err(Error::config(format!(
                "{:?} is no cursor of this storage; start without one",
                cursor.0
            )));
        }
        let name = |key: &PageKey, page: &Page| match &page.name {
            Some(name) if key.pool == PoolName::TEXT => name.to_string(),
            _ => to_hex(&key.digest),
        };
        let mut pages: Vec<(String, ListedPage)> = state
            .pages
            .iter()
            .map(|(key, page)| {
                let listed = ListedPage {
                    pool: key.pool.to_string(),
                    name: name(key, page),
                    bytes: page.bytes.len() as u64,
                };
                (key.to_string(), listed)
            })
            .filter(|(id, page)| page.name.starts_with(prefix) && cursor.is_none_or(|cursor| *id > cursor.0))
            .collect();
        pages.sort_by(|a, b| a.0.cmp(&b.0));
        if limit == 0 {
            return Err(Error::config("a listing of at most 0 pages says nothing; ask for at least 1"));
        }
        let more = pages.len() > limit;
        pages.truncate(limit);
        let next = pages.last().filter(|_| more).map(|(id, _)| ListCursor(id.clone()));
        Ok(Listing { pages: pages.into_iter().map(|(_, page)| page).collect(), next })
    }

    fn stat(&self) -> StorageStat {
        let mut stat = self.lock().stat.clone();
        stat.capacity_bytes = self.capacity_bytes;
        stat.physical_bytes = stat.page_bytes;
        stat
    }

    async fn close(&self) -> Result<()> {
        let mut state = self.lock();
        let stat = std::mem::take(&mut state.stat);
        *state = State { closed: true, stat, ..State::default() };
        state.stat.pages = 0;
        state.stat.page_bytes = 0;
        Ok(())
    }
}
