//! The memory of one request in flight.

use std::sync::Arc;

use hicache::{
    Access, ErrorKind, Outcome, PageBatch, PageKey, PageMemory, PageRequest, Registration, Storage,
    StoreOptions,
};

use super::{Tally, Troubles};
use crate::exit::Failure;
use crate::workload::{check_page, fill_page};

/// Most pages of one call: SGLang cuts its calls so.
pub(crate) const BATCH_PAGES: usize = 128;

/// Some slots of registered memory, used for one batch after another: the memory of a replay is bounded by its lanes.
#[derive(Debug)]
pub(crate) struct Lane {
    storage: Arc<dyn Storage>,
    registration: Registration,
    slots: Vec<usize>,
    page_bytes: usize,
    troubles: Arc<Troubles>,
}

impl Lane {
    /// A lane over `slots` of memory that is registered with `storage`.
    pub(crate) fn new(
        storage: &Arc<dyn Storage>,
        registration: &Registration,
        slots: std::ops::Range<usize>,
        page_bytes: usize,
        troubles: &Arc<Troubles>,
    ) -> Self {
        Self {
            storage: Arc::clone(storage),
            registration: registration.clone(),
            slots: slots.collect(),
            page_bytes,
            troubles: Arc::clone(troubles),
        }
    }

    /// Most pages of a batch. Shrinks when the storage loses memory.
    ///
    /// # Errors
    /// The machine failed, if there is none left.
    pub(crate) fn batch_pages(&self) -> Result<usize, Failure> {
        match self.slots.len() {
            0 => Err(Failure::failed(
                "the storage has lost all memory that it was given; see its errors above",
            )),
            pages => Ok(pages),
        }
    }

    /// Loads pages, at most [`Lane::batch_pages`], and compares every byte with what their keys demand. Answers how many
    /// from the start are right.
    ///
    /// # Errors
    /// Memory that can't be leased.
    pub(crate) async fn load(&mut self, keys: &[PageKey], tally: &mut Tally) -> Result<usize, Failure> {
        let mut requests = Vec::with_capacity(keys.len());
        for (key, &slot) in keys.iter().zip(&self.slots) {
            requests
                .push(PageRequest::new(*key, self.registration.page(slot, self.page_bytes, Access::Write)?));
        }
        let answer = self.storage.load(requests).await;
        let mut leading = None;
        for (i, ((key, outcome), memory)) in keys.iter().zip(&answer.outcomes).zip(&answer.memory).enumerate()
        {
            let right = self.judge(key, outcome, memory.as_ref(), tally)?;
            if !right && leading.is_none() {
                leading = Some(i);
            }
        }
        self.forget_lost_memory(&answer);
        Ok(leading.unwrap_or(keys.len()))
    }

    fn judge(
        &self,
        key: &PageKey,
        outcome: &Outcome,
        memory: Option<&PageMemory>,
        tally: &mut Tally,
    ) -> Result<bool, Failure> {
        match (outcome, memory) {
            (Outcome::Absent, _) => tally.absent_pages += 1,
            (Outcome::Failed(error), _) => {
                if error.kind() == ErrorKind::Corrupt {
                    tally.corrupt_pages += 1;
                } else {
                    tally.failed_pages += 1;
                }
                self.troubles.add(format_args!("page {key}, load: {error}"));
            }
            (Outcome::Done, Some(memory)) => {
                match check_page(&key.digest, memory.pieces()[0].lease().bytes()?) {
                    None => {
                        tally.right_pages += 1;
                        return Ok(true);
                    }
                    Some(offset) => {
                        tally.corrupt_pages += 1;
                        tally.undetected_corrupt_pages += 1;
                        self.troubles.add(format_args!(
                            "page {key}: passed as right, and is wrong from byte {offset} on"
                        ));
                    }
                }
            }
            (Outcome::Done, None) => {
                tally.failed_pages += 1;
                self.troubles.add(format_args!("page {key}: loaded, but its memory did not come back"));
            }
        }
        Ok(false)
    }

    /// Stores pages, at most [`Lane::batch_pages`], with the bytes that their keys demand. Answers which are `Done`.
    ///
    /// # Errors
    /// Memory that can't be leased.
    pub(crate) async fn store(
        &mut self,
        keys: &[PageKey],
        tally: &mut Tally,
    ) -> Result<Vec<PageKey>, Failure> {
        let mut requests = Vec::with_capacity(keys.len());
        for (key, &slot) in keys.iter().zip(&self.slots) {
            let mut memory = self.registration.page(slot, self.page_bytes, Access::Write)?;
            for bytes in memory.bytes_mut() {
                fill_page(&key.digest, bytes?);
            }
            requests.push(PageRequest::new(*key, memory));
        }
        let answer = self.storage.store(requests, StoreOptions::default()).await;
        let mut done = Vec::with_capacity(keys.len());
        for (key, outcome) in keys.iter().zip(&answer.outcomes) {
            match outcome {
                Outcome::Done => done.push(*key),
                Outcome::Failed(error) => {
                    tally.failed_pages += 1;
                    self.troubles.add(format_args!("page {key}, store: {error}"));
                }
                Outcome::Absent => {
                    tally.failed_pages += 1;
                    self.troubles.add(format_args!("page {key}, store: answered absent"));
                }
            }
        }
        self.forget_lost_memory(&answer);
        Ok(done)
    }

    /// Memory of lost operations may be written at any time: it is not used again.
    fn forget_lost_memory(&mut self, answer: &PageBatch) {
        let mut came_back = answer.memory.iter().map(Option::is_some);
        // Slots behind the batch were not in it.
        self.slots.retain(|_| came_back.next().unwrap_or(true));
    }

    /// Which of `keys` are there.
    pub(crate) async fn exists(&self, keys: &[PageKey]) -> hicache::Result<Vec<bool>> {
        self.storage.exists(keys).await
    }

    /// Where to say what went wrong.
    pub(crate) fn troubles(&self) -> &Troubles {
        &self.troubles
    }
}
