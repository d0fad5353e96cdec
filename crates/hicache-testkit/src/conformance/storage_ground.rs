//! What the cases of a storage stand on.

use std::sync::Arc;

use hicache_core::{
    Access, ErrorKind, Lease, Outcome, PageBatch, PageKey, PageMemory, PageRequest, Piece, Region,
    Registration, Storage, StoreOptions,
};

use super::run::{Failure, Verdict};
use super::storage::{StorageTraits, StorageUnderTest};
use crate::content::Content;

/// Length of the pages of most cases.
pub(super) const PAGE: usize = 4096;

/// A page as a case speaks of it: the key, and which of its versions and lengths.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page {
    pub(super) key: PageKey,
    pub(super) version: u64,
    pub(super) bytes: usize,
}

impl Page {
    pub(super) fn new(key: PageKey, version: u64) -> Self {
        Self { key, version, bytes: PAGE }
    }

    pub(super) fn content(&self) -> Content {
        Content::new(&self.key, self.version, self.bytes)
    }
}

/// A storage, and where it comes from.
pub(super) struct Ground {
    under_test: StorageUnderTest,
    pub(super) traits: StorageTraits,
}

impl Ground {
    pub(super) fn new(under_test: StorageUnderTest, traits: StorageTraits) -> Self {
        Self { under_test, traits }
    }

    pub(super) fn storage(&self) -> &Arc<dyn Storage> {
        &self.under_test.storage
    }

    /// Memory for a batch of `slots` pages of `bytes` bytes.
    pub(super) fn bench(&self, slots: usize, bytes: usize) -> Result<Bench, Failure> {
        Bench::new(self.storage(), slots, bytes)
    }

    /// Closes the storage, so that its files can go.
    pub(super) async fn end(self) {
        // What the case closed already may say so; what it found is in its outcome.
        let _ = self.under_test.storage.close().await;
        let StorageUnderTest { storage, keep } = self.under_test;
        drop(storage);
        drop(keep);
    }
}

/// Registered memory, and calls of the storage with it. Page `i` of a batch is in slot `i`.
pub(super) struct Bench {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) region: Arc<Region>,
    pub(super) registration: Registration,
}

impl Bench {
    pub(super) fn new(storage: &Arc<dyn Storage>, slots: usize, bytes: usize) -> Result<Self, Failure> {
        let region = Region::allocate(slots, bytes)?;
        let registration = storage.register(&region)?;
        Ok(Self { storage: Arc::clone(storage), region, registration })
    }

    /// Memory of `bytes` bytes in `slot` that holds neither zeros nor any content.
    pub(super) fn blank(&self, slot: usize, bytes: usize) -> Result<PageMemory, Failure> {
        let mut memory = self.registration.page(slot, bytes, Access::Write)?;
        memory.copy_from(&vec![0xa5; bytes])?;
        Ok(memory)
    }

    /// A request to store `page` from `slot`.
    pub(super) fn full(&self, slot: usize, page: Page) -> Result<PageRequest, Failure> {
        let mut memory = self.blank(slot, page.bytes)?;
        page.content().fill(&mut memory)?;
        Ok(PageRequest::new(page.key, memory))
    }

    pub(super) fn full_batch(&self, pages: &[Page]) -> Result<Vec<PageRequest>, Failure> {
        pages.iter().enumerate().map(|(slot, page)| self.full(slot, *page)).collect()
    }

    pub(super) fn blank_batch(&self, pages: &[Page]) -> Result<Vec<PageRequest>, Failure> {
        let blank =
            |(slot, page): (usize, &Page)| Ok(PageRequest::new(page.key, self.blank(slot, page.bytes)?));
        pages.iter().enumerate().map(blank).collect()
    }

    pub(super) async fn try_store(&self, pages: &[Page], overwrite: bool) -> Result<PageBatch, Failure> {
        let batch = self.storage.store(self.full_batch(pages)?, StoreOptions { overwrite }).await;
        complete(&batch, pages.len(), "store")?;
        Ok(batch)
    }

