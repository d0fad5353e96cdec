//! The way of a page between host pool and storage: as it lies, or, where it lies in many places, by a copy in one.

use std::sync::{Arc, Mutex};

use hicache_core::{Access, PageLeases, PageMemory, Region, Registration, Result, Storage};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::sync::lock;

/// The right to a page of the host pool, while storage works on it.
#[derive(Debug)]
pub(crate) enum HostMemory {
    /// Known to storage as it lies.
    Direct(PageMemory),
    /// To be copied: its buffers in order.
    Copied(PageLeases),
}

/// Memory for copies, each page in one piece, known to storage.
#[derive(Debug)]
pub(crate) struct Staging {
    known: Registration,
    page_bytes: usize,
    free: Mutex<Vec<usize>>,
    slots: Arc<Semaphore>,
}

/// So many pages are copied at once; others wait.
pub(crate) const STAGING_PAGES: usize = 2 * super::storage_link::BATCH_PAGES;

impl Staging {
    pub(crate) fn new(storage: &dyn Storage, page_bytes: usize) -> Result<Self> {
        let region = Region::allocate(STAGING_PAGES, page_bytes)?;
        Ok(Self {
            known: storage.register(&region)?,
            page_bytes,
            free: Mutex::new((0..STAGING_PAGES).collect()),
            slots: Arc::new(Semaphore::new(STAGING_PAGES)),
        })
    }

    /// Waits for room for `pages` copies.
    pub(crate) async fn room(&self, pages: usize) -> Option<OwnedSemaphorePermit> {
        let pages = u32::try_from(pages.min(STAGING_PAGES)).ok()?;
        Arc::clone(&self.slots).acquire_many_owned(pages).await.ok()
    }

    /// A slot that nobody uses. One that a lost operation still touches is passed over.
    pub(crate) fn take(&self) -> Option<(usize, PageMemory)> {
        let mut free = lock(&self.free);
        for at in (0..free.len()).rev() {
            if let Ok(page) = self.known.page(free[at], self.page_bytes, Access::Write) {
                return Some((free.swap_remove(at), page));
            }
        }
        None
    }

    pub(crate) fn give_back(&self, slot: usize) {
        lock(&self.free).push(slot);
    }
}

/// Copies the buffers of a page, in order, into one piece.
pub(crate) fn gather(from: &PageLeases, to: &mut PageMemory) -> Result<()> {
    let mut bytes = Vec::with_capacity(to.bytes());
    for lease in from {
        for plane in 0..lease.planes() {
            bytes.extend_from_slice(lease.plane(plane)?);
        }
    }
    to.copy_from(&bytes)
}

/// The reverse of [`gather`].
pub(crate) fn scatter(from: &PageMemory, to: &mut PageLeases) -> Result<()> {
    let mut bytes = vec![0; from.bytes()];
    from.copy_to(&mut bytes)?;
    let mut rest = bytes.as_slice();
    for lease in to {
        for plane in 0..lease.planes() {
            let target = lease.plane_mut(plane)?;
            let (part, after) = rest.split_at_checked(target.len()).ok_or_else(|| {
                hicache_core::Error::config("the staged page is shorter than the page it is for")
            })?;
            target.copy_from_slice(part);
            rest = after;
        }
    }
    Ok(())
}
