//! Calls of many pages, answered when the last one has ended.

use std::collections::HashMap;

use hicache_core::{Completion, Outcome, PageBatch, PageMemory};

/// A page of a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    batch: u64,
    index: usize,
}

#[derive(Debug)]
struct Batch {
    outcomes: Vec<Option<Outcome>>,
    memory: Vec<Option<PageMemory>>,
    left: usize,
    completion: Completion<PageBatch>,
}

/// Calls that are not answered yet.
#[derive(Debug, Default)]
pub(super) struct Batches {
    next: u64,
    open: HashMap<u64, Batch>,
}

impl Batches {
    /// Takes a call's memory; a place for each page.
    pub(super) fn open(&mut self, memory: Vec<PageMemory>, completion: Completion<PageBatch>) -> Vec<Place> {
        let len = memory.len();
        if len == 0 {
            let empty = PageBatch { outcomes: Vec::new(), memory: Vec::new() };
            drop(completion.answer(empty));
            return Vec::new();
        }
        self.next += 1;
        let batch = Batch {
            outcomes: vec![None; len],
            memory: memory.into_iter().map(Some).collect(),
            left: len,
            completion,
        };
        self.open.insert(self.next, batch);
        (0..len).map(|index| Place { batch: self.next, index }).collect()
    }

    /// The memory of a page that has not ended.
    pub(super) fn memory(&mut self, place: Place) -> Option<&mut PageMemory> {
        self.open.get_mut(&place.batch)?.memory.get_mut(place.index)?.as_mut()
    }

    /// A page has ended.
    pub(super) fn finish(&mut self, place: Place, outcome: Outcome) {
        let Some(batch) = self.open.get_mut(&place.batch) else { return };
        if batch.outcomes[place.index].replace(outcome).is_none() {
            batch.left -= 1;
        }
        if batch.left > 0 {
            return;
        }
        if let Some(Batch { outcomes, memory, completion, .. }) = self.open.remove(&place.batch) {
            // Every one is there: none is left. Nobody waits: its memory is free with it.
            let outcomes = outcomes.into_iter().flatten().collect();
            drop(completion.answer(PageBatch { outcomes, memory }));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}