    /// Stores the pages in one batch; all must be done, and their memory must hold what it held.
    pub(super) async fn store(&self, pages: &[Page], overwrite: bool) -> Verdict {
        let batch = self.try_store(pages, overwrite).await?;
        for (i, page) in pages.iter().enumerate() {
            done(&batch, i, "store")?;
            holds(&batch, i, page, "the memory that was stored from")?;
        }
        Ok(())
    }

    pub(super) async fn try_load(&self, pages: &[Page]) -> Result<PageBatch, Failure> {
        let batch = self.storage.load(self.blank_batch(pages)?).await;
        complete(&batch, pages.len(), "load")?;
        Ok(batch)
    }

    /// Loads the pages in one batch; each must be done and hold every byte of its version.
    pub(super) async fn load(&self, pages: &[Page]) -> Verdict {
        let batch = self.try_load(pages).await?;
        for (i, page) in pages.iter().enumerate() {
            done(&batch, i, "load")?;
            holds(&batch, i, page, "load")?;
        }
        Ok(())
    }

    /// Loads the pages in one batch; none must be there.
    pub(super) async fn load_absent(&self, pages: &[Page]) -> Verdict {
        let batch = self.try_load(pages).await?;
        for i in 0..pages.len() {
            let outcome = &batch.outcomes[i];
            ensure!(matches!(outcome, Outcome::Absent), "page {i} must be absent and is {outcome:?}");
        }
        Ok(())
    }
}

/// The memory of `page` cut in pieces of `lengths`, each in a slot of its own from `slot` on.
pub(super) fn in_pieces(bench: &Bench, slot: usize, lengths: &[usize]) -> Result<PageMemory, Failure> {
    // Offsets that are no multiple of anything, so that only lengths decide where a piece ends.
    let piece =
        |(i, &bytes): (usize, &usize)| bench.registration.piece(slot + i, 3 * i, bytes, Access::Write);
    let pieces = lengths.iter().enumerate().map(piece).collect::<hicache_core::Result<Vec<Piece>>>()?;
    Ok(PageMemory::from_pieces(pieces)?)
}

/// Everything of a batch is answered and its memory is back.
pub(super) fn complete(batch: &PageBatch, len: usize, what: &str) -> Verdict {
    ensure_eq!(batch.outcomes.len(), len, "outcomes of a {what}");
    ensure_eq!(batch.memory.len(), len, "memory of a {what}");
    let lost = batch.memory.iter().position(Option::is_none);
    ensure!(lost.is_none(), "the memory of page {lost:?} did not come back from a {what}");
    Ok(())
}

/// Page `i` is done.
pub(super) fn done(batch: &PageBatch, i: usize, what: &str) -> Verdict {
    ensure!(batch.outcomes[i].is_done(), "{what}: page {i} must be done and is {:?}", batch.outcomes[i]);
    Ok(())
}

/// Page `i` failed with an error of `kind`.
pub(super) fn failed(batch: &PageBatch, i: usize, kind: ErrorKind, what: &str) -> Verdict {
    let outcome = &batch.outcomes[i];
    let is = outcome.error().map(hicache_core::Error::kind);
    ensure!(is == Some(kind), "{what}: page {i} must fail with a {kind} error and is {outcome:?}");
    Ok(())
}

/// Memory `i` holds every byte of `page`.
pub(super) fn holds(batch: &PageBatch, i: usize, page: &Page, what: &str) -> Verdict {
    let Some(memory) = &batch.memory[i] else {
        return Err(Failure(format!("{what}: the memory of page {i} did not come back")));
    };
    ensure_eq!(memory.bytes(), page.bytes, "{what}: length of the memory of page {i}");
    // The memory that comes back must be the page's own, not that of a neighbour.
    let first: Option<&Lease> = memory.pieces().first().map(Piece::lease);
    ensure!(
        first.is_some_and(|lease| lease.len() <= page.bytes),
        "{what}: page {i} came back without memory"
    );
    match page.content().check_page(memory)? {
        Ok(()) => Ok(()),
        Err(wrong) => Err(Failure(format!("{what}: page {i} of {} bytes: {wrong}", page.bytes))),
    }
}
