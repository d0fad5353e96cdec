//! Plays a sequence on a storage and on the model.

use std::collections::BTreeSet;
use std::sync::Arc;

use hicache_core::hashing::to_hex;
use hicache_core::{
    Access, ErrorKind, Outcome, PageBatch, PageMemory, PageRequest, Piece, Region, Registration, Storage,
    StoreOptions,
};

use super::expectation::{Knowledge, Semantics, Version};
use super::operation::{Op, Universe};
use crate::conformance::list_all;
use crate::content::Content;

/// What happened, so that a test can insist that something did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Played {
    /// Operations.
    pub operations: u64,
    /// Pages loaded with the right bytes.
    pub hits: u64,
    /// Pages that were absent.
    pub misses: u64,
    /// Pages that failed where failing is allowed.
    pub failures: u64,
    /// Times that the storage was opened again.
    pub reopened: u64,
}

/// Plays `ops` on the storage that `open` gives (again at each [`Op::Reopen`], after a close), and compares every
/// answer with the model.
///
/// # Errors
/// The first answer that the model does not allow, with the operation that got it.
pub async fn run_sequence(
    open: impl AsyncFn() -> Arc<dyn Storage>,
    semantics: Semantics,
    universe: &Universe,
    ops: &[Op],
) -> Result<Played, String> {
    let mut player = Player {
        table: Table::new(open().await, universe)?,
        universe,
        semantics,
        known: vec![Knowledge::default(); universe.keys.len()],
        next_version: 1,
        played: Played::default(),
    };
    for (i, op) in ops.iter().enumerate() {
        player.play(op, &open).await.map_err(|why| format!("operation {i}, {op:?}: {why}"))?;
        player.count().map_err(|why| format!("after operation {i}, {op:?}: {why}"))?;
        player.played.operations += 1;
    }
    let everything = Op::Load((0..universe.keys.len()).collect());
    player.play(&everything, &open).await.map_err(|why| format!("at the end: {why}"))?;
    player.table.storage.close().await.map_err(|error| format!("close: {error}"))?;
    Ok(player.played)
}

/// The storage and memory for it: two slots a page, since every other page is in two pieces.
struct Table {
    storage: Arc<dyn Storage>,
    registration: Registration,
}

const SLOTS: usize = 64;

impl Table {
    fn new(storage: Arc<dyn Storage>, universe: &Universe) -> Result<Self, String> {
        let longest = universe.lengths.iter().max().copied().unwrap_or(1) + 1;
        let region = Region::allocate(SLOTS, longest).map_err(|error| error.to_string())?;
        let registration = storage.register(&region).map_err(|error| format!("register: {error}"))?;
        Ok(Self { storage, registration })
    }

    fn memory(&self, place: usize, bytes: usize) -> Result<PageMemory, String> {
        let piece = |slot, offset, bytes| self.registration.piece(slot, offset, bytes, Access::Write);
        let cut = if place % 2 == 1 { bytes / 3 } else { 0 };
        let mut pieces: Vec<hicache_core::Result<Piece>> = Vec::new();
        if cut > 0 {
            pieces.push(piece(2 * place, 1, cut));
        }
        pieces.push(piece(2 * place + 1, 0, bytes - cut));
        let mut memory = pieces
            .into_iter()
            .collect::<Result<Vec<_>, _>>()
            .and_then(PageMemory::from_pieces)
            .map_err(|e| e.to_string())?;
        memory.copy_from(&vec![0xa5; bytes]).map_err(|error| error.to_string())?;
        Ok(memory)
    }
}

struct Player<'a> {
    table: Table,
    universe: &'a Universe,
    semantics: Semantics,
    known: Vec<Knowledge>,
    next_version: u64,
    played: Played,
}

