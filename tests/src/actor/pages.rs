//! Memory of a store, and loads and stores of numbered pages. What a load brings is compared byte for byte.

use std::collections::HashMap;
use std::sync::Arc;

use hicache_core::{
    Access, ErrorKind, Outcome, PageBatch, PageMemory, PageRequest, Region, Registration, Storage,
    StoreOptions,
};
use hicache_testkit::{Content, numbered_key};
use serde_json::{Value, json};

use super::Problem;

/// Most pages of one call.
pub(super) const BATCH: usize = 128;

/// A page: number of its key, version of its content, length.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page {
    pub(super) number: u64,
    pub(super) version: u64,
    pub(super) bytes: usize,
}

impl Page {
    fn content(self, version: u64) -> Content {
        Content::new(&numbered_key(self.number), version, self.bytes)
    }
}

/// What a load found.
#[derive(Clone, Debug)]
pub(super) enum Got {
    /// Every byte is that of this version.
    Version(u64),
    Absent,
    /// The store says itself that the bytes are wrong.
    Corrupt,
    Failed(String),
    /// Answered as done, and the bytes are of no version that there can be.
    Wrong,
}

/// Registered memory, a slot for each page of a batch.
pub(super) struct Memory {
    storage: Arc<dyn Storage>,
    registration: Registration,
    slots: Vec<usize>,
}

impl Memory {
    pub(super) fn new(storage: &Arc<dyn Storage>, page_bytes: usize) -> Result<Self, Problem> {
        let registration = storage.register(&Region::allocate(BATCH, page_bytes)?)?;
        Ok(Self { storage: Arc::clone(storage), registration, slots: (0..BATCH).collect() })
    }

    /// Memory of lost operations may be written at any time: it is not used again. When little is left there is new.
    fn keep(&mut self, batch: &PageBatch) -> Result<(), Problem> {
        let mut came_back = batch.memory.iter().map(Option::is_some);
        self.slots.retain(|_| came_back.next().unwrap_or(true));
        if self.slots.len() < BATCH / 2 {
            let bytes = self.registration.region().slot_bytes();
            self.registration = self.storage.register(&Region::allocate(BATCH, bytes)?)?;
            self.slots = (0..BATCH).collect();
        }
        Ok(())
    }

    /// Loads in batches. Each page is one of the versions that `versions` names for it, likely ones first, or wrong.
    pub(super) async fn load<V: IntoIterator<Item = u64>>(
        &mut self,
        pages: &[Page],
        versions: impl Fn(&Page) -> V,
    ) -> Result<Vec<Got>, Problem> {
        let mut got = Vec::with_capacity(pages.len());
        let mut rest = pages;
        while !rest.is_empty() {
            let (part, behind) = rest.split_at(rest.len().min(self.slots.len()));
            rest = behind;
            let request = |(page, &slot): (&Page, &usize)| -> Result<PageRequest, Problem> {
                let memory = self.registration.page(slot, page.bytes, Access::Write)?;
                Ok(PageRequest::new(numbered_key(page.number), memory))
            };
            let requests = part.iter().zip(&self.slots).map(request).collect::<Result<Vec<_>, _>>()?;
            let batch = self.storage.load(requests).await;
            for ((page, outcome), memory) in part.iter().zip(&batch.outcomes).zip(&batch.memory) {
                got.push(match (outcome, memory) {
                    (Outcome::Absent, _) => Got::Absent,
                    (Outcome::Failed(error), _) if error.kind() == ErrorKind::Corrupt => Got::Corrupt,
                    (Outcome::Failed(error), _) => Got::Failed(error.to_string()),
                    (Outcome::Done, None) => Got::Failed("loaded, and its memory did not come back".into()),
                    (Outcome::Done, Some(memory)) => version_of(page, memory, versions(page).into_iter())?,
                });
            }
            self.keep(&batch)?;
        }
        Ok(got)
    }

    /// Stores in batches.
    pub(super) async fn store(&mut self, pages: &[Page], overwrite: bool) -> Result<Vec<Outcome>, Problem> {
        let mut outcomes = Vec::with_capacity(pages.len());
        let mut rest = pages;
        while !rest.is_empty() {
            let (part, behind) = rest.split_at(rest.len().min(self.slots.len()));
            rest = behind;
            let request = |(page, &slot): (&Page, &usize)| -> Result<PageRequest, Problem> {
                let mut memory = self.registration.page(slot, page.bytes, Access::Write)?;
                page.content(page.version).fill(&mut memory)?;
                Ok(PageRequest::new(numbered_key(page.number), memory))
            };
            let requests = part.iter().zip(&self.slots).map(request).collect::<Result<Vec<_>, _>>()?;
            let batch = self.storage.store(requests, StoreOptions { overwrite }).await;
            self.keep(&batch)?;
            outcomes.extend(batch.outcomes);
        }
        Ok(outcomes)
    }
}

fn version_of(
    page: &Page,
    memory: &PageMemory,
    mut versions: impl Iterator<Item = u64>,
) -> Result<Got, Problem> {
    let mut problem = None;
    let found = versions.find(|&version| match page.content(version).check_page(memory) {
        Ok(same) => same.is_ok(),
        Err(error) => {
            problem = Some(error);
            true
        }
    });
    match (problem, found) {
        (Some(error), _) => Err(error.into()),
        (None, Some(version)) => Ok(Got::Version(version)),
        (None, None) => Ok(Got::Wrong),
    }
}

/// Counts of outcomes, as an answer shows them.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) done: u64,
    pub(super) absent: u64,
    pub(super) corrupt: u64,
    pub(super) failed: u64,
    /// Pages that were there before and after, and once were not found.
    pub(super) missed_for_a_moment: u64,
    /// Why, and how often.
    errors: HashMap<String, u64>,
}

impl Counts {
    pub(super) fn add_outcomes(&mut self, outcomes: &[Outcome]) {
        for outcome in outcomes {
            match outcome {
                Outcome::Done => self.done += 1,
                Outcome::Absent => self.absent += 1,
                Outcome::Failed(error) => self.fail(error.to_string()),
            }
        }
    }

    pub(super) fn add_got(&mut self, got: &[Got]) {
        for got in got {
            match got {
                Got::Version(_) => self.done += 1,
                Got::Absent => self.absent += 1,
                Got::Corrupt => self.corrupt += 1,
                Got::Failed(error) => self.fail(error.clone()),
                Got::Wrong => {}
            }
        }
    }

    pub(super) fn fail(&mut self, error: String) {
        self.failed += 1;
        if self.errors.len() < 8 || self.errors.contains_key(&error) {
            *self.errors.entry(error).or_default() += 1;
        }
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "done": self.done, "absent": self.absent, "corrupt": self.corrupt, "failed": self.failed,
            "missed_for_a_moment": self.missed_for_a_moment, "errors": self.errors,
        })
    }
}
