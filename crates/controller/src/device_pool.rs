//! Pages of a model's KV cache in device memory.

use std::sync::Arc;

use hicache_core::{Device, Result};

use crate::layout::{Layout, PageShape};
use crate::page_pool::{PageId, PagePool};
use crate::page_state::DeviceState;

/// A page of a device pool.
pub type DevicePage = PageId<DeviceState>;

/// Pages in device memory: what a model computes in.
#[derive(Debug)]
pub struct DevicePool {
    pages: PagePool<DeviceState>,
    layout: Layout,
}

impl DevicePool {
    /// Allocates a pool of `pages` pages.
    ///
    /// # Errors
    /// `Config` for a bad shape and for no pages, `NoSpace`.
    pub fn new(device: &Arc<dyn Device>, shape: &PageShape, layout: Layout, pages: usize) -> Result<Self> {
        shape.validate()?;
        let (regions, planes) = shape.regions(layout);
        let bytes = shape.buffer_bytes(layout);
        let regions = (0..regions).map(|_| device.allocate(planes, pages, bytes)).collect::<Result<_>>()?;
        Ok(Self { pages: PagePool::new("device", regions, bytes, Some(Arc::clone(device)))?, layout })
    }

    /// Where the rows of a page lie.
    pub fn layout(&self) -> Layout {
        self.layout
    }
}

impl std::ops::Deref for DevicePool {
    type Target = PagePool<DeviceState>;
    fn deref(&self) -> &Self::Target {
        &self.pages
    }
}

impl std::ops::DerefMut for DevicePool {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.pages
    }
}