impl Player<'_> {
    async fn play(&mut self, op: &Op, open: &impl AsyncFn() -> Arc<dyn Storage>) -> Result<(), String> {
        match op {
            Op::Store { pages, overwrite } => {
                for pages in pages.chunks(SLOTS / 2) {
                    self.store(pages, *overwrite).await?;
                }
                Ok(())
            }
            Op::Load(keys) => {
                for keys in keys.chunks(SLOTS / 2) {
                    self.load(keys).await?;
                }
                Ok(())
            }
            Op::LoadWrongLength(key) => self.load_wrong_length(*key).await,
            Op::Exists(keys) => self.exists(keys).await,
            Op::Delete(keys) => self.delete(keys).await,
            Op::Clear => self.clear().await,
            Op::List(prefix) => {
                self.list(&self.universe.prefixes[prefix % self.universe.prefixes.len()]).await
            }
            Op::Reopen => {
                self.table.storage.close().await.map_err(|error| format!("close: {error}"))?;
                self.table = Table::new(open().await, self.universe)?;
                self.played.reopened += 1;
                if self.semantics.forgets_at_reopen {
                    self.known.fill(Knowledge::default());
                }
                Ok(())
            }
        }
    }

    fn place(&self, key: usize) -> usize {
        key % self.universe.keys.len()
    }

    async fn store(&mut self, pages: &[(usize, usize)], overwrite: bool) -> Result<(), String> {
        let mut versions = Vec::new();
        let mut requests = Vec::new();
        for (at, &(key, length)) in pages.iter().enumerate() {
            let key = self.place(key);
            let bytes = self.universe.lengths[length % self.universe.lengths.len()];
            let version = Version { number: self.next_version, bytes };
            self.next_version += 1;
            let mut memory = self.table.memory(at, bytes)?;
            let (page_key, name) = &self.universe.keys[key];
            let content = Content::new(page_key, version.number, bytes);
            content.fill(&mut memory).map_err(|error| error.to_string())?;
            let request = match name {
                Some(name) => PageRequest::named(name, memory).map_err(|error| error.to_string())?,
                None => PageRequest::new(*page_key, memory),
            };
            requests.push(request);
            versions.push((key, version));
        }
        let batch = self.table.storage.store(requests, StoreOptions { overwrite }).await;
        self.complete(&batch, pages.len())?;
        let stored: Vec<bool> = batch
            .outcomes
            .iter()
            .enumerate()
            .map(|(i, outcome)| self.stored(i, outcome))
            .collect::<Result<_, _>>()?;
        for (i, &(key, version)) in versions.iter().enumerate() {
            let is_first = versions[..i].iter().all(|(other, _)| *other != key);
            let is_last = versions[i + 1..].iter().all(|(other, _)| *other != key);
            let certain = versions.iter().zip(&stored).all(|((other, _), stored)| *other != key || *stored);
            let known = &mut self.known[key];
            match (overwrite, certain) {
                (true, true) if is_last => known.is(version, self.semantics),
                (false, true) if is_first && !known.must_be_there() => {
                    if known.must_be_absent() {
                        known.is(version, self.semantics);
                    } else {
                        known.may_be(version);
                    }
                }
                (_, true) => {}
                // Some of the equal pages failed: any of them may be what is there, or nothing.
                (_, false) => {
                    known.may_be(version);
                    known.may_be_absent = true;
                }
            }
        }
        Ok(())
    }

    fn stored(&mut self, i: usize, outcome: &Outcome) -> Result<bool, String> {
        match outcome {
            Outcome::Done => Ok(true),
            Outcome::Absent => Err(format!("page {i} of a store is absent")),
            Outcome::Failed(_) => self.failed(i, outcome).map(|()| false),
        }
    }

    fn failed(&mut self, i: usize, outcome: &Outcome) -> Result<(), String> {
        let kind = outcome.error().map(hicache_core::Error::kind);
        let is_ours =
            matches!(kind, Some(ErrorKind::Config | ErrorKind::Unexpected | ErrorKind::Closed) | None);
        if !self.semantics.fails || is_ours {
            return Err(format!("page {i} must not fail and is {outcome:?}"));
        }
        self.played.failures += 1;
        Ok(())
    }

    fn complete(&self, batch: &PageBatch, len: usize) -> Result<(), String> {
        if batch.outcomes.len() != len || batch.memory.len() != len {
            return Err(format!("{len} pages were answered with {} outcomes", batch.outcomes.len()));
        }
        let lost = batch.memory.iter().zip(&batch.outcomes).any(|(memory, outcome)| {
            let abandoned = outcome.error().is_some_and(|error| error.kind() == ErrorKind::Abandoned);
            memory.is_none() && !(abandoned && self.semantics.fails)
        });
        if lost { Err("memory did not come back".to_owned()) } else { Ok(()) }
    }

    async fn load(&mut self, keys: &[usize]) -> Result<(), String> {
        let mut asked = Vec::new();
        let mut requests = Vec::new();
        for (at, &key) in keys.iter().enumerate() {
            let key = self.place(key);
            let bytes = self.known[key].bytes().unwrap_or(self.universe.lengths[0]);
            requests.push(PageRequest::new(self.universe.keys[key].0, self.table.memory(at, bytes)?));
            asked.push((key, bytes));
        }
        let batch = self.table.storage.load(requests).await;
        self.complete(&batch, keys.len())?;
        for (i, (key, bytes)) in asked.into_iter().enumerate() {
            let known = &self.known[key];
            match &batch.outcomes[i] {
                Outcome::Done => {
                    let memory = batch.memory[i].as_ref().ok_or("a page that is done has no memory")?;
                    let version =
                        self.find_version(key, bytes, memory).map_err(|why| format!("page {i}: {why}"))?;
                    self.known[key].is(version, self.semantics);
                    self.played.hits += 1;
                }
                Outcome::Absent => {
                    if known.must_be_there() {
                        return Err(format!(
                            "page {i} (key {key}) must be there and is absent; known: {known:?}"
                        ));
                    }
                    self.known[key].is_absent();
                    self.played.misses += 1;
                }
                Outcome::Failed(error) if error.kind() == ErrorKind::Config => {
                    // It is there with another length, if there is one that it can have.
                    if known.versions.iter().all(|version| version.bytes == bytes) {
                        return Err(format!(
                            "page {i} (key {key}) of {bytes} bytes: {error}; known: {known:?}"
                        ));
                    }
                    self.known[key].versions.retain(|version| version.bytes != bytes);
                }
                outcome @ Outcome::Failed(_) => {
                    self.failed(i, outcome)?;
                    self.known[key].may_be_absent = true;
                }
            }
        }
        Ok(())
    }

    fn find_version(&self, key: usize, bytes: usize, memory: &PageMemory) -> Result<Version, String> {
        let known = &self.known[key];
        let mut wrong = "nothing was stored under it".to_owned();
        for version in known.versions.iter().filter(|version| version.bytes == bytes) {
            let content = Content::new(&self.universe.keys[key].0, version.number, bytes);
            match content.check_page(memory).map_err(|error| error.to_string())? {
                Ok(()) => return Ok(*version),
                Err(byte) => wrong = byte.to_string(),
            }
        }
        Err(format!("WRONG BYTES for key {key} of {bytes} bytes: {wrong}; known: {known:?}"))
    }

    async fn load_wrong_length(&mut self, key: usize) -> Result<(), String> {
        let key = self.place(key);
        let bytes = self.universe.lengths.iter().max().copied().unwrap_or(1) + 1;
        let request = PageRequest::new(self.universe.keys[key].0, self.table.memory(0, bytes)?);
        let batch = self.table.storage.load(vec![request]).await;
        self.complete(&batch, 1)?;
        let known = &mut self.known[key];
        match &batch.outcomes[0] {
            Outcome::Failed(error) if error.kind() == ErrorKind::Config && !known.must_be_absent() => Ok(()),
            Outcome::Absent if !known.must_be_there() => {
                known.is_absent();
                Ok(())
            }
            outcome @ Outcome::Failed(error) if error.kind() != ErrorKind::Config => {
                known.may_be_absent = true;
                self.failed(0, outcome)
            }
            outcome => Err(format!("a load of a length never stored is {outcome:?}; known: {known:?}")),
        }
    }

    async fn exists(&self, keys: &[usize]) -> Result<(), String> {
        let places: Vec<_> = keys.iter().map(|key| self.place(*key)).collect();
        let asked: Vec<_> = places.iter().map(|place| self.universe.keys[*place].0).collect();
        let there = self.table.storage.exists(&asked).await.map_err(|error| format!("exists: {error}"))?;
        if there.len() != asked.len() {
            return Err(format!("exists of {} keys has {} answers", asked.len(), there.len()));
        }
        for (place, there) in places.into_iter().zip(there) {
            let known = &self.known[place];
            if (there && known.must_be_absent()) || (!there && known.must_be_there()) {
                return Err(format!("exists says {there} for key {place}; known: {known:?}"));
            }
        }
        Ok(())
    }

    async fn delete(&mut self, keys: &[usize]) -> Result<(), String> {
        let places: Vec<_> = keys.iter().map(|key| self.place(*key)).collect();
        let asked: Vec<_> = places.iter().map(|place| self.universe.keys[*place].0).collect();
        let outcomes = self.table.storage.delete(&asked).await.map_err(|error| format!("delete: {error}"))?;
        if outcomes.len() != asked.len() {
            return Err(format!("delete of {} keys has {} answers", asked.len(), outcomes.len()));
        }
        for (i, place) in places.iter().enumerate() {
            let known = &self.known[*place];
            let again = places[..i].contains(place);
            match &outcomes[i] {
                Outcome::Done if again || !known.must_be_absent() => {}
                Outcome::Absent if again || !known.must_be_there() => {}
                outcome @ Outcome::Failed(_) => {
                    self.failed(i, outcome)?;
                    self.known[*place].may_be_absent = true;
                    continue;
                }
                outcome => return Err(format!("delete of key {place} is {outcome:?}; known: {known:?}")),
            }
            self.known[*place].is_absent();
        }
        Ok(())
    }

    async fn clear(&mut self) -> Result<(), String> {
        let cleared = self.table.storage.clear().await.map_err(|error| format!("clear: {error}"))?;
        let (least, most) = self.bounds();
        if cleared < least || cleared > most {
            return Err(format!("clear says {cleared} pages; there were {least} to {most}"));
        }
        self.known.fill(Knowledge::default());
        Ok(())
    }

    async fn list(&self, prefix: &str) -> Result<(), String> {
        let listed = list_all(&*self.table.storage, prefix, 3).await?;
        let count = listed.len();
        let listed: BTreeSet<_> = listed.into_iter().map(|page| (page.pool, page.name, page.bytes)).collect();
        if listed.len() != count {
            return Err("a page is listed twice".to_owned());
        }
        let mut found = 0;
        for ((key, text), known) in self.universe.keys.iter().zip(&self.known) {
            let name = text.clone().unwrap_or_else(|| to_hex(&key.digest));
            let is_listed = |version: &Version| {
                listed.contains(&(key.pool.as_str().to_owned(), name.clone(), version.bytes as u64))
            };
            let lengths: BTreeSet<_> = known
                .versions
                .iter()
                .filter(|version| is_listed(version))
                .map(|version| version.bytes)
                .collect();
            if known.must_be_there() && name.starts_with(prefix) && lengths.is_empty() {
                return Err(format!("{name} is not listed; known: {known:?}"));
            }
            found += usize::from(!lengths.is_empty() && name.starts_with(prefix));
        }
        if found == count {
            Ok(())
        } else {
            Err(format!("{count} pages are listed, {found} can be there: {listed:?}"))
        }
    }

    fn bounds(&self) -> (u64, u64) {
        let count = |is: fn(&Knowledge) -> bool| self.known.iter().filter(|known| is(known)).count() as u64;
        (count(Knowledge::must_be_there), count(|known| !known.must_be_absent()))
    }

    fn count(&self) -> Result<(), String> {
        let (pages, (least, most)) = (self.table.storage.stat().pages, self.bounds());
        if pages < least || pages > most {
            return Err(format!("stat says {pages} pages; there are {least} to {most}"));
        }
        Ok(())
    }
}
