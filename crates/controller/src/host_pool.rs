//! Pages of a model's KV cache in host memory.

use std::sync::Arc;

use hicache_core::{Access, Device, PageMemory, Registration, Result, Storage};

use crate::layout::{Layout, PageShape};
use crate::page_pool::{PageId, PagePool};
use crate::page_state::HostState;

/// A page of a host pool.
pub type HostPage = PageId<HostState>;

/// Pages in host memory that the device copies from and to at full speed.
#[derive(Debug)]
pub struct HostPool {
    pages: PagePool<HostState>,
    layout: Layout,
}

impl HostPool {
    /// Allocates a pool of `pages` pages.
    ///
    /// # Errors
    /// `Config` for a bad shape and for no pages, `NoSpace`.
    pub fn new(device: &Arc<dyn Device>, shape: &PageShape, layout: Layout, pages: usize) -> Result<Self> {
        shape.validate()?;
        let (regions, planes) = shape.regions(layout);
        let bytes = shape.buffer_bytes(layout);
        let regions =
            (0..regions).map(|_| device.allocate_host(planes, pages, bytes)).collect::<Result<_>>()?;
        Ok(Self { pages: PagePool::new("host", regions, bytes, None)?, layout })
    }

    /// Where the rows of a page lie.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Whether storage can move a page as it lies. Otherwise it is copied to memory where it is in one piece.
    pub fn is_zero_copy(&self) -> bool {
        self.regions().iter().all(|region| region.planes() == 1)
    }

    /// Makes the pool's memory known to a storage; once, before [`HostPool::memory`].
    ///
    /// # Errors
    /// As [`Storage::register`].
    pub fn register(&self, storage: &dyn Storage) -> Result<Vec<Registration>> {
        self.regions().iter().map(|region| storage.register(region)).collect()
    }

    /// A page as storage sees it: its buffers in order, where they lie.
    ///
    /// # Errors
    /// `Busy` if somebody holds a conflicting lease; `Config` for a page that the pool does not have, and for a layout
    /// that is not zero-copy.
    pub fn memory(&self, page: HostPage, known: &[Registration], access: Access) -> Result<PageMemory> {
        self.pages.state(page)?;
        let piece =
            |known: &Registration| known.piece(page.number() as usize, 0, self.pages.buffer_bytes(), access);
        match known {
            [one] => Ok(PageMemory::new(piece(one)?)),
            several => PageMemory::from_pieces(several.iter().map(piece).collect::<Result<Vec<_>>>()?),
        }
    }
}

impl std::ops::Deref for HostPool {
    type Target = PagePool<HostState>;
    fn deref(&self) -> &Self::Target {
        &self.pages
    }
}

impl std::ops::DerefMut for HostPool {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.pages
    }
}
