//! The device.

use std::sync::Arc;

use hicache_core::{Device, MemoryKind, Region, Result, Stream};

use super::device_stream::DeviceStream;
use crate::cuda::Context;
use crate::cuda::copies::Copying;

/// Memory of one GPU. Pages are copied by its copy engines: with one call a step where the driver copies in batches and the runs
/// are long, else with a call a run.
#[derive(Debug)]
pub struct CudaDevice {
    context: Arc<Context>,
}

impl CudaDevice {
    /// The device of a context.
    pub fn new(context: Arc<Context>) -> Arc<Self> {
        Arc::new(Self { context })
    }

    /// Its context.
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }
}

impl Device for CudaDevice {
    fn name(&self) -> &'static str {
        "cuda"
    }

    fn memory(&self) -> MemoryKind {
        MemoryKind::Device(self.context.ordinal())
    }

    fn allocate(&self, planes: usize, slots: usize, slot_bytes: usize) -> Result<Arc<Region>> {
        self.context.allocate(planes, slots, slot_bytes)
    }

    fn allocate_host(&self, planes: usize, slots: usize, slot_bytes: usize) -> Result<Arc<Region>> {
        self.context.allocate_pinned(planes, slots, slot_bytes)
    }

    fn stream(&self, name: &'static str) -> Result<Arc<dyn Stream>> {
        Ok(Arc::new(DeviceStream::start(name, &self.context, Copying::of(&self.context))?))
    }
}
